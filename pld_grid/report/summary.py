"""What the pages of a report say about all of it, as plain text: each page escapes it in its own way."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pld_grid.report.setting import Setting
from pld_grid.report.table import Table
from pld_grid.spec import Cell, ledger

NOT_THE_PAPERS = "These are not the paper's experiments."


@dataclass(frozen=True)
class OpenQuestion:
    """An entry of the ledger, with the values that the report's cells have there."""

    field: str
    values: tuple[str, ...]
    question: str


def open_questions(cells: Iterable[Cell]) -> list[OpenQuestion]:
    """The ledger, with the values used in these cells; none where no cell has the field."""
    # Thousands of cells share few parts.
    distinct = {tuple(part.canonical for part in (c.conventions, c.recipe, c.optimizer, c.student)): c for c in cells}
    everything = list(distinct.values())
    return [
        OpenQuestion(
            entry.field,
            tuple(sorted({json.dumps(value) for cell in everything for value in _values(cell, entry.field)})),
            entry.question,
        )
        for entry in ledger()
    ]


def other_experiments(setting: Setting, paper: bool) -> str:
    """What follows NOT_THE_PAPERS where numbers are not the paper's experiments; empty where they are.

    `paper` says whether the paper's figures stand beside them.
    """
    if setting.as_in_paper:
        return ""
    text = f"They ran on {setting.dataset}, with the models listed."
    if paper:
        text += (
            f" The paper's figures are for {setting.paper_dataset}: a difference to them compares two experiments and"
            " says nothing about a reproduction."
        )
    return text


def shared_cells(tables: Sequence[Table]) -> str:
    """How many distinct students and teachers are finished, as tables share them."""
    cells = {i: cell for table in tables for i, cell in table.cells.items()}
    done = {i for table in tables for i, state in table.states.items() if state == "finished"}
    teachers = {cell.teacher.cell_id for cell in cells.values() if cell.teacher is not None}
    students = set(cells) - teachers
    return (
        f"Tables share cells: {len(done & students)} of {len(students)} distinct students and {len(done & teachers)} of"
        f" {len(teachers)} teachers are finished."
    )


def _values(cell: Cell, field: str) -> list[Any]:
    """The value of a dotted field in a cell, or nothing where a part of the path is null."""
    value: Any = cell
    for name in field.split("."):
        if value is None:
            return []
        value = getattr(value, name)
    return [value]
