"""Places, addresses and limits of a run, and inputs of further kinds."""

import pickle
from pathlib import Path

from error_cases import Case

from corpus import datasets, evidence, plain, tables, weights

GRID = {"mine.yaml": "cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}\n"}


def _run(*flags: str, message: str) -> Case:
    return Case(("run", "mine.yaml", *flags), message, GRID)


def _loop(work: Path) -> None:
    (work / "loop").symlink_to("loop")


NO_ADDRESS = "is no address; expected HOST:PORT or http://HOST:PORT"
CIFAR100 = ("check-data", "--profile", "cifar100", "--data-dir")
PUBLISHED = ("run", "mine.yaml", "--profile", "one.yaml", "--data-dir", ".", "--weights-dir")
CASES = {
    "no processors": _run("--cpus-per-cohort", "0", message="--cpus-per-cohort: must be greater than 0, not 0"),
    "endless processors": _run("--cpus-per-cohort", "inf", message="--cpus-per-cohort: expected a finite number"),
    "negative share of a GPU": _run("--gpus-per-cohort", "-1", message="--gpus-per-cohort: must be at least 0, not -1"),
    "no devices": _run("--devices-per-cohort", "0", message="--devices-per-cohort: must be at least 1, not 0"),
    "empty cohorts": _run("--cohort-size", "0", message="--cohort-size: must be at least 1, not 0"),
    "no epochs between checkpoints": _run("--checkpoint-every", "0", message="--checkpoint-every: must be at least 1"),
    "nobody's address": _run("--address", "127.0.0.1:1", message="Ray at 127.0.0.1:1: cannot be reached"),
    "nobody's client": _run("--address", "ray://127.0.0.1:1", message="Ray at ray://127.0.0.1:1: cannot be reached"),
    "address without a number": _run("--address", "localhost:ray", message=f'--address: "localhost:ray" {NO_ADDRESS}'),
    "address beyond all ports": _run(
        "--address", "127.0.0.1:99999", message=f'--address: "127.0.0.1:99999" {NO_ADDRESS}'
    ),
    "endless address": _run("--address", "x" * 300 + ":1", message="cannot be reached"),
    "address with a line break": _run("--address", "a\nb", message=r"Ray at a\nb: cannot be reached"),
    "store that is a link to itself": plain("run mine.yaml --store loop", "loop: ", GRID, prepare=_loop),
    "endless data folder": Case((*CIFAR100, "x" * 5000), "dataset cifar100: no such folder: xxx"),
    "no CIFAR-100": Case((*CIFAR100, "."), "dataset cifar100: . does not hold CIFAR-100 whole: cifar-100-python/"),
    "pickles of somebody's": Case(
        (*CIFAR100, "data"),
        "dataset cifar100: data does not hold CIFAR-100 whole: cifar-100-python/",
        {f"data/cifar-100-python/{name}": pickle.dumps(weights.Mkdir()) for name in ("train", "test", "meta")},
    ),
    "index that is no JSON": datasets.imagenet(
        "data/_info.json: not what timm writes: ", datasets.made("tar", datasets.write("_info.json", b"{"))
    ),
    "index of something else": datasets.imagenet(
        "data/_info.json: not what timm writes: ", datasets.made("tar", datasets.write("_info.json", b"[1]"))
    ),
    "endless weights folder": Case((*PUBLISHED, "x" * 5000), "--weights-dir: no such folder: xxx", weights.FILES),
    "weights folder of a run": Case((*PUBLISHED, "gone"), "--weights-dir: no such folder: gone", weights.FILES),
    "pickle of a run": Case(
        (*PUBLISHED, "weights"),
        f"refused {weights.NAME}.pth: a pickle can run code",
        {**weights.FILES, f"weights/{weights.NAME}.pth": pickle.dumps(weights.Mkdir())},
    ),
    "endless landscape": plain(
        "landscapes --classes 100000 --points 101", "101 x 101 points of 100000 classes are more than 134217728 logits"
    ),
    "profile's file in a report": plain(
        "report --check --out mine",
        "mine: its records name a profile '../../secret.yaml', which must be a name without .yaml",
        {"mine/records.jsonl": evidence.line(evidence.HEADER, {"profile": "../../secret.yaml"})},
    ),
    "word for a record's epoch": evidence.record(f"{evidence.SECOND}epoch: expected a whole number, not", epoch="x"),
    "state of a record": evidence.record(f"{evidence.SECOND}state: unknown value", state="won"),
    "underscore in a printed number": tables.printed(
        "Loss,Top-1\nkd,7_1\npld,71\n", 'mine.csv:2: Top-1: "7_1" is not a number'
    ),
    "claims about a null byte": tables.claims(
        "mine:", '"a\\0b":', ":1: tables: the control character \\x00 has no place in a text"
    ),
    "PostgreSQL's port": plain(
        "db upgrade --tracking-uri postgresql://127.0.0.1:abc/x",
        '--tracking-uri: "postgresql://127.0.0.1:abc/x" is no MLflow: ',
    ),
}
