"""The files of a report. Equal records give equal bytes: no dates, no paths, nothing about the machine."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pld_grid.experiment.grid import Grid
from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.render import render_claims_csv, render_claims_page
from pld_grid.report.claims.verdict import Verdict, judge_claims
from pld_grid.report.csv_table import render_csv, render_provenance
from pld_grid.report.figures import draw_figures
from pld_grid.report.html_page import Page, render_page
from pld_grid.report.latex_table import render_latex
from pld_grid.report.markdown_table import render_markdown
from pld_grid.report.readme import render_readme
from pld_grid.report.records_file import RECORDS_FILE, Origin, redact_records, serialize_records
from pld_grid.report.report_notes import summarize_profiles
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.store.records import Records
from pld_grid.util.atomic_files import read_regular, write_changed
from pld_grid.util.errors import InputError

# The names of the files that the last report wrote, for the next one.
FILE_LIST = ".report-files"
# Names of the report's own files, which no grid may take.
RESERVED_NAMES = ("readme", "provenance", "claims", "index", "records", "figures")


def render_report(
    grids: Sequence[Grid], records: Records, origin: Origin, paper_folder: str | Path | None = None
) -> dict[str, bytes]:
    """Render all files of a report.

    These are `<grid>.md`, `.csv` and `.tex` of each grid; `README.md` and `index.html` with everything; the paper's
    claims, if the report has their tables; `figures/`; `provenance.csv`; and `records.jsonl`, from which all others
    follow.

    Args:
        grids: The grids.
        records: The records by cell id.
        origin: What the report is made from.
        paper_folder: The folder of the paper's printed tables and claims, if there is one.

    Returns:
        The contents by name.

    Raises:
        InputError: A table cannot be built (see `build_table`), or two grids would share a file.
    """
    _check_names(grids)
    known = redact_records(records, (cell.cell_id for grid in grids for cell in grid.cells()))
    tables = [build_table(grid, known, paper_folder) for grid in grids]
    verdicts = _judge_claims(tables, paper_folder)
    figures = draw_figures(grids, tables, known)
    texts = {
        "README.md": render_readme(tables, verdicts, figures),
        "provenance.csv": render_provenance(tables),
        "index.html": render_page(Page(tables, known, figures, verdicts, origin.mlflow)),
        RECORDS_FILE: serialize_records(known, origin),
    }
    for table in tables:
        texts[f"{table.name}.md"] = render_markdown(table)
        texts[f"{table.name}.csv"] = render_csv(table)
        texts[f"{table.name}.tex"] = render_latex(table)
    if verdicts:
        texts["claims.md"] = render_claims_page(verdicts, summarize_profiles(tables))
        texts["claims.csv"] = render_claims_csv(verdicts)
    files = {name: text.encode() for name, text in texts.items()}
    return files | {f"figures/{name}": data for figure in figures for name, data in figure.files.items()}


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files atomically and return those whose content changed; leave the others untouched. Raise InputError."""
    return [path for name, data in files.items() if write_changed(path := Path(folder) / name, data)]


def write_report_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files of a report atomically, and remove those of an earlier report that this one does not have.

    Files whose content is the same, and files that no report wrote, are left untouched.

    Returns:
        The files that changed.

    Raises:
        InputError: A file cannot be written or removed.
    """
    root = Path(folder)
    changed = write_files(root, files)
    _remove(root, _read_file_list(root) - files.keys())
    write_changed(root / FILE_LIST, "".join(f"{name}\n" for name in sorted(files)).encode())
    return changed


def _read_file_list(root: Path) -> set[str]:
    """Return the names of the files that the last report wrote into a folder; nothing if it is not known."""
    try:
        names = read_regular(root / FILE_LIST).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    # The list may have been edited: only files below the folder are removed.
    return {name for name in names if name and ".." not in Path(name).parts and not Path(name).is_absolute()}


def _remove(root: Path, names: Iterable[str]) -> None:
    """Remove files of a folder, and the subfolders that are then empty."""
    for path in sorted(root / name for name in names):
        try:
            if path.is_file():
                path.unlink()
            if path.parent != root and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:
            raise InputError(f"{path}: cannot be removed: {error.strerror or error}") from None


def _judge_claims(tables: Sequence[Table], paper_folder: str | Path | None) -> tuple[Verdict, ...]:
    """Return the verdicts on the paper's claims about tables of this report."""
    path = Path(paper_folder, "claims.yaml") if paper_folder is not None else None
    if path is None or not path.exists():
        return ()
    printed = {table.name for table in tables if table.paper}
    return judge_claims(read_claims(path).select(printed), tables, path.parent)


def _check_names(grids: Iterable[Grid]) -> None:
    names: set[str] = set()
    for grid in grids:
        name = grid.name.lower()
        if name in RESERVED_NAMES or name in names:
            reason = "the report has a page of that name" if name in RESERVED_NAMES else "the name is used twice"
            raise InputError(f"{grid.document.source}: a report cannot hold a grid called {grid.name}: {reason}")
        names.add(name)
