"""The index of tar shards: where each image lies and its label, saved beside the shards.

Shape suffixes: N images.
"""

import io
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from pld_grid.train.data._reader import MAX_NAME_LENGTH, sample_order
from pld_grid.train.data._split import DataError
from pld_grid.util.atomic_files import atomic_write, open_regular

_log = logging.getLogger(__name__)
_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_FORMAT_VERSION = 2
# Of a label's file, and of anything else that tarfile reads at once.
_MAX_LABEL_BYTES = 2**20
# Per image: its shard's number, its first byte and its size in the shard, and its label. The last column of an index is
# the file name as bytes, because it need not be text.
_NUMBERS = [("shard", "<i8"), ("offset", "<i8"), ("size", "<i8"), ("target", "<i8")]


def load_index(shards: Sequence[Path], file: Path) -> npt.NDArray[np.void]:
    """Return the index of the shards, a structured array (N,): the saved one, or a new one.

    Args:
        shards: The shards of one split.
        file: Where the index is saved.

    Raises:
        DataError: A shard is truncated or damaged, or a sample has no image or no label.
    """
    states = [(shard.name, shard.stat()) for shard in shards]
    stamp = json.dumps([_FORMAT_VERSION, [(name, state.st_size, state.st_mtime_ns) for name, state in states]])
    saved = _read_saved_index(file, stamp, [state.st_size for _, state in states])
    if saved is not None:
        return saved
    _log.info("indexing %d shards", len(shards))
    rows = [(number, *row) for number, shard in enumerate(shards) for row in _scan_shard(shard)]
    if not rows:
        raise DataError(f"{shards[0].parent}: the shards hold no images")
    *_, targets, names = zip(*rows, strict=True)
    index = np.array(rows, [*_NUMBERS, ("name", f"S{max(map(len, names))}")])
    index = index[sample_order(np.array(targets), list(map(os.fsdecode, names)))]
    data = io.BytesIO()
    np.savez(data, index=index, stamp=np.array(stamp))
    try:
        atomic_write(file, data.getvalue(), durable=False)
    except OSError as error:
        _log.warning("the index of the shards cannot be saved, so each start reads all shards: %s", error)
    return index


def _read_saved_index(file: Path, stamp: str, sizes: Sequence[int]) -> npt.NDArray[np.void] | None:
    """Return the saved index, or None if it is not a valid index of these shards; `sizes` are their bytes."""
    try:
        with open_regular(file) as opened, np.load(opened, allow_pickle=False) as saved:
            # Indexes are saved uncompressed; a compressed one could expand to any size.
            uncompressed = all(part.compress_type == zipfile.ZIP_STORED for part in saved.zip.infolist())
            if not uncompressed or str(saved["stamp"]) != stamp:
                return None
            index: npt.NDArray[np.void] = saved["index"]
        name = index.dtype["name"]
        known = name.kind == "S" and index.dtype == np.dtype([*_NUMBERS, ("name", name)])
        if not known or index.ndim != 1 or not index.size:
            return None
        shard, offset, size = index["shard"], index["offset"], index["size"]
        shard_size = np.array(sizes)[shard]
        inside = (shard >= 0) & (offset >= 0) & (size >= 0) & (size <= shard_size) & (offset <= shard_size - size)
        return index if inside.all() else None
    # Any damage leads to a new index; numpy and zipfile do not document their errors for damaged bytes.
    except Exception:
        return None


class _BoundedFile:
    """A shard for tarfile, which would otherwise read as many bytes at once as a header declares."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if size > 2 * _MAX_LABEL_BYTES:
            raise tarfile.ReadError(f"a header or label of {size} bytes")
        return self._file.read(size)


def _scan_shard(shard: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield offset, size, label and file name of every image in a shard."""
    # By key, then by extension: an image's (offset, size, name), or a label file's label, None if it is invalid.
    samples: dict[str, dict[str, Any]] = {}
    try:
        with (
            open_regular(shard) as file,
            tarfile.open(fileobj=cast(BinaryIO, _BoundedFile(file)), mode="r:") as archive,
        ):
            for member in archive:
                _add_member(samples, archive, member)
            # tarfile takes a damaged header for the end, which is really a block of zeros.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")
    # ValueError: tarfile does not check all numbers.
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{shard}: truncated or damaged shard: {error}") from None
    for key, parts in samples.items():
        image = next((parts[extension] for extension in _IMAGE_EXTENSIONS if extension in parts), None)
        if image is None:
            raise DataError(f"{shard}: {key} has no image ({', '.join(_IMAGE_EXTENSIONS)})")
        label = parts["cls"] if "cls" in parts else parts.get("json")
        if label is None:
            raise DataError(f"{shard}: {key} has no label: a number in .cls, or as label in .json")
        offset, size, name = image
        yield offset, size, label, name


def _add_member(samples: dict[str, dict[str, Any]], archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if len(member.name) > MAX_NAME_LENGTH or member.issparse():
        raise tarfile.ReadError(f"{member.name[:60]!r} has too long a name, or is sparse")
    folder, _, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    key, extension = f"{folder}/{stem}".removeprefix("/"), extension.lower()
    file = archive.extractfile(member) if member.isreg() else None
    if file is not None and extension in ("cls", "json"):
        samples.setdefault(key, {})[extension] = _parse_label(extension, file.read(_MAX_LABEL_BYTES + 1))
    elif file is not None and extension in _IMAGE_EXTENSIONS:
        samples.setdefault(key, {})[extension] = (member.offset_data, member.size, os.fsencode(member.name))


def _parse_label(extension: str, data: bytes) -> int | None:
    """Return the label in a `.cls` or `.json` file, or None if there is none that fits into 64 bits."""
    if len(data) > _MAX_LABEL_BYTES:
        return None
    try:
        label = int(data) if extension == "cls" else int(json.loads(data)["label"])
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError):
        return None
    return label if -(2**63) <= label < 2**63 else None
