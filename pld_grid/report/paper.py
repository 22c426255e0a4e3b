"""The paper's figures, as text: what is printed "71.30" stays "71.30"."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from pld_grid.errors import InputError, listing
from pld_grid.files import read_regular

STD = " std"
Key = tuple[str, ...]


@dataclass(frozen=True)
class PaperTable:
    """One printed table: `figures[key][header]`, the key being the texts of the key columns.

    `stds` holds, likewise, the standard deviations that it prints beside them: the file's columns `<header> std`.
    """

    source: str
    keys: tuple[str, ...]
    headers: tuple[str, ...]
    figures: dict[Key, dict[str, str]]
    stds: dict[Key, dict[str, str]]


def read_paper(folder: str | Path, name: str, keys: tuple[str, ...]) -> PaperTable:
    """Reads `<folder>/<name>.csv`, whose key columns are `keys`.

    Raises InputError if it is missing, ragged, lacks a key column, repeats a row, or holds a figure that is no number,
    or a standard deviation that is negative or has no figure.
    """
    path = Path(folder) / f"{name}.csv"
    try:
        text = read_regular(path).decode("utf-8")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except OSError as error:
        raise InputError(f"{path}: the paper's table cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file: {error}") from None
    if not rows:
        raise InputError(f"{path}: empty")
    headers = tuple(rows[0])
    if len(set(headers)) != len(headers):
        raise InputError(f"{path}: two columns have the same header")
    for key in keys:
        if key not in headers:
            raise InputError(f'{path}: no column "{key}", which our table has; the paper has: {listing(headers, 20)}')
    spreads = _spreads(path, headers, keys)
    figures: dict[Key, dict[str, str]] = {}
    stds: dict[Key, dict[str, str]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(headers):
            raise InputError(f"{path}:{number}: {len(row)} fields, the header has {len(headers)}")
        fields = dict(zip(headers, row, strict=True))
        key_texts = tuple(fields.pop(key) for key in keys)
        if key_texts in figures:
            raise InputError(f"{path}:{number}: the row {describe(keys, key_texts)} is there twice")
        for header, figure in fields.items():
            if figure and not _is_number(figure):
                raise InputError(f'{path}:{number}: {header}: "{figure}" is no number')
        stds[key_texts] = {header: fields.pop(spread) for spread, header in spreads.items()}
        for header, std in stds[key_texts].items():
            if std and (std.startswith("-") or not fields[header]):
                what = "is negative" if std.startswith("-") else "has no figure beside it"
                raise InputError(f'{path}:{number}: {header}{STD}: "{std}" {what}')
        figures[key_texts] = fields
    shown = tuple(header for header in headers if header not in spreads)
    return PaperTable(str(path), keys, shown, figures, stds)


def describe(keys: tuple[str, ...], texts: Key) -> str:
    """A row for people: `Method=KD, alpha=0.10`, blanks left out."""
    said = ", ".join(f"{key}={text}" for key, text in zip(keys, texts, strict=True) if text)
    return said or "(all)"


def _spreads(path: Path, headers: tuple[str, ...], keys: tuple[str, ...]) -> dict[str, str]:
    """The columns of standard deviations, and whose they are."""
    found = {header: header.removesuffix(STD) for header in headers if header.endswith(STD) and header not in keys}
    for spread, header in found.items():
        if header not in headers or header in (*keys, *found):
            raise InputError(
                f'{path}: "{spread}" is the standard deviation of no column: there is no figure "{header}"'
            )
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and text == text.strip() and "_" not in text
    except ValueError:
        return False
