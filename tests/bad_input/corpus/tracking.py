"""MLflow's address, settings and database, and addresses with a password."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from error_cases import Case

from corpus import load_cases, plain

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}
NO_MLFLOW = "is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://..."
REPORT = ("report", "mine.yaml", "--from", "mlflow", "--tracking-uri")


def sync(uri: str, message: str, prepare: Callable[[Path], None] | None = None, code: int = 2) -> Case:
    return Case(("sync", "--tracking-uri", uri), message, GRID, prepare=prepare, code=code)


def setting(name: str, value: str, message: str) -> Case:
    # MLflow reads some of its settings only once in a process.
    return plain("sync", message, settings={name: value}, alone=True)


def _pipe(work: Path) -> None:
    os.mkfifo(work / "pipe")


def _device(work: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(work / "null", 0o600 | 0o020000, os.makedev(1, 3))


def _leads_nowhere(work: Path) -> None:
    (work / "link").symlink_to("gone")


def _leads_to_nothing(work: Path) -> None:
    (work / "empty").touch()
    (work / "link").symlink_to("empty")


def unreachable(command: str, address: str, shown: str) -> Case:
    return Case((*shlex.split(command), "--address", address), f"Ray at {shown}: cannot be reached", GRID)


CASES = load_cases(__file__, sync, plain, setting, unreachable) | {
    "bytes that are no text": sync("sqlite:///a\udcff.db", rf'--tracking-uri: "sqlite:///a\udcff.db" {NO_MLFLOW}'),
    "bytes that are no text, for a database": Case(
        ("db", "upgrade", "--tracking-uri", "sqlite:///a\udcff.db"), NO_MLFLOW, alone=True
    ),
    "pipe": sync("sqlite:///pipe", NO_MLFLOW, _pipe),
    "pipe for a report": Case((*REPORT, "sqlite:///pipe"), NO_MLFLOW, GRID, prepare=_pipe),
    "pipe for a schema": plain("db upgrade --tracking-uri sqlite:///pipe", NO_MLFLOW, prepare=_pipe),
    "device": sync("sqlite:///null", NO_MLFLOW, _device),
    "device for a schema": plain("db upgrade --tracking-uri sqlite:///null", NO_MLFLOW, prepare=_device),
    "link to nowhere": sync("sqlite:///link", "database | link: it is not a regular file", _leads_nowhere, 3),
    "link to an empty file": sync("sqlite:///link", "database | link: it is not a regular file", _leads_to_nothing, 3),
    "link for a schema": plain(
        "db upgrade --tracking-uri sqlite:///link", "link: it is not a regular file", prepare=_leads_nowhere, code=3
    ),
}
