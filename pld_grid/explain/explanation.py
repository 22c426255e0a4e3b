"""Explain a number of a table by the cells behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pld_grid.experiment.cell import Cell
from pld_grid.explain.cell_report import CellReport, report_cell
from pld_grid.explain.grid_index import GridIndex
from pld_grid.explain.table_position import find_column, find_row
from pld_grid.report.statistics import Interval, estimate_interval
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value
from pld_grid.service import report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.util.shipped_files import is_path


@dataclass(frozen=True)
class Number:
    """A number of a table: its place, its value, and the 95 % interval of its mean over seeds.

    The interval is None below two seeds, and for numbers that do not depend on seeds.
    """

    table: str
    title: str
    row: str
    column: str
    value: Value
    interval: Interval | None


@dataclass(frozen=True)
class Explanation:
    """The reports on the cells behind a number, seed by seed, and on their teachers, each once.

    `number` is None for a cell that was given by its id. `skipped` are grids that could not be searched for uses of the
    cells, with the reason.
    """

    profile: str
    number: Number | None
    cells: tuple[CellReport, ...]
    teachers: tuple[CellReport, ...]
    skipped: dict[str, str]


def why(
    grid: str | Path,
    row: str,
    column: str,
    *,
    profile: str = "digits",
    workspace: Workspace | None = None,
    seeds: int | None = None,
) -> Explanation:
    """Explain a number of a table from the store.

    Args:
        grid: A YAML file, or the name of one in `grids/`.
        row: The row's name, or labels that only it has ("MobileNet-v4 Small (conv)"; "KD, alpha=0.1").
        column: The column's header.
        profile: Name or path.
        workspace: The store and MLflow; the default ones if None.
        seeds: Replicates per cell, instead of the grid's own.

    Raises:
        InputError: There is no such grid, row or column (with the nearest), or several rows match.
        StoreError: The store cannot be read.
    """
    path, is_file = Path(grid), is_path(grid)
    index = GridIndex(profile, workspace or Workspace.default(), seeds=seeds, extra=path if is_file else None)
    indexed = index.find_grid(path.stem if is_file else str(grid))
    name = indexed.grid.name
    records = index.read_records(indexed.cells.values())
    table = build_table(indexed.grid, records, report_writer.find_paper_folder())
    match = find_row(indexed.grid, table, row)
    header, value = find_column(table, match, column)
    interval = None if value.is_model_size else estimate_interval(value.numbers)
    number = Number(table.name, table.title, match.name, header, value, interval)
    cell_ids = dict.fromkeys(term.cell_id for sample in value.samples for term in sample.terms)
    return _explain(index, number, [indexed.cells[i] for i in cell_ids if i in indexed.cells], name)


def why_cell(
    cell_id: str, *, profile: str = "digits", workspace: Workspace | None = None, seeds: int | None = None
) -> Explanation:
    """Explain a cell of the store, or of a grid under the profile.

    Args:
        cell_id: The id, or its first six digits or more.
        profile: Name or path.
        workspace: The store and MLflow; the default ones if None.
        seeds: Replicates per cell, instead of the grids' own.

    Raises:
        InputError: No cell or several cells have such an id.
        StoreError: The store cannot be read.
    """
    index = GridIndex(profile, workspace or Workspace.default(), seeds=seeds)
    return _explain(index, None, [index.find_cell(cell_id)])


def _explain(index: GridIndex, number: Number | None, cells: Iterable[Cell], grid: str | None = None) -> Explanation:
    students = {cell.cell_id: cell for cell in cells}
    teachers = {cell.teacher.cell_id: cell.teacher for cell in students.values() if cell.teacher is not None}
    records = index.read_records([*students.values(), *teachers.values()])
    reports = {i: report_cell(index, cell, records.get(i), grid) for i, cell in (teachers | students).items()}
    return Explanation(
        profile=index.profile.name,
        number=number,
        cells=tuple(reports[cell_id] for cell_id in students),
        teachers=tuple(reports[cell_id] for cell_id in teachers if cell_id not in students),
        skipped=index.skipped,
    )
