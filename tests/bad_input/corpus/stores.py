"""Stores and databases that are none."""

from pathlib import Path

from front_door import Case

GRID = {"mine.yaml": "cells: {student: ResNet-50, loss: ce}\n"}


def _folder(work: Path) -> None:
    (work / "mine").mkdir()


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
    "of a cell that is damaged": Case(
        ("why", "0123456789abcdef"),
        "cell 0123456789abcdef in store .pld_grid/store is damaged, or of another version",
        {".pld_grid/store/0123456789abcdef/cell.json": '{"seed": 1}'},
    ),
    "of a cell that is no text": Case(
        ("why", "0123456789abcdef"),
        "cell 0123456789abcdef in store .pld_grid/store is damaged, or of another version",
        {".pld_grid/store/0123456789abcdef/cell.json": bytes(range(256))},
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
