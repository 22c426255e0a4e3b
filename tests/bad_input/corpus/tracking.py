"""MLflow's address, settings and database, and addresses with a password."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from front_door import Case

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}
NO_MLFLOW = "is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://..."
REPORT = ("report", "mine.yaml", "--from", "mlflow", "--tracking-uri")
CLOSED = "127.0.0.1:1"


def _sync(uri: str, said: str, prepare: Callable[[Path], None] | None = None, code: int = 2) -> Case:
    return Case(("sync", "--tracking-uri", uri), said, GRID, prepare=prepare, code=code)


def _setting(name: str, value: str, said: str) -> Case:
    # MLflow reads some of its settings only once in a process.
    return Case(("sync",), said, settings={name: value}, alone=True)


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


def _unreachable(*command: str, address: str, shown: str) -> Case:
    return Case((*command, "--address", address), f"Ray at {shown}: cannot be reached", GRID)


CASES = {
    "no IPv6 address": _sync("http://[::1", f'--tracking-uri: "http://[::1" {NO_MLFLOW}'),
    "no IPv6 address for a database": Case(
        ("db", "upgrade", "--tracking-uri", "http://[::1"), f'--tracking-uri: "http://[::1" {NO_MLFLOW}'
    ),
    "bytes that are no text": _sync("sqlite:///a\udcff.db", rf'--tracking-uri: "sqlite:///a\udcff.db" {NO_MLFLOW}'),
    "bytes that are no text, for a database": Case(
        ("db", "upgrade", "--tracking-uri", "sqlite:///a\udcff.db"), NO_MLFLOW, alone=True
    ),
    "pipe": _sync("sqlite:///pipe", NO_MLFLOW, _pipe),
    "pipe for a report": Case((*REPORT, "sqlite:///pipe"), NO_MLFLOW, GRID, prepare=_pipe),
    "pipe for a schema": Case(("db", "upgrade", "--tracking-uri", "sqlite:///pipe"), NO_MLFLOW, prepare=_pipe),
    "device": _sync("sqlite:///null", NO_MLFLOW, _device),
    "database of a driver's own": _sync("sqlite+pysqlite:///mine.db", NO_MLFLOW),
    "database with settings": _sync("sqlite:///mine.db?timeout=5", NO_MLFLOW),
    "database by another spelling": _sync("SQLite:///mine.db", NO_MLFLOW),
    "device for a schema": Case(("db", "upgrade", "--tracking-uri", "sqlite:///null"), NO_MLFLOW, prepare=_device),
    "link to nowhere": _sync("sqlite:///link", "database | link: it is not a regular file", _leads_nowhere, 3),
    "link to an empty file": _sync("sqlite:///link", "database | link: it is not a regular file", _leads_to_nothing, 3),
    "link for a schema": Case(
        ("db", "upgrade", "--tracking-uri", "sqlite:///link"),
        "link: it is not a regular file",
        prepare=_leads_nowhere,
        code=3,
    ),
    "where no file can be made": _sync(
        "sqlite:////proc/x.db", "MLflow database /proc/x.db: No such file or directory", code=3
    ),
    "no PostgreSQL": _sync(f"postgresql://{CLOSED}/x", f"MLflow at postgresql://{CLOSED}/x: ", code=3),
    "no PostgreSQL for a report": Case(
        (*REPORT, f"postgresql://me:secret@{CLOSED}/x"),
        f"MLflow at postgresql://{CLOSED}/x: | onnection refused",
        GRID,
        code=3,
    ),
    "way to PostgreSQL that is not installed": Case(
        (*REPORT, f"postgresql+asyncpg://{CLOSED}/x"), "the package asyncpg is missing", GRID, code=3
    ),
    "word for seconds": _setting(
        "MLFLOW_HTTP_REQUEST_TIMEOUT", "abc", 'MLFLOW_HTTP_REQUEST_TIMEOUT: "abc" is no value that MLflow takes'
    ),
    "word for a number of connections": _setting(
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "abc", 'MLFLOW_SQLALCHEMYSTORE_POOL_SIZE: "abc" is no value that'
    ),
    "word for yes": _setting("MLFLOW_ENABLE_WORKSPACES", "maybe", 'MLFLOW_ENABLE_WORKSPACES: "maybe" is no value that'),
    "unknown level of logging": _setting(
        "MLFLOW_LOGGING_LEVEL", "nonsense", 'MLFLOW_LOGGING_LEVEL: "nonsense" is no level'
    ),
    "setting of a run": Case(
        ("run", "mine.yaml"),
        'MLFLOW_HTTP_REQUEST_TIMEOUT: "abc" is no value that MLflow takes',
        GRID,
        {"MLFLOW_HTTP_REQUEST_TIMEOUT": "abc"},
    ),
    "password of a dashboard": _unreachable("list", address=f"http://me:secret@{CLOSED}", shown=f"http://{CLOSED}"),
    "password of a dashboard without http": _unreachable(
        "list", address=f"me:secret@{CLOSED}", shown=f"http://{CLOSED}"
    ),
    "token of a dashboard": _unreachable(
        "list", address=f"http://{CLOSED}?token=secret", shown=f"http://{CLOSED}?token=***"
    ),
    "password of a cluster": _unreachable("run", "mine.yaml", address=f"me:secret@{CLOSED}", shown=CLOSED),
    "token of a cluster's client": _unreachable(
        "run", "mine.yaml", address=f"ray://me:secret@{CLOSED}/?api_key=secret", shown=f"ray://{CLOSED}/?api_key=***"
    ),
    "password of where grids go": _unreachable(
        "submit", "mine.yaml", "--store", "/nowhere/store", "--tracking-uri", f"http://{CLOSED}",
        address=f"http://me:secret@{CLOSED}", shown=f"http://{CLOSED}",
    ),
    "password beside a port that is none": Case(
        ("list", "--address", "me:secret@host:ray"), '--address: "http://host:ray" is no address'
    ),
}  # fmt: skip
