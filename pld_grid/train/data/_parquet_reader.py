"""Images in Hugging Face's parquet files (columns `image` with bytes and path, and `label`), read in place.

timm's reader of them (`ReaderHfds`) needs the `datasets` package, which first copies everything into its own cache.
Without that copy, reading an image means reading its row group up to the image. In Hugging Face's files, with 100
images per group, that takes a few times as long as decoding, so shards or folders are better for long trainings.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pld_grid.train.data._reader import MAX_IMAGE_BYTES, MAX_NAME_LENGTH, sample_order
from pld_grid.train.data._split import DataError


class ParquetReader:
    """A `Reader` of parquet files. Raises DataError for a truncated or damaged file, or one with other columns.

    Args:
        files: The split's files.
        root: The dataset's folder.
    """

    format = "Hugging Face parquet"

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        self._files, self._root = sorted(files), root
        labels, paths, places = list[int](), list[str](), list[tuple[int, int, int]]()
        for number, file in enumerate(self._files):
            contents = _read_contents(file)
            labels += contents.labels
            paths += contents.paths
            places += [(number, group, row) for group, size in enumerate(contents.group_sizes) for row in range(size)]
        if not labels:
            raise DataError(f"{root}: the parquet files hold no images")
        labels_N = np.array(labels, dtype=np.int64)
        order = sample_order(labels_N, paths)
        self.target_N = labels_N[order]
        self.class_names = contents.class_names
        self._place_N3 = np.array(places, dtype=np.int64)[order]
        self._path_N = np.array([path.encode() for path in paths])[order]

    def read(self, index: int) -> bytes:
        """See `Reader.read`."""
        number, group, row = self._place_N3[index].tolist()
        try:
            with parquet.ParquetFile(self._files[number], pre_buffer=False) as file:
                batches = file.iter_batches(row + 1, row_groups=[group], columns=["image.bytes"], use_threads=False)
                image = next(batches).column("image")[row].as_py()
        except pa.ArrowException as error:
            raise OSError(str(error)) from None
        # A row without bytes counts as a damaged image.
        return ((image and image["bytes"]) or b"")[: MAX_IMAGE_BYTES + 1]

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        number, group, row = self._place_N3[index].tolist()
        path = self._path_N[index].decode() or f"row {row} of row group {group}"
        return f"{self._files[number].relative_to(self._root)}: {path}"


class _Contents(NamedTuple):
    """All of a file but the images; `group_sizes` are the numbers of images in its row groups."""

    labels: list[int]
    paths: list[str]
    group_sizes: list[int]
    class_names: tuple[str, ...]


def _read_contents(file: Path) -> _Contents:
    try:
        with parquet.ParquetFile(file) as reader:
            schema = reader.schema_arrow
            columns = ["label", "image.path"] if _has_paths(file, schema) else ["label"]
            table = reader.read(columns=columns, use_threads=False)
            group_sizes = [reader.metadata.row_group(group).num_rows for group in range(reader.num_row_groups)]
        labels = table.column("label").cast(pa.int64())
        images = table.column("image").to_pylist() if len(columns) > 1 else [None] * len(table)
    # UnicodeError: texts need not be UTF-8.
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise DataError(f"{file}: truncated or damaged parquet file: {error}") from None
    if labels.null_count:
        raise DataError(f"{file}: some images have no label")
    paths = [(image and image["path"]) or "" for image in images]
    for path in paths:
        if not isinstance(path, str) or len(path) > MAX_NAME_LENGTH:
            raise DataError(f"{file}: the path of an image is not text, or is too long: {str(path)[:60]}")
    return _Contents(labels.to_pylist(), paths, group_sizes, _read_class_names(schema))


def _has_paths(file: Path, schema: Any) -> bool:
    """Return whether images have paths. Raise DataError if a column is missing, duplicate or of another type."""
    columns = {name: schema.field(name).type for name in ("image", "label") if schema.names.count(name) == 1}
    image = columns.get("image", pa.null())
    inner = [image.field(i) for i in range(image.num_fields)] if pa.types.is_struct(image) else []
    fields = {field.name: field.type for field in inner}
    encoded = fields.get("bytes", pa.null())
    binary = pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)
    if not binary or len(fields) < len(inner) or "label" not in columns:
        raise DataError(f"{file} needs the columns image (bytes and path) and label; it has: {', '.join(schema.names)}")
    if not pa.types.is_integer(columns["label"]):
        raise DataError(f"{file}: label is {columns['label']}, not a whole number")
    return "path" in fields


def _read_class_names(schema: Any) -> tuple[str, ...]:
    """Return the class names that Hugging Face's `ClassLabel` stored in the file; empty if there are none."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
