"""Test that texts of grids, profiles, the store and MLflow never become markup, script or TeX in a report."""

import re
from html.parser import HTMLParser

import pytest
from cells import stop
from cli_process import PROFILE, Service

from pld_grid.service import report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.util.errors import InputError

pytestmark = pytest.mark.slow

HOSTILE = (
    r"<script>alert(1)</script> <img src=x onerror=alert(1)> \input{/etc/passwd} \write18{x} "
    r"[a](javascript:alert(1)) $x$ `x`"
)
GRID = """
description: {text}
cells: {{teacher: big, student: small, epochs: 2, loss: [ce, kd]}}
table:
  title: {text}
  rows: [loss]
  columns:
    - {{header: {text}, axis: loss}}
    - {{header: {text} x, metric: top1}}
"""


class Page(HTMLParser):
    """Collect what a browser would run or open, by itself or on a click."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self._scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._scripts += tag == "script"
        self.active += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        self.active += [
            f"{tag} {value}" for _, value in attrs if (value or "").lower().lstrip().startswith("javascript:")
        ]
        self.active += [f"{tag} {value}" for name, value in attrs if name == "src" and value == "x"]

    def handle_endtag(self, tag: str) -> None:
        self._scripts -= tag == "script"

    def handle_data(self, data: str) -> None:
        if self._scripts and "alert(1)" in data:
            self.active.append("script")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write a report of a hostile grid under a hostile profile, with a cell that failed for a hostile reason."""
    folder = tmp_path_factory.mktemp("report")
    quoted = "'" + HOSTILE + "'"
    profile = PROFILE.replace("description: digits at 8 pixels, for tests", f"description: {quoted}")
    assert profile != PROFILE
    grid = Service(folder, grid=GRID.format(text=quoted).replace("' x,", " x',"), profile=profile).load_grid()
    stop(Store(folder / "store"), next(iter(grid.cells())), "failed", HOSTILE)
    report_writer.write_report(
        [grid], folder / "out", Workspace(str(folder / "store"), f"sqlite:///{folder / 'mlflow.db'}")
    )
    texts = {p.name: p.read_text() for p in (folder / "out").rglob("*") if p.suffix in (".html", ".md", ".tex", ".svg")}
    assert {"index.html", "README.md", "losses.md", "losses.tex"} <= texts.keys()
    assert all("alert(1)" in texts[name] for name in ("index.html", "losses.md", "losses.tex"))
    return texts


def test_page_runs_no_foreign_script(files):
    page = Page()
    page.feed(files["index.html"])
    assert page.active == []
    assert files["index.html"].count("&lt;script&gt;alert(1)") >= 3


def test_markdown_escapes_foreign_markup(files):
    for name in ("README.md", "losses.md"):
        outside_code = re.sub(r"`[^`\n]*`", "", files[name].replace("\\`", ""))
        assert "<script" not in outside_code
        assert "<img src=x" not in outside_code
        assert not re.search(r"(?<!\\)\]\(javascript:", outside_code)


def test_latex_escapes_foreign_commands(files):
    read = "\n".join(line for line in files["losses.tex"].splitlines() if not line.lstrip().startswith("%"))
    assert not re.search(r"\\(input|write)", read)
    assert r"\textbackslash{}input" in read


@pytest.mark.parametrize("place", ["title: T", "{header: A, axis: loss}"])
@pytest.mark.parametrize("end", [r"\n", r"\u2028"])
def test_text_with_line_break_stays_on_one_line(tmp_path, place, end):
    """The end of a line would end a comment in TeX."""
    grid = GRID.format(text="A").replace("title: A", "title: T")
    assert place in grid
    hostile = place.replace("T", f'"x{end}y"').replace("A", f'"x{end}y"')
    loaded = Service(tmp_path, grid=grid.replace(place, hostile)).load_grid()
    report_writer.write_report(
        [loaded], tmp_path / "out", Workspace(str(tmp_path / "s"), f"sqlite:///{tmp_path / 'm.db'}")
    )
    for name in ("losses.tex", "losses.md"):
        assert not re.search(r"^y", (tmp_path / "out" / name).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("written", [r"\e[2J", r"\r", r"\a", r"\x9b2J"])
def test_grid_with_control_character_is_refused(tmp_path, written):
    """A grid's texts go to files and terminals."""
    service = Service(tmp_path, grid=GRID.format(text=f'"x{written}y"').replace('" x,', ' x",'))
    with pytest.raises(InputError, match=r"the control character .* has no place in a text") as refused:
        service.load_grid()
    assert str(refused.value).isprintable()


def test_terminal_escapes_control_characters(tmp_path):
    service = Service(tmp_path)
    cell = next(iter(service.load_grid().cells()))
    stop(Store(service.store), cell, "failed", "cleared \x1b[2J titled \x1b]0;x\x07 \x9b2J over\rwritten")
    out, err = service.run("why", cell.cell_id, "--profile", "tiny.yaml")
    assert r"cleared \x1b[2J titled \x1b]0;x" in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err)
