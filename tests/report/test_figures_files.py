"""The files of figures: the same bytes anywhere, valid images, and a page that links to them."""

import pickle
import re
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from itertools import combinations, cycle
from xml.etree import ElementTree

import pytest
from cli_process import run_python
from paper_records import PAPER, own_grid, table_grid
from PIL import Image
from test_figures_curves import all_trained

from pld_grid.experiment.profile import Profile
from pld_grid.report.figures import Figure, build_all_plots, draw_figures
from pld_grid.report.figures.cost_figure import count_cost, draw_cost
from pld_grid.report.figures.curve_data import collect_curves
from pld_grid.report.figures.curve_drawing import draw_curves
from pld_grid.report.figures.plot_drawing import draw_plot
from pld_grid.report.figures.style import STYLES, assign_styles, figure_style
from pld_grid.report.readme import render_readme
from pld_grid.report.records_file import Origin
from pld_grid.report.report_files import render_report
from pld_grid.report.table_builder import build_table
from pld_grid.store import EpochRecord, Provenance
from pld_grid.store.records import CellRecord

pytestmark = pytest.mark.slow

Profiles = Callable[[str], Profile]

REDRAW = """
import hashlib, pickle, sys
from pathlib import Path
from pld_grid.report.figures.cost_figure import draw_cost
from pld_grid.report.figures.curve_drawing import draw_curves
from pld_grid.report.figures.plot_drawing import draw_plot
plot, curves, cost = pickle.loads(Path(sys.argv[1]).read_bytes())
for figure in (draw_plot(plot), draw_curves(curves), draw_cost(cost)):
    for name, data in figure.files.items():
        print(name, hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def drawn(profile: Profiles) -> list[Figure]:
    """Return the figures of two tables, with three seeds."""
    grids = [table_grid(name, profile("digits"), seeds=3) for name in ("table03", "table05")]
    records = all_trained(grids)
    return draw_figures(grids, [build_table(grid, records, PAPER) for grid in grids], records)


def test_draw_figures_draws_all_figures_of_a_report(drawn):
    names = ["figure1b", "figure2a", "curves_table03", "curves_table05", "cost"]
    assert [figure.name for figure in drawn] == names
    assert list(drawn[0].files) == ["figure1b.svg", "figure1b.png", "figure1b.csv"]
    assert all(figure.title and figure.alt and figure.caption.endswith(".") for figure in drawn)


def test_figure_files_are_what_their_names_say(drawn):
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


def test_draw_figures_another_process_draws_the_same_bytes(profile, tmp_path):
    grid = table_grid("table04", profile("digits"), seeds=2)
    records = all_trained([grid])
    table = build_table(grid, records, PAPER)
    file = tmp_path / "data.pickle"
    (plot,) = build_all_plots([grid], [table])
    curves, cost = collect_curves(grid, table, records), count_cost([table], records)
    file.write_bytes(pickle.dumps((plot, curves, cost)))
    here = (draw_plot(plot), draw_curves(curves), draw_cost(cost))
    there = run_python(REDRAW, str(file), folder=tmp_path, PYTHONHASHSEED="1", TZ="Asia/Tokyo").splitlines()
    expected = [f"{name} {sha256(data).hexdigest()}" for each in here for name, data in each.files.items()]
    assert there == expected and len(expected) == 9


def test_draw_figures_ignores_and_keeps_matplotlibs_settings(profile, drawn):
    import matplotlib as mpl

    grids = [table_grid(name, profile("digits"), seeds=3) for name in ("table03", "table05")]
    records = all_trained(grids)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        again = draw_figures(grids, [build_table(grid, records, PAPER) for grid in grids], records)
        assert mpl.rcParams["font.size"] == 20
    assert again == drawn


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
def test_render_report_extreme_texts_and_numbers_never_warn(profile, metric, scale):
    grid = own_grid(EXTREME.replace("METRIC", metric), profile("digits"))
    signs = cycle([scale, -scale, scale / 3])
    records = {}
    for cell_id in {cell.cell_id: cell for cell in grid.cells()}:
        last = {metric: next(signs)}
        epochs = [EpochRecord(epoch=e, time=0, metrics=last) for e in (0, 1, 100_000)]
        made = Provenance(commit="", versions={}, device="x", threads=2**53, devices=2**53, started=0, ended=1e11)
        records[cell_id] = CellRecord(
            cell_id, "finished", "", 100_000, last, 2**53, "", "", epochs=tuple(epochs), provenance=made
        )
    files = render_report([grid], records, Origin.from_grids([grid]))
    assert {"figures/lines.png", "figures/bars.svg", "figures/curves_own.svg"} <= files.keys()


def test_render_readme_links_every_file_of_the_figures(drawn):
    text = render_readme([], figures=drawn)
    links = set(re.findall(r"\]\(figures/([^)]+)\)", text))
    assert links == {name for figure in drawn for name in figure.files}
    assert text.count("\n### ") == len(drawn)
    assert "KL(teacher" not in text and "## Figures" not in render_readme([])


def test_styles_differ_in_more_than_color():
    for one, other in combinations(STYLES, 2):
        assert one.color != other.color and one.marker != other.marker
        assert one.linestyle != other.linestyle and one.hatch != other.hatch


def test_assign_styles_losses_keep_their_styles():
    pld, dist, kd = STYLES[:3]
    assert assign_styles(["KD", "DIST", "PLD"]) == [kd, dist, pld]
    assert assign_styles(["PLD − DIST", "PLD − KD"]) == [dist, kd]
    assert assign_styles(["DIST + std. logits", "KD + std. logits"]) == [dist, kd]
    assert assign_styles(["KD, alpha=0", "KD, alpha=1", "PLD"]) == [kd, STYLES[-1], pld]
    assert len({style.color for style in assign_styles([str(n) for n in range(8)])}) == 8
    assert len(assign_styles([str(n) for n in range(20)])) == 20


def test_draw_figures_keeps_the_callers_backend():
    import matplotlib as mpl

    backend = mpl.get_backend()
    mpl.use("svg")
    try:
        with figure_style():
            pass
        assert mpl.get_backend() == "svg"
    finally:
        mpl.use(backend)
