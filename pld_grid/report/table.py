"""A filled table: rows of texts and numbers, with the cells, states and code versions behind them."""

import statistics
from dataclasses import dataclass, field
from functools import cached_property

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Entry
from pld_grid.experiment.metrics import TOP1
from pld_grid.report.setting import Setting
from pld_grid.report.values import Value

TableCell = str | Value


@dataclass(frozen=True)
class Row:
    """One row: its name, a text or a number per column, and the grid's entries behind it."""

    name: str
    cells: tuple[TableCell, ...]
    entries: tuple[Entry, ...]

    @property
    def values(self) -> list[Value]:
        """The row's numbers."""
        return [cell for cell in self.cells if isinstance(cell, Value)]


@dataclass(frozen=True)
class Table:
    """A filled table.

    Attributes:
        name: The grid's name.
        title: The title.
        headers: The columns' headers.
        rows: The rows.
        setting: What the numbers were computed with.
        paper: The file of the printed figures; empty without a paper.
        cells: The cells by id.
        states: The cells' states by id.
        versions: How many cells each code version computed, the most frequent first.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[Row, ...]
    setting: Setting
    paper: str
    cells: dict[str, Cell]
    states: dict[str, str]
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def main_version(self) -> str:
        """The version that computed the most cells; empty if none is finished."""
        return next(iter(self.versions), "")

    @property
    def is_mixed(self) -> bool:
        """Whether several code versions computed the cells."""
        return len(self.versions) > 1

    @property
    def finished(self) -> int:
        """The count of finished cells."""
        return sum(state == "finished" for state in self.states.values())

    @property
    def values(self) -> list[Value]:
        """Every number of the table, row by row."""
        return [value for row in self.rows for value in row.values]

    @property
    def complete(self) -> tuple[int, int]:
        """How many of the numbers are complete, and how many there are."""
        return sum(value.is_complete for value in self.values), len(self.values)

    @cached_property
    def mean_top1(self) -> float | None:
        """The mean of the table's top-1 accuracies in percent, differences left out; None if it has none."""
        samples = [sample for value in self.values for sample in value.samples if len(sample.terms) == 1]
        numbers = [s.number for s in samples if s.terms[0].metric == TOP1.name and s.number is not None]
        return statistics.fmean(numbers) if numbers else None

    @cached_property
    def columns(self) -> list[list[Value]]:
        """The numbers of each column; empty for a column of texts."""
        cells = [[row.cells[i] for row in self.rows] for i in range(len(self.headers))]
        return [[cell for cell in column if isinstance(cell, Value)] for column in cells]

    @property
    def has_numbers(self) -> list[bool]:
        """Whether each column holds numbers."""
        return list(map(bool, self.columns))
