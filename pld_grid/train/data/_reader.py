"""What a reader of encoded images is, and the one order that all of them have.

Images are numbered by class, and in a class by file name without its ending (digits as numbers, as timm sorts them):
the same images have the same numbers, hence the same epochs, in folders, tar shards and parquet files. That takes the
files' own names: shards whose keys are mere counters, and rows without a path, have an order of their own. Images of
one class and name keep the order in which they are stored.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from timm.utils.misc import natural_key

from pld_grid.train.data._split import Indices

# Bytes of the largest image file and characters of the longest name that are taken for such.
MOST_BYTES: Final = 2**28
MOST_NAME: Final = 4096


class Reader(Protocol):
    """The encoded images of one split, 0 .. N - 1 in the order of `sample_order`. Can be pickled and forked.

    Attributes:
        format: what the images lie in, for people.
        target_N: labels.
        class_names: by label; empty where the files do not tell.
    """

    format: str
    target_N: Indices
    class_names: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """An image file's bytes, of one that is too large for an image MOST_BYTES + 1. Raises OSError."""

    def name(self, index: int) -> str:
        """Where an image lies in the dataset's folder, for messages."""


def sample_order(target_N: Indices, names: Sequence[str]) -> Indices:
    """The stored images in the order of their numbers, (N,); see this module's description."""
    stored = np.argsort(target_N, kind="stable")
    classes = np.split(stored, np.flatnonzero(np.diff(target_N[stored])) + 1)
    # Class by class: the keys of a million names together would take a gigabyte.
    return np.array([i for members in classes for i in sorted(members.tolist(), key=lambda i: _key(names[i]))], int)


def _key(name: str) -> tuple[list[str | int], str]:
    base = name.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    return natural_key(stem), stem  # type: ignore[no-untyped-call]
