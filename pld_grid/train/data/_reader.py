"""The interface of readers of encoded images, and the order of images that all readers share.

Images are ordered by class, and within a class by file name without extension (digits compare as numbers, as timm
sorts them). The same images therefore have the same indices, and epochs are the same, in folders, tar shards and
parquet files. This relies on the files' own names: shards whose keys are mere counters, and rows without a path, have
an order of their own. Images of one class with equal names keep the order in which they are stored.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from timm.utils.misc import natural_key

from pld_grid.train.data._split import Indices

MAX_IMAGE_BYTES: Final = 2**28
MAX_NAME_LENGTH: Final = 4096


class Reader(Protocol):
    """The encoded images of one split, 0 .. N - 1 in the order of `sample_order`. Can be pickled and forked.

    Attributes:
        format: The storage format, for messages.
        target_N: The labels.
        class_names: The class names by label; empty if the files do not contain them.
    """

    format: str
    target_N: Indices
    class_names: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return an image file's bytes, cut after MAX_IMAGE_BYTES + 1. Raise OSError if it cannot be read."""

    def name(self, index: int) -> str:
        """Return an image's place in the dataset's folder, for messages."""


def sample_order(target_N: Indices, names: Sequence[str]) -> Indices:
    """Return the positions of the stored images in the order of their indices, (N,); see the module's docstring."""
    by_class = np.argsort(target_N, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(target_N[by_class])) + 1)
    # Class by class, because the sort keys of a million names would take a gigabyte.
    return np.array([i for members in classes for i in sorted(members.tolist(), key=lambda i: _key(names[i]))], int)


def _key(name: str) -> tuple[list[str | int], str]:
    base = name.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    return natural_key(stem), stem  # type: ignore[no-untyped-call]
