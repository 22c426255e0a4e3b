"""The report's files. Equal records give equal bytes: no dates, no paths, nothing about the machine."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pld_grid.errors import InputError
from pld_grid.files import write_changed
from pld_grid.grid import Grid
from pld_grid.records import Records
from pld_grid.report import figures as drawn
from pld_grid.report.claims import Verdict, claims_csv, claims_markdown, claims_section, judge, read_claims
from pld_grid.report.frozen import FILE, Origin, dump, public
from pld_grid.report.index import index_markdown
from pld_grid.report.latex import table_latex
from pld_grid.report.markdown import table_markdown, warning
from pld_grid.report.page import Page, page_html
from pld_grid.report.sheets import provenance_csv, table_csv
from pld_grid.report.table import Table, build_table

LOCAL_MLFLOW = "http://127.0.0.1:5000"
PAGES = ("readme", "provenance", "claims", "index", "records", "figures")


def report_files(
    grids: Sequence[Grid], records: Records, origin: Origin, paper_folder: str | Path | None = None
) -> dict[str, bytes]:
    """All files of a report by name, from records (by cell id) and the paper's printed tables.

    Of each grid `<grid>.md`, `.csv` and `.tex`; `README.md` and `index.html` with everything; the paper's claims where
    the report has its tables; `figures/`; and `provenance.csv` and `records.jsonl`, from which it all follows.
    Raises InputError as `build_table` does, or if two grids would share a file.
    """
    _check_names(grids)
    known = public(records, (cell.cell_id for grid in grids for cell in grid.cells()))
    tables = [build_table(grid, known, paper_folder) for grid in grids]
    verdicts = _verdicts(tables, paper_folder)
    figures = drawn.draw(grids, tables, known)
    elsewhere = not all(table.setting.as_in_paper for table in tables)
    sections = [claims_section(verdicts, elsewhere), drawn.figures_markdown(figures)]
    texts = {"README.md": index_markdown(tables, sections), "provenance.csv": provenance_csv(tables)}
    for table in tables:
        texts |= {f"{table.name}.md": table_markdown(table), f"{table.name}.csv": table_csv(table)}
        texts |= {f"{table.name}.tex": table_latex(table)}
    if verdicts:
        said = dict.fromkeys(warning(table.setting, bool(table.paper)) for table in tables)
        texts |= {"claims.md": claims_markdown(verdicts, "\n\n".join(filter(None, said)))}
        texts |= {"claims.csv": claims_csv(verdicts)}
    texts |= {"index.html": page_html(Page(tables, known, figures, verdicts, origin.mlflow)), FILE: dump(known, origin)}
    files = {name: text.encode() for name, text in texts.items()}
    return files | {f"figures/{name}": data for figure in figures for name, data in figure.files.items()}


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files, each whole; returns those whose content changed, the others are not touched. Raises InputError."""
    return [path for name, data in files.items() if write_changed(path := Path(folder) / name, data)]


def write_report(
    grids: Sequence[Grid],
    records: Records,
    out: str | Path,
    paper_folder: str | Path | None = None,
    mlflow: str = LOCAL_MLFLOW,
) -> list[Path]:
    """`write_files` of `report_files`; nothing is written if a table cannot be built.

    `mlflow` is the address of MLflow's UI, to which numbers link.
    """
    return write_files(out, report_files(grids, records, origin_of(grids, mlflow), paper_folder))


def origin_of(grids: Sequence[Grid], mlflow: str = LOCAL_MLFLOW) -> Origin:
    """With what a report on grids, all under one profile, is made."""
    first, names = grids[0], tuple(grid.name for grid in grids)
    return Origin(grids=names, profile=first.profile.name, seeds=first.seeds, mlflow=mlflow)


def _verdicts(tables: Sequence[Table], paper_folder: str | Path | None) -> tuple[Verdict, ...]:
    """The paper's claims that speak of tables of this report, judged."""
    path = Path(paper_folder, "claims.yaml") if paper_folder is not None else None
    if path is None or not path.exists():
        return ()
    printed = {table.name for table in tables if table.paper}
    claims = [claim for claim in read_claims(path) if any(leaf.table in printed for leaf in claim.quantity.leaves)]
    return judge(claims, tables, Path(paper_folder or "")) if claims else ()


def _check_names(grids: Iterable[Grid]) -> None:
    names: set[str] = set()
    for grid in grids:
        name = grid.name.lower()
        if name in PAGES or name in names:
            what = "is the report's own page" if name in PAGES else "is there twice"
            raise InputError(f"{grid.document.source}: a report cannot hold a grid called {grid.name}: that {what}")
        names.add(name)
