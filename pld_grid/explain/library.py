"""The grids of a profile beside a store: where a grid or a cell is found by its name, and which tables use a cell."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import environ
from pathlib import Path

from pld_grid import api, records, track
from pld_grid.errors import InputError, listing, nearest
from pld_grid.grid import Grid, load_grid
from pld_grid.records import Record
from pld_grid.report import Table, Value, build_table
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.workspace import Workspace

SHORTEST = 6
_CELL_ID = re.compile(rf"[0-9a-f]{{{SHORTEST},16}}")


@dataclass(frozen=True)
class Use:
    """A table's row that shows a cell's result, and in which columns; or how many students of a table it teaches.

    Without either, the grid needs the cell and its table does not show it.
    """

    table: str
    row: str = ""
    columns: tuple[str, ...] = ()
    students: int = 0


@dataclass(frozen=True)
class Shelf:
    """One grid of the library: its file, its table without numbers, and its cells by id."""

    path: Path
    grid: Grid
    table: Table
    cells: dict[str, Cell]
    replicated: frozenset[str]

    def has(self, cell: Cell) -> bool:
        """Whether the grid needs a cell, or would with more seeds."""
        return cell.cell_id in self.cells or cell.id_under(0) in self._replicates

    def shown(self, cell: Cell) -> list[tuple[str, tuple[str, ...]]]:
        """The rows, with their columns, that show a cell or its replicate under another seed."""
        places = {*self._places.get(cell.cell_id, ()), *self._places_of_replicates.get(cell.id_under(0), ())}
        columns: dict[int, list[str]] = {}
        for row, column in sorted(places):
            columns.setdefault(row, []).append(self.table.headers[column])
        return [(self.table.rows[row].name, tuple(headers)) for row, headers in columns.items()]

    @cached_property
    def students(self) -> Counter[str]:
        """How many students each teacher has, by its id."""
        return Counter(cell.teacher.cell_id for cell in self.cells.values() if cell.teacher is not None)

    @cached_property
    def _replicates(self) -> frozenset[str]:
        """What replicated cells are called under seed 0, where those that differ in nothing else meet."""
        return frozenset(self.cells[cell_id].id_under(0) for cell_id in self.replicated)

    @cached_property
    def _places(self) -> dict[str, set[tuple[int, int]]]:
        """Rows and columns of the table by the cells that they show."""
        found: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for row, each in enumerate(self.table.rows):
            for column, value in enumerate(each.cells):
                # Of the cells of one model any may tell its size.
                if isinstance(value, Value) and not value.fact:
                    for sample in value.samples:
                        for term in sample.terms:
                            found[term.cell_id].add((row, column))
        return found

    @cached_property
    def _places_of_replicates(self) -> dict[str, set[tuple[int, int]]]:
        found: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for cell_id in self._places.keys() & self.replicated:
            found[self.cells[cell_id].id_under(0)] |= self._places[cell_id]
        return found


class Library:
    """All grids under one profile, and what the store has of their cells.

    Args:
        profile: name or path.
        workspace: the store, and the MLflow that mirrors it.
        seeds: replicates per cell, instead of the grids' own.
        also: another grid, by path, that belongs to the library.

    A grid that cannot be read under the profile is `skipped`, with the reason; if it is `also`, that is an InputError.
    """

    def __init__(
        self, profile: str, workspace: Workspace, *, seeds: int | None = None, also: str | Path | None = None
    ) -> None:
        given = Path(also) if also is not None else None
        self.given_profile, self.workspace, self.seeds = profile, workspace, seeds
        self.profile = api.load_profile(profile, given.parent if given else None)
        self.store = Store(workspace.store)
        self.paths = {path.stem: path for path in [*_grid_files(), *([given] if given else [])]}
        self.shelves: dict[str, Shelf] = {}
        self.skipped: dict[str, str] = {}
        for name, path in self.paths.items():
            try:
                self.shelves[name] = self._shelf(path)
            except InputError as error:
                if path is given:
                    raise
                self.skipped[name] = str(error)

    def _shelf(self, path: Path) -> Shelf:
        grid = load_grid(path, self.profile, seeds=self.seeds)
        return Shelf(
            path=path,
            grid=grid,
            table=build_table(grid, {}, api.paper_folder()),
            cells={cell.cell_id: cell for cell in grid.cells()},
            replicated=frozenset(entry.cell.cell_id for entry in grid.entries if entry.role != "teacher"),
        )

    # -- finding -------------------------------------------------------------------------------------------------------

    def shelf(self, name: str) -> Shelf:
        """The grid of that name. Raises InputError with the nearest valid name, or with why it cannot be read."""
        if name in self.skipped:
            raise InputError(self.skipped[name])
        if name not in self.shelves:
            valid = self.shelves
            raise InputError(f'unknown grid "{name}"; valid: {listing(valid)}, or a YAML file{nearest(name, valid)}')
        return self.shelves[name]

    def cell(self, text: str) -> Cell:
        """The cell of an id, or of its first six digits or more. Raises InputError unless it is exactly one."""
        wanted = text.lower()
        if _CELL_ID.fullmatch(wanted) is None:
            raise InputError(f'"{text}" is no cell id: 16 hex digits, or the first {SHORTEST} or more')
        known = self._planned.keys() | self._stored
        found = sorted(cell_id for cell_id in known if cell_id.startswith(wanted))
        where = f"store {self.store.uri} or a grid under profile {self.profile.name}"
        if not found:
            raise InputError(f"no cell in {where} begins with {wanted}{nearest(wanted, known)}")
        if len(found) > 1:
            raise InputError(f"{len(found)} cells in {where} begin with {wanted}: {listing(found)}")
        cell = self._planned.get(found[0]) or self._stored_cell(found[0])
        if cell is None:
            raise InputError(f"cell {found[0]} in store {self.store.uri} is damaged, or of another version of pld_grid")
        return cell

    @cached_property
    def _planned(self) -> dict[str, Cell]:
        return {cell_id: cell for shelf in self.shelves.values() for cell_id, cell in shelf.cells.items()}

    @cached_property
    def _stored(self) -> set[str]:
        return self.store.cell_ids()

    def set_aside(self, cell: Cell) -> list[str]:
        """The names of what the store has beside a cell's own folder: its results before it was trained again."""
        return sorted(name for name in self.store.names() if name.startswith(f"{cell.cell_id}."))

    def _stored_cell(self, cell_id: str) -> Cell | None:
        receipt = self.store.receipt(cell_id)
        return receipt.cell if receipt is not None else self.store.cell(cell_id)

    def records(self, cells: Iterable[Cell], first: str | None = None) -> dict[str, Record]:
        """What is known about cells; `first` is the grid that probably needs all of them."""
        wanted = {cell.cell_id for cell in cells}
        found: dict[str, Record] = {}
        for name in sorted(self.shelves, key=lambda name: name != first):
            shelf = self.shelves[name]
            if not shelf.cells.keys().isdisjoint(wanted - found.keys()):
                found |= api.fetch_records([shelf.grid], self.workspace, "store")
        address = track.Tracker(self.store, self.workspace.tracking_uri, self.workspace.experiment).address
        return found | records.from_store(self.store, wanted - self._planned.keys(), address)

    # -- sharing -------------------------------------------------------------------------------------------------------

    def uses(self, cell: Cell) -> Iterator[Use]:
        """Every row that shows a result of the cell, or would with more seeds, and every table that it teaches in."""
        for name, shelf in self.shelves.items():
            shown = shelf.shown(cell)
            yield from (Use(name, row, columns) for row, columns in shown)
            students = shelf.students[cell.cell_id]
            if students or (not shown and shelf.has(cell)):
                yield Use(name, students=students)

    def command(self, cell: Cell, again: bool, first: str | None = None) -> str:
        """The command that trains just this cell, `again` if it is finished; empty if no grid needs the cell.

        `first` is the grid to take if it is one of several.
        """
        holding = {name: shelf for name, shelf in self.shelves.items() if shelf.has(cell)}
        if not holding:
            return ""
        shelf = holding.get(first or "") or next(iter(holding.values()))
        words = ["pld-grid", "run", str(shelf.path), "--profile", self.given_profile]
        seeds = self.seeds if cell.cell_id in shelf.cells else cell.seed + 1
        words += ["--seeds", str(seeds)] if seeds is not None else []
        usual = Workspace.default()
        words += ["--store", self.store.uri] if self.workspace.store != usual.store else []
        if self.workspace.tracking_uri != usual.tracking_uri:
            words += ["--tracking-uri", track.public_uri(self.workspace.tracking_uri)]
        if self.workspace.experiment != usual.experiment:
            words += ["--experiment", self.workspace.experiment]
        if self.profile.catalogue.datasets[cell.dataset.name].needs_folder and "PLD_GRID_DATA" not in environ:
            words += ["--data-dir", "DIR"]
        words += ["--only", cell.cell_id, *(["--again"] if again else [])]
        return shlex.join(words)


def _grid_files() -> list[Path]:
    """The grids here and beside the package; of equal names, the one here."""
    folders = (Path(__file__).parent.parent.parent / "grids", Path("grids"))
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    return list(found.values())
