"""WebDataset tar shards, read by offset.

timm's reader of them (`ReaderWds`) streams: it cannot give an image by its number, and its order depends on the number
of loader processes. What it takes from a shard is taken here: under each key an image and a label, in `.cls` or as
`label` in `.json`; and `_info.json`, where there is one, says which shards there are and how many images each holds.
"""

import io
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from pld_grid.errors import listing
from pld_grid.files import open_regular, read_regular, write_whole
from pld_grid.train.data._reader import MOST_BYTES, MOST_NAME, sample_order
from pld_grid.train.data._split import DataError

_log = logging.getLogger(__name__)
_IMAGES = ("jpg", "jpeg", "png", "webp")
# Per image: its shard's number, where its bytes begin, how many they are, its label, its file name in the shard.
_COLUMNS = ("shard", "offset", "size", "target", "name")
_VERSION = 1
# Bytes of a label's file, or of anything else in a shard beside images; and of `_info.json`.
_MOST_LABEL, _MOST_INFO = 2**20, 2**26
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
        with open_regular(self._shards[self._index["shard"][index]]) as file:
            file.seek(int(self._index["offset"][index]))
            return file.read(min(int(self._index["size"][index]), MOST_BYTES + 1))

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        return f"{self._shards[self._index['shard'][index]].name}: {os.fsdecode(self._index['name'][index])}"


def _promised(folder: Path, split: str) -> dict[str, int]:
    """Numbers of images by shard, as timm's `_info.json` gives them; nothing without that file or that split."""
    for file in (folder / "_info.json", folder / "info.json"):
        try:
            told = json.loads(read_regular(file, _MOST_INFO))["splits"].get(split)
            promised = dict(zip(told["filenames"], told["shard_lengths"], strict=True)) if told else {}
            if not all(isinstance(name, str) and isinstance(count, int) for name, count in promised.items()):
                raise ValueError("filenames must be texts, shard_lengths whole numbers")
            return promised
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not what timm writes: {getattr(error, 'strerror', None) or error}") from None
    return {}


def _index(shards: Sequence[Path], file: Path) -> Index:
    """The index of the shards: the one that is kept, or a new one."""
    states = [(shard.name, shard.stat()) for shard in shards]
    stamp = json.dumps([_VERSION, [(name, state.st_size, state.st_mtime_ns) for name, state in states]])
    kept = _kept(file, stamp, [state.st_size for _, state in states])
    if kept is not None:
        return kept
    _log.info("reading what %d shards hold", len(shards))
    rows = [(number, *row) for number, shard in enumerate(shards) for row in _contents(shard)]
    if not rows:
        raise DataError(f"{shards[0].parent}: the shards hold no images")
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    names = columns.pop("name")
    order = sample_order(np.array(columns["target"]), names)
    index: Index = {column: np.array(values, dtype=np.int64)[order] for column, values in columns.items()}
    # A file's name need not be text.
    index["name"] = np.array([os.fsencode(name) for name in names])[order]
    _keep(file, {**index, "stamp": np.array(stamp)})
    return index


def _kept(file: Path, stamp: str, sizes: Sequence[int]) -> Index | None:
    """The index that is kept in a file, if it is one of these shards; `sizes` are their bytes."""
    try:
        with open_regular(file) as opened, np.load(opened, allow_pickle=False) as kept:
            # As it is written here. What is compressed may become any size.
            if any(part.compress_type != zipfile.ZIP_STORED for part in kept.zip.infolist()):
                return None
            if str(kept["stamp"]) != stamp:
                return None
            index = {column: kept[column] for column in _COLUMNS}
            return index if _fits(index, sizes) else None
    # It is made anew, whatever ails it; which errors numpy and zipfile have for damaged bytes is not documented.
    except Exception:
        return None


def _fits(index: Index, sizes: Sequence[int]) -> bool:
    """Whether an index is of images that lie within shards of these sizes."""
    shard, offset, size, target, name = (index[column] for column in _COLUMNS)
    if any(numbers.dtype != np.int64 or numbers.shape != name.shape for numbers in (shard, offset, size, target)):
        return False
    if name.ndim != 1 or not len(name) or name.dtype.kind != "S":
        return False
    if min(shard.min(), offset.min(), size.min()) < 0 or shard.max() >= len(sizes):
        return False
    there = np.array(sizes)[shard]
    return bool(((size <= there) & (offset <= there - size)).all())


def _keep(file: Path, index: Index) -> None:
    data = io.BytesIO()
    np.savez(data, **index)  # type: ignore[arg-type]
    try:
        write_whole(file, data.getvalue(), durable=False)
    except OSError as error:
        _log.warning("the index of the shards is not kept, so each start reads them again: %s", error)


class _Small:
    """A shard as tarfile sees it, which believes any size that a header tells and would read it all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        if size > 2 * _MOST_LABEL:
            raise tarfile.ReadError(f"a header or label of {size} bytes")
        return self._file.read(size)


def _contents(shard: Path) -> list[tuple[int, int, int, str]]:
    """Offset, size, label and file name of every image in a shard."""
    # By key, then by ending: an image's (offset, size, name), or the label, None for what is none.
    samples: dict[str, dict[str, Any]] = {}
    try:
        with open_regular(shard) as opened, tarfile.open(fileobj=cast(BinaryIO, _Small(opened)), mode="r:") as archive:
            for member in archive:
                if len(member.name) > MOST_NAME or member.issparse():
                    raise tarfile.ReadError(f"{member.name[:60]!r} has an endless name, or is sparse")
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                ending = ending.lower()
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None and ending in ("cls", "json"):
                    samples.setdefault(f"{folder}/{stem}", {})[ending] = _label(ending, file.read(_MOST_LABEL + 1))
                elif file is not None and ending in _IMAGES:
                    place = (member.offset_data, member.size, member.name)
                    samples.setdefault(f"{folder}/{stem}", {})[ending] = place
            # A damaged header looks like the end to tarfile: the real one is a block of zeros.
            opened.seek(archive.offset)
            if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")
    # ValueError: tarfile takes some numbers as they are.
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{shard}: truncated or damaged shard: {error}") from None
    return [_sample(shard, key.removeprefix("/"), parts) for key, parts in samples.items()]


def _sample(shard: Path, key: str, parts: dict[str, Any]) -> tuple[int, int, int, str]:
    image = next((parts[ending] for ending in _IMAGES if ending in parts), None)
    if image is None:
        raise DataError(f"{shard}: {key} has no image ({', '.join(_IMAGES)})")
    label = parts["cls"] if "cls" in parts else parts.get("json")
    if label is None:
        raise DataError(f"{shard}: {key} has no label: a number in .cls, or as label in .json")
    offset, size, name = image
    return offset, size, label, name


def _label(ending: str, data: bytes) -> int | None:
    """The label in a `.cls` or `.json`; None if there is none that fits into 64 bits."""
    if len(data) > _MOST_LABEL:
        return None
    try:
        label = int(data) if ending == "cls" else int(json.loads(data)["label"])
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError):
        return None
    return label if -(2**63) <= label < 2**63 else None
