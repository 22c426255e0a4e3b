"""Learning curves: a table's metric against the epoch, a line per number of the table, a band over its seeds."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pld_grid.csvtext import csv_text, full
from pld_grid.grid import Grid
from pld_grid.layout import Metric
from pld_grid.records import Records
from pld_grid.report.figures.canvas import LOOKS
from pld_grid.report.figures.quantities import QUANTITIES, Quantity
from pld_grid.report.paper import describe
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Value

# A panel holds as many lines as looks that tell them apart; a sweep's lines have an order, which shades show too.
MAX_SHADES = 12
MAX_PANELS = 24
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Line:
    """The curves behind one number of the table: by seed the metric by epoch, of finished cells only.

    `lacking` counts the seeds without a curve.
    """

    name: str
    curves: Mapping[int, Curve]
    lacking: int

    @cached_property
    def band(self) -> list[tuple[int, float, float, float]]:
        """Epoch, mean, least and greatest of the seeds, at the epochs that all of them have."""
        every = list(self.curves.values())
        shared = [epoch for epoch in every[0] if all(epoch in curve for curve in every)] if every else []
        at = {epoch: [curve[epoch] for curve in every] for epoch in shared}
        return [(epoch, statistics.fmean(found), min(found), max(found)) for epoch, found in at.items()]


@dataclass(frozen=True)
class Panel:
    """Lines that share axes; `shaded` lines are steps of one sweep."""

    title: str
    lines: tuple[Line, ...]
    shaded: bool = False

    @property
    def name(self) -> str:
        """The title on one line."""
        return self.title.replace("\n", ", ")


@dataclass(frozen=True)
class Curves:
    """All of a table's learning curves in one metric."""

    table: Table
    quantity: Quantity
    panels: tuple[Panel, ...]

    @property
    def label(self) -> str:
        """The metric with its unit."""
        return self.quantity.label()

    @property
    def by_ratio(self) -> bool:
        """Whether a logarithmic axis shows the metric best, and can."""
        return self.quantity.by_ratio and all(low > 0 for line in self.lines for _, _, low, _ in line.band)

    @property
    def lines(self) -> list[Line]:
        """Every line of every panel."""
        return [line for panel in self.panels for line in panel.lines]

    @property
    def drawn(self) -> tuple[Panel, ...]:
        """The panels that a picture can hold."""
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
        lacking = sum(line.lacking for line in self.lines)
        wanted = lacking + sum(len(line.curves) for line in self.lines)
        if lacking:
            text += f" {lacking} of {wanted} trainings have no finished curve and are not drawn."
        if len(self.panels) > len(self.drawn):
            text += f" The first {len(self.drawn)} of {len(self.panels)} panels are drawn; the data hold all."
        return text

    @property
    def alt(self) -> str:
        """Where each line ends, in words."""
        said = []
        for panel in self.drawn:
            ends = [f"{line.name} {line.band[-1][1]:.2f}" if line.band else f"{line.name} n/a" for line in panel.lines]
            said.append(": ".join([*([panel.name] if panel.name else []), ", ".join(ends)]))
        return f"{self.label} against the epoch; last epoch: {'; '.join(said)}."


def curves_name(table: Table) -> str:
    """The figure's name: its files' stem."""
    return f"curves_{table.name}"


def curves_of(grid: Grid, table: Table, records: Records) -> Curves | None:
    """The learning curves of a table's students, in the metric that it shows first; None if none is known."""
    columns = {c.header: c.metric for c in grid.layout.columns if c.metric is not None and c.of == "student"}
    if not columns:
        return None
    metric = next(iter(columns.values()))
    found = [(row, _lines(table, row, columns, metric, records)) for row in table.rows]
    keys = tuple(column.header for column in grid.layout.columns if column.axes)
    curves = Curves(table, QUANTITIES[metric], tuple(_panels(table, keys, [(r, ls) for r, ls in found if ls])))
    return curves if any(line.curves for line in curves.lines) else None


def _lines(table: Table, row: Row, columns: Mapping[str, Metric], metric: Metric, records: Records) -> list[Line]:
    """The lines of a row; columns that show numbers of the same cells share one."""
    lines: dict[tuple[str, ...], Line] = {}
    for header in columns:
        value = row.cells[table.headers.index(header)]
        # A difference of rows has no curve of its own, and a teacher's is no student's.
        if isinstance(value, Value) and all(len(s.terms) == 1 and s.seed is not None for s in value.samples):
            cells = {s.seed: s.terms[0].cell_id for s in value.samples if s.seed is not None}
            curves = {seed: curve for seed, i in cells.items() if (curve := _curve(records, i, metric))}
            lines.setdefault(tuple(cells.values()), Line(header, curves, len(cells) - len(curves)))
    return list(lines.values())


def _curve(records: Records, cell_id: str, metric: Metric) -> Curve:
    record = records.get(cell_id)
    if record is None or record.state != "finished":
        return {}
    return {e.epoch: e.metrics[metric] for e in record.epochs if metric in e.metrics}


def _panels(table: Table, keys: tuple[str, ...], rows: list[tuple[Row, list[Line]]]) -> Iterator[Panel]:
    """A panel per row where rows have several lines; else rows are lines, by the first column if they are too many."""
    texts = [tuple(str(row.cells[table.headers.index(key)]) for key in keys) for row, _ in rows]
    if any(len(lines) > 1 for _, lines in rows):
        for text, (_, lines) in zip(texts, rows, strict=True):
            title = "\n".join(f"{key}: {part}" for key, part in zip(keys, text, strict=True) if part)
            yield Panel(title, tuple(lines), shaded=len(lines) > len(LOOKS))
        return
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        groups.setdefault(text[0] if keys and len(rows) > len(LOOKS) else "", []).append(number)
    alone = [number for group in groups.values() if len(group) == 1 for number in group]
    sweeps = {name: group for name, group in groups.items() if len(group) > 1}
    for name, group in [*([("", alone)] if alone else []), *sweeps.items()]:
        for start in range(0, len(group), MAX_SHADES):
            members = group[start : start + MAX_SHADES]
            names = _names(keys, [texts[number] for number in members], bool(name))
            lines = [replace(rows[number][1][0], name=own) for own, number in zip(names, members, strict=True)]
            shaded = len(lines) > len(LOOKS)
            yield Panel(name, tuple(sorted(lines, key=lambda line: line.name) if shaded else lines), shaded)


def _names(keys: tuple[str, ...], texts: Sequence[tuple[str, ...]], titled: bool) -> list[str]:
    """Names that tell lines apart by as few columns as possible.

    The first column needs no header; where it is the panel's title, it is left out.
    """

    def apart(columns: Sequence[int]) -> int:
        return len({tuple(text[column] for column in columns) for text in texts})

    chosen = [] if titled or not keys else [0]
    rest = list(range(1, len(keys)))
    while rest and apart(chosen) < len(texts):
        # The first of those that tell most apart.
        rest.sort(key=lambda column: (-apart([*chosen, column]), column))
        chosen.append(rest.pop(0))
    return [_name(keys, text, sorted(chosen)) for text in texts]


def _name(keys: tuple[str, ...], text: tuple[str, ...], columns: list[int]) -> str:
    said = [text[0]] if columns[:1] == [0] and text[0] else []
    named = [column for column in columns if column and text[column]]
    if named or not said:
        said.append(describe(tuple(keys[i] for i in named), tuple(text[i] for i in named)))
    return ", ".join(said)
