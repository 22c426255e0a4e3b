"""Folders of datasets, as `check-data` and `run` get them."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from front_door import Case
from pyarrow import parquet
from small_datasets import FORMATS, add, photos

from corpus.stores import pipe

MADE = photos()
Prepare = Callable[[Path], None]


def imagenet(said: str, prepare: Prepare, folder: str = "data") -> Case:
    command = ("check-data", "--profile", "imagenet", "--data-dir", folder)
    return Case(command, f"dataset imagenet: | {said}", prepare=prepare)


def made(form: str, change: Prepare = lambda folder: None) -> Prepare:
    """The small ImageNet in `data/`, changed."""

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
    """The first shard with these members alone."""

    def change(folder: Path) -> None:
        with tarfile.open(folder / "imagenet1k-train-0.tar", "w") as archive:
            for name, content in members:
                add(archive, name, content)

    return made("tar", change)


def _header(kind: bytes, size: int, real: int = 0) -> Prepare:
    """The first shard begins with the header of a label, of this kind of member and size; nothing follows it."""
    told = tarfile.TarInfo("x.cls")
    told.type, told.size = kind, size
    block = bytearray(told.tobuf(tarfile.GNU_FORMAT))
    if real:
        # What a sparse member unfolds to, in the base that tar takes for large numbers.
        block[483:495] = b"\x80" + real.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return made("tar", write("imagenet1k-train-0.tar", bytes(block) + bytes(1024)))


def _info(**told: Any) -> Prepare:
    return made("tar", write("_info.json", json.dumps({"splits": {"train": told}}).encode()))


def _rows(labels: Any = None, paths: Any = None, twice: str = "") -> Prepare:
    """The first parquet file with other columns."""

    def change(folder: Path) -> None:
        labelled = pa.array([0, 1], pa.int64()) if labels is None else labels
        named = pa.array(["a.jpg", "b.jpg"]) if paths is None else paths
        inner = {"bytes": pa.array([MADE[0].data] * 2), "path": named}
        image = pa.StructArray.from_arrays(list(inner.values()), list(inner))
        columns = {"image": image, "label": labelled}
        table = pa.table(columns)
        if twice in inner:
            doubled = pa.StructArray.from_arrays([*inner.values(), inner[twice]], [*inner, twice])
            table = table.set_column(0, "image", doubled)
        elif twice:
            table = table.append_column(twice, columns[twice])
        parquet.write_table(table, folder / "data" / "train-00000-of-00002.parquet")

    return made("parquet", change)


# What says of itself that it is text.
NO_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
)


def _other(work: Path) -> None:
    (work / "data").mkdir()
    (work / "data" / "file").touch()


CIFAR100 = ("check-data", "--profile", "cifar100")
CASES = {
    "no folder given": Case(
        ("check-data", "--profile", "imagenet"), "dataset imagenet needs a data folder (--data-dir)"
    ),
    "no folder": Case((*CIFAR100, "--data-dir", "gone"), "dataset cifar100: no such folder: gone"),
    "file for a folder": Case(
        (*CIFAR100, "--data-dir", "file"), "dataset cifar100: no such folder: file", {"file": ""}
    ),
    "no folder for a run": Case(
        ("run", "mine.yaml", "--profile", "cifar100", "--data-dir", "gone"),
        "dataset cifar100: no such folder: gone",
        {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"},
    ),
    "no ImageNet": imagenet("data needs the folders train/ and validation/ (or val/) | it holds: file", _other),
    "folders of three classes": imagenet("data: train has 3 classes, not 1000", made("folders")),
    "parquet of three classes": imagenet("data: train has 3 classes, not 1000", made("parquet")),
    "one split": imagenet("data/train needs the folders train/ and validation/", made("folders"), "data/train"),
    "shard cut in a header": imagenet(
        "data/imagenet1k-train-0.tar: truncated or damaged shard", made("tar", _cut("*train*", 700))
    ),
    "empty shard": imagenet("data/imagenet1k-train-0.tar: truncated or damaged shard", made("tar", _cut("*train*", 0))),
    "shard that is none": imagenet(
        "data/imagenet1k-train-0.tar: truncated or damaged shard",
        made("tar", write("imagenet1k-train-0.tar", b"x" * 2048)),
    ),
    "shard without labels": imagenet(
        "data/imagenet1k-train-0.tar: x has no label: a number in .cls", _shard(("x.jpg", b"x"))
    ),
    "endless label": imagenet(
        "data/imagenet1k-train-0.tar: x has no label: a number in .cls",
        _shard(("x.jpg", b"x"), ("x.json", b'{"label": 1e999}')),
    ),
    "label of a hundred bits": imagenet(
        "data/imagenet1k-train-0.tar: x has no label: a number in .cls",
        _shard(("x.jpg", b"x"), ("x.cls", str(2**100).encode())),
    ),
    "label of two megabytes": imagenet(
        "data/imagenet1k-train-0.tar: x has no label: a number in .cls",
        _shard(("x.jpg", b"x"), ("x.cls", b" " * 2**21 + b"1")),
    ),
    "label that unfolds to twenty gigabytes": imagenet(
        "data/imagenet1k-train-0.tar: truncated or damaged shard: 'x.cls' has an endless name, or is sparse",
        _header(tarfile.GNUTYPE_SPARSE, 0, 20 * 10**9),
    ),
    "header of eight gigabytes": imagenet(
        "data/imagenet1k-train-0.tar: truncated or damaged shard: a header or label of 85899",
        _header(tarfile.XHDTYPE, 8 * 2**30 - 1),
    ),
    "endless name in a shard": imagenet(
        "data/imagenet1k-train-0.tar: truncated or damaged shard: | has an endless name",
        _shard(("x" * 5000 + ".jpg", b"x"), ("x" * 5000 + ".cls", b"1")),
    ),
    "shard that is a pipe": imagenet(
        "data/imagenet1k-train-0.tar is not a regular file", made("tar", pipe("imagenet1k-train-0.tar"))
    ),
    "index that is a pipe": imagenet(
        "data/_info.json: not what timm writes: | it is not a regular file", made("tar", pipe("_info.json"))
    ),
    "index of numbers for shards": imagenet(
        "data/_info.json: not what timm writes: filenames must be texts",
        _info(filenames=[1, 2], shard_lengths=[6, 6]),
    ),
    "index with null for a shard": imagenet(
        "data/_info.json: not what timm writes: filenames must be texts",
        _info(filenames=["imagenet1k-train-0.tar", None], shard_lengths=[6, 6]),
    ),
    "index with texts for numbers": imagenet(
        "data/_info.json: not what timm writes: filenames must be texts, shard_lengths whole numbers",
        _info(filenames=["imagenet1k-train-0.tar"], shard_lengths=["6"]),
    ),
    "shard that is missing": imagenet(
        "shards of its _info.json are missing: imagenet1k-train-1.tar",
        made("tar", lambda folder: (folder / "imagenet1k-train-1.tar").unlink()),
    ),
    "parquet cut": imagenet("truncated or damaged parquet file", made("parquet", _cut("data/train*", 100))),
    "parquet that is none": imagenet(
        "truncated or damaged parquet file", made("parquet", write("data/train-00000-of-00002.parquet", b"PAR1" * 9))
    ),
    "parquet that is a pipe": imagenet(
        "data/data/train-00000-of-00002.parquet is not a regular file",
        made("parquet", pipe("data/train-00000-of-00002.parquet")),
    ),
    "number for a path": imagenet("the path of an image is no text, or has no end: 1", _rows(paths=pa.array([1, 2]))),
    "bytes for a path": imagenet(
        "the path of an image is no text, or has no end: b'a'", _rows(paths=pa.array([b"a", b"b"]))
    ),
    "endless path": imagenet(
        "the path of an image is no text, or has no end: xxx", _rows(paths=pa.array(["x" * 5000, "b"]))
    ),
    "path that is no UTF-8": imagenet("truncated or damaged parquet file: ", _rows(paths=NO_TEXT)),
    "unsigned label": imagenet(
        "truncated or damaged parquet file: Integer value 18446744073709551615 not in range",
        _rows(labels=pa.array([0, 2**64 - 1], pa.uint64())),
    ),
    "labels twice": imagenet("needs the columns image (bytes and path) and label; it has: ", _rows(twice="label")),
    "images twice": imagenet("needs the columns image (bytes and path) and label; it has: ", _rows(twice="image")),
    "bytes twice": imagenet("needs the columns image (bytes and path) and label; it has: ", _rows(twice="bytes")),
}
