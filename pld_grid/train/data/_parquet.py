"""Hugging Face's parquet files (columns `image` with bytes and path, and `label`), read where they lie.

timm's reader of them (`ReaderHfds`) needs the `datasets` package, which first copies everything into its own cache.
The price of not copying: to read an image is to read its row group up to it. In Hugging Face's files, with 100 images
to a group, that takes a few times as long as decoding it, so for long trainings shards or folders are better.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pld_grid.train.data._reader import MOST_BYTES, MOST_NAME, sample_order
from pld_grid.train.data._split import DataError


class ParquetReader:
    """See `Reader`. Raises DataError for a truncated or damaged file, or one with other columns.

    Args:
        files: the split's files.
        root: the dataset's folder.
    """

    format = "Hugging Face parquet"

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        self._files, self._root = sorted(files), root
        targets, places = [], list[tuple[int, int, int]]()
        paths: list[str] = []
        for number, file in enumerate(self._files):
            try:
                with parquet.ParquetFile(file) as opened:
                    schema = opened.schema_arrow
                    named = _check_columns(file, schema)
                    columns = ["label", "image.path"] if named else ["label"]
                    table = opened.read(columns=columns, use_threads=False)
                    sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
                # As numbers of 64 bits, which unsigned ones may not be.
                labels = table.column("label").cast(pa.int64())
                rows = table.column("image").to_pylist() if named else [{"path": None}] * len(table)
            # Texts need not be UTF-8.
            except (pa.ArrowException, OSError, UnicodeError) as error:
                raise DataError(f"{file}: truncated or damaged parquet file: {error}") from None
            if labels.null_count:
                raise DataError(f"{file}: some images have no label")
            targets += labels.to_pylist()
            paths += [_path(file, row) for row in rows]
            places += [(number, group, row) for group, size in enumerate(sizes) for row in range(size)]
        if not targets:
            raise DataError(f"{root}: the parquet files hold no images")
        labels_N = np.array(targets, dtype=np.int64)
        order = sample_order(labels_N, paths)
        self.target_N = labels_N[order]
        self.class_names = _class_names(schema)
        self._place_N3 = np.array(places, dtype=np.int64)[order]
        self._path_N = np.array([path.encode() for path in paths])[order]

    def read(self, index: int) -> bytes:
        """See `Reader.read`."""
        number, group, row = self._place_N3[index].tolist()
        columns = ["image.bytes"]
        try:
            with parquet.ParquetFile(self._files[number], pre_buffer=False) as opened:
                rows = next(opened.iter_batches(row + 1, row_groups=[group], columns=columns, use_threads=False))
        except pa.ArrowException as error:
            raise OSError(str(error)) from None
        image = rows.column("image")[row].as_py()
        # A row without bytes is an image that cannot be decoded.
        return ((image and image["bytes"]) or b"")[: MOST_BYTES + 1]

    def name(self, index: int) -> str:
        """See `Reader.name`."""
        number, group, row = self._place_N3[index].tolist()
        path = self._path_N[index].decode() or f"row {row} of row group {group}"
        return f"{self._files[number].relative_to(self._root)}: {path}"


def _check_columns(file: Path, schema: Any) -> bool:
    """Whether images have paths. Raises DataError if a column is missing, there twice, or of another kind."""
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


def _path(file: Path, row: Any) -> str:
    """An image's path; empty without."""
    path = (row and row["path"]) or ""
    if not isinstance(path, str) or len(path) > MOST_NAME:
        raise DataError(f"{file}: the path of an image is no text, or has no end: {str(path)[:60]}")
    return path


def _class_names(schema: Any) -> tuple[str, ...]:
    """The names that Hugging Face's `ClassLabel` left in the file; empty without."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
