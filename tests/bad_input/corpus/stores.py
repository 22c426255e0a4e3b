"""Stores and databases that are none, and files that may keep one waiting or have no end."""

import os
from collections.abc import Callable
from pathlib import Path

from front_door import Case

from corpus import evidence, tables

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}
DAMAGED = "cell 0123456789abcdef in store .pld_grid/store is damaged, or of another version"
CELL = ".pld_grid/store/0123456789abcdef/cell.json"
NO_FILE = "cannot be read: it is not a regular file"


def _folder(work: Path) -> None:
    (work / "mine").mkdir()


def pipe(name: str) -> Callable[[Path], None]:
    """Nobody ever writes into it."""

    def prepare(work: Path) -> None:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return prepare


def _huge(work: Path) -> None:
    (work / CELL).parent.mkdir(parents=True)
    with (work / CELL).open("wb") as file:
        file.truncate(100 * 2**20)


CASES = {
    "file": Case(("run", "mine.yaml", "--store", "mine.yaml"), "store mine.yaml: it is a file, not a folder", GRID),
    "below a file": Case(
        ("run", "mine.yaml", "--store", "mine.yaml/x"), "store mine.yaml/x: cannot list: Not a directory", GRID
    ),
    "not a folder that there can be": Case(
        ("run", "mine.yaml", "--store", "x" * 300), "cannot list: File name too long", GRID
    ),
    "kernel's": Case(
        ("run", "mine.yaml", "--store", "/proc/x"),
        "store /proc/x: about | needed, 0.0 MiB free; free some, or name another place",
        GRID,
    ),
    "nobody's": Case(
        ("plan", "mine.yaml", "--store", "http://127.0.0.1:1/x"), "store http://127.0.0.1:1/x: cannot list: ", GRID
    ),
    "of a cell that is damaged": Case(("why", "0123456789abcdef"), DAMAGED, {CELL: '{"seed": 1}'}),
    "of a cell that is no text": Case(("why", "0123456789abcdef"), DAMAGED, {CELL: bytes(range(256))}),
    "of a cell that is huge": Case(("why", "0123456789abcdef"), DAMAGED, prepare=_huge),
    "of a cell that is a pipe": Case(("why", "0123456789abcdef"), DAMAGED, prepare=pipe(CELL)),
    "grid that is a pipe": Case(("plan", "mine.yaml"), f"mine.yaml: {NO_FILE}", prepare=pipe("mine.yaml"), alone=True),
    "profile that is a pipe": Case(
        ("plan", "mine.yaml", "--profile", "own.yaml"),
        "--profile: own.yaml: no such file",
        GRID,
        prepare=pipe("own.yaml"),
    ),
    "evidence that is a pipe": Case(
        ("report", "--from", "records", "--out", "mine"),
        f"mine/records.jsonl: {NO_FILE}",
        prepare=pipe("mine/records.jsonl"),
    ),
    "report with a pipe": Case(
        ("report", "--check", "--out", "mine"),
        f"mine/records.jsonl: {NO_FILE}",
        {"mine/records.jsonl": evidence.line(evidence.HEADER, {})},
        prepare=pipe("mine/records.jsonl"),
    ),
    "printed table that is a pipe": Case(
        ("report", "grid.yaml"),
        "mine.csv: the paper's table cannot be read: it is not a regular file",
        {"grid.yaml": tables.GRID, "reports/paper/claims.yaml": tables.CLAIMS},
        prepare=pipe("reports/paper/mine.csv"),
    ),
    "database: none": Case(("report", "mine.yaml", "--from", "mlflow"), "there is no MLflow database", GRID, code=3),
    "database: text": Case(
        ("report", "mine.yaml", "--from", "mlflow"),
        "file is not a database",
        {**GRID, ".pld_grid/mlflow.db": "x" * 5000},
        code=3,
    ),
    "database: folder": Case(
        ("report", "mine.yaml", "--from", "mlflow", "--tracking-uri", "sqlite:///mine"),
        '--tracking-uri: "sqlite:///mine" is no MLflow: ',
        GRID,
        prepare=_folder,
    ),
    "report into a file": Case(("report", "mine.yaml", "--out", "mine.yaml"), "mine.yaml | cannot be written: ", GRID),
    "report below a file": Case(
        ("run", "mine.yaml", "--report", "mine.yaml/x"), "mine.yaml/x: cannot be written: Not a directory", GRID
    ),
}
