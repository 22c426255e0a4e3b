"""The report's files. Equal records give equal bytes: no dates, no paths, nothing about the machine."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.records import Records
from pld_grid.report.index import index_markdown
from pld_grid.report.markdown import table_markdown
from pld_grid.report.sheets import provenance_csv, table_csv
from pld_grid.report.table import build_table

RESERVED = ("readme", "provenance")


def write_report(
    grids: Sequence[Grid], records: Records, out: str | Path, paper_folder: str | Path | None = None
) -> list[Path]:
    """Writes `<grid>.md` and `<grid>.csv` for each grid, `README.md` and `provenance.csv` into a folder.

    Returns the files whose content changed; the others are not touched. Nothing is written if a table cannot be built.
    Raises InputError as `build_table` does, and if a file cannot be written.
    """
    names: set[str] = set()
    for grid in grids:
        name = grid.name.lower()
        if name in RESERVED or name in names:
            what = "is the report's own page" if name in RESERVED else "is there twice"
            raise InputError(f"{grid.document.source}: a report cannot hold a grid called {grid.name}: that {what}")
        names.add(name)
    tables = [build_table(grid, records, paper_folder) for grid in grids]
    files = {"README.md": index_markdown(tables), "provenance.csv": provenance_csv(tables)}
    for table in tables:
        files |= {f"{table.name}.md": table_markdown(table), f"{table.name}.csv": table_csv(table)}
    folder = Path(out)
    return [folder / name for name, text in files.items() if _write(folder / name, text.encode())]


def _write(path: Path, data: bytes) -> bool:
    """Writes a file whole, or not at all if it already holds the data; says whether it wrote."""
    temporary = ""
    try:
        if path.is_file() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes private files; a report is for others to read.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return True
