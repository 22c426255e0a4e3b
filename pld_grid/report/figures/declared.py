"""The figures that a grid's table declares: its own numbers against one of its columns, the paper's beside them."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pld_grid.csvtext import NOTHING, csv_text, full
from pld_grid.errors import InputError
from pld_grid.grid import Grid, matches
from pld_grid.layout import FigureLayout
from pld_grid.report.caption import MARK
from pld_grid.report.figures.canvas import LOOKS
from pld_grid.report.figures.quantities import QUANTITIES
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Value, fixed, states

MAX_PLACES = 60


@dataclass(frozen=True)
class Mark:
    """One number: `x` as the table spells it, empty where the row has none."""

    x: str
    value: Value


@dataclass(frozen=True)
class Series:
    """Marks that belong together, in the order of the table's rows (lines: of `x`)."""

    name: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Plot:
    """A declared figure's data. `label` names the values with their unit; `difference` says that zero is their middle.

    `left_out` are the rows that the figure excludes.
    """

    layout: FigureLayout
    table: Table
    label: str
    difference: bool
    series: tuple[Series, ...]
    left_out: tuple[str, ...]

    @property
    def values(self) -> list[Value]:
        """Every number of the figure."""
        return [mark.value for series in self.series for mark in series.marks]

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints any of the numbers."""
        return any(value.paper for value in self.values)

    @property
    def names(self) -> list[str]:
        """The names of the series."""
        return [series.name for series in self.series]

    @property
    def places(self) -> list[str]:
        """The values of `x`, each once."""
        return list(dict.fromkeys(mark.x for series in self.series for mark in series.marks))

    @property
    def csv(self) -> str:
        """The data drawn: one line per number, ours and the paper's, in full."""
        of = ("run dataset", "run epochs", self.layout.x, self.layout.series or "series")
        headers = (*of, self.label, "std", "n", "state", "paper", "paper std")
        return csv_text(headers, [self._line(series.name, mark) for series in self.series for mark in series.marks])

    def _line(self, series: str, mark: Mark) -> list[str]:
        value, setting = mark.value, self.table.setting
        ours = [full(value.mean), full(value.std), str(value.n), states(value)]
        printed = [value.paper or NOTHING, value.paper_std or NOTHING]
        return [setting.dataset, setting.epochs_text, mark.x or NOTHING, series, *ours, *printed]

    @property
    def caption(self) -> str:
        """What the marks and error bars are, what is missing, and that the paper's experiment is another."""
        setting = self.table.setting
        spread = _spread(self.values)
        parts = [f"{self.label} on {setting.dataset}, epochs {setting.epochs_text}: {spread}."]
        if any(value.interval is not None for value in self.values if value.is_difference):
            parts.append("The 95 % intervals of these means are in the table.")
        lines = [series.name for series in self.series if any(not mark.x for mark in series.marks)]
        if lines and self.layout.kind == "lines":
            parts.append(f"Horizontal: the mean of {', '.join(lines)}, without {self.layout.x}.")
        if self.has_paper:
            other = "" if setting.as_in_paper else ", another experiment with a scale of its own"
            spread = " with the standard deviations that it prints" if any(v.paper_std for v in self.values) else ""
            parts.append(f"Right: the paper's{spread}, on {setting.paper_dataset}{other}.")
        missing = sum(value.mean is None for value in self.values)
        if missing:
            parts.append(f"{missing} of {len(self.values)} numbers are missing (n/a).")
        stale = sum(value.other_version for value in self.values)
        if stale:
            sign = f" ({MARK})" if self.layout.kind == "bars" else ""
            parts.append(f"{stale} of {len(self.values)} numbers come from other code than most of the table{sign}.")
        if self.left_out:
            parts.append(f"Left out: {'; '.join(self.left_out)}.")
        return " ".join(parts)

    @property
    def alt(self) -> str:
        """The numbers in words."""
        said = [f"{series.name}: {', '.join(_said(series.marks))}" for series in self.series]
        return f"{self.label} by {self.layout.x}. {'. '.join(said)}."


def _said(marks: Iterable[Mark]) -> Iterator[str]:
    for mark in marks:
        mean = mark.value.mean
        number = "n/a" if mean is None else fixed(mean, mark.value.format)
        yield f"{mark.x} {number}" if mark.x else number


def _spread(values: Iterable[Value]) -> str:
    """How many seeds the marks stand for, and what the error bars are."""
    counts = sorted({value.n for value in values if value.n and any(s.seed is not None for s in value.samples)})
    if not counts or counts == [1]:
        return "one seed, so no error bars"
    some = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sample standard deviation over {some} seeds" + (", none with one" if counts[0] == 1 else "")


def plots(grid: Grid, table: Table) -> list[Plot]:
    """The data of all figures that a grid declares.

    Raises InputError if a figure excludes rows that do not exist or all there are, has two numbers for one place,
    numbers of different metrics, lines over something that is no number, or more than can be told apart.
    """
    return [_Builder(grid, table, number).plot() for number in range(len(grid.layout.figures))]


class _Builder:
    """One figure's way from its layout to its data."""

    def __init__(self, grid: Grid, table: Table, number: int) -> None:
        self.grid, self.table, self.number = grid, table, number
        self.layout = grid.layout.figures[number]

    def error(self, key: str, message: str) -> InputError:
        at = ("table", "figures", self.number, key)
        return self.grid.document.error(at, f"figure {self.layout.name}: {message}")

    def plot(self) -> Plot:
        left_out: list[str] = []
        rows = self.rows(left_out)
        found: dict[str, dict[str, Mark]] = {}
        for row in rows:
            x = self.text(row, self.layout.x)
            if self.layout.kind == "lines" and x:
                self.check_number(x)
            for header in self.layout.y:
                value = row.cells[self.table.headers.index(header)]
                if isinstance(value, Value):
                    name = self.text(row, self.layout.series) or NOTHING if self.layout.series else self.name(header)
                    marks = found.setdefault(name, {})
                    if x in marks:
                        raise self.error("x", f'two rows read {self.layout.x}={x or NOTHING} in series "{name}"')
                    marks[x] = Mark(x, value)
        for key, what, limit, count in (
            ("series", "series", len(LOOKS), len(found)),
            ("x", "places", MAX_PLACES, len({x for marks in found.values() for x in marks})),
        ):
            if count > limit:
                raise self.error(key, f"{count} {what} are more than a reader can tell apart; {limit} are the most")
        label, difference = self.unit()
        return Plot(
            self.layout, self.table, label, difference,
            tuple(Series(name, self.ordered(marks)) for name, marks in found.items()), tuple(left_out),
        )  # fmt: skip

    def rows(self, left_out: list[str]) -> list[Row]:
        """The rows that the figure shows: neither differences of rows nor excluded ones."""
        own = self.table.rows[: len(self.table.rows) - len(self.grid.layout.difference_rows)]
        shown = list(own)
        for rule, where in enumerate(self.layout.exclude):
            at = ("table", "figures", self.number, "exclude", rule)
            gone = [all(matches(entry.labels, where) for entry in row.entries) for row in shown]
            if all(gone) or not any(gone):
                what = "everything" if all(gone) else "nothing: no row is all of this"
                raise self.grid.document.error(at, f"excludes {what}")
            left_out += [row.name for row, out in zip(shown, gone, strict=True) if out]
            shown = [row for row, out in zip(shown, gone, strict=True) if not out]
        return shown

    def text(self, row: Row, header: str) -> str:
        return str(row.cells[self.table.headers.index(header)])

    def name(self, header: str) -> str:
        """A series' name: the header, or what a difference subtracts."""
        column = self.grid.layout.columns[self.table.headers.index(header)]
        return " − ".join(column.minus) if column.minus else header

    def check_number(self, x: str) -> None:
        try:
            known = math.isfinite(float(x))
        except ValueError:
            known = False
        if not known:
            raise self.error("x", f'lines need numbers, and {self.layout.x} is "{x}"; use `kind: bars`')

    def ordered(self, marks: dict[str, Mark]) -> tuple[Mark, ...]:
        found = list(marks.values())
        if self.layout.kind == "lines":
            found.sort(key=lambda mark: float(mark.x or "-inf"))
        return tuple(found)

    def unit(self) -> tuple[str, bool]:
        """The values' label, and whether they are differences."""
        columns = {column.header: column for column in self.grid.layout.columns}
        labels = {}
        for header in self.layout.y:
            column = columns[header]
            difference = column.minus is not None
            while column.minus is not None:
                column = columns[next(h for h in column.minus if h in columns)]
            if column.metric is None:
                raise self.error("y", f'"{header}" has no unit that a figure knows')
            labels[QUANTITIES[column.metric].label(difference)] = difference
        if len(labels) > 1:
            raise self.error("y", f"columns of different metrics cannot share an axis: {', '.join(labels)}")
        return next(iter(labels.items()))
