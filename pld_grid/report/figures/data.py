"""The data behind a figure as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence

from pld_grid.report.values import NOTHING


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A header line, then data."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return buffer.getvalue()


def full(number: float | None) -> str:
    """In full: the shortest text that reads back as the same number."""
    return NOTHING if number is None else repr(number)
