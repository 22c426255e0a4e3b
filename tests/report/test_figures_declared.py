"""Figures that a grid declares: which numbers they show, what their captions say, and what is refused."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import PAPER, make_record, own_grid, records_of, table_grid

from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import build_table
from pld_grid.report.figures import declared_plots, draw
from pld_grid.report.figures.declared import Plot, plots

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


def one_plot(grid: Grid, records: dict[str, Record]) -> Plot:
    (plot,) = plots(grid, build_table(grid, records, PAPER))
    return plot


def lost(grid: Grid, records: dict[str, Record], loss: str, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Record]:
    """The records after the cells of a loss have failed."""
    failed = [e.cell for e in grid.entries if e.labels["loss"] == loss and e.cell.seed in seeds]
    return records | {cell.cell_id: make_record(cell, "failed", reason="disk full") for cell in failed}


def svg_of(grid: Grid, records: dict[str, Record], name: str) -> str:
    figures = draw([grid], [build_table(grid, records, PAPER)], records)
    return next(figure for figure in figures if figure.name == name).svg.decode()


def test_a_figure_shows_the_tables_numbers(profile: Profiles) -> None:
    grid = own_grid(SWEEP, profile("digits"))
    records = records_of([grid])
    plot = one_plot(grid, records)
    assert [(s.name, [mark.x for mark in s.marks]) for s in plot.series] == [("KD", ["0.10", "0.50"]), ("CE", [""])]
    table = build_table(grid, records)
    assert plot.series[0].marks[1].value == table.rows[0].cells[2]
    assert (plot.label, plot.difference, plot.left_out) == ("Top-1 accuracy (%)", False, ("Method=ls",))


def test_the_data_are_in_full_beside_the_papers_as_printed(profile: Profiles) -> None:
    grid = table_grid("table03", profile("digits"))
    plot = one_plot(grid, records_of([grid]))
    rows = list(csv.DictReader(io.StringIO(plot.csv)))
    label = "Difference in top-1 accuracy (points)"
    assert len(rows) == 10 and {row["series"] for row in rows} == {"PLD − DIST", "PLD − KD"}
    assert [float(row[label]) for row in rows] == [value.mean for value in plot.values]
    assert rows[0] | {label: ""} == {
        "run dataset": "digits at 16x16, 10 classes", "run epochs": "10 (for 100)", "Student": "ViT-Small",
        "series": "PLD − DIST", label: "", "std": "-", "n": "1", "state": "finished", "paper": "0.72", "paper std": "-",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "said", "bars"),
    [(1, "one seed, so no error bars", 0), (3, "mean ± sample standard deviation over 3 seeds", 10)],
)
def test_error_bars_need_seeds(profile: Profiles, seeds: int, said: str, bars: int) -> None:
    grid = table_grid("table04", profile("digits"), seeds=seeds)
    records = records_of([grid])
    assert said in one_plot(grid, records).caption
    # matplotlib draws each error bar as a collection of one line.
    assert svg_of(grid, records, "figure2b").count('<g id="LineCollection') == bars


def test_the_papers_numbers_stand_apart_and_are_named_another_experiment(profile: Profiles) -> None:
    grid = table_grid("table05", profile("digits"))
    records = records_of([grid])
    caption, svg = one_plot(grid, records).caption, svg_of(grid, records, "figure1b")
    assert "epochs 10 (for 100); 30 (for 300)" in caption
    assert "Right: the paper's, on ImageNet-1K at 224x224, another experiment with a scale of its own." in caption
    panels = ("ours: digits at 16x16, 10 classes", "epochs 10 (for 100); 30 (for 300)", "paper: ImageNet-1K at 224x224")
    for line in panels:
        assert f"<!-- {line} -->" in svg


def test_the_papers_own_deviations_are_drawn_and_named(profile: Profiles, tmp_path: Path) -> None:
    text = PAIRS.replace("table:", "table:\n  paper: own")
    grid = own_grid(text, profile("digits"))
    (tmp_path / "own.csv").write_text("Student,KD,KD std,PLD,Gain\nResNet-50,71.30,0.25,72.00,0.70\n")
    records = records_of([grid])
    table = build_table(grid, records, tmp_path)
    (plot,) = plots(grid, table)
    assert "Right: the paper's with the standard deviations that it prints, on ImageNet-1K" in plot.caption
    assert [row["paper std"] for row in csv.DictReader(io.StringIO(plot.csv))] == ["0.25", "-"]
    (figure,) = draw([grid], [table], records)
    assert figure.svg.decode().count('<g id="LineCollection') == 1


def test_numbers_of_other_code_are_marked_and_counted(profile: Profiles) -> None:
    grid = own_grid(PAIRS, profile("digits"))
    records = records_of([grid])
    kd = next(entry.cell for entry in grid.entries if entry.labels["loss"] == "kd")
    records[kd.cell_id] = make_record(kd, commit="fedcba9")
    plot = one_plot(grid, records)
    assert "1 of 2 numbers come from other code than most of the table (†)." in plot.caption
    assert svg_of(grid, records, "pairs").count("†") == 1


def test_the_papers_own_experiment_shares_its_scale(profile: Profiles) -> None:
    grid = table_grid("table05", profile("imagenet"))
    records = records_of([grid])
    assert "another data set" not in one_plot(grid, records).caption
    # The numbers of the shared axis stand once.
    assert svg_of(grid, records, "figure1b").count("<!-- Epochs -->") == 2
    ours, shared = (svg_of(g, records_of([g]), "figure1b") for g in (table_grid("table05", profile("digits")), grid))
    assert shared.count('id="ytick_') < ours.count('id="ytick_')


def test_missing_numbers_leave_gaps_that_are_named_and_counted(profile: Profiles) -> None:
    grid = table_grid("table03", profile("digits"))
    records = lost(grid, records_of([grid]), "kd")
    plot = one_plot(grid, records)
    assert "5 of 10 numbers are missing (n/a)." in plot.caption
    assert "PLD − KD: ViT-Small n/a, ResNet-50 n/a" in plot.alt
    assert svg_of(grid, records, "figure2a").count("<!-- n/a -->") == 5
    missing = [row for row in csv.DictReader(io.StringIO(plot.csv)) if row["state"] != "finished"]
    assert len(missing) == 5 and missing[0]["state"] == "failed: disk full" and missing[0]["paper"] == "0.30"


def test_a_line_is_not_drawn_through_a_missing_number(profile: Profiles) -> None:
    grid = own_grid(SWEEP, profile("digits"))
    records = lost(grid, lost(grid, records_of([grid]), "ce"), "kd", seeds=(1,))
    some = next(e.cell for e in grid.entries if e.labels.get("alpha") == 0.5 and e.cell.seed == 0)
    records[some.cell_id] = make_record(some, "unfinished")
    svg = svg_of(grid, records, "sweep")
    assert "<!-- KD -->" in svg and "<!-- n/a -->" in svg and "<!-- CE (n/a) -->" in svg
    assert "one seed, so no error bars" in one_plot(grid, records).caption


def test_some_seeds_missing_says_how_many_there_are(profile: Profiles) -> None:
    grid = table_grid("table03", profile("digits"), seeds=3)
    records = records_of([grid])
    assert "over 2 to 3 seeds." in one_plot(grid, lost(grid, records, "kd", (2,))).caption
    assert "over 1 to 3 seeds, none with one." in one_plot(grid, lost(grid, records, "kd", (1, 2))).caption


def test_a_figure_without_any_number_is_left_out(profile: Profiles) -> None:
    grid = table_grid("table03", profile("digits"))
    assert draw([grid], [build_table(grid, {}, PAPER)], {}) == []


def test_differences_of_rows_are_in_no_figure(profile: Profiles) -> None:
    grid = table_grid("table05", profile("digits"))
    assert one_plot(grid, {}).places == ["100", "300"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("x: alpha", "x: alhpa", '.x: "alhpa" is no column of labels; valid: Method, alpha (did you mean "alpha"?)'),
        ("x: alpha", "x: Top-1", '.x: "Top-1" is no column of labels'),
        (
            "y: Top-1, series: Method",
            "y: [Top-1, Top1]",
            '.y[1]: "Top1" is no column of measured numbers; valid: Gap, KL, Top-1',
        ),
        ("y: Top-1", "y: Size", '.y: "Size" is no column of measured numbers'),
        ("series: Method", "series: Metod", '.series: "Metod" is no column of labels'),
        ("{loss: ls}]", "{los: ls}]", '.exclude[0].los: "los" is no axis or label of this grid'),
        ("{loss: ls}]", "{loss: l2}]", '.exclude[0].loss: unknown loss "l2"'),
        ("kind: lines", "kind: pie", '.kind: unknown value "pie"; valid: lines, bars'),
        ("name: sweep", "name: A sweep", ".name: must match"),
        ("y: Top-1", "y: [Top-1, KL]", "several `y` are series already"),
    ],
)
def test_mistakes_are_found_where_they_stand(profile: Profiles, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        own_grid(SWEEP.replace(old, new), profile("digits"))
    message = str(caught.value)
    assert message.startswith("own.yaml:16: table.figures[0]") and said in message and "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", series: Method, exclude: [{loss: ls}]", "", '.x: figure sweep: two rows read alpha=- in series "Top-1"'),
        ("x: alpha", "x: Method", '.x: figure sweep: lines need numbers, and Method is "KD"; use `kind: bars`'),
        ("y: Top-1, series: Method", "y: [Top-1, KL]", ".y: figure sweep: columns of different metrics cannot share"),
        ("{loss: ls}]", "{loss: ls}, {loss: ls}]", ".exclude[1]: excludes nothing: no row is all of this"),
        ("{loss: ls}]", "{student: ResNet-50}]", ".exclude[0]: excludes everything"),
    ],
)  # fmt: skip
def test_what_only_the_table_shows_is_refused_before_any_training(
    profile: Profiles, old: str, new: str, said: str
) -> None:
    grid = own_grid(SWEEP.replace(old, new), profile("digits"))
    with pytest.raises(InputError) as caught:
        declared_plots([grid], [build_table(grid, {})])
    assert str(caught.value).startswith(f"own.yaml:16: table.figures[0]{said}")


@pytest.mark.parametrize("name", ["cost", "curves_own", "sweep"])
def test_two_figures_of_one_name_are_refused(profile: Profiles, name: str) -> None:
    grids = [own_grid(SWEEP.replace("name: sweep", f"name: {name}"), profile("digits"), n) for n in ("own", "other")]
    with pytest.raises(InputError, match=rf"\.yaml:16: .*\.name: another figure of the report is called {name}$"):
        declared_plots(grids, [build_table(grid, {}) for grid in grids])


def test_more_series_than_looks_are_refused(profile: Profiles) -> None:
    many = ", ".join(str(number / 10) for number in range(9))
    text = SWEEP.replace("[0.5, 0.1]", f"[{many}]").replace("kind: lines, x: alpha", "kind: bars, x: Method")
    grid = own_grid(text.replace("series: Method", "series: alpha"), profile("digits"))
    with pytest.raises(InputError, match="10 series are more than a reader can tell apart; 8 are the most"):
        declared_plots([grid], [build_table(grid, {})])


def test_the_papers_four_figures_are_declared_once(profile: Profiles) -> None:
    grids = [table_grid(name, profile("digits")) for name in ("table06", "table05", "table03", "table04")]
    found = declared_plots(grids, [build_table(grid, {}, PAPER) for grid in grids])
    assert [plot.layout.name for plot in found] == ["figure1a", "figure1b", "figure2a", "figure2b"]
    assert [plot.layout.kind for plot in found] == ["lines", "lines", "bars", "bars"]
    assert all(plot.has_paper for plot in found)
