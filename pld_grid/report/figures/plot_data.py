"""The data of the figures that a grid's table declares: its numbers against one of its columns, beside the paper's."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pld_grid.experiment.grid import Grid, matches
from pld_grid.experiment.metrics import METRICS
from pld_grid.experiment.table_layout import FigureLayout
from pld_grid.report.code_versions import VERSION_MARK
from pld_grid.report.figures.style import STYLES
from pld_grid.report.table import Row, Table
from pld_grid.report.value_text import describe_state, format_number
from pld_grid.report.values import Value
from pld_grid.util.csv_text import MISSING, csv_text, full
from pld_grid.util.errors import InputError

MAX_X_VALUES = 60


# The numbers of one line or one kind of bar by `x`, in the order of the table's rows (lines: of `x`). An `x` is spelled
# as in the table, and empty where the row has none.
Series = dict[str, Value]


@dataclass(frozen=True)
class Plot:
    """A declared figure's data.

    `label` names the values with their unit; `series` are by their names; `excluded` are the rows left out.
    """

    layout: FigureLayout
    table: Table
    label: str
    is_difference: bool
    series: dict[str, Series]
    excluded: tuple[str, ...]

    @property
    def values(self) -> list[Value]:
        """Every number of the figure."""
        return [value for points in self.series.values() for value in points.values()]

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints any of the numbers."""
        return any(value.paper for value in self.values)

    @property
    def x_values(self) -> list[str]:
        """The values of `x`, each once."""
        return list(dict.fromkeys(x for points in self.series.values() for x in points))

    @property
    def csv(self) -> str:
        """One line per number, ours and the paper's, in full."""
        setting = self.table.setting
        headers = ("run dataset", "run epochs", self.layout.x, self.layout.series or "series", self.label)
        rows = []
        for name, points in self.series.items():
            for x, value in points.items():
                place = [setting.dataset, setting.epochs_text, x or MISSING, name]
                ours = [full(value.mean), full(value.std), str(value.n), describe_state(value)]
                rows.append([*place, *ours, value.paper or MISSING, value.paper_std or MISSING])
        return csv_text((*headers, "std", "n", "state", "paper", "paper std"), rows)

    @property
    def caption(self) -> str:
        """What the marks and error bars are, what is missing, and that the paper's experiment is another one."""
        setting, values = self.table.setting, self.values
        parts = [f"{self.label} on {setting.dataset}, epochs {setting.epochs_text}: {_describe_spread(values)}."]
        if any(value.interval is not None for value in values):
            parts.append("The 95 % intervals of these means are in the table.")
        horizontal = [name for name, points in self.series.items() if "" in points]
        if horizontal and self.layout.kind == "lines":
            parts.append(f"Horizontal: the mean of {', '.join(horizontal)}, without {self.layout.x}.")
        if self.has_paper:
            other = "" if setting.matches_paper else ", another experiment with a scale of its own"
            spread = " with the standard deviations that it prints" if any(value.paper_std for value in values) else ""
            parts.append(f"Right: the paper's{spread}, on {setting.paper_dataset}{other}.")
        missing = sum(value.mean is None for value in values)
        if missing:
            parts.append(f"{missing} of {len(values)} numbers are missing (n/a).")
        outdated = sum(value.from_other_version for value in values)
        if outdated:
            sign = f" ({VERSION_MARK})" if self.layout.kind == "bars" else ""
            parts.append(f"{outdated} of {len(values)} numbers come from other code than most of the table{sign}.")
        if self.excluded:
            parts.append(f"Left out: {'; '.join(self.excluded)}.")
        return " ".join(parts)

    @property
    def alt(self) -> str:
        """The numbers in words."""
        texts = [
            f"{name}: " + ", ".join(_describe_point(x, value) for x, value in points.items())
            for name, points in self.series.items()
        ]
        return f"{self.label} by {self.layout.x}. {'. '.join(texts)}."


def _describe_point(x: str, value: Value) -> str:
    number = "n/a" if value.mean is None else format_number(value.mean, value.format)
    return f"{x} {number}" if x else number


def _describe_spread(values: Iterable[Value]) -> str:
    """Say over how many seeds the means are, and what the error bars are."""
    counts = sorted({value.n for value in values if value.n and any(s.seed is not None for s in value.samples)})
    if not counts or counts == [1]:
        return "one seed, so no error bars"
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sample standard deviation over {seeds} seeds" + (", none with one" if counts[0] == 1 else "")


def build_plots(grid: Grid, table: Table) -> Iterator[Plot]:
    """Yield the data of all figures that a grid declares.

    Raises:
        InputError: A figure excludes no rows or all of them, has two numbers at one place or numbers of different
            metrics, draws lines over something that is not a number, or has more series or places than a reader can
            tell apart.
    """
    for number in range(len(grid.layout.figures)):
        yield _PlotBuilder(grid, table, number).build()


class _PlotBuilder:
    """Builds the data of one figure from its layout."""

    def __init__(self, grid: Grid, table: Table, number: int) -> None:
        self.grid, self.table, self.number = grid, table, number
        self.layout = grid.layout.figures[number]

    def error(self, key: str, message: str) -> InputError:
        at = ("table", "figures", self.number, key)
        return self.grid.document.error(at, f"figure {self.layout.name}: {message}")

    def build(self) -> Plot:
        rows, excluded = self.select_rows()
        series: dict[str, Series] = {}
        for row in rows:
            x = self.text(row, self.layout.x)
            if self.layout.kind == "lines" and x and not _is_finite(x):
                raise self.error("x", f'lines need numbers, and {self.layout.x} is "{x}"; use `kind: bars`')
            for header in self.layout.y:
                value = row.cells[self.table.headers.index(header)]
                if isinstance(value, Value):
                    name = self.name_series(row, header)
                    if x in series.setdefault(name, {}):
                        raise self.error("x", f'two rows read {self.layout.x}={x or MISSING} in series "{name}"')
                    series[name][x] = value
        self.check_size("series", "series", len(series), len(STYLES))
        self.check_size("x", "places", len({x for points in series.values() for x in points}), MAX_X_VALUES)
        label, is_difference = self.find_unit()
        if self.layout.kind == "lines":
            series = {
                name: dict(sorted(points.items(), key=lambda point: float(point[0] or "-inf")))
                for name, points in series.items()
            }
        return Plot(self.layout, self.table, label, is_difference, series, excluded)

    def check_size(self, key: str, what: str, count: int, limit: int) -> None:
        if count > limit:
            raise self.error(key, f"{count} {what} are more than a reader can tell apart; {limit} are the most")

    def select_rows(self) -> tuple[list[Row], tuple[str, ...]]:
        """Return the rows that the figure shows, without differences of rows, and the names of the excluded ones."""
        rows = list(self.table.rows[: len(self.table.rows) - len(self.grid.layout.difference_rows)])
        excluded: list[str] = []
        for rule, where in enumerate(self.layout.exclude):
            out = [row for row in rows if all(matches(entry.labels, where) for entry in row.entries)]
            if len(out) in (0, len(rows)):
                at = ("table", "figures", self.number, "exclude", rule)
                what = "everything" if out else "nothing: no row is all of this"
                raise self.grid.document.error(at, f"excludes {what}")
            excluded += [row.name for row in out]
            rows = [row for row in rows if row not in out]
        return rows, tuple(excluded)

    def text(self, row: Row, header: str) -> str:
        return str(row.cells[self.table.headers.index(header)])

    def name_series(self, row: Row, header: str) -> str:
        """Return the text of the `series` column if there is one, otherwise the header or what it subtracts."""
        if self.layout.series:
            return self.text(row, self.layout.series) or MISSING
        column = self.grid.layout.columns[self.table.headers.index(header)]
        return " − ".join(column.minus) if column.minus else header

    def find_unit(self) -> tuple[str, bool]:
        """Return the values' label, and whether they are differences."""
        columns = {column.header: column for column in self.grid.layout.columns}
        labels = {}
        for header in self.layout.y:
            column = columns[header]
            is_difference = column.minus is not None
            while column.minus is not None:
                column = columns[next(operand for operand in column.minus if operand in columns)]
            if column.metric is None:
                raise self.error("y", f'"{header}" has no unit that a figure knows')
            labels[METRICS[column.metric].axis_label(is_difference)] = is_difference
        if len(labels) > 1:
            raise self.error("y", f"columns of different metrics cannot share an axis: {', '.join(labels)}")
        return next(iter(labels.items()))


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
