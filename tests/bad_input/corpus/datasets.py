"""Folders of datasets, as `check-data` and `run` get them."""

from collections.abc import Callable
from pathlib import Path

from front_door import Case
from small_datasets import FORMATS, add, photos

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


def _unlabelled(folder: Path) -> None:
    import tarfile

    with tarfile.open(folder / "imagenet1k-train-0.tar", "w") as archive:
        add(archive, "x.jpg", MADE[0].data)


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
        "data/imagenet1k-train-0.tar: x has no label: a number in .cls", made("tar", _unlabelled)
    ),
    "shard that is missing": imagenet(
        "shards of its _info.json are missing: imagenet1k-train-1.tar",
        made("tar", lambda folder: (folder / "imagenet1k-train-1.tar").unlink()),
    ),
    "parquet cut": imagenet("truncated or damaged parquet file", made("parquet", _cut("data/train*", 100))),
    "parquet that is none": imagenet(
        "truncated or damaged parquet file", made("parquet", write("data/train-00000-of-00002.parquet", b"PAR1" * 9))
    ),
}
