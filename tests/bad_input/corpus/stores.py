"""Invalid stores and databases, and files that block or never end."""

import os
from collections.abc import Callable
from pathlib import Path

from error_cases import Case

from corpus import evidence, plain, tables

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}
DAMAGED = "cell 0123456789abcdef in store .pld_grid/store is damaged, or of another version"
CELL = ".pld_grid/store/0123456789abcdef/cell.json"
NO_FILE = "cannot be read: it is not a regular file"


def _folder(work: Path) -> None:
    (work / "mine").mkdir()


def pipe(name: str) -> Callable[[Path], None]:
    """Return a function that creates a pipe without a writer."""

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
    "file": plain("run mine.yaml --store mine.yaml", "store mine.yaml: it is a file, not a folder", GRID),
    "below a file": plain("run mine.yaml --store mine.yaml/x", "store mine.yaml/x: cannot list: Not a directory", GRID),
    "not a folder that there can be": Case(
        ("run", "mine.yaml", "--store", "x" * 300), "cannot list: File name too long", GRID
    ),
    "kernel's": plain(
        "run mine.yaml --store /proc/x",
        "store /proc/x: about | needed, 0.0 MiB free; free some, or name another place",
        GRID,
    ),
    "nobody's": plain("plan mine.yaml --store http://127.0.0.1:1/x", "store http://127.0.0.1:1/x: cannot list: ", GRID),
    "of a cell that is damaged": plain("why 0123456789abcdef", DAMAGED, {CELL: '{"seed": 1}'}),
    "of a cell that is no text": plain("why 0123456789abcdef", DAMAGED, {CELL: bytes(range(256))}),
    "of a cell that is huge": plain("why 0123456789abcdef", DAMAGED, prepare=_huge),
    "of a cell that is a pipe": plain("why 0123456789abcdef", DAMAGED, prepare=pipe(CELL)),
    "grid that is a pipe": plain("plan mine.yaml", f"mine.yaml: {NO_FILE}", prepare=pipe("mine.yaml"), alone=True),
    "profile that is a pipe": plain(
        "plan mine.yaml --profile own.yaml", "--profile: own.yaml: no such file", GRID, prepare=pipe("own.yaml")
    ),
    "evidence that is a pipe": plain(
        "report --from records --out mine", f"mine/records.jsonl: {NO_FILE}", prepare=pipe("mine/records.jsonl")
    ),
    "report with a pipe": plain(
        "report --check --out mine",
        f"mine/records.jsonl: {NO_FILE}",
        {"mine/records.jsonl": evidence.line(evidence.HEADER, {})},
        prepare=pipe("mine/records.jsonl"),
    ),
    "printed table that is a pipe": plain(
        "report grid.yaml",
        "mine.csv: the paper's table cannot be read: it is not a regular file",
        {"grid.yaml": tables.GRID, "reports/paper/claims.yaml": tables.CLAIMS},
        prepare=pipe("reports/paper/mine.csv"),
    ),
    "database: none": plain("report mine.yaml --from mlflow", "there is no MLflow database", GRID, code=3),
    "database: text": plain(
        "report mine.yaml --from mlflow", "file is not a database", {**GRID, ".pld_grid/mlflow.db": "x" * 5000}, code=3
    ),
    "database: folder": plain(
        "report mine.yaml --from mlflow --tracking-uri sqlite:///mine",
        '--tracking-uri: "sqlite:///mine" is no MLflow: ',
        GRID,
        prepare=_folder,
    ),
    "report into a file": plain("report mine.yaml --out mine.yaml", "mine.yaml | cannot be written: ", GRID),
    "report below a file": plain(
        "run mine.yaml --report mine.yaml/x", "mine.yaml/x: cannot be written: Not a directory", GRID
    ),
}
