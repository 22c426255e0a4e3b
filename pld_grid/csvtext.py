"""Data as CSV text: a header line, then a line per row; numbers in full."""

import csv
import io
from collections.abc import Iterable, Sequence

NOTHING = "-"


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The whole file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return buffer.getvalue()


def full(number: float | None) -> str:
    """The shortest text that reads back as the same number; "-" for none."""
    return NOTHING if number is None else repr(number)
