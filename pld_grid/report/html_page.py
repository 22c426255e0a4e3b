"""The report as one self-contained HTML page: tables, claims, figures, open questions, environment.

Everything is readable without scripts; these add sorting, filters and another address of MLflow. The page's content
security policy forbids every request and every other script and style.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from pld_grid.report.claims.verdict import Verdict
from pld_grid.report.code_versions import describe_version, shorten_commit
from pld_grid.report.csv_table import render_csv, render_provenance
from pld_grid.report.figures import Figure
from pld_grid.report.html_figure import inline_svg
from pld_grid.report.html_table import TableView, collect_states, list_missing, parse_state
from pld_grid.report.report_notes import collect_open_questions, describe_shared_cells, summarize_profiles
from pld_grid.report.table import Table
from pld_grid.report.templating import load_templates
from pld_grid.store.records import CellRecord, Records
from pld_grid.util.errors import InputError


@dataclass(frozen=True)
class Page:
    """The content of a page. `records` are by cell id; links to runs begin with `mlflow`, the address of its UI."""

    tables: Sequence[Table]
    records: Records
    figures: Sequence[Figure]
    verdicts: Sequence[Verdict]
    mlflow: str


def render_page(page: Page) -> str:
    """Render the page; equal arguments give equal text. Raise InputError if `mlflow` is not an http or https URL."""
    if not page.mlflow.startswith(("http://", "https://")):
        raise InputError(f'MLflow\'s address "{page.mlflow}" does not begin with http:// or https://')
    mlflow = page.mlflow.rstrip("/")
    views = [TableView(table, page.records, mlflow) for table in page.tables]
    cells = {i: cell for table in page.tables for i, cell in table.cells.items()}
    template = load_templates().get_template("page.html")
    return template.render(
        policy=_content_security_policy(),
        css=_read_template("page.css"),
        script=_read_template("page.js"),
        mlflow=mlflow,
        profiles=summarize_profiles(page.tables),
        compared=any(table.paper for table in page.tables),
        views=views,
        states=collect_states(views),
        shared=describe_shared_cells(page.tables),
        provenance=render_provenance(page.tables),
        figures=page.figures,
        verdicts=page.verdicts,
        other_data=any(not table.setting.matches_paper for table in page.tables),
        verdict_counts={side: Counter(getattr(v, side) for v in page.verdicts) for side in ("paper", "run")},
        questions=collect_open_questions(cells.values()),
        list_missing=list_missing,
        parse_state=parse_state,
        data_url=_make_data_url,
        inline_svg=inline_svg,
        render_csv=render_csv,
        environments=_count_environments([page.records[i] for i in cells if i in page.records]),
    )


def _read_template(name: str) -> str:
    """Return a file beside the templates; it must not contain the end tag of its element."""
    return files("pld_grid.report").joinpath("templates", name).read_text(encoding="utf-8")


def _content_security_policy() -> str:
    """Return a policy that allows no request, and only the page's own script and style, given by their digests."""

    def digest(name: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(_read_template(name).encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest('page.js')}; style-src {digest('page.css')}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _make_data_url(csv: str) -> str:
    """Return a URL that contains a CSV file."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(csv.encode()).decode()}"


def _count_environments(records: Iterable[CellRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the environments of the finished cells: a heading, then each value with its number of cells."""
    finished = [record for record in records if record.state == "finished"]
    made = [record.provenance for record in finished if record.provenance is not None]
    values = {
        "Code": [describe_version(shorten_commit(record.commit)) for record in finished],
        "Device": [f"{p.devices} x {p.device}" if p.devices > 1 else p.device for p in made],
        "Threads": [str(p.threads) for p in made],
        "Options": [
            name for p in made for name, on in (("channels last", p.channels_last), ("compiled", p.compile)) if on
        ],
    }
    for name in sorted({name for p in made for name in p.versions}):
        values[name] = [p.versions.get(name, "not recorded") for p in made]
    values["Not recorded"] = ["device, threads and libraries"] * (len(finished) - len(made))
    counts = {name: Counter(texts).items() for name, texts in values.items() if texts}
    return [(name, sorted(items, key=lambda item: (-item[1], item[0]))) for name, items in counts.items()]
