"""Where a quantity's numbers come from: the paper's printed figures, or a run's tables under one seed."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product

from pld_grid.errors import listing, nearest
from pld_grid.report.claims.quantity import Item, Lookup, Quantity, exact
from pld_grid.report.paper import Key, PaperTable, describe
from pld_grid.report.table import Row, Table, TableCell
from pld_grid.report.values import Value

Keys = Mapping[str, tuple[str, ...]]


class Unresolved(ValueError):
    """A quantity names something that is not there; `at` is the key, and the name, that says so."""

    def __init__(self, message: str, *at: str) -> None:
        super().__init__(message)
        self.at = at


def paper_lookup(paper: Mapping[str, PaperTable]) -> Lookup:
    """The printed figures, exactly. The lookup raises Unresolved at a name that the paper's tables do not have."""

    def lookup(quantity: Quantity) -> list[Item]:
        assert quantity.table is not None and quantity.column is not None
        table = paper.get(quantity.table)
        if table is None:
            message = f'unknown table "{quantity.table}"; valid: {_valid(quantity.table, paper)}'
            raise Unresolved(message, "table")
        if quantity.column not in table.headers:
            message = f'{quantity.table} has no column "{quantity.column}"; valid: '
            raise Unresolved(message + _valid(quantity.column, table.headers), "column")
        chosen = select(quantity, table.keys, list(table.figures))
        names = row_names(table.keys, chosen)
        return [Item(name, _printed(quantity, table, key)) for name, key in zip(names, chosen, strict=True)]

    return lookup


def _printed(quantity: Quantity, table: PaperTable, key: Key) -> Fraction:
    """A printed figure, or what a key column says if that is a number."""
    assert quantity.column is not None
    texts = {**table.figures[key], **dict(zip(table.keys, key, strict=True))}
    text = texts[quantity.column]
    try:
        return exact(text)
    except ValueError:
        what = f'"{text}", which is no number' if text else "nothing"
        message = f'{quantity.table} prints {what} in the row {describe(table.keys, key)}, column "{quantity.column}"'
        raise Unresolved(message, "column") from None


def select(quantity: Quantity, keys: tuple[str, ...], rows: Sequence[Key]) -> list[Key]:
    """The rows that a quantity asks for, in its order. Raises Unresolved if a column, a text or a row is not there."""
    for column, texts in quantity.rows.items():
        if column not in keys:
            message = f'"{column}" is no key column of {quantity.table}; valid: {_valid(column, keys)}'
            raise Unresolved(message, "rows", column)
        known = [row[keys.index(column)] for row in rows]
        for text in texts:
            if text not in known:
                message = f'{quantity.table} has no row with {column} "{text}"; valid: {_valid(text, known)}'
                raise Unresolved(message, "rows", column, text)
    chosen: list[Key] = []
    for wanted in product(*quantity.rows.values()):
        pairs = [(keys.index(column), text) for column, text in zip(quantity.rows, wanted, strict=True)]
        found = [row for row in rows if all(row[index] == text for index, text in pairs)]
        if not found:
            said = ", ".join(f"{column}={text}" for column, text in zip(quantity.rows, wanted, strict=True))
            raise Unresolved(f"{quantity.table} has no row {said}", "rows")
        chosen += found
    return chosen


def row_names(keys: tuple[str, ...], rows: Sequence[Key]) -> list[str]:
    """What tells each of the rows from the others; a single row needs no name."""
    differing = [index for index in range(len(keys)) if len({row[index] for row in rows}) > 1]
    shown = tuple(keys[index] for index in differing)
    return [describe(shown, tuple(row[index] for index in differing)) if differing else "" for row in rows]


def _valid(name: str, valid: Iterable[str]) -> str:
    known = dict.fromkeys(text for text in valid if text)
    return f"{listing(known, 20)}{nearest(name, known)}"


class RunTables:
    """A report's tables by name, as a claim with these key columns reads them."""

    def __init__(self, tables: Mapping[str, Table], keys: Keys) -> None:
        self.tables, self.keys = tables, keys

    def cells(self, quantity: Quantity) -> list[tuple[str, Row, TableCell]]:
        """A table's numbers with their rows, and the names that tell these apart.

        Raises Unresolved if the report lacks the table or a part of it.
        """
        assert quantity.table is not None and quantity.column is not None
        table = self.tables.get(quantity.table)
        if table is None:
            raise Unresolved(f"{quantity.table} is not in this report")
        keys = self.keys[quantity.table]
        for header in (quantity.column, *keys):
            if header not in table.headers:
                raise Unresolved(f'{quantity.table} of this report has no column "{header}"')
        places = [table.headers.index(key) for key in keys]
        rows = {tuple(str(row.cells[place]) for place in places): row for row in table.rows}
        chosen = select(quantity, keys, list(rows))
        column = table.headers.index(quantity.column)
        names = row_names(keys, chosen)
        return [(name, rows[key], rows[key].cells[column]) for name, key in zip(names, chosen, strict=True)]

    def lookup(self, seed: int | None) -> Lookup:
        """The numbers under a seed; those that do not depend on the seed hold under each."""

        def lookup(quantity: Quantity) -> list[Item]:
            return [Item(name, _number(cell, seed)) for name, _, cell in self.cells(quantity)]

        return lookup

    def values(self, quantity: Quantity) -> dict[str, Value]:
        """The measured numbers behind a whole quantity by their places: `table03 Student=ResNet-50, KD`."""
        return {
            f"{leaf.table} {row.name}, {leaf.column}": cell
            for leaf in quantity.leaves
            for _, row, cell in self.cells(leaf)
            if isinstance(cell, Value)
        }


def _number(cell: TableCell, seed: int | None) -> Fraction | None:
    """A cell's number under a seed, exactly as the float that it is; a label's number is its text's."""
    if isinstance(cell, str):
        try:
            return exact(cell)
        except ValueError:
            return None
    numbers = {sample.seed: sample.number for sample in cell.samples}
    number = numbers.get(seed, numbers.get(None))
    return None if number is None else Fraction(number)
