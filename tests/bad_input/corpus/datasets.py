"""Bad folders of datasets for `check-data` and `run`."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from error_cases import Case
from pyarrow import parquet
from small_datasets import FORMATS, add, make_photos

from corpus import plain
from corpus.stores import pipe

MADE = make_photos()
Prepare = Callable[[Path], None]
SHARD, PARQUET = "imagenet1k-train-0.tar", "data/train-00000-of-00002.parquet"


def imagenet(message: str, prepare: Prepare, folder: str = "data") -> Case:
    command = ("check-data", "--profile", "imagenet", "--data-dir", folder)
    return Case(command, f"dataset imagenet: | {message}", prepare=prepare)


def made(form: str, change: Prepare = lambda folder: None) -> Prepare:
    """Return a function that makes a small ImageNet in `data/` and changes it."""

    def prepare(work: Path) -> None:
        FORMATS[form](work / "data", MADE)
        change(work / "data")

    return prepare


def write(name: str, content: bytes) -> Prepare:
    return lambda folder: (folder / name).write_bytes(content) and None


def _cut(pattern: str, size: int) -> Prepare:
    def change(folder: Path) -> None:
        file = sorted(folder.glob(pattern))[0]
        file.write_bytes(file.read_bytes()[:size])

    return change


def _shard(*members: tuple[str, bytes]) -> Prepare:
    """Replace the first shard by one with these members."""

    def change(folder: Path) -> None:
        with tarfile.open(folder / SHARD, "w") as archive:
            for name, content in members:
                add(archive, name, content)

    return made("tar", change)


def _header(kind: bytes, size: int, real: int = 0) -> Prepare:
    """Replace the first shard by the header of a label with this type and size, without its content."""
    info = tarfile.TarInfo("x.cls")
    info.type, info.size = kind, size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if real:
        # The real size of a sparse member, in tar's base-256 format for large numbers.
        block[483:495] = b"\x80" + real.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return made("tar", write(SHARD, bytes(block) + bytes(1024)))


def _info(**train: Any) -> Prepare:
    return made("tar", write("_info.json", json.dumps({"splits": {"train": train}}).encode()))


def _rows(labels: Any = None, paths: Any = None, duplicate: str = "") -> Prepare:
    """Replace the columns of the first parquet file."""

    def change(folder: Path) -> None:
        labelled = pa.array([0, 1], pa.int64()) if labels is None else labels
        named = pa.array(["a.jpg", "b.jpg"]) if paths is None else paths
        inner = {"bytes": pa.array([MADE[0].data] * 2), "path": named}
        image = pa.StructArray.from_arrays(list(inner.values()), list(inner))
        columns = {"image": image, "label": labelled}
        table = pa.table(columns)
        if duplicate in inner:
            doubled = pa.StructArray.from_arrays([*inner.values(), inner[duplicate]], [*inner, duplicate])
            table = table.set_column(0, "image", doubled)
        elif duplicate:
            table = table.append_column(duplicate, columns[duplicate])
        parquet.write_table(table, folder / PARQUET)

    return made("parquet", change)


# An array of the type text with invalid UTF-8.
INVALID_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)


def _other(work: Path) -> None:
    (work / "data").mkdir()
    (work / "data" / "file").touch()


CIFAR100 = ("check-data", "--profile", "cifar100")
DAMAGED = f"data/{SHARD}: truncated or damaged shard"
NO_LABEL = f"data/{SHARD}: x has no label: a number in .cls"
INDEX = "data/_info.json: not what timm writes: "
BAD_PARQUET = "truncated or damaged parquet file"
PATH = "the path of an image is not text, or is too long: "
COLUMNS = "needs the columns image (bytes and path) and label; it has: "
CASES = {
    "no folder given": plain("check-data --profile imagenet", "dataset imagenet needs a data folder (--data-dir)"),
    "no folder": Case((*CIFAR100, "--data-dir", "gone"), "dataset cifar100: no such folder: gone"),
    "file for a folder": Case(
        (*CIFAR100, "--data-dir", "file"), "dataset cifar100: no such folder: file", {"file": ""}
    ),
    "no folder for a run": plain(
        "run mine.yaml --profile cifar100 --data-dir gone",
        "dataset cifar100: no such folder: gone",
        {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"},
    ),
    "no ImageNet": imagenet("data needs the folders train/ and validation/ (or val/) | it holds: file", _other),
    "folders of three classes": imagenet("data: train has 3 classes, not 1000", made("folders")),
    "parquet of three classes": imagenet("data: train has 3 classes, not 1000", made("parquet")),
    "one split": imagenet("data/train needs the folders train/ and validation/", made("folders"), "data/train"),
    "shard cut in a header": imagenet(DAMAGED, made("tar", _cut("*train*", 700))),
    "empty shard": imagenet(DAMAGED, made("tar", _cut("*train*", 0))),
    "shard of other data": imagenet(DAMAGED, made("tar", write(SHARD, b"x" * 2048))),
    "shard without labels": imagenet(NO_LABEL, _shard(("x.jpg", b"x"))),
    "infinite label": imagenet(NO_LABEL, _shard(("x.jpg", b"x"), ("x.json", b'{"label": 1e999}'))),
    "label of a hundred bits": imagenet(NO_LABEL, _shard(("x.jpg", b"x"), ("x.cls", str(2**100).encode()))),
    "label of two megabytes": imagenet(NO_LABEL, _shard(("x.jpg", b"x"), ("x.cls", b" " * 2**21 + b"1"))),
    "sparse label of twenty gigabytes": imagenet(
        f"{DAMAGED}: 'x.cls' has too long a name, or is sparse", _header(tarfile.GNUTYPE_SPARSE, 0, 20 * 10**9)
    ),
    "header of eight gigabytes": imagenet(
        f"{DAMAGED}: a header or label of 85899", _header(tarfile.XHDTYPE, 8 * 2**30 - 1)
    ),
    "huge name in a shard": imagenet(
        f"{DAMAGED}: | has too long a name", _shard(("x" * 5000 + ".jpg", b"x"), ("x" * 5000 + ".cls", b"1"))
    ),
    "shard that is a pipe": imagenet(f"data/{SHARD} is not a regular file", made("tar", pipe(SHARD))),
    "index that is a pipe": imagenet(f"{INDEX}| it is not a regular file", made("tar", pipe("_info.json"))),
    "index of numbers for shards": imagenet(
        f"{INDEX}filenames must be texts", _info(filenames=[1, 2], shard_lengths=[6, 6])
    ),
    "index with null for a shard": imagenet(
        f"{INDEX}filenames must be texts", _info(filenames=[SHARD, None], shard_lengths=[6, 6])
    ),
    "index with texts for numbers": imagenet(
        f"{INDEX}filenames must be texts, shard_lengths whole numbers", _info(filenames=[SHARD], shard_lengths=["6"])
    ),
    "shard that is missing": imagenet(
        "shards of its _info.json are missing: imagenet1k-train-1.tar",
        made("tar", lambda folder: (folder / "imagenet1k-train-1.tar").unlink()),
    ),
    "parquet cut": imagenet(BAD_PARQUET, made("parquet", _cut("data/train*", 100))),
    "parquet of other data": imagenet(BAD_PARQUET, made("parquet", write(PARQUET, b"PAR1" * 9))),
    "parquet that is a pipe": imagenet(f"data/{PARQUET} is not a regular file", made("parquet", pipe(PARQUET))),
    "number for a path": imagenet(f"{PATH}1", _rows(paths=pa.array([1, 2]))),
    "bytes for a path": imagenet(f"{PATH}b'a'", _rows(paths=pa.array([b"a", b"b"]))),
    "huge path": imagenet(f"{PATH}xxx", _rows(paths=pa.array(["x" * 5000, "b"]))),
    "path that is not UTF-8": imagenet(f"{BAD_PARQUET}: ", _rows(paths=INVALID_TEXT)),
    "unsigned label": imagenet(
        f"{BAD_PARQUET}: Integer value 18446744073709551615 not in range",
        _rows(labels=pa.array([0, 2**64 - 1], pa.uint64())),
    ),
    "duplicate labels": imagenet(COLUMNS, _rows(duplicate="label")),
    "duplicate images": imagenet(COLUMNS, _rows(duplicate="image")),
    "duplicate bytes": imagenet(COLUMNS, _rows(duplicate="bytes")),
}
