"""CSV text with numbers at full precision."""

import csv
import io
from collections.abc import Iterable, Sequence

MISSING = "-"


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV file with a header line and a line per row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return buffer.getvalue()


def full(number: float | None) -> str:
    """Return the shortest text that reads back as the same number; "-" for None."""
    return MISSING if number is None else repr(number)
