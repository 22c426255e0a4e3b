"""Find a number of a table: its row by any label that only that row has, its column by the header."""

import re
from collections.abc import Iterator, Sequence

from pld_grid.experiment.grid import Grid
from pld_grid.report.table import Row, Table
from pld_grid.report.values import Value
from pld_grid.util.errors import InputError
from pld_grid.util.text import join_names, nearest

MAX_LISTED_ROWS = 12
_NUMBER = re.compile(r"(?P<key>.*=)?(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)")


def find_row(grid: Grid, table: Table, text: str) -> Row:
    """Return the row of that name, or the only row that has all of the comma-separated labels.

    A row's labels are the texts that it shows and the grid's own names for them, alone or as `Header=text`.

    Args:
        grid: The grid that declares the table.
        table: The table.
        text: A row's name, or labels.

    Raises:
        InputError: Several rows match (it names them), or none does (it names the nearest label).
    """
    target = _normalize(text)
    labels = {row.name: set(_iterate_labels(grid, table, row)) for row in table.rows}
    normalized = {name: set(map(_normalize, known)) for name, known in labels.items()}
    parts = {_normalize(part) for part in text.split(",")}
    matches = (
        [row for row in table.rows if _normalize(row.name) == target]
        or [row for row in table.rows if target in normalized[row.name]]
        or [row for row in table.rows if parts <= normalized[row.name]]
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        rows = _list_rows(matches)
        raise InputError(f'"{text}" is {len(matches)} rows of {table.name}: {rows}; name one, or add another label')
    known = set[str]().union(*labels.values())
    raise InputError(f'{table.name} has no row "{text}"; it has: {_list_rows(table.rows)}{nearest(text, known)}')


def find_column(table: Table, row: Row, text: str) -> tuple[str, Value]:
    """Return a column's header and its number in a row. Raises InputError if there is none."""
    valid = [h for h, has_numbers in zip(table.headers, table.has_numbers, strict=True) if has_numbers]
    exact = [header for header in table.headers if header == text]
    matches = exact or [header for header in table.headers if _normalize(header) == _normalize(text)]
    if len(matches) != 1:
        count = f"{len(matches)} columns" if matches else "no column"
        raise InputError(f'{table.name} has {count} "{text}"; valid: {join_names(valid)}{nearest(text, valid)}')
    (header,) = matches
    value = row.cells[table.headers.index(header)]
    if isinstance(value, Value):
        return header, value
    if header not in valid:
        raise InputError(f'column "{header}" of {table.name} holds no numbers; valid: {join_names(valid)}')
    raise InputError(f'{table.name} leaves column "{header}" blank in row "{row.name}"')


def _iterate_labels(grid: Grid, table: Table, row: Row) -> Iterator[str]:
    """Yield every label of a row."""
    for header, cell in zip(table.headers, row.cells, strict=True):
        if isinstance(cell, str) and cell:
            yield from (cell, f"{header}={cell}")
    for name in grid.layout.rows:
        values = {entry.labels.get(name) for entry in row.entries}
        # A difference row has the labels that its two sides share.
        if len(values) == 1 and (value := values.pop()) is not None:
            yield from (str(value), f"{name}={value}")


def _normalize(text: str) -> str:
    """Return a text without the differences between spellings: case, spaces and trailing zeros."""
    plain = " ".join(text.casefold().split())
    number = _NUMBER.fullmatch(plain)
    return f"{number['key'] or ''}{float(number['number']):g}" if number else plain


def _list_rows(rows: Sequence[Row]) -> str:
    more = f"; ... ({len(rows) - MAX_LISTED_ROWS} more)" if len(rows) > MAX_LISTED_ROWS else ""
    return "; ".join(f'"{row.name}"' for row in rows[:MAX_LISTED_ROWS]) + more
