"""What the pages of a report say about all of its tables, as plain text that each page escapes in its own way."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pld_grid.experiment.cell import Cell, ledger
from pld_grid.report.setting import Setting
from pld_grid.report.table import Table


@dataclass(frozen=True)
class OpenQuestion:
    """A choice that the paper leaves open, with the values that the report's cells have there."""

    field: str
    values: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class ProfileSummary:
    """A profile of the report: its setting, all models of its tables, and its warnings.

    A warning names the tables that it is about; the names are empty if it is about all of them.
    """

    name: str
    description: str
    dataset: str
    models: dict[str, str]
    warnings: list[tuple[str, str]]


def summarize_profiles(tables: Sequence[Table]) -> list[ProfileSummary]:
    """Return a summary of each profile."""
    by_profile: dict[str, list[Table]] = {}
    for table in tables:
        by_profile.setdefault(table.setting.profile, []).append(table)
    summaries = []
    for name, members in by_profile.items():
        warned: dict[str, list[str]] = {}
        for table in members:
            if text := describe_other_setting(table.setting, bool(table.paper)):
                warned.setdefault(text, []).append(table.title.partition(": ")[0])
        setting = members[0].setting
        models = {model: text for table in members for model, text in table.setting.models.items()}
        warnings = [("" if len(n) == len(members) else ", ".join(n), text) for text, n in warned.items()]
        summaries.append(ProfileSummary(name, setting.description, setting.dataset, models, warnings))
    return summaries


def describe_other_setting(setting: Setting, has_paper: bool) -> str:
    """Return the text of the warning; empty if the numbers are of the paper's experiments.

    `has_paper` says whether the paper's figures stand beside the numbers.
    """
    if setting.matches_paper:
        return ""
    text = f"They ran on {setting.dataset}, with the models listed."
    if has_paper:
        text += (
            f" The paper's figures are for {setting.paper_dataset}: a difference from them compares two different"
            " experiments and says nothing about a reproduction."
        )
    return text


def describe_shared_cells(tables: Sequence[Table]) -> str:
    """Return how many distinct students and teachers are finished; tables share cells."""
    cells = {i: cell for table in tables for i, cell in table.cells.items()}
    done = {i for table in tables for i, state in table.states.items() if state == "finished"}
    teachers = {cell.teacher.cell_id for cell in cells.values() if cell.teacher is not None}
    students = set(cells) - teachers
    return (
        f"Tables share cells: {len(done & students)} of {len(students)} distinct students and {len(done & teachers)} of"
        f" {len(teachers)} teachers are finished."
    )


def collect_open_questions(cells: Iterable[Cell]) -> list[OpenQuestion]:
    """Return the open questions with the values used in these cells; no values if no cell has the field."""
    # Thousands of cells share few parts.
    distinct = {tuple(part.canonical for part in (c.conventions, c.recipe, c.optimizer, c.student)): c for c in cells}
    return [
        OpenQuestion(
            entry.field,
            tuple(sorted({json.dumps(value) for cell in distinct.values() for value in read_field(cell, entry.field)})),
            entry.question,
        )
        for entry in ledger()
    ]


def read_field(cell: Cell, field: str) -> list[Any]:
    """Return the value of a dotted field of a cell, or nothing if a part of the path is null."""
    value: Any = cell
    for name in field.split("."):
        if value is None:
            return []
        value = getattr(value, name)
    return [value]
