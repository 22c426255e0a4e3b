"""Entries x layout x records x paper -> a table of numbers."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pld_grid.errors import InputError
from pld_grid.grid import Entry, Grid, matches
from pld_grid.layout import BASELINE, Column, DifferenceRow
from pld_grid.records import Records
from pld_grid.report.paper import Key, PaperTable, describe, read_paper
from pld_grid.report.setting import Setting, setting_of
from pld_grid.report.values import Sample, Term, Value, absent, subtract, term
from pld_grid.report.versions import count_versions
from pld_grid.spec import Cell

TableCell = str | Value
# Cells behind all numbers of a table, each time that one is shown; the paper's tables have at most 5 per entry.
MAX_TERMS, MAX_TERMS_PER_ENTRY = 100_000, 50
MAX_NAME = 300  # letters of a row, which figures draw one by one


@dataclass(frozen=True)
class Row:
    """One row: its name for people, a text or a number per column, and the entries that it was made of."""

    name: str
    cells: tuple[TableCell, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """A filled table. `paper` is the file of the printed figures, or empty.

    `top1` is the mean of its top-1 accuracies in percent, None where it has none. `versions` says how many of
    them each version of the code made, the most frequent first.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[Row, ...]
    setting: Setting
    paper: str
    cells: dict[str, Cell]
    states: dict[str, str]
    top1: float | None = None
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version that made the most cells; empty if none is finished."""
        return next(iter(self.versions), "")

    @property
    def values(self) -> list[Value]:
        """Every number of the table, row by row."""
        return [cell for row in self.rows for cell in row.cells if isinstance(cell, Value)]

    def is_value(self, index: int) -> bool:
        """Whether a column holds numbers."""
        return any(isinstance(row.cells[index], Value) for row in self.rows)


def build_table(grid: Grid, records: Records, paper_folder: str | Path | None = None) -> Table:
    """Fills a grid's table from records (by cell id), beside the paper's figures if the grid names some.

    Raises InputError if a number of the table would come from cells that differ in more than their seed, or if a row
    or column of ours has no partner in the paper's table, or the other way round.
    """
    builder = _Builder(grid, records)
    rows = builder.rows()
    paper = grid.layout.paper
    if paper is not None and paper_folder is not None:
        if Path(paper).name != paper:
            raise grid.document.error(("table", "paper"), f'"{paper}" must be a plain file name without its .csv')
        rows = _beside(grid, rows, read_paper(paper_folder, paper, builder.keys))
    cells = {cell.cell_id: cell for cell in grid.cells()}
    done = [records[i] for i in cells if i in records and records[i].state == "finished"]
    top1 = [
        sample.number
        for row in rows
        for cell in row.cells
        if isinstance(cell, Value)
        for sample in cell.samples
        if len(sample.terms) == 1 and sample.terms[0].metric == "top1" and sample.number is not None
    ]
    versions = count_versions(done)
    return Table(
        name=grid.name,
        title=grid.layout.title or grid.document.data.get("description") or grid.name,
        headers=tuple(column.header for column in grid.layout.columns),
        rows=tuple(_marked(row, next(iter(versions), "")) for row in rows),
        setting=setting_of(grid),
        paper=f"{paper}.csv" if paper is not None and paper_folder is not None else "",
        cells=cells,
        states={i: str(records[i].state) if i in records else "not run" for i in cells},
        top1=statistics.fmean(top1) if top1 else None,
        versions=versions,
    )


class _Builder:
    """One pass over a layout's rows and columns."""

    def __init__(self, grid: Grid, records: Records) -> None:
        self.grid, self.records, self.layout = grid, records, grid.layout
        self.columns = grid.layout.columns
        self.keys = tuple(column.header for column in self.columns if column.axes)
        self.baselines = [entry for entry in grid.entries if entry.role == "baseline"]
        self.terms, self.most = 0, max(MAX_TERMS, MAX_TERMS_PER_ENTRY * len(grid.entries))

    def rows(self) -> list[Row]:
        groups: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in self.grid.entries:
            if entry.role != "baseline":
                groups.setdefault(tuple(entry.labels.get(name) for name in self.layout.rows), []).append(entry)
        rows = [self.row(entries) for entries in groups.values()]
        return rows + [self.difference_row(i, row, rows) for i, row in enumerate(self.layout.difference_rows)]

    def row(self, entries: list[Entry]) -> Row:
        texts = {c.header: self.axis_text(c, entries[0]) for c in self.columns if c.axes}
        name = describe(self.keys, tuple(texts[key] for key in self.keys))
        if len(name) > MAX_NAME:
            message = f"a row's name has {len(name)} letters, and {MAX_NAME} are the most: {name}"
            raise self.grid.document.error(("table", "columns"), message)
        samples: dict[str, tuple[Sample, ...]] = {}
        cells: list[TableCell] = []
        for number, column in enumerate(self.columns):
            if column.axes:
                cells.append(texts[column.header])
                continue
            found = None
            if not column.only or any(matches(entry.labels, column.only) for entry in entries):
                found = self.samples(number, column, entries, samples, name)
            if found is None:
                cells.append("")
            else:
                samples[column.header] = found
                cells.append(self.value(found, column, fact=column.parameters is not None))
        return Row(name, tuple(cells), tuple(entries))

    def value(self, samples: tuple[Sample, ...], column: Column, *, fact: bool = False) -> Value:
        """A number of the table. Raises InputError where there get to be more than any memory should hold."""
        self.terms += sum(len(sample.terms) for sample in samples)
        if self.terms > self.most:
            raise self.grid.document.error(
                ("table",), f"its numbers come to more than {self.most} cells: rows x columns x seeds are too many"
            )
        return Value(samples, column.format, fact=fact)

    def axis_text(self, column: Column, entry: Entry) -> str:
        """A label as the table spells it; empty where the entry has none, or where `only` says so."""
        if column.only and not matches(entry.labels, column.only):
            return ""
        values = [entry.labels[axis] for axis in column.axes if axis in entry.labels]
        if len(values) == 1 and values[0] in column.names:
            return column.names[values[0]]
        parts = [format(v, column.format) if isinstance(v, float) else str(v) for v in values]
        text = " ".join(parts)
        return column.names.get(text, text)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def samples(
        self, number: int, column: Column, entries: list[Entry], before: dict[str, tuple[Sample, ...]], row: str
    ) -> tuple[Sample, ...] | None:
        """A column's numbers in a row; None where it subtracts a column that is blank there."""
        if column.minus is None:
            chosen = [entry for entry in entries if matches(entry.labels, column.where)]
            return self.measured(number, column, chosen, row)
        sides = []
        for operand in column.minus:
            if operand == BASELINE:
                sides.append(self.baseline(number, column, entries[0], row))
            elif operand in self.keys:
                raise self.error(number, row, f'subtracts "{operand}", which holds no numbers')
            elif operand in before:
                sides.append(before[operand])
            else:
                return None
        return subtract(sides[0], sides[1])

    def baseline(self, number: int, column: Column, entry: Entry, row: str) -> tuple[Sample, ...]:
        """The baseline's number in the metric of the other operand.

        If there are several baselines, those count that share the row's labels where the baselines differ.
        """
        assert column.minus is not None
        other = next((c for c in self.columns if c.header in column.minus and c.metric is not None), None)
        if not self.baselines or other is None:
            problem = (
                "the other operand must be a metric's column" if self.baselines else "no block has `role: baseline`"
            )
            raise self.error(number, row, f'"{BASELINE}": {problem}')
        differing = [
            name for name in self.layout.rows
            if name in entry.labels and len({b.labels.get(name) for b in self.baselines}) > 1
        ]  # fmt: skip
        where = {name: entry.labels[name] for name in differing}
        chosen = [baseline for baseline in self.baselines if matches(baseline.labels, where)]
        if not chosen:
            said = ", ".join(f"{name}: {value}" for name, value in where.items())
            raise self.error(number, row, f'"{BASELINE}": none of {len(self.baselines)} has {said}')
        return self.measured(number, other, chosen, row)

    def measured(self, number: int, column: Column, entries: list[Entry], row: str) -> tuple[Sample, ...]:
        """The numbers of the cells behind the entries, one per seed."""
        metric = column.metric or "parameters"
        of_teacher = column.of == "teacher" or column.parameters == "teacher"
        cells: dict[str, Cell] = {}
        constant = of_teacher or all(entry.role == "teacher" for entry in entries)
        for entry in entries:
            cell = entry.cell.teacher if of_teacher and entry.role != "teacher" else entry.cell
            if cell is not None:
                cells.setdefault(cell.cell_id, cell)
        if not cells:
            return absent(metric)
        self.check_one(number, column, list(cells.values()), entries, row)
        terms = [(cell, self.term(cell, metric)) for cell in cells.values()]
        if column.parameters is not None:
            known = next((t for _, t in terms if t.value is not None), terms[0][1])
            return (Sample(None, (known,)),)
        found = [Sample(None if constant else cell.seed, (t,)) for cell, t in terms]
        return tuple(sorted(found, key=lambda sample: -1 if sample.seed is None else sample.seed))

    def term(self, cell: Cell, metric: str) -> Term:
        teacher = self.records.get(cell.teacher.cell_id) if cell.teacher is not None else None
        return term(cell, metric, self.records.get(cell.cell_id), teacher)

    def check_one(self, number: int, column: Column, cells: list[Cell], entries: list[Entry], row: str) -> None:
        """Refuses cells that differ in more than the seed (for a model's size: in more than the model)."""
        if column.parameters is not None:
            kinds = {cell.student.canonical for cell in cells}
        else:
            kinds = {cell.id_under(0) for cell in cells}
        if len(kinds) < 2:
            return
        names = dict.fromkeys(name for entry in entries for name in entry.labels if name != "seed")
        values = {name: list(dict.fromkeys(str(e.labels.get(name, NOT_SET)) for e in entries)) for name in names}
        differing = "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1)
        raise self.error(
            number, row,
            f"is ambiguous: {len(kinds)} cells match that differ in more than the seed ({differing}); name one of these"
            " labels in `rows`, or in the column's `where`",
        )  # fmt: skip

    def error(self, number: int, row: str, message: str) -> InputError:
        header = self.columns[number].header
        where = f'table {self.grid.name}, row "{row}", column "{header}"'
        return self.grid.document.error(("table", "columns", number), f"{where} {message}")

    # -- difference rows -----------------------------------------------------------------------------------------------

    def difference_row(self, index: int, wanted: DifferenceRow, rows: Sequence[Row]) -> Row:
        sides = [self.one_row(index, side, where, rows) for side, where in enumerate(wanted.minus)]
        cells: list[TableCell] = []
        for number, column in enumerate(self.columns):
            left, right = (row.cells[number] for row in sides)
            if isinstance(left, Value) and isinstance(right, Value) and not left.fact:
                cells.append(self.value(subtract(left.samples, right.samples), column))
            else:
                cells.append(wanted.header if column.header == self.keys[0] else "")
        name = describe(self.keys, (wanted.header, *("" for _ in self.keys[1:])))
        return Row(name, tuple(cells), tuple(entry for row in sides for entry in row.entries))

    def one_row(self, index: int, side: int, where: dict[str, Any], rows: Iterable[Row]) -> Row:
        at = ("table", "difference_rows", index)
        if not self.keys:
            raise self.grid.document.error(at, "a difference row needs a column with an axis, for its name")
        found = [row for row in rows if matches(self.shared(row), where)]
        if len(found) != 1:
            said = ", ".join(f"{k}: {v}" for k, v in where.items())
            raise self.grid.document.error((*at, "minus", side), f"{len(found)} rows match ({said}), not one")
        return found[0]

    def shared(self, row: Row) -> dict[str, Any]:
        labels = row.entries[0].labels
        return {name: labels[name] for name in self.layout.rows if name in labels}


NOT_SET = "not set"


def _marked(row: Row, version: str) -> Row:
    """The row with each number marked that another version than `version` had a part in."""
    cells = [
        replace(cell, other_version=any(made != version for made in cell.versions)) if isinstance(cell, Value) else cell
        for cell in row.cells
    ]
    return replace(row, cells=tuple(cells))


def _beside(grid: Grid, rows: list[Row], paper: PaperTable) -> list[Row]:
    """The rows with the paper's figures at their numbers; whatever has no partner is an error."""
    columns = grid.layout.columns
    at = ("table", "paper")
    ours, theirs = [column.header for column in columns], list(paper.headers)
    if missing := [h for h in theirs if h not in ours]:
        raise grid.document.error(at, f'column "{missing[0]}" of {paper.source} has no partner in table {grid.name}')
    if missing := [h for h in ours if h not in theirs]:
        raise grid.document.error(at, f'column "{missing[0]}" of table {grid.name} has no partner in {paper.source}')
    keyed: dict[Key, Row] = {}
    for row in rows:
        key = tuple(str(cell) for cell, column in zip(row.cells, columns, strict=True) if column.axes)
        if key in keyed:
            raise grid.document.error(at, f"two rows of table {grid.name} read {row.name}, which no paper row can join")
        keyed[key] = row
    for key in paper.figures:
        if key not in keyed:
            name = describe(paper.keys, key)
            raise grid.document.error(at, f"row {name} of {paper.source} has no partner in table {grid.name}")
    joined = []
    for key, row in keyed.items():
        figures = paper.figures.get(key)
        if figures is None:
            raise grid.document.error(at, f"row {row.name} of table {grid.name} has no partner in {paper.source}")
        cells: list[TableCell] = []
        for cell, column in zip(row.cells, columns, strict=True):
            figure = figures.get(column.header, "")
            if isinstance(cell, Value):
                cells.append(replace(cell, paper=figure, paper_std=paper.stds[key].get(column.header, "")))
            elif figure:
                raise grid.document.error(
                    at, f'row {row.name}, column "{column.header}": {paper.source} prints {figure}, our table is blank'
                )
            else:
                cells.append(cell)
        joined.append(replace(row, cells=tuple(cells)))
    return joined
