"""WebDataset tar shards, read by offset.

timm's reader of them (`ReaderWds`) streams: it cannot give an image by its number, and its order depends on the number
of loader processes. What it takes from a shard is taken here: under each key an image and a label, in `.cls` or as
`label` in `.json`; and `_info.json`, where there is one, says which shards there are and how many images each holds.
"""

import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pld_grid.errors import listing
from pld_grid.train.data._reader import sample_order
from pld_grid.train.data._split import DataError

_log = logging.getLogger(__name__)
_IMAGES = ("jpg", "jpeg", "png", "webp")
# Per image: its shard's number, where its bytes begin, how many they are, its label, its file name in the shard.
_COLUMNS = ("shard", "offset", "size", "target", "name")
_VERSION = 1
Index = dict[str, npt.NDArray[Any]]


class TarReader:
    """See `Reader`. Raises DataError for a missing, truncated or damaged shard, or one without labels.

    Reading all shards' tables of contents takes minutes for ImageNet, so the index is kept beside the shards, where
    one may write; it is made anew when a shard's size or time of change differs.

    Args:
        shards: the split's shards; they must lie in one folder.
        split: its name in `_info.json`.
    """

    format = "WebDataset tar shards"
    class_names: tuple[str, ...] = ()

    def __init__(self, shards: Sequence[Path], split: str) -> None:
        folder, *others = {shard.parent for shard in shards}
        if others:
            raise DataError(f"shards for {split} lie in several folders: {listing(map(str, [folder, *others]), 6)}")
        promised = _promised(folder, split)
        missing = promised.keys() - {shard.name for shard in shards}
        if missing:
            raise DataError(f"{folder}: shards of its _info.json are missing: {listing(missing, 6)}")
        self._shards = sorted(shard for shard in shards if not promised or shard.name in promised)
        self._index = _index(self._shards, folder / f".pld_grid-index-{split}.npz")
        self.target_N = self._index["target"]
        counts = np.bincount(self._index["shard"], minlength=len(self._shards))
        for shard, count in zip(self._shards, counts.tolist(), strict=True):
            if promised and count != promised[shard.name]:
                raise DataError(f"{shard} has {count} images, not the {promised[shard.name]} of its _info.json")

    def read(self, index: int) -> bytes:
        """See `Reader.read`."""
        with self._shards[self._index["shard"][index]].open("rb") as file:
            file.seek(int(self._index["offset"][index]))
            data: bytes = file.read(int(self._index["size"][index]))
        return data

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        return f"{self._shards[self._index['shard'][index]].name}: {self._index['name'][index].decode()}"


def _promised(folder: Path, split: str) -> dict[str, int]:
    """Numbers of images by shard, as timm's `_info.json` gives them; nothing without that file or that split."""
    for file in (folder / "_info.json", folder / "info.json"):
        try:
            told = json.loads(file.read_text())["splits"].get(split)
            return dict(zip(told["filenames"], told["shard_lengths"], strict=True)) if told else {}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not what timm writes: {error}") from None
    return {}


def _index(shards: Sequence[Path], file: Path) -> Index:
    """The index of the shards: the one that is kept, or a new one."""
    states = [(shard.name, shard.stat()) for shard in shards]
    stamp = json.dumps([_VERSION, [(name, state.st_size, state.st_mtime_ns) for name, state in states]])
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            if str(kept["stamp"]) == stamp:
                return {column: kept[column] for column in _COLUMNS}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    _log.info("reading what %d shards hold", len(shards))
    rows = [(number, *row) for number, shard in enumerate(shards) for row in _contents(shard)]
    if not rows:
        raise DataError(f"{shards[0].parent}: the shards hold no images")
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    names = columns.pop("name")
    order = sample_order(np.array(columns["target"]), names)
    index: Index = {column: np.array(values, dtype=np.int64)[order] for column, values in columns.items()}
    index["name"] = np.array([name.encode() for name in names])[order]
    _keep(file, {**index, "stamp": np.array(stamp)})
    return index


def _keep(file: Path, index: Index) -> None:
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        with temporary.open("wb") as opened:
            np.savez(opened, **index)  # type: ignore[arg-type]
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        _log.warning("the index of the shards is not kept, so each start reads them again: %s", error)


def _contents(shard: Path) -> list[tuple[int, int, int, str]]:
    """Offset, size, label and file name of every image in a shard."""
    # By key, then by ending: an image's (offset, size, name), or what a label's file holds.
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                ending = ending.lower()
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None and ending in ("cls", "json"):
                    samples.setdefault(f"{folder}/{stem}", {})[ending] = file.read()
                elif file is not None and ending in _IMAGES:
                    place = (member.offset_data, member.size, member.name)
                    samples.setdefault(f"{folder}/{stem}", {})[ending] = place
        # A damaged header looks like the end to tarfile: the real one is a block of zeros.
        with shard.open("rb") as opened:
            opened.seek(archive.offset)
            if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard}: truncated or damaged shard: {error}") from None
    return [_sample(shard, key.removeprefix("/"), parts) for key, parts in samples.items()]


def _sample(shard: Path, key: str, parts: dict[str, Any]) -> tuple[int, int, int, str]:
    image = next((parts[ending] for ending in _IMAGES if ending in parts), None)
    if image is None:
        raise DataError(f"{shard}: {key} has no image ({', '.join(_IMAGES)})")
    try:
        label = int(parts["cls"]) if "cls" in parts else int(json.loads(parts["json"])["label"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise DataError(f"{shard}: {key} has no label: a number in .cls, or as label in .json") from None
    offset, size, name = image
    return offset, size, label, name
