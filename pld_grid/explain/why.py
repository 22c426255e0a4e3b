"""Why a table shows a number: the cells behind it, and all about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pld_grid import api
from pld_grid.explain.account import Account, account_of
from pld_grid.explain.library import Library
from pld_grid.explain.place import find_column, find_row
from pld_grid.report import Value, build_table
from pld_grid.report.statistics import Interval, interval
from pld_grid.spec import Cell
from pld_grid.workspace import Workspace


@dataclass(frozen=True)
class Number:
    """A number of a table: its place, its samples with their terms, and the 95 % interval of its mean over seeds.

    The interval is None below two seeds, and for what does not depend on seeds.
    """

    table: str
    title: str
    row: str
    column: str
    value: Value
    interval: Interval | None


@dataclass(frozen=True)
class Explanation:
    """The cells behind a number, seed by seed, and their teachers, each once; `number` is None for a cell by its id.

    `skipped` are grids that could not be searched for the same cells, with the reason.
    """

    profile: str
    number: Number | None
    accounts: tuple[Account, ...]
    teachers: tuple[Account, ...]
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
    """Explains a number of a table from what the store holds.

    Args:
        grid: a YAML file, or the name of one in `grids/`.
        row: the row's name, or texts of it that no other row has ("MobileNet-v4 Small (conv)"; "KD, alpha=0.1").
        column: a column's header.
        profile: name or path.
        seeds: replicates per cell, instead of the grid's own.

    Raises:
        InputError: there is no such grid, row or column (with the nearest), or several rows fit.
        StoreError: the store cannot be read.
    """
    workspace = workspace or Workspace.default()
    path = Path(grid)
    is_file = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    library = Library(profile, workspace, seeds=seeds, also=path if is_file else None)
    shelf = library.shelf(path.stem if is_file else str(grid))
    records = library.records(shelf.cells.values(), shelf.grid.name)
    table = build_table(shelf.grid, records, api.paper_folder())
    found = find_row(shelf.grid, table, row)
    header, value = find_column(table, found, column)
    number = Number(
        table=table.name,
        title=table.title,
        row=found.name,
        column=header,
        value=value,
        interval=None if value.fact else interval(value.numbers),
    )
    behind = dict.fromkeys(term.cell_id for sample in value.samples for term in sample.terms)
    cells = [shelf.cells[cell_id] for cell_id in behind if cell_id in shelf.cells]
    return _explanation(library, number, cells, shelf.grid.name)


def why_cell(
    cell_id: str, *, profile: str = "digits", workspace: Workspace | None = None, seeds: int | None = None
) -> Explanation:
    """Explains a cell of the store, or of a grid under the profile, given by its id or the first digits of it.

    Raises InputError unless exactly one cell has such an id, StoreError if the store cannot be read.
    """
    library = Library(profile, workspace or Workspace.default(), seeds=seeds)
    return _explanation(library, None, [library.cell(cell_id)])


def _explanation(
    library: Library, number: Number | None, cells: Iterable[Cell], first: str | None = None
) -> Explanation:
    students = {cell.cell_id: cell for cell in cells}
    teachers = {cell.teacher.cell_id: cell.teacher for cell in students.values() if cell.teacher is not None}
    teachers = {cell_id: cell for cell_id, cell in teachers.items() if cell_id not in students}
    records = library.records([*students.values(), *teachers.values()], first)
    accounts, taught = (
        tuple(account_of(library, cell, records.get(cell_id), first) for cell_id, cell in group.items())
        for group in (students, teachers)
    )
    return Explanation(library.profile.name, number, accounts, taught, library.skipped)
