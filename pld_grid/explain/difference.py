"""Compare two cells: their fields, what they share, their results, and the code and hardware that made these."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.explain.cell_report import CellReport, report_cell
from pld_grid.explain.grid_index import GridIndex
from pld_grid.service.workspace import Workspace
from pld_grid.store import Provenance


class _Absent(Enum):
    ABSENT = "-"


ABSENT = _Absent.ABSENT
"""The value of a field that only the other cell has, such as another loss's hyperparameter."""


@dataclass(frozen=True)
class FieldDifference:
    """A dotted path and its two values, as JSON has them, or ABSENT."""

    path: str
    a: Any
    b: Any


@dataclass(frozen=True)
class MetricDifference:
    """A metric of the last epochs; `difference` is a - b, or None unless both are comparable results."""

    metric: str
    a: float | None
    b: float | None
    difference: float | None


@dataclass(frozen=True)
class Difference:
    """What differs between the cells `a` and `b`.

    `same_teacher` is None unless both have a teacher. `comparable` is False for cells that are evaluated on different
    images. `made_with` are the differences in code and hardware, if both are known.
    """

    a: CellReport
    b: CellReport
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
        """Whether both see the same batches, and the same teacher if both have one."""
        return self.same_batches and self.same_teacher is not False


def diff(
    a: str, b: str, *, profile: str = "digits", workspace: Workspace | None = None, seeds: int | None = None
) -> Difference:
    """Compare two cells of the store, or of the grids under a profile.

    Args:
        a: A cell's id, or its first six digits or more.
        b: Likewise.
        profile: Name or path.
        workspace: The store and MLflow; the default ones if None.
        seeds: Replicates per cell, instead of the grids' own.

    Raises:
        InputError: No cell or several cells have such an id.
        StoreError: The store cannot be read.
    """
    index = GridIndex(profile, workspace or Workspace.default(), seeds=seeds)
    cells = [index.find_cell(text) for text in (a, b)]
    records = index.read_records(cells)
    report_a, report_b = (report_cell(index, cell, records.get(cell.cell_id)) for cell in cells)
    left, right = cells
    comparable = _identify_images(left) == _identify_images(right)
    teachers = [cell.teacher.cell_id for cell in cells if cell.teacher is not None]
    return Difference(
        a=report_a,
        b=report_b,
        fields=tuple(compare_fields(left, right)),
        same_batches=left.stream() == right.stream(),
        same_teacher=teachers[0] == teachers[1] if len(teachers) == 2 else None,
        same_start=(left.student.canonical, left.seed) == (right.student.canonical, right.seed),
        comparable=comparable,
        metrics=tuple(_compare_metrics(report_a, report_b, comparable)),
        made_with=tuple(_compare_provenance(report_a.record.provenance, report_b.record.provenance)),
    )


def compare_fields(a: Cell, b: Cell) -> Iterator[FieldDifference]:
    """Yield every field in which two cells differ, in the order of a cell's fields; a teacher's as `teacher.*`.

    If only one of them has a teacher, its id is the value.
    """
    if a.teacher is None or b.teacher is None:
        return _compare_values(dump_fields(a), dump_fields(b), "")
    return _compare_values(a.model_dump(mode="json"), b.model_dump(mode="json"), "")


def dump_fields(cell: Cell) -> dict[str, Any]:
    """Return the fields of a cell as JSON has them, with its teacher's id for the teacher."""
    return cell.model_dump(mode="json") | {"teacher": cell.teacher.cell_id if cell.teacher is not None else None}


def _compare_values(a: Any, b: Any, path: str) -> Iterator[FieldDifference]:
    """Yield the differences of two JSON values, those of mappings key by key."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _compare_values(a.get(name, ABSENT), b.get(name, ABSENT), f"{path}.{name}" if path else name)
    elif _to_text(a) != _to_text(b):
        yield FieldDifference(path, a, b)


def _to_text(value: Any) -> str:
    """Return a text that only equal JSON shares: 1, 1.0 and true are three values, as they make three cells."""
    return "" if value is ABSENT else json.dumps(value, sort_keys=True)


def _identify_images(cell: Cell) -> tuple[str, str, int]:
    """Return what decides which images a cell is evaluated on."""
    return cell.dataset.name, cell.dataset.code, cell.dataset.num_classes


def _compare_metrics(a: CellReport, b: CellReport, comparable: bool) -> Iterator[MetricDifference]:
    left, right = (report.last_epoch.metrics if report.last_epoch is not None else {} for report in (a, b))
    are_results = comparable and a.state == b.state == "finished"
    for name in dict.fromkeys([*left, *right]):
        one, other = left.get(name), right.get(name)
        difference = one - other if are_results and one is not None and other is not None else None
        yield MetricDifference(name, one, other, difference)


def _compare_provenance(a: Provenance | None, b: Provenance | None) -> Iterator[FieldDifference]:
    """Return the differences in code and hardware, if both are known; the times always differ."""
    if a is None or b is None:
        return iter(())
    left, right = (provenance.model_dump(mode="json", exclude={"started", "ended"}) for provenance in (a, b))
    return _compare_values(left, right, "")
