"""Images in WebDataset tar shards, read by offset.

timm's reader of them (`ReaderWds`) streams: it cannot read an image by its index, and its order depends on the number
of loader processes. This reader accepts the same shards: under each key an image and a label, in `.cls` or as `label`
in `.json`; and optionally `_info.json`, which lists the shards and the number of images in each.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pld_grid.train.data._reader import MAX_IMAGE_BYTES
from pld_grid.train.data._shard_index import load_index
from pld_grid.train.data._split import DataError
from pld_grid.util.atomic_files import open_regular, read_regular
from pld_grid.util.text import join_names

_MAX_INFO_BYTES = 2**26


class TarReader:
    """A `Reader` of tar shards. Raises DataError for a missing, truncated or damaged shard, or one without labels.

    Scanning ImageNet's shards takes minutes, so the index is saved beside the shards if that folder is writable. It is
    rebuilt when a shard's size or modification time has changed.

    Args:
        shards: The split's shards, all in one folder.
        split: The split's name in `_info.json`.
    """

    format = "WebDataset tar shards"
    class_names: tuple[str, ...] = ()

    def __init__(self, shards: Sequence[Path], split: str) -> None:
        folder, *others = {shard.parent for shard in shards}
        if others:
            raise DataError(f"shards for {split} lie in several folders: {join_names(map(str, [folder, *others]), 6)}")
        listed = _read_info(folder, split)
        missing = listed.keys() - {shard.name for shard in shards}
        if missing:
            raise DataError(f"{folder}: shards of its _info.json are missing: {join_names(missing, 6)}")
        self._shards = sorted(shard for shard in shards if not listed or shard.name in listed)
        self._index = load_index(self._shards, folder / f".pld_grid-index-{split}.npz")
        self.target_N = np.ascontiguousarray(self._index["target"])
        counts = np.bincount(self._index["shard"], minlength=len(self._shards))
        for shard, count in zip(self._shards, counts.tolist(), strict=True):
            if listed and count != listed[shard.name]:
                raise DataError(f"{shard} has {count} images, not the {listed[shard.name]} of its _info.json")

    def read(self, index: int) -> bytes:
        """See `Reader.read`."""
        shard, offset, size, _, _ = self._index[index].item()
        with open_regular(self._shards[shard]) as file:
            file.seek(offset)
            return file.read(min(size, MAX_IMAGE_BYTES + 1))

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        shard, *_, name = self._index[index].item()
        return f"{self._shards[shard].name}: {os.fsdecode(name)}"


def _read_info(folder: Path, split: str) -> dict[str, int]:
    """Return the number of images per shard from timm's `_info.json`; empty without that file or that split."""
    for file in (folder / "_info.json", folder / "info.json"):
        try:
            info = json.loads(read_regular(file, _MAX_INFO_BYTES))["splits"].get(split)
            listed = dict(zip(info["filenames"], info["shard_lengths"], strict=True)) if info else {}
            if not all(isinstance(name, str) and isinstance(count, int) for name, count in listed.items()):
                raise ValueError("filenames must be texts, shard_lengths whole numbers")
            return listed
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not what timm writes: {getattr(error, 'strerror', None) or error}") from None
    return {}
