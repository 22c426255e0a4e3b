"""The paper's printed tables, as text: a figure printed as "71.30" stays "71.30"."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from pld_grid.util.atomic_files import read_regular
from pld_grid.util.errors import InputError
from pld_grid.util.text import join_names

STD = " std"
Key = tuple[str, ...]


@dataclass(frozen=True)
class PaperTable:
    """One printed table: `figures[key][header]`, the key being the texts of the key columns.

    `stds` holds, likewise, the standard deviations printed beside them: the file's columns `<header> std`.
    """

    source: str
    keys: tuple[str, ...]
    headers: tuple[str, ...]
    figures: dict[Key, dict[str, str]]
    stds: dict[Key, dict[str, str]]


def read_paper_table(folder: str | Path, name: str, keys: tuple[str, ...]) -> PaperTable:
    """Read `<folder>/<name>.csv`.

    Args:
        folder: The folder of the paper's tables.
        name: The table's name.
        keys: The headers of the columns that identify a row.

    Raises:
        InputError: The file is missing, ragged, lacks a key column, repeats a row, or holds a figure that is not a
            number, or a standard deviation that is negative or has no figure.
    """
    path = Path(folder) / f"{name}.csv"
    headers, *rows = _read_csv(path)
    if len(set(headers)) != len(headers):
        raise InputError(f"{path}: two columns have the same header")
    for key in keys:
        if key not in headers:
            raise InputError(
                f'{path}: no column "{key}", which our table has; the paper has: {join_names(headers, 20)}'
            )
    std_columns = _match_std_columns(path, headers, keys)
    shown = tuple(header for header in headers if header not in std_columns.values())
    table = PaperTable(str(path), keys, shown, {}, {})
    for line, row in enumerate(rows, start=2):
        if len(row) != len(headers):
            raise InputError(f"{path}:{line}: {len(row)} fields, the header has {len(headers)}")
        fields = dict(zip(headers, row, strict=True))
        key_texts = tuple(fields.pop(key) for key in keys)
        if key_texts in table.figures:
            raise InputError(f"{path}:{line}: the row {format_row_name(keys, key_texts)} appears twice")
        stds = {header: fields[std_column] for header, std_column in std_columns.items()}
        _check_figures(f"{path}:{line}", fields, stds)
        table.figures[key_texts] = {header: text for header, text in fields.items() if header in shown}
        table.stds[key_texts] = stds
    return table


def format_row_name(keys: tuple[str, ...], texts: Key) -> str:
    """Return a row's name, without blanks: `Method=KD, alpha=0.10`."""
    return ", ".join(f"{key}={text}" for key, text in zip(keys, texts, strict=True) if text) or "(all)"


def _read_csv(path: Path) -> list[list[str]]:
    try:
        text = read_regular(path).decode("utf-8")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except OSError as error:
        raise InputError(f"{path}: the paper's table cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file: {error}") from None
    if not rows:
        raise InputError(f"{path}: empty")
    return rows


def _match_std_columns(path: Path, headers: list[str], keys: tuple[str, ...]) -> dict[str, str]:
    """Return the column of standard deviations by the header of its figures."""
    matches = {h.removesuffix(STD): h for h in headers if h.endswith(STD) and h not in keys}
    for header, column in matches.items():
        if header not in headers or header in (*keys, *matches.values()):
            raise InputError(f'{path}: "{column}" has no figures to go with: there is no column "{header}"')
    return matches


def _check_figures(place: str, fields: dict[str, str], stds: dict[str, str]) -> None:
    for header, figure in fields.items():
        if figure and not _is_number(figure):
            raise InputError(f'{place}: {header}: "{figure}" is not a number')
    for header, std in stds.items():
        if std.startswith("-"):
            raise InputError(f'{place}: {header}{STD}: "{std}" is negative')
        if std and not fields[header]:
            raise InputError(f'{place}: {header}{STD}: "{std}" has no figure beside it')


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and text == text.strip() and "_" not in text
    except ValueError:
        return False
