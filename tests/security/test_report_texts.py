"""A report shows texts of grids, profiles, the store and MLflow; none of them becomes markup, script or TeX."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cells import stop
from service import PROFILE, Service

from pld_grid import api
from pld_grid.errors import InputError
from pld_grid.store import Store

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
    """What a browser would run or open by itself or on a click."""

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
    """A report of a hostile grid under a hostile profile, of whose cells one failed for a hostile reason."""
    folder = tmp_path_factory.mktemp("report")
    quoted = "'" + HOSTILE + "'"
    profile = PROFILE.replace("description: digits at 8 pixels, for tests", f"description: {quoted}")
    assert profile != PROFILE
    Service(folder, grid=GRID.format(text=quoted).replace("' x,", " x',"), profile=profile)
    grid = api.load_grid(folder / "losses.yaml", str(folder / "tiny.yaml"))
    stop(Store(folder / "store"), next(iter(grid.cells())), "failed", HOSTILE)
    api.report([grid], folder / "out", api.Workspace(str(folder / "store"), f"sqlite:///{folder / 'mlflow.db'}"))
    found = {p.name: p.read_text() for p in (folder / "out").rglob("*") if p.suffix in (".html", ".md", ".tex", ".svg")}
    assert {"index.html", "README.md", "losses.md", "losses.tex"} <= found.keys()
    assert all("alert(1)" in found[name] for name in ("index.html", "losses.md", "losses.tex"))
    return found


def test_a_page_runs_nothing_of_it(files: dict[str, str]) -> None:
    page = Page()
    page.feed(files["index.html"])
    assert page.active == []
    assert files["index.html"].count("&lt;script&gt;alert(1)") >= 3


def test_markdown_shows_it(files: dict[str, str]) -> None:
    for name in ("README.md", "losses.md"):
        outside_code = re.sub(r"`[^`\n]*`", "", files[name].replace("\\`", ""))
        assert "<script" not in outside_code
        assert "<img src=x" not in outside_code
        assert not re.search(r"(?<!\\)\]\(javascript:", outside_code)


def test_tex_prints_it(files: dict[str, str]) -> None:
    read = "\n".join(line for line in files["losses.tex"].splitlines() if not line.lstrip().startswith("%"))
    assert not re.search(r"\\(input|write)", read)
    assert r"\textbackslash{}input" in read


@pytest.mark.parametrize("place", ["title: T", "{header: A, axis: loss}"])
@pytest.mark.parametrize("end", [r"\n", r"\u2028"])
def test_a_text_stays_on_its_line(tmp_path: Path, place: str, end: str) -> None:
    """In TeX, a line's end ends a comment."""
    grid = GRID.format(text="A").replace("title: A", "title: T")
    assert place in grid
    hostile = place.replace("T", f'"x{end}y"').replace("A", f'"x{end}y"')
    Service(tmp_path, grid=grid.replace(place, hostile))
    loaded = api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))
    api.report([loaded], tmp_path / "out", api.Workspace(str(tmp_path / "s"), f"sqlite:///{tmp_path / 'm.db'}"))
    for name in ("losses.tex", "losses.md"):
        assert not re.search(r"^y", (tmp_path / "out" / name).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("written", [r"\e[2J", r"\r", r"\a", r"\x9b2J"])
def test_a_grid_has_no_control_characters(tmp_path: Path, written: str) -> None:
    """Its texts go to files and terminals."""
    Service(tmp_path, grid=GRID.format(text=f'"x{written}y"').replace('" x,', ' x",'))
    with pytest.raises(InputError, match=r"the control character .* has no place in a text") as refused:
        api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))
    assert str(refused.value).isprintable()


def test_a_terminal_shows_control_characters_instead_of_obeying(tmp_path: Path) -> None:
    service = Service(tmp_path)
    grid = api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))
    cell = next(iter(grid.cells()))
    stop(Store(service.store), cell, "failed", "cleared \x1b[2J titled \x1b]0;x\x07 \x9b2J over\rwritten")
    out, err = service.run("why", cell.cell_id, "--profile", "tiny.yaml")
    assert r"cleared \x1b[2J titled \x1b]0;x" in out
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err)
