"""Figures as files: the same bytes anywhere, real images, and a page that links to them."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from itertools import combinations, cycle
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from synthetic import PAPER, own_grid, table_grid
from test_figures_curves import all_trained

from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import build_table, origin_of, report_files
from pld_grid.report.figures import Figure, declared_plots, draw, figures_markdown
from pld_grid.report.figures.canvas import LOOKS, looks
from pld_grid.report.figures.cost import cost_figure, cost_of
from pld_grid.report.figures.curve_drawing import curves_figure
from pld_grid.report.figures.curves import curves_of
from pld_grid.report.figures.drawing import declared_figure
from pld_grid.store import EpochRecord, Provenance

Profiles = Callable[[str], Profile]

REDRAW = """
import hashlib, pickle, sys
from pathlib import Path
from pld_grid.report.figures.cost import cost_figure
from pld_grid.report.figures.curve_drawing import curves_figure
from pld_grid.report.figures.drawing import declared_figure
plot, curves, cost = pickle.loads(Path(sys.argv[1]).read_bytes())
for figure in (declared_figure(plot), curves_figure(curves), cost_figure(cost)):
    for name, data in figure.files.items():
        print(name, hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def drawn(profile: Profiles) -> list[Figure]:
    """The figures of two tables, with three seeds."""
    grids = [table_grid(name, profile("digits"), seeds=3) for name in ("table03", "table05")]
    records = all_trained(grids)
    return draw(grids, [build_table(grid, records, PAPER) for grid in grids], records)


def test_all_figures_of_a_report(drawn: list[Figure]) -> None:
    names = ["figure1b", "figure2a", "curves_table03", "curves_table05", "cost"]
    assert [figure.name for figure in drawn] == names
    assert list(drawn[0].files) == ["figure1b.svg", "figure1b.png", "figure1b.csv"]
    assert all(figure.title and figure.alt and figure.caption.endswith(".") for figure in drawn)


def test_every_file_is_what_its_name_says(drawn: list[Figure]) -> None:
    for figure in drawn:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        with Image.open(BytesIO(figure.png)) as image:
            image.load()
            width, height = (float(root.attrib[side].removesuffix("pt")) * 2 for side in ("width", "height"))
            assert image.format == "PNG" and image.size == (int(width), int(height))
        lines = figure.csv.splitlines()
        assert len(lines) > 1 and len({line.count(",") for line in lines if '"' not in line}) <= 1
        for data in (figure.svg, figure.png):
            assert b"matplotlib.org" not in data and not re.search(rb"20[0-9]{2}-[0-9]{2}-[0-9]{2}", data)


def test_another_process_draws_the_same_bytes(profile: Profiles, tmp_path: Path) -> None:
    grid = table_grid("table04", profile("digits"), seeds=2)
    records = all_trained([grid])
    table = build_table(grid, records, PAPER)
    file = tmp_path / "data.pickle"
    plot, curves, cost = declared_plots([grid], [table])[0], curves_of(grid, table, records), cost_of([table], records)
    assert curves is not None and cost is not None
    file.write_bytes(pickle.dumps((plot, curves, cost)))
    here = (declared_figure(plot), curves_figure(curves), cost_figure(cost))
    there = subprocess.run(
        [sys.executable, "-c", REDRAW, str(file)], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"},
    ).stdout.splitlines()  # fmt: skip
    expected = [f"{name} {sha256(data).hexdigest()}" for each in here for name, data in each.files.items()]
    assert there == expected and len(expected) == 9


def test_nobody_elses_settings_change_a_figure_nor_are_changed(profile: Profiles, drawn: list[Figure]) -> None:
    import matplotlib as mpl

    grids = [table_grid(name, profile("digits"), seeds=3) for name in ("table03", "table05")]
    records = all_trained(grids)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        again = draw(grids, [build_table(grid, records, PAPER) for grid in grids], records)
        assert mpl.rcParams["font.size"] == 20
    assert again == drawn


def test_importing_figures_loads_no_matplotlib() -> None:
    code = "import sys, pld_grid.report.figures; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False False\n"


LETTERS = "漢字" * 45
EXTREME = f"""
cells:
  {{teacher: ResNet-152, student: ResNet-50, loss: kd, seed: [0, 1], hyperparameters: {{kd: {{alpha: [0.1, 0.2]}}}}}}
table:
  rows: [alpha, loss]
  columns:
    - {{header: Loss, axis: loss, names: {{kd: {LETTERS}}}}}
    - {{header: alpha, axis: alpha}}
    - {{header: "{LETTERS}", metric: METRIC}}
    - {{header: Gap, minus: ["{LETTERS}", "{LETTERS}"]}}
  figures:
    - {{name: lines, title: L, kind: lines, x: alpha, y: "{LETTERS}", series: Loss}}
    - {{name: bars, title: B, kind: bars, x: alpha, y: "{LETTERS}", series: Loss}}
"""


@pytest.mark.parametrize("metric", ["top1", "train_loss"])
@pytest.mark.parametrize("scale", [0.0, 1e-100, 1.0, 1e100])
def test_nothing_that_a_store_or_grid_may_hold_stops_or_warns(profile: Profiles, metric: str, scale: float) -> None:
    grid = own_grid(EXTREME.replace("METRIC", metric), profile("digits"))
    signs = cycle([scale, -scale, scale / 3])
    records = {}
    for cell_id in {cell.cell_id: cell for cell in grid.cells()}:
        last = {metric: next(signs)}
        epochs = [EpochRecord(epoch=e, time=0, metrics=last) for e in (0, 1, 100_000)]
        made = Provenance(commit="", versions={}, device="x", threads=2**53, devices=2**53, started=0, ended=1e11)
        records[cell_id] = Record(
            cell_id, "finished", "", 100_000, last, 2**53, "", "", epochs=tuple(epochs), provenance=made
        )
    files = report_files([grid], records, origin_of([grid]))
    assert {"figures/lines.png", "figures/bars.svg", "figures/curves_own.svg"} <= files.keys()


def test_the_page_links_every_file(drawn: list[Figure]) -> None:
    text = figures_markdown(drawn)
    links = set(re.findall(r"\]\(figures/([^)]+)\)", text))
    assert links == {name for figure in drawn for name in figure.files}
    assert text.startswith("## Figures\n") and text.count("\n### ") == len(drawn)
    assert "KL(teacher" not in text and figures_markdown([]) == ""


def test_looks_differ_in_more_than_colour() -> None:
    for one, other in combinations(LOOKS, 2):
        assert one.colour != other.colour and one.marker != other.marker
        assert one.dash != other.dash and one.hatch != other.hatch


def test_losses_keep_their_looks() -> None:
    pld, dist, kd = LOOKS[:3]
    assert looks(["KD", "DIST", "PLD"]) == [kd, dist, pld]
    assert looks(["PLD − DIST", "PLD − KD"]) == [dist, kd]
    assert looks(["DIST + std. logits", "KD + std. logits"]) == [dist, kd]
    assert looks(["KD, alpha=0", "KD, alpha=1", "PLD"]) == [kd, LOOKS[-1], pld]
    assert len({look.colour for look in looks([str(n) for n in range(8)])}) == 8
    assert len(looks([str(n) for n in range(20)])) == 20
