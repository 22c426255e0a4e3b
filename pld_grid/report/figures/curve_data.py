"""The data of learning curves: a table's metric against the epoch, a line per number, a band over its seeds."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pld_grid.experiment.grid import Grid
from pld_grid.experiment.metrics import METRICS, Metric
from pld_grid.report.figures.style import STYLES
from pld_grid.report.paper_table import format_row_name
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Value
from pld_grid.store.records import Records
from pld_grid.util.csv_text import csv_text, full

# A panel holds as many lines as there are styles. The lines of a sweep have an order, which shades of a color show.
MAX_SWEEP_LINES = 12
MAX_PANELS = 24
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Line:
    """The curves of the finished cells behind one number: the metric by epoch, for each seed.

    `missing` counts the seeds without a curve.
    """

    name: str
    curves: Mapping[int, Curve]
    missing: int

    @cached_property
    def band(self) -> list[tuple[int, float, float, float]]:
        """Epoch, mean, minimum and maximum over the seeds, at the epochs that all of them have."""
        curves = list(self.curves.values())
        shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)] if curves else []
        values = {epoch: [curve[epoch] for curve in curves] for epoch in shared}
        return [(epoch, statistics.fmean(at), min(at), max(at)) for epoch, at in values.items()]


@dataclass(frozen=True)
class Panel:
    """Lines that share axes; those of a sweep differ in one value only."""

    title: str
    lines: tuple[Line, ...]
    is_sweep: bool = False

    @property
    def name(self) -> str:
        """The title on one line."""
        return self.title.replace("\n", ", ")


@dataclass(frozen=True)
class Curves:
    """All learning curves of a table in one metric."""

    table: Table
    metric: Metric
    panels: tuple[Panel, ...]

    @property
    def label(self) -> str:
        """The metric with its unit."""
        return self.metric.axis_label()

    @property
    def log_scale(self) -> bool:
        """Whether the metric is best shown on a logarithmic axis and all values are positive."""
        return self.metric.log_scale and all(low > 0 for line in self.lines for _, _, low, _ in line.band)

    @property
    def lines(self) -> list[Line]:
        """Every line of every panel."""
        return [line for panel in self.panels for line in panel.lines]

    @property
    def drawn_panels(self) -> tuple[Panel, ...]:
        """The panels that fit into a picture."""
        return self.panels[:MAX_PANELS]

    @property
    def csv(self) -> str:
        """One line per epoch of every cell, in full."""
        dataset = self.table.setting.dataset
        rows = [
            [dataset, panel.name, line.name, str(seed), str(epoch), full(value)]
            for panel in self.panels
            for line in panel.lines
            for seed, curve in line.curves.items()
            for epoch, value in curve.items()
        ]
        return csv_text(("run dataset", "panel", "line", "seed", "epoch", self.label), rows)

    @property
    def caption(self) -> str:
        """What the lines are, and how many are missing."""
        seeds = max(len(line.curves) for line in self.lines)
        spread = f"mean over seeds (up to {seeds}), band from the least to the greatest" if seeds > 1 else "one seed"
        setting = self.table.setting
        text = f"{self.label} on the validation set of {setting.dataset}, epochs {setting.epochs_text}: {spread}."
        missing = sum(line.missing for line in self.lines)
        planned = missing + sum(len(line.curves) for line in self.lines)
        if missing:
            text += f" {missing} of {planned} trainings have no finished curve and are not drawn."
        if len(self.panels) > len(self.drawn_panels):
            text += f" The first {len(self.drawn_panels)} of {len(self.panels)} panels are drawn; the data hold all."
        return text

    @property
    def alt(self) -> str:
        """The last value of each line in words."""
        texts = []
        for panel in self.drawn_panels:
            ends = [f"{line.name} {line.band[-1][1]:.2f}" if line.band else f"{line.name} n/a" for line in panel.lines]
            texts.append(": ".join(filter(None, [panel.name, ", ".join(ends)])))
        return f"{self.label} against the epoch; last epoch: {'; '.join(texts)}."


def name_curves(table: Table) -> str:
    """Return the name of a table's figure of learning curves."""
    return f"curves_{table.name}"


def collect_curves(grid: Grid, table: Table, records: Records) -> Curves | None:
    """Return the learning curves of a table's students in the first metric that it shows; None if there are none."""
    columns = {c.header: c.metric for c in grid.layout.columns if c.metric is not None and c.of == "student"}
    if not columns:
        return None
    metric = METRICS[next(iter(columns.values()))]
    rows = [(row, lines) for row in table.rows if (lines := _collect_lines(table, row, columns, metric, records))]
    keys = tuple(column.header for column in grid.layout.columns if column.axes)
    curves = Curves(table, metric, tuple(_build_panels(table, keys, rows)))
    return curves if any(line.curves for line in curves.lines) else None


def _collect_lines(table: Table, row: Row, columns: Iterable[str], metric: Metric, records: Records) -> list[Line]:
    """Return the lines of a row; columns that show numbers of the same cells share one."""
    lines: dict[tuple[str, ...], Line] = {}
    for header in columns:
        value = row.cells[table.headers.index(header)]
        # A difference of rows has no curve of its own, and a teacher's number has no students' seed.
        if isinstance(value, Value) and all(len(s.terms) == 1 and s.seed is not None for s in value.samples):
            cells = {s.seed: s.terms[0].cell_id for s in value.samples if s.seed is not None}
            curves = {seed: curve for seed, i in cells.items() if (curve := _read_curve(records, i, metric))}
            lines.setdefault(tuple(cells.values()), Line(header, curves, len(cells) - len(curves)))
    return list(lines.values())


def _read_curve(records: Records, cell_id: str, metric: Metric) -> Curve:
    record = records.get(cell_id)
    if record is None or record.state != "finished":
        return {}
    return {epoch.epoch: epoch.metrics[metric.name] for epoch in record.epochs if metric.name in epoch.metrics}


def _build_panels(table: Table, keys: tuple[str, ...], rows: list[tuple[Row, list[Line]]]) -> Iterator[Panel]:
    """Yield a panel per row if rows have several lines; otherwise rows are lines, split by the first column if many."""
    labels = [tuple(str(row.cells[table.headers.index(key)]) for key in keys) for row, _ in rows]
    if any(len(lines) > 1 for _, lines in rows):
        for label, (_, lines) in zip(labels, rows, strict=True):
            title = "\n".join(f"{key}: {part}" for key, part in zip(keys, label, strict=True) if part)
            yield Panel(title, tuple(lines), is_sweep=len(lines) > len(STYLES))
        return
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label[0] if keys and len(rows) > len(STYLES) else "", []).append(index)
    single = [index for group in groups.values() if len(group) == 1 for index in group]
    sweeps = {name: group for name, group in groups.items() if len(group) > 1}
    for name, group in [*([("", single)] if single else []), *sweeps.items()]:
        for start in range(0, len(group), MAX_SWEEP_LINES):
            members = group[start : start + MAX_SWEEP_LINES]
            names = _name_lines(keys, [labels[index] for index in members], titled=bool(name))
            lines = [replace(rows[index][1][0], name=own) for own, index in zip(names, members, strict=True)]
            is_sweep = len(lines) > len(STYLES)
            yield Panel(name, tuple(sorted(lines, key=lambda line: line.name) if is_sweep else lines), is_sweep)


def _name_lines(keys: tuple[str, ...], labels: Sequence[tuple[str, ...]], titled: bool) -> list[str]:
    """Return names that distinguish lines by as few columns as possible.

    The first column needs no header; if it is the panel's title (`titled`), it is left out.
    """

    def count_distinct(columns: Sequence[int]) -> int:
        return len({tuple(label[column] for column in columns) for label in labels})

    chosen = [] if titled or not keys else [0]
    rest = list(range(1, len(keys)))
    while rest and count_distinct(chosen) < len(labels):
        best = max(rest, key=lambda column: count_distinct([*chosen, column]))
        rest.remove(best)
        chosen.append(best)
    return [_name_line(keys, label, sorted(chosen)) for label in labels]


def _name_line(keys: tuple[str, ...], label: tuple[str, ...], columns: list[int]) -> str:
    first = [label[0]] if columns[:1] == [0] and label[0] else []
    named = [column for column in columns if column and label[column]]
    if named or not first:
        first.append(format_row_name(tuple(keys[i] for i in named), tuple(label[i] for i in named)))
    return ", ".join(first)
