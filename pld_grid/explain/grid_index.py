"""Index the grids of a profile: find a grid or a cell by its name, and the tables that use a cell."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import environ
from pathlib import Path

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Grid, load_grid, unknown_grid
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value
from pld_grid.service import loading, report_writer
from pld_grid.service.live_report import LiveRecords
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.store.records import CellRecord
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import InputError
from pld_grid.util.redact import public_uri
from pld_grid.util.shipped_files import list_yaml_files, search_path
from pld_grid.util.text import join_names, nearest

MIN_DIGITS = 6
_CELL_ID = re.compile(rf"[0-9a-f]{{{MIN_DIGITS},16}}")


@dataclass(frozen=True)
class Use:
    """A row of a table with the columns that show a cell's result, or the number of students that a cell teaches.

    With neither, the grid needs the cell but its table does not show it.
    """

    table: str
    row: str = ""
    columns: tuple[str, ...] = ()
    students: int = 0


class IndexedGrid:
    """One grid of the index: its file, its table without numbers, and its cells by id."""

    def __init__(self, path: Path, grid: Grid) -> None:
        self.path, self.grid = path, grid
        self.table: Table = build_table(grid, {}, report_writer.find_paper_folder())
        self.cells = {cell.cell_id: cell for cell in grid.cells()}

    @property
    def argument(self) -> str:
        """How a command names this grid: by its file in the current folder, or by name if it ships with the package."""
        return self.path.stem if self.path.is_relative_to(search_path("grids")[1]) else str(self.path)

    def needs(self, cell: Cell) -> bool:
        """Return whether the grid needs a cell, or would with more seeds."""
        return cell.cell_id in self.cells or cell.id_under(0) in self._replicated.values()

    def find_uses(self, cell: Cell) -> Iterator[Use]:
        """Yield the rows that show a cell or its replicate under another seed, and the table that it teaches in."""
        shown = self._shown.get(self._key(cell), {})
        for row, headers in shown.items():
            yield Use(self.grid.name, self.table.rows[row].name, tuple(headers))
        students = [c for c in self.cells.values() if c.teacher is not None and c.teacher.cell_id == cell.cell_id]
        if students or (not shown and self.needs(cell)):
            yield Use(self.grid.name, students=len(students))

    @cached_property
    def _replicated(self) -> dict[str, str]:
        """The ids of the cells that are trained under every seed, with their ids under seed 0, which replicates share.

        Computed once: hashing a cell takes long enough to matter with a hundred seeds.
        """
        replicated = {entry.cell.cell_id: entry.cell for entry in self.grid.entries if entry.role != "teacher"}
        return {cell_id: cell.id_under(0) for cell_id, cell in replicated.items()}

    def _key(self, cell: Cell) -> str:
        seedless = cell.id_under(0)
        return seedless if seedless in self._replicated.values() else cell.cell_id

    @cached_property
    def _shown(self) -> dict[str, dict[int, dict[str, None]]]:
        """Rows and column headers that show a cell, by its id, or by its id under seed 0 if it is replicated."""
        shown: dict[str, dict[int, dict[str, None]]] = defaultdict(dict)
        for number, row in enumerate(self.table.rows):
            for header, value in zip(self.table.headers, row.cells, strict=True):
                # A model's size is not the result of one of its cells.
                if isinstance(value, Value) and not value.is_model_size:
                    for term in (term for sample in value.samples for term in sample.terms):
                        key = self._replicated.get(term.cell_id, term.cell_id)
                        shown[key].setdefault(number, {})[header] = None
        return shown


class GridIndex:
    """All grids under one profile, and the records that the store has of their cells.

    Grids that cannot be read under the profile are in `skipped`, with the reason.

    Args:
        profile: Name or path.
        workspace: The store, and the MLflow that mirrors it.
        seeds: Replicates per cell, instead of the grids' own.
        extra: The path of another grid to index.

    Raises:
        InputError: The profile or the extra grid cannot be read.
    """

    def __init__(
        self, profile: str, workspace: Workspace, *, seeds: int | None = None, extra: Path | None = None
    ) -> None:
        self.profile_name, self.workspace, self.seeds = profile, workspace, seeds
        self.profile = loading.load_profile(profile, extra.parent if extra else None)
        self.store = Store(workspace.store)
        self.grids: dict[str, IndexedGrid] = {}
        self.skipped: dict[str, str] = {}
        # Grids in the working directory replace those that ship with the package.
        paths = list_yaml_files(search_path("grids")) | ({extra.stem: extra} if extra else {})
        for name, path in paths.items():
            try:
                self.grids[name] = IndexedGrid(path, load_grid(path, self.profile, seeds=seeds))
            except InputError as error:
                if path is extra:
                    raise
                self.skipped[name] = str(error)

    def find_grid(self, name: str) -> IndexedGrid:
        """Return the grid of that name. Raises InputError with the nearest name, or with why it cannot be read."""
        if name in self.skipped:
            raise InputError(self.skipped[name])
        if name not in self.grids:
            raise unknown_grid(name, self.grids)
        return self.grids[name]

    def find_cell(self, text: str) -> Cell:
        """Return the cell of an id, or of its first six digits or more. Raises InputError unless it is exactly one."""
        prefix = text.lower()
        if _CELL_ID.fullmatch(prefix) is None:
            raise InputError(f'"{text}" is no cell id: 16 hex digits, or the first {MIN_DIGITS} or more')
        known = self._planned.keys() | self.store.cell_ids()
        matches = sorted(cell_id for cell_id in known if cell_id.startswith(prefix))
        where = f"store {self.store.uri} or a grid under profile {self.profile.name}"
        if not matches:
            raise InputError(f"no cell in {where} begins with {prefix}{nearest(prefix, known)}")
        if len(matches) > 1:
            raise InputError(f"{len(matches)} cells in {where} begin with {prefix}: {join_names(matches)}")
        (cell_id,) = matches
        receipt = None if cell_id in self._planned else self.store.receipt(cell_id)
        cell = self._planned.get(cell_id) or (receipt.cell if receipt else self.store.cell(cell_id))
        if cell is None:
            raise InputError(f"cell {cell_id} in store {self.store.uri} is damaged, or of another version of pld_grid")
        return cell

    @cached_property
    def _planned(self) -> dict[str, Cell]:
        return {cell_id: cell for grid in self.grids.values() for cell_id, cell in grid.cells.items()}

    def read_records(self, cells: Iterable[Cell]) -> dict[str, CellRecord]:
        """Return the records of those cells that the store knows, or that a run is about to train."""
        address = Tracker(self.store, self.workspace.tracking_uri, self.workspace.experiment).address
        return LiveRecords(self.store, cells, address).read()

    def find_uses(self, cell: Cell) -> list[Use]:
        """Return every row that shows a result of the cell, or would with more seeds, and every table it teaches in."""
        return [use for grid in self.grids.values() for use in grid.find_uses(cell)]

    def format_command(self, cell: Cell, *, again: bool, preferred: str | None = None) -> str:
        """Return the command that trains just this cell; empty if no grid needs it.

        Args:
            cell: The cell.
            again: Whether the cell has a receipt already.
            preferred: The grid to take if several need the cell.
        """
        grids = {name: grid for name, grid in self.grids.items() if grid.needs(cell)}
        if not grids:
            return ""
        grid = grids.get(preferred or "") or next(iter(grids.values()))
        seeds = self.seeds if cell.cell_id in grid.cells else cell.seed + 1
        workspace, default = self.workspace, Workspace.default()
        words = ["pld-grid", "run", grid.argument, "--profile", self.profile_name]
        words += ["--seeds", str(seeds)] if seeds is not None else []
        words += ["--store", self.store.uri] if workspace.store != default.store else []
        if workspace.tracking_uri != default.tracking_uri:
            words += ["--tracking-uri", public_uri(workspace.tracking_uri)]
        words += ["--experiment", workspace.experiment] if workspace.experiment != default.experiment else []
        if self.profile.registry.datasets[cell.dataset.name].needs_folder and "PLD_GRID_DATA" not in environ:
            words += ["--data-dir", "DIR"]
        return shlex.join([*words, "--only", cell.cell_id, *(["--again"] if again else [])])
