"""What tells two cells apart: their fields, what they share, their results, and where these were made."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pld_grid.explain.account import Account, account_of
from pld_grid.explain.library import Library
from pld_grid.spec import Cell
from pld_grid.store import Provenance
from pld_grid.workspace import Workspace


class _Absent(Enum):
    ABSENT = "-"

    def __str__(self) -> str:
        return self.value


ABSENT = _Absent.ABSENT
"""Stands for the value of a field that one of two cells has not got, such as another loss's hyperparameter."""


@dataclass(frozen=True)
class FieldDifference:
    """A dotted path and its two values, as JSON has them, or ABSENT."""

    path: str
    a: Any
    b: Any


@dataclass(frozen=True)
class MetricDifference:
    """A metric of the last epochs; `difference` is a less b, or None unless both are results that compare."""

    metric: str
    a: float | None
    b: float | None
    difference: float | None


@dataclass(frozen=True)
class Difference:
    """What differs between the cells `a` and `b`.

    `same_teacher` is None where neither or only one of them has a teacher. `comparable` is False for cells that are
    measured on different images.
    """

    a: Account
    b: Account
    fields: tuple[FieldDifference, ...]
    same_batches: bool
    same_teacher: bool | None
    same_start: bool
    comparable: bool
    metrics: tuple[MetricDifference, ...]
    made_with: tuple[FieldDifference, ...]

    @property
    def equal(self) -> bool:
        """Whether they are one cell."""
        return self.a.cell.cell_id == self.b.cell.cell_id

    @property
    def paired(self) -> bool:
        """Whether chance gave both the same: batches, and a teacher where both have one."""
        return self.same_batches and self.same_teacher is not False


def diff(
    a: str, b: str, *, profile: str = "digits", workspace: Workspace | None = None, seeds: int | None = None
) -> Difference:
    """Compares two cells of the store, or of the grids under a profile, given by their ids or the first digits.

    Raises InputError unless each is exactly one cell, StoreError if the store cannot be read.
    """
    library = Library(profile, workspace or Workspace.default(), seeds=seeds)
    left, right = library.cell(a), library.cell(b)
    records = library.records([left, right])
    first, second = (account_of(library, cell, records.get(cell.cell_id)) for cell in (left, right))
    comparable = _images(left) == _images(right)
    teachers = [cell.teacher.cell_id for cell in (left, right) if cell.teacher is not None]
    return Difference(
        a=first,
        b=second,
        fields=tuple(differing(left, right)),
        same_batches=left.stream() == right.stream(),
        same_teacher=teachers[0] == teachers[1] if len(teachers) == 2 else None,
        same_start=(left.student.canonical, left.seed) == (right.student.canonical, right.seed),
        comparable=comparable,
        metrics=tuple(_metrics(first, second, comparable)),
        made_with=tuple(_made_with(first.provenance, second.provenance)),
    )


def differing(a: Cell, b: Cell, at: str = "") -> Iterator[FieldDifference]:
    """Every field in which two cells differ, in the order of a cell's fields; a teacher's as `teacher.*`.

    Where only one of them has a teacher, its id stands for it. `at` begins every path.
    """
    left, right = (cell.model_dump(mode="json", exclude={"teacher"}) for cell in (a, b))
    for name in type(a).model_fields:
        if name != "teacher":
            yield from _walk(left[name], right[name], f"{at}{name}")
        elif a.teacher is not None and b.teacher is not None:
            yield from differing(a.teacher, b.teacher, f"{at}teacher.")
        else:
            mine, other = (cell.teacher.cell_id if cell.teacher is not None else None for cell in (a, b))
            yield from _walk(mine, other, f"{at}teacher")


def _walk(a: Any, b: Any, path: str) -> Iterator[FieldDifference]:
    """Down to what is no mapping on both sides."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _walk(a.get(name, ABSENT), b.get(name, ABSENT), f"{path}.{name}" if path else name)
    elif _text(a) != _text(b):
        yield FieldDifference(path, a, b)


def _text(value: Any) -> str:
    """Equal for equal JSON only: 1, 1.0 and true are three values, as they make three cells."""
    return "" if value is ABSENT else json.dumps(value, sort_keys=True)


def _images(cell: Cell) -> tuple[str, int, int]:
    """What decides which images a cell is measured on."""
    return cell.dataset.name, cell.dataset.revision, cell.dataset.num_classes


def _metrics(a: Account, b: Account, comparable: bool) -> Iterator[MetricDifference]:
    left, right = (account.last.metrics if account.last is not None else {} for account in (a, b))
    results = comparable and a.finished and b.finished
    for name in dict.fromkeys([*left, *right]):
        one, other = left.get(name), right.get(name)
        difference = one - other if results and one is not None and other is not None else None
        yield MetricDifference(name, one, other, difference)


def _made_with(a: Provenance | None, b: Provenance | None) -> Iterator[FieldDifference]:
    """What differs in code and hardware, as far as both are known; times always do."""
    if a is None or b is None:
        return iter(())
    left, right = (made.model_dump(mode="json", exclude={"started", "ended"}) for made in (a, b))
    return _walk(left, right, "")
