"""Build a table: a grid's entries and layout, the records of its cells, and the paper's printed figures."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Entry, Grid, matches
from pld_grid.experiment.table_layout import BASELINE, Column, DifferenceRow
from pld_grid.report.code_versions import count_versions
from pld_grid.report.paper_table import Key, PaperTable, format_row_name, read_paper_table
from pld_grid.report.setting import describe_setting
from pld_grid.report.table import Row, Table, TableCell
from pld_grid.report.values import PARAMETERS, Sample, Term, Value, make_absent_samples, make_term, subtract
from pld_grid.store.records import Records
from pld_grid.util.errors import InputError

# Terms of all numbers of a table; the paper's tables have at most 5 per entry.
MAX_TERMS, MAX_TERMS_PER_ENTRY = 100_000, 50
MAX_ROW_NAME = 300  # letters; figures draw them one by one
NOT_SET = "not set"


def build_table(grid: Grid, records: Records, paper_folder: str | Path | None = None) -> Table:
    """Fill a grid's table.

    Args:
        grid: The grid.
        records: The records by cell id.
        paper_folder: The folder of the paper's printed tables; None compares with no paper.

    Raises:
        InputError: A number would come from cells that differ in more than their seed, or a row or column has no
            counterpart in the paper's table, or the other way round.
    """
    cells = {cell.cell_id: cell for cell in grid.cells()}
    versions = count_versions(records[i] for i in cells if i in records)
    builder = _TableBuilder(grid, records, next(iter(versions), ""))
    rows = builder.build_rows()
    paper = grid.layout.paper if paper_folder is not None else None
    if paper is not None and paper_folder is not None:
        rows = _add_paper_figures(grid, rows, read_paper_table(paper_folder, paper, builder.keys))
    return Table(
        name=grid.name,
        title=grid.layout.title or grid.document.data.get("description") or grid.name,
        headers=tuple(column.header for column in grid.layout.columns),
        rows=tuple(rows),
        setting=describe_setting(grid),
        paper=f"{paper}.csv" if paper is not None else "",
        cells=cells,
        states={i: str(records[i].state) if i in records else "not run" for i in cells},
        versions=versions,
    )


class _TableBuilder:
    """Build the rows of a layout; numbers that another version than the main one computed are marked."""

    def __init__(self, grid: Grid, records: Records, main_version: str) -> None:
        self.grid, self.records, self.main_version, self.layout = grid, records, main_version, grid.layout
        self.columns = grid.layout.columns
        self.keys = tuple(column.header for column in self.columns if column.axes)
        self.baselines = [entry for entry in grid.entries if entry.role == "baseline"]
        self.terms, self.max_terms = 0, max(MAX_TERMS, MAX_TERMS_PER_ENTRY * len(grid.entries))

    def build_rows(self) -> list[Row]:
        groups: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in self.grid.entries:
            if entry.role != "baseline":
                groups.setdefault(tuple(entry.labels.get(name) for name in self.layout.rows), []).append(entry)
        rows = [self.build_row(entries) for entries in groups.values()]
        return rows + [self.build_difference_row(i, row, rows) for i, row in enumerate(self.layout.difference_rows)]

    def build_row(self, entries: list[Entry]) -> Row:
        texts = {c.header: self.format_label(c, entries[0]) for c in self.columns if c.axes}
        name = format_row_name(self.keys, tuple(texts[key] for key in self.keys))
        if len(name) > MAX_ROW_NAME:
            message = f"a row's name has {len(name)} letters, the maximum is {MAX_ROW_NAME}: {name}"
            raise self.grid.document.error(("table", "columns"), message)
        samples: dict[str, tuple[Sample, ...]] = {}
        cells: list[TableCell] = []
        for number, column in enumerate(self.columns):
            if column.axes:
                cells.append(texts[column.header])
                continue
            if not column.only or any(matches(entry.labels, column.only) for entry in entries):
                column_samples = self.collect_samples(number, column, entries, samples, name)
                if column_samples is not None:
                    samples[column.header] = column_samples
            cells.append(self.make_value(samples[column.header], column) if column.header in samples else "")
        return Row(name, tuple(cells), tuple(entries))

    def make_value(self, samples: tuple[Sample, ...], column: Column) -> Value:
        """Return a number of the table. Raise InputError if the table's terms exceed their limit."""
        self.terms += sum(len(sample.terms) for sample in samples)
        if self.terms > self.max_terms:
            raise self.grid.document.error(
                ("table",), f"its numbers come to more than {self.max_terms} cells: rows x columns x seeds are too many"
            )
        value = Value(samples, column.format, is_model_size=column.parameters is not None)
        return replace(value, from_other_version=any(version != self.main_version for version in value.versions))

    def format_label(self, column: Column, entry: Entry) -> str:
        """Return a label as the table spells it; empty if the entry has none, or if `only` excludes it."""
        if column.only and not matches(entry.labels, column.only):
            return ""
        values = [entry.labels[axis] for axis in column.axes if axis in entry.labels]
        if len(values) == 1 and values[0] in column.names:
            return column.names[values[0]]
        text = " ".join(format(v, column.format) if isinstance(v, float) else str(v) for v in values)
        return column.names.get(text, text)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def collect_samples(
        self, number: int, column: Column, entries: list[Entry], before: dict[str, tuple[Sample, ...]], row: str
    ) -> tuple[Sample, ...] | None:
        """Return a column's numbers in a row; None if it subtracts a column that is blank there."""
        if column.minus is None:
            return self.measure(number, column, [e for e in entries if matches(e.labels, column.where)], row)
        operands = []
        for operand in column.minus:
            if operand == BASELINE:
                operands.append(self.measure_baseline(number, column, entries[0], row))
            elif operand in self.keys:
                raise self.error(number, row, f'subtracts "{operand}", which holds no numbers')
            elif operand in before:
                operands.append(before[operand])
            else:
                return None
        return subtract(operands[0], operands[1])

    def measure_baseline(self, number: int, column: Column, entry: Entry, row: str) -> tuple[Sample, ...]:
        """Return the baseline's number in the metric of the other operand.

        Of several baselines, take those that share the row's labels in which the baselines differ.
        """
        assert column.minus is not None
        if not self.baselines:
            raise self.error(number, row, f'"{BASELINE}": no block has `role: baseline`')
        other = next((c for c in self.columns if c.header in column.minus and c.metric is not None), None)
        if other is None:
            raise self.error(number, row, f'"{BASELINE}": the other operand must be a metric\'s column')
        where = {
            name: entry.labels[name]
            for name in self.layout.rows
            if name in entry.labels and len({b.labels.get(name) for b in self.baselines}) > 1
        }
        baselines = [baseline for baseline in self.baselines if matches(baseline.labels, where)]
        if not baselines:
            labels = ", ".join(f"{name}: {value}" for name, value in where.items())
            raise self.error(number, row, f'"{BASELINE}": none of {len(self.baselines)} has {labels}')
        return self.measure(number, other, baselines, row)

    def measure(self, number: int, column: Column, entries: list[Entry], row: str) -> tuple[Sample, ...]:
        """Return the numbers of the cells behind the entries, one per seed."""
        metric = column.metric or PARAMETERS
        of_teacher = column.of == "teacher" or column.parameters == "teacher"
        chosen = [entry.cell.teacher if of_teacher and entry.role != "teacher" else entry.cell for entry in entries]
        cells = list({cell.cell_id: cell for cell in chosen if cell is not None}.values())
        if not cells:
            return make_absent_samples(metric)
        self.check_unambiguous(number, column, cells, entries, row)
        terms = [self.make_term(cell, metric) for cell in cells]
        if column.parameters is not None:
            return (Sample(None, (next((term for term in terms if term.value is not None), terms[0]),)),)
        if of_teacher or all(entry.role == "teacher" for entry in entries):
            return tuple(Sample(None, (term,)) for term in terms)
        samples = [Sample(cell.seed, (term,)) for cell, term in zip(cells, terms, strict=True)]
        return tuple(sorted(samples, key=lambda sample: sample.seed or 0))

    def make_term(self, cell: Cell, metric: str) -> Term:
        teacher = self.records.get(cell.teacher.cell_id) if cell.teacher is not None else None
        return make_term(cell, metric, self.records.get(cell.cell_id), teacher)

    def check_unambiguous(self, number: int, column: Column, cells: list[Cell], entries: list[Entry], row: str) -> None:
        """Raise InputError if cells differ in more than the seed (for a model's size: in more than the model)."""
        size = column.parameters is not None
        kinds = {cell.student.canonical if size else cell.id_under(0) for cell in cells}
        if len(kinds) < 2:
            return
        names = dict.fromkeys(name for entry in entries for name in entry.labels if name != "seed")
        values = {name: list(dict.fromkeys(str(e.labels.get(name, NOT_SET)) for e in entries)) for name in names}
        differing = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in values.items() if len(texts) > 1)
        raise self.error(
            number,
            row,
            f"is ambiguous: {len(kinds)} cells match that differ in more than the seed ({differing}); name one of these"
            " labels in `rows`, or in the column's `where`",
        )

    def error(self, number: int, row: str, message: str) -> InputError:
        column = f'table {self.grid.name}, row "{row}", column "{self.columns[number].header}"'
        return self.grid.document.error(("table", "columns", number), f"{column} {message}")

    # -- difference rows -----------------------------------------------------------------------------------------------

    def build_difference_row(self, index: int, layout: DifferenceRow, rows: Sequence[Row]) -> Row:
        left, right = (self.find_row(index, side, where, rows) for side, where in enumerate(layout.minus))
        cells: list[TableCell] = []
        for column, minuend, subtrahend in zip(self.columns, left.cells, right.cells, strict=True):
            if isinstance(minuend, Value) and isinstance(subtrahend, Value) and not minuend.is_model_size:
                cells.append(self.make_value(subtract(minuend.samples, subtrahend.samples), column))
            else:
                cells.append(layout.header if column.header == self.keys[0] else "")
        name = format_row_name(self.keys, (layout.header, *("" for _ in self.keys[1:])))
        return Row(name, tuple(cells), (*left.entries, *right.entries))

    def find_row(self, index: int, side: int, where: dict[str, Any], rows: Iterable[Row]) -> Row:
        path = ("table", "difference_rows", index)
        if not self.keys:
            raise self.grid.document.error(path, "a difference row needs a column with an axis, for its name")
        # Only the labels in `rows` are the same for all cells of a row.
        are_shared = where.keys() <= set(self.layout.rows)
        selected = [row for row in rows if are_shared and matches(row.entries[0].labels, where)]
        if len(selected) != 1:
            labels = ", ".join(f"{name}: {value}" for name, value in where.items())
            raise self.grid.document.error((*path, "minus", side), f"{len(selected)} rows match ({labels}), not one")
        return selected[0]


def _add_paper_figures(grid: Grid, rows: list[Row], paper: PaperTable) -> list[Row]:
    """Return the rows with the paper's figures. Raise InputError for a row or column without a counterpart."""
    ours, theirs = f"table {grid.name}", paper.source
    keyed = _key_rows(grid, rows)
    headers = [column.header for column in grid.layout.columns]
    pairs = (
        (theirs, ours, [f'column "{header}"' for header in paper.headers if header not in headers]),
        (ours, theirs, [f'column "{header}"' for header in headers if header not in paper.headers]),
        (theirs, ours, [f"row {format_row_name(paper.keys, key)}" for key in paper.figures if key not in keyed]),
        (ours, theirs, [f"row {row.name}" for key, row in keyed.items() if key not in paper.figures]),
    )
    for source, other, unmatched in pairs:
        if unmatched:
            message = f"{unmatched[0]} of {source} has no counterpart in {other}"
            raise grid.document.error(("table", "paper"), message)
    return [_add_row_figures(grid, key, row, paper) for key, row in keyed.items()]


def _key_rows(grid: Grid, rows: list[Row]) -> dict[Key, Row]:
    keyed: dict[Key, Row] = {}
    for row in rows:
        key = tuple(str(c) for c, column in zip(row.cells, grid.layout.columns, strict=True) if column.axes)
        if key in keyed:
            message = f"two rows of table {grid.name} are named {row.name}, so no printed row can be matched with them"
            raise grid.document.error(("table", "paper"), message)
        keyed[key] = row
    return keyed


def _add_row_figures(grid: Grid, key: Key, row: Row, paper: PaperTable) -> Row:
    figures, stds = paper.figures[key], paper.stds[key]
    cells: list[TableCell] = []
    for cell, column in zip(row.cells, grid.layout.columns, strict=True):
        figure = figures.get(column.header, "")
        if isinstance(cell, Value):
            cell = replace(cell, paper=figure, paper_std=stds.get(column.header, ""))
        elif figure:
            message = f'row {row.name}, column "{column.header}": {paper.source} prints {figure}, our table is blank'
            raise grid.document.error(("table", "paper"), message)
        cells.append(cell)
    return replace(row, cells=tuple(cells))
