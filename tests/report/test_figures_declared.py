"""Figures that a grid declares: their numbers, captions and errors."""

import csv
import io
import re
from collections.abc import Callable

import pytest
from paper_records import PAPER, make_record, make_records, own_grid, table_grid

from pld_grid.experiment.grid import Grid
from pld_grid.experiment.profile import Profile
from pld_grid.report.figures import build_all_plots, draw_figures
from pld_grid.report.figures.plot_data import Plot, build_plots
from pld_grid.report.table_builder import build_table
from pld_grid.util.errors import InputError

Profiles = Callable[[str], Profile]

SWEEP = """
cells:
  - {teacher: ResNet-152, student: ResNet-50, loss: kd, hyperparameters: {kd: {alpha: [0.5, 0.1]}}, seed: [0, 1]}
  - {student: ResNet-50, loss: [ce, ls], seed: [0, 1]}
table:
  title: A sweep
  rows: [loss, alpha]
  columns:
    - {header: Method, axis: loss, names: {kd: KD, ce: CE}}
    - {header: alpha, axis: alpha, format: .2f}
    - {header: Top-1, metric: top1}
    - {header: KL, metric: kl_teacher_student}
    - {header: Size, parameters: student}
    - {header: Gap, minus: [Top-1, Top-1]}
  figures:
    - {name: sweep, title: KD's alpha, kind: lines, x: alpha, y: Top-1, series: Method, exclude: [{loss: ls}]}
"""

PAIRS = """
cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Gain, minus: [PLD, KD]}
  figures:
    - {name: pairs, title: KD and PLD, kind: bars, x: Student, y: [KD, PLD]}
"""


class Report:
    """A grid with records, its table, and the figure that it declares."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.records = grid, make_records([grid])
        self.paper = PAPER

    def fail(self, loss: str, *seeds: int) -> "Report":
        """Let the cells of a loss fail under these seeds, or under all."""
        cells = [entry.cell for entry in self.grid.entries if entry.labels["loss"] == loss]
        failed = [cell for cell in cells if not seeds or cell.seed in seeds]
        self.records |= {cell.cell_id: make_record(cell, "failed", reason="disk full") for cell in failed}
        return self

    @property
    def plot(self) -> Plot:
        (plot,) = build_plots(self.grid, build_table(self.grid, self.records, self.paper))
        return plot

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.plot.csv)))

    @property
    def svg(self) -> str:
        table = build_table(self.grid, self.records, self.paper)
        figures = {figure.name: figure for figure in draw_figures([self.grid], [table], self.records)}
        return figures[self.plot.layout.name].svg.decode()


Shipped, Own = Callable[..., Report], Callable[[str], Report]


@pytest.fixture
def shipped(profile: Profiles) -> Shipped:
    return lambda name, seeds=None, scale="digits": Report(table_grid(name, profile(scale), seeds))


@pytest.fixture
def own(profile: Profiles) -> Own:
    return lambda text: Report(own_grid(text, profile("digits")))


def test_build_plots_shows_the_tables_numbers(own):
    plot, table = own(SWEEP).plot, build_table(own(SWEEP).grid, own(SWEEP).records)
    assert [(name, list(series)) for name, series in plot.series.items()] == [("KD", ["0.10", "0.50"]), ("CE", [""])]
    assert plot.series["KD"]["0.50"] == table.rows[0].cells[2]
    assert (plot.label, plot.is_difference, plot.excluded) == ("Top-1 accuracy (%)", False, ("Method=ls",))


def test_plot_csv_is_in_full_beside_the_papers_figures_as_printed(shipped):
    report = shipped("table03")
    rows, label = report.rows, "Difference in top-1 accuracy (points)"
    assert len(rows) == 10 and {row["series"] for row in rows} == {"PLD − DIST", "PLD − KD"}
    assert [float(row.pop(label)) for row in rows] == [value.mean for value in report.plot.values]
    place = {"run dataset": "digits at 16x16, 10 classes", "run epochs": "10 (for 100)", "Student": "ViT-Small"}
    numbers = {"std": "-", "n": "1", "state": "finished", "paper": "0.72", "paper std": "-"}
    assert rows[0] == {**place, "series": "PLD − DIST", **numbers}


@pytest.mark.parametrize(
    ("seeds", "text", "bars"),
    [(1, "one seed, so no error bars", 0), (3, "mean ± sample standard deviation over 3 seeds", 10)],
)
def test_draw_plot_error_bars_need_seeds(shipped, seeds, text, bars):
    report = shipped("table04", seeds)
    assert text in report.plot.caption
    # matplotlib draws each error bar as a collection of one line.
    assert report.svg.count('<g id="LineCollection') == bars


def test_draw_plot_papers_numbers_have_a_panel_and_are_named_another_experiment(shipped):
    report = shipped("table05")
    ours, paper = "epochs 10 (for 100); 30 (for 300)", "ImageNet-1K at 224x224"
    assert ours in report.plot.caption
    assert f"Right: the paper's, on {paper}, another experiment with a scale of its own." in report.plot.caption
    svg = report.svg
    for line in ("ours: digits at 16x16, 10 classes", ours, f"paper: {paper}"):
        assert f"<!-- {line} -->" in svg


def test_draw_plot_papers_deviations_are_drawn_and_named(own, tmp_path):
    report = own(PAIRS.replace("table:", "table:\n  paper: own"))
    report.paper = tmp_path
    (tmp_path / "own.csv").write_text("Student,KD,KD std,PLD,Gain\nResNet-50,71.30,0.25,72.00,0.70\n")
    assert "Right: the paper's with the standard deviations that it prints, on ImageNet-1K" in report.plot.caption
    assert [row["paper std"] for row in report.rows] == ["0.25", "-"]
    assert report.svg.count('<g id="LineCollection') == 1


def test_draw_plot_numbers_of_other_code_are_marked_and_counted(own):
    report = own(PAIRS)
    kd = next(entry.cell for entry in report.grid.entries if entry.labels["loss"] == "kd")
    report.records[kd.cell_id] = make_record(kd, commit="fedcba9")
    assert "1 of 2 numbers come from other code than most of the table (†)." in report.plot.caption
    assert report.svg.count("†") == 1


def panels(svg):
    """Return the text of each panel, from left to right."""
    return re.split(r'<g id="axes_\d+">', svg)[1:]


def vertical_numbers(panel):
    """Return the numbers at the ticks of a panel's vertical axis."""
    return [found for tick in panel.split('id="ytick_')[1:] for found in re.findall(r"<!-- ([\d.]+) -->", tick)]


def test_draw_plot_papers_own_experiment_shares_its_axis(shipped):
    same, other = shipped("table05", scale="imagenet"), shipped("table05")
    assert "another experiment" not in same.plot.caption
    assert same.svg.count("<!-- Epochs -->") == 2
    # The numbers of the shared axis are drawn once, on the left.
    assert [len(numbers) > 3 for numbers in map(vertical_numbers, panels(same.svg))] == [True, False]
    assert [len(numbers) > 3 for numbers in map(vertical_numbers, panels(other.svg))] == [True, True]


def test_draw_plot_missing_numbers_leave_gaps_that_are_named_and_counted(shipped):
    report = shipped("table03").fail("kd")
    assert "5 of 10 numbers are missing (n/a)." in report.plot.caption
    assert "PLD − KD: ViT-Small n/a, ResNet-50 n/a" in report.plot.alt
    assert report.svg.count("<!-- n/a -->") == 5
    missing = [row for row in report.rows if row["state"] != "finished"]
    assert len(missing) == 5 and (missing[0]["state"], missing[0]["paper"]) == ("failed: disk full", "0.30")


def test_draw_plot_line_stops_at_a_missing_number(own):
    report = own(SWEEP).fail("ce").fail("kd", 1)
    cell = next(e.cell for e in report.grid.entries if e.labels.get("alpha") == 0.5 and e.cell.seed == 0)
    report.records[cell.cell_id] = make_record(cell, "unfinished")
    svg = report.svg
    assert all(f"<!-- {text} -->" in svg for text in ("KD", "n/a", "CE (n/a)"))
    assert "one seed, so no error bars" in report.plot.caption


def test_plot_caption_says_over_how_many_seeds(shipped):
    assert "over 2 to 3 seeds." in shipped("table03", 3).fail("kd", 2).plot.caption
    assert "over 1 to 3 seeds, none with one." in shipped("table03", 3).fail("kd", 1, 2).plot.caption


def test_draw_figures_without_any_number_draws_nothing(shipped):
    grid = shipped("table03").grid
    assert draw_figures([grid], [build_table(grid, {}, PAPER)], {}) == []


def test_build_plots_differences_of_rows_are_in_no_figure(shipped):
    assert shipped("table05").plot.x_values == ["100", "300"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x: alpha", "x: alhpa", '.x: "alhpa" is no column of labels; valid: Method, alpha (did you mean "alpha"?)'),
        ("x: alpha", "x: Top-1", '.x: "Top-1" is no column of labels'),
        ("y: Top-1, series: Method", "y: [Top-1, Top1]", '.y[1]: "Top1" is no column of measured numbers; valid: Gap'),
        ("y: Top-1", "y: Size", '.y: "Size" is no column of measured numbers'),
        ("series: Method", "series: Metod", '.series: "Metod" is no column of labels'),
        ("{loss: ls}]", "{los: ls}]", '.exclude[0].los: "los" is no axis or label of this grid'),
        ("{loss: ls}]", "{loss: l2}]", '.exclude[0].loss: unknown loss "l2"'),
        ("kind: lines", "kind: pie", '.kind: unknown value "pie"; valid: lines, bars'),
        ("name: sweep", "name: A sweep", ".name: must match"),
        ("y: Top-1", "y: [Top-1, KL]", "several `y` are series already"),
        # Errors that only the table shows; they, too, come before any training.
        (", series: Method, exclude: [{loss: ls}]", "", '.x: figure sweep: two rows read alpha=- in series "Top-1"'),
        ("x: alpha", "x: Method", '.x: figure sweep: lines need numbers, and Method is "KD"; use `kind: bars`'),
        ("y: Top-1, series: Method", "y: [Top-1, KL]", ".y: figure sweep: columns of different metrics cannot share"),
        ("{loss: ls}]", "{loss: ls}, {loss: ls}]", ".exclude[1]: excludes nothing: no row is all of this"),
        ("{loss: ls}]", "{student: ResNet-50}]", ".exclude[0]: excludes everything"),
    ],
)
def test_declared_figure_mistake_raises_one_line_with_its_place(own, old, new, message):
    with pytest.raises(InputError) as caught:
        build_all_plots([grid := own(SWEEP.replace(old, new)).grid], [build_table(grid, {})])
    text = str(caught.value)
    assert text.startswith("own.yaml:16: table.figures[0]") and message in text and "\n" not in text


@pytest.mark.parametrize("name", ["cost", "curves_own", "sweep"])
def test_build_all_plots_two_figures_of_one_name_raise(profile, name):
    grids = [own_grid(SWEEP.replace("name: sweep", f"name: {name}"), profile("digits"), n) for n in ("own", "other")]
    with pytest.raises(InputError, match=rf"\.yaml:16: .*\.name: another figure of the report is called {name}$"):
        build_all_plots(grids, [build_table(grid, {}) for grid in grids])


def test_build_plots_more_series_than_styles_raise(own):
    alphas = str([number / 10 for number in range(9)])
    text = SWEEP.replace("[0.5, 0.1]", alphas).replace("kind: lines, x: alpha", "kind: bars, x: Method")
    with pytest.raises(InputError, match="10 series are more than a reader can tell apart; 8 are the most"):
        _ = own(text.replace("series: Method", "series: alpha")).plot


def test_build_all_plots_papers_four_figures_are_declared_once(shipped):
    grids = [shipped(name).grid for name in ("table06", "table05", "table03", "table04")]
    plots = build_all_plots(grids, [build_table(grid, {}, PAPER) for grid in grids])
    kinds = {"figure1a": "lines", "figure1b": "lines", "figure2a": "bars", "figure2b": "bars"}
    assert {plot.layout.name: plot.layout.kind for plot in plots} == kinds and len(plots) == 4
    assert all(plot.has_paper for plot in plots)
