"""The report as one HTML page that needs nothing else: tables, claims, figures, ledger, environment.

Everything is readable without scripts; these add sorting, filters and another address of MLflow. The page's policy
forbids any request and any script or style but its own.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pld_grid.errors import InputError
from pld_grid.records import Record, Records
from pld_grid.report.claims.rules import ELSEWHERE, READING, RULES
from pld_grid.report.figures import Figure
from pld_grid.report.page_figure import inline_svg
from pld_grid.report.page_table import states_present, table_view
from pld_grid.report.sheets import provenance_csv, table_csv
from pld_grid.report.summary import NOT_THE_PAPERS, open_questions, other_experiments, shared_cells
from pld_grid.report.table import Table
from pld_grid.report.values import finished
from pld_grid.report.versions import version_of, version_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from pld_grid.report.claims import Verdict


@dataclass(frozen=True)
class Page:
    """What the page shows. `records` are by cell id; `mlflow` is the address of MLflow's UI, for the links to runs."""

    tables: Sequence[Table]
    records: Records
    figures: Sequence[Figure]
    verdicts: "Sequence[Verdict]"
    mlflow: str


def page_html(page: Page) -> str:
    """The whole page. Equal arguments give equal text. Raises InputError if `mlflow` is no http or https address."""
    if not page.mlflow.startswith(("http://", "https://")):
        raise InputError(f'MLflow\'s address "{page.mlflow}" does not begin with http:// or https://')
    mlflow = page.mlflow.rstrip("/")
    views = [table_view(table, page.records, mlflow) for table in page.tables]
    cells = {i: cell for table in page.tables for i, cell in table.cells.items()}
    environment = _environment()
    return environment.get_template("page.html").render(
        policy=_policy(),
        css=_text("page.css"),
        script=_text("page.js"),
        mlflow=mlflow,
        settings=_settings(page.tables),
        not_the_papers=NOT_THE_PAPERS,
        compared=any(table.paper for table in page.tables),
        tables=views,
        numbers=[finished(table.values) for table in page.tables],
        states=states_present(views),
        shared=shared_cells(page.tables),
        sheets=[_data_address(table_csv(table)) for table in page.tables],
        provenance=_data_address(provenance_csv(page.tables)),
        figures=[
            (figure, inline_svg(figure, f"drawing{place}."), _data_address(figure.csv))
            for place, figure in enumerate(page.figures)
        ],
        verdicts=page.verdicts,
        claim_rules=(READING, *RULES),
        elsewhere=ELSEWHERE if any(not table.setting.as_in_paper for table in page.tables) else "",
        verdict_counts={
            side: Counter(getattr(verdict, side) for verdict in page.verdicts) for side in ("paper", "run")
        },
        questions=open_questions(cells.values()),
        surroundings=_surroundings([page.records[i] for i in cells if i in page.records]),
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pld_grid.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    """A file beside the templates, as it is: it must not hold what would end its element."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy() -> str:
    """Nothing may be loaded, and only this page's own script and style count: they are named by their digests."""

    def digest(name: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(_text(name).encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest('page.js')}; style-src {digest('page.css')}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _data_address(csv: str) -> str:
    """A CSV file inside the page itself."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(csv.encode()).decode()}"


@dataclass(frozen=True)
class _Setting:
    """A profile on top of the page, its models, and warnings, each with the tables that it is about (empty: all)."""

    name: str
    description: str
    dataset: str
    models: dict[str, str]
    warnings: list[tuple[str, str]]


def _settings(tables: Sequence[Table]) -> list[_Setting]:
    """Of each profile what its numbers were made with."""
    profiles: dict[str, list[Table]] = {}
    for table in tables:
        profiles.setdefault(table.setting.profile, []).append(table)
    found = []
    for name, mine in profiles.items():
        warned: dict[str, list[str]] = {}
        for table in mine:
            text = other_experiments(table.setting, bool(table.paper))
            if text:
                warned.setdefault(text, []).append(table.title.partition(": ")[0])
        found.append(
            _Setting(
                name=name,
                description=mine[0].setting.description,
                dataset=mine[0].setting.dataset,
                models={known: text for table in mine for known, text in table.setting.models.items()},
                warnings=[("" if len(t) == len(mine) else ", ".join(t), text) for text, t in warned.items()],
            )
        )
    return found


def _surroundings(records: Iterable[Record]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Where and with what the finished cells were trained: a heading, then each value with its number of cells."""
    known = [record for record in records if record.state == "finished"]
    made = [record.provenance for record in known if record.provenance is not None]
    groups: list[tuple[str, Counter[str]]] = [
        ("Code", Counter(version_text(version_of(record.commit)) for record in known)),
        ("Device", Counter(f"{p.devices} x {p.device}" if p.devices > 1 else p.device for p in made)),
        ("Threads", Counter(str(p.threads) for p in made)),
    ]
    options: dict[str, Callable[[Any], bool]] = {
        "channels last": lambda p: p.channels_last,
        "compiled": lambda p: p.compile,
    }
    groups.append(("Options", Counter(name for name, holds in options.items() for p in made if holds(p))))
    for library in sorted({name for p in made for name in p.versions}):
        groups.append((library, Counter(p.versions.get(library, "not recorded") for p in made)))
    unknown = len(known) - len(made)
    if unknown:
        groups.append(("Not recorded", Counter({"device, threads and libraries": unknown})))
    ordered = [(name, sorted(counts.items(), key=lambda item: (-item[1], item[0]))) for name, counts in groups]
    return [(name, counts) for name, counts in ordered if counts]
