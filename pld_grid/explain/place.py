"""A place in a table, as people name it: a row by any of its texts, a column by its header."""

import re
from collections.abc import Iterator, Sequence

from pld_grid.errors import InputError, listing, nearest
from pld_grid.grid import Grid
from pld_grid.report import Row, Table, Value

_LONGEST = 12
_NUMBER = re.compile(r"(?P<key>.*=)?(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)")


def find_row(grid: Grid, table: Table, text: str) -> Row:
    """The row of that name, or the only one that has all of the texts, which commas separate.

    A row's texts are those that it shows and the grid's own names for them, alone or as `Header=text`. Raises
    InputError naming the candidates if several rows have them, and the nearest text if none has.
    """
    wanted = _same(text)
    named = [row for row in table.rows if _same(row.name) == wanted]
    said = {row.name: set(_texts(grid, table, row)) for row in table.rows}
    found = named or [row for row in table.rows if wanted in map(_same, said[row.name])]
    if not found:
        parts = {_same(part) for part in text.split(",")}
        found = [row for row in table.rows if parts <= set(map(_same, said[row.name]))]
    if len(found) == 1:
        return found[0]
    if found:
        rows = _named(found)
        raise InputError(f'"{text}" is {len(found)} rows of {table.name}: {rows}; name one, or add what tells it apart')
    known = {name for texts in said.values() for name in texts}
    raise InputError(f'{table.name} has no row "{text}"; it has: {_named(table.rows)}{nearest(text, known)}')


def find_column(table: Table, row: Row, text: str) -> tuple[str, Value]:
    """The header and the number of that column in a row. Raises InputError if there is none."""
    numbers = [header for index, header in enumerate(table.headers) if table.is_value(index)]
    exact = [header for header in table.headers if header == text]
    found = exact or [header for header in table.headers if _same(header) == _same(text)]
    if len(found) != 1:
        said = "no column" if not found else f"{len(found)} columns"
        raise InputError(f'{table.name} has {said} "{text}"; valid: {listing(numbers)}{nearest(text, numbers)}')
    value = row.cells[table.headers.index(found[0])]
    if isinstance(value, Value):
        return found[0], value
    if found[0] not in numbers:
        raise InputError(f'column "{found[0]}" of {table.name} holds no numbers; valid: {listing(numbers)}')
    raise InputError(f'{table.name} leaves column "{found[0]}" blank in row "{row.name}"')


def _texts(grid: Grid, table: Table, row: Row) -> Iterator[str]:
    """Every text that a row goes by."""
    for header, cell in zip(table.headers, row.cells, strict=True):
        if isinstance(cell, str) and cell:
            yield from (cell, f"{header}={cell}")
    for name in grid.layout.rows:
        values = {entry.labels.get(name) for entry in row.entries}
        # A difference row has the labels that its two sides share.
        if len(values) == 1 and (value := values.pop()) is not None:
            yield from (str(value), f"{name}={value}")


def _same(text: str) -> str:
    """What spellings of one text have in common: case, spaces and trailing zeros aside."""
    plain = " ".join(text.casefold().split())
    number = _NUMBER.fullmatch(plain)
    return f"{number['key'] or ''}{float(number['number']):g}" if number else plain


def _named(rows: Sequence[Row]) -> str:
    more = f"; ... ({len(rows) - _LONGEST} more)" if len(rows) > _LONGEST else ""
    return "; ".join(f'"{row.name}"' for row in rows[:_LONGEST]) + more
