"""Look up the numbers that a quantity names: the paper's printed figures, or a run's numbers under one seed."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

from pld_grid.report.claims.quantity import Item, Lookup, Quantity, parse_decimal
from pld_grid.report.paper_table import Key, format_row_name, read_paper_table
from pld_grid.report.table import Row, Table, TableCell
from pld_grid.report.values import Value
from pld_grid.util.text import valid_names

Keys = Mapping[str, Sequence[str]]


class Unresolved(ValueError):
    """A quantity names something that does not exist; `at` is the path of the name below the quantity."""

    def __init__(self, message: str, *at: str) -> None:
        super().__init__(message)
        self.at = at


class PaperTables:
    """The paper's printed tables in a folder, as claims with these key columns read them.

    Raises InputError if a table cannot be read.
    """

    def __init__(self, folder: str | Path, keys: Keys) -> None:
        self.tables = {name: read_paper_table(folder, name, tuple(columns)) for name, columns in keys.items()}

    def lookup(self, quantity: Quantity) -> list[Item]:
        """Return the printed figures, exactly. Raises Unresolved at a name that the paper's tables do not have."""
        assert quantity.table is not None and quantity.column is not None
        table = self.tables.get(quantity.table)
        if table is None:
            valid = _list_valid(quantity.table, self.tables)
            raise Unresolved(f'unknown table "{quantity.table}"; valid: {valid}', "table")
        if quantity.column not in table.headers:
            valid = _list_valid(quantity.column, table.headers)
            raise Unresolved(f'{quantity.table} has no column "{quantity.column}"; valid: {valid}', "column")
        items = []
        for name, key in _select(quantity, table.keys, list(table.figures)):
            text = {**table.figures[key], **dict(zip(table.keys, key, strict=True))}[quantity.column]
            try:
                items.append(Item(name, parse_decimal(text)))
            except ValueError:
                what = f'"{text}", which is no number' if text else "nothing"
                place = f'in the row {format_row_name(table.keys, key)}, column "{quantity.column}"'
                raise Unresolved(f"{quantity.table} prints {what} {place}", "column") from None
        return items


class RunTables:
    """A report's tables, as claims with these key columns read them."""

    def __init__(self, tables: Iterable[Table], keys: Keys) -> None:
        self.tables = {table.name: table for table in tables}
        self.keys = keys

    def lookup(self, seed: int | None) -> Lookup:
        """Return the lookup of numbers under a seed; numbers that do not depend on the seed hold under each."""
        return lambda quantity: [Item(name, _extract_number(cell, seed)) for name, _, cell in self._cells(quantity)]

    def values(self, quantity: Quantity) -> dict[str, Value]:
        """Return the measured numbers behind a whole quantity by their places: `table03 Student=ResNet-50, KD`."""
        return {
            f"{leaf.table} {row.name}, {leaf.column}": cell
            for leaf in quantity.leaves
            for _, row, cell in self._cells(leaf)
            if isinstance(cell, Value)
        }

    def _cells(self, quantity: Quantity) -> list[tuple[str, Row, TableCell]]:
        """Return a quantity's table cells with their rows and distinguishing names.

        Raises Unresolved if the report lacks the table or a part of it.
        """
        assert quantity.table is not None and quantity.column is not None
        table = self.tables.get(quantity.table)
        if table is None:
            raise Unresolved(f"{quantity.table} is not in this report")
        keys = tuple(self.keys[quantity.table])
        for header in (quantity.column, *keys):
            if header not in table.headers:
                raise Unresolved(f'{quantity.table} of this report has no column "{header}"')
        key_columns = [table.headers.index(key) for key in keys]
        rows = {tuple(str(row.cells[column]) for column in key_columns): row for row in table.rows}
        column = table.headers.index(quantity.column)
        return [(name, rows[key], rows[key].cells[column]) for name, key in _select(quantity, keys, list(rows))]


def _select(quantity: Quantity, keys: tuple[str, ...], rows: Sequence[Key]) -> list[tuple[str, Key]]:
    """Return the rows that a quantity names, in its order, each with a name that distinguishes it from the others.

    A single row needs no name. Raises Unresolved if a column, a text or a row does not exist.
    """
    for column, texts in quantity.rows.items():
        if column not in keys:
            message = f'"{column}" is no key column of {quantity.table}; valid: {_list_valid(column, keys)}'
            raise Unresolved(message, "rows", column)
        known = [row[keys.index(column)] for row in rows]
        for text in texts:
            if text not in known:
                message = f'{quantity.table} has no row with {column} "{text}"; valid: {_list_valid(text, known)}'
                raise Unresolved(message, "rows", column, text)
    selected: list[Key] = []
    columns = [keys.index(column) for column in quantity.rows]
    for labels in product(*quantity.rows.values()):
        matches = [row for row in rows if tuple(row[column] for column in columns) == labels]
        if not matches:
            raise Unresolved(f"{quantity.table} has no row {format_row_name(tuple(quantity.rows), labels)}", "rows")
        selected += matches
    varying = [column for column in range(len(keys)) if len({row[column] for row in selected}) > 1]
    headers = tuple(keys[column] for column in varying)
    return [(format_row_name(headers, tuple(row[c] for c in varying)) if varying else "", row) for row in selected]


def _list_valid(name: str, valid: Iterable[str]) -> str:
    return valid_names(name, dict.fromkeys(filter(None, valid)), limit=20)


def _extract_number(cell: TableCell, seed: int | None) -> Fraction | None:
    """Return a cell's number under a seed, exactly as the float that it is; a label's number is its text's."""
    if isinstance(cell, str):
        try:
            return parse_decimal(cell)
        except ValueError:
            return None
    numbers = {sample.seed: sample.number for sample in cell.samples}
    number = numbers.get(seed, numbers.get(None))
    return None if number is None else Fraction(number)
