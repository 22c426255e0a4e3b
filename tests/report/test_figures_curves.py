"""Learning curves and the cost figure: what they draw and count, from records with epochs."""

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from paper_records import PAPER, make_record, own_grid, table_grid

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.profile import Profile
from pld_grid.report.figures import draw_figures
from pld_grid.report.figures.cost_figure import Cost, count_cost
from pld_grid.report.figures.curve_data import Curves, collect_curves
from pld_grid.report.table_builder import build_table
from pld_grid.store import EpochRecord
from pld_grid.store.records import CellRecord

Profiles = Callable[[str], Profile]
Own = Callable[[str], tuple[Grid, dict[str, CellRecord]]]

PAIR = """
cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld], seed: [0, 1, 2]}
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Gain, minus: [PLD, KD]}
    - {header: Teacher, metric: top1, of: teacher}
"""
LIST = """
cells:
  - {teacher: ResNet-152, student: ResNet-50, loss: kd, hyperparameters: {kd: {alpha: [ALPHAS]}}}
  - {student: ResNet-50, loss: [ce, ls]}
table:
  rows: [loss, alpha]
  columns:
    - {header: Method, axis: loss}
    - {header: alpha, axis: alpha}
    - {header: Top-1, metric: top1}
    - {header: Top-5, metric: top5}
"""


def make_trained_record(cell: Cell, rate: float = 0.0, **changes: object) -> CellRecord:
    """Return a finished record with epochs towards its numbers, at `rate` images per second or a rate of its own."""
    record = make_record(cell)
    own = rate or float(int(cell.cell_id[:8], 16))
    epochs = tuple(
        EpochRecord(
            epoch=epoch,
            time=float(epoch),
            metrics={name: value * epoch / cell.epochs for name, value in record.metrics.items()}
            | {"images_per_second": own + epoch},
        )
        for epoch in range(1, cell.epochs + 1)
    )
    return replace(record, epochs=epochs, **changes)  # type: ignore[arg-type]


def all_trained(grids: Iterable[Grid]) -> dict[str, CellRecord]:
    return {cell.cell_id: make_trained_record(cell) for grid in grids for cell in grid.cells()}


@pytest.fixture
def own(profile: Profiles) -> Own:
    """Return a function that makes a grid from YAML and finished records of its cells."""

    def make(text: str) -> tuple[Grid, dict[str, CellRecord]]:
        grid = own_grid(text, profile("digits"))
        return grid, all_trained([grid])

    return make


def curves(grid: Grid, records: dict[str, CellRecord]) -> Curves:
    return collect_curves(grid, build_table(grid, records, PAPER), records)


def find_cell(grid: Grid, loss: str, seed: int) -> Cell:
    return next(e.cell for e in grid.entries if e.labels["loss"] == loss and e.cell.seed == seed)


def test_line_band_is_mean_minimum_and_maximum_over_seeds(own):
    grid, records = own(PAIR)
    (panel,) = curves(grid, records).panels
    # Neither the difference nor the teacher has a line.
    assert panel.title == "Student: ResNet-50" and [line.name for line in panel.lines] == ["KD", "PLD"]
    at_4 = [records[find_cell(grid, "kd", seed).cell_id].epochs[3].metrics["top1"] for seed in range(3)]
    assert panel.lines[0].band[3] == (4, statistics.fmean(at_4), min(at_4), max(at_4))
    assert len(panel.lines[0].band) == 10


@pytest.mark.parametrize("state", ["unfinished", "diverged", "failed"])
def test_collect_curves_takes_finished_curves_only_and_counts_the_others(own, state):
    grid, records = own(PAIR)
    stopped = find_cell(grid, "pld", 1)
    records[stopped.cell_id] = make_trained_record(stopped, state=state)
    result = curves(grid, records)
    assert [sorted(line.curves) for line in result.lines] == [[0, 1, 2], [0, 2]]
    assert "1 of 6 trainings have no finished curve and are not drawn." in result.caption
    assert "mean over seeds (up to 3), band from the least to the greatest" in result.caption


def test_curves_csv_is_every_epoch_of_every_cell_in_full(own):
    grid, records = own(PAIR)
    rows = list(csv.DictReader(io.StringIO(curves(grid, records).csv)))
    assert len(rows) == 2 * 3 * 10
    values = [float(row["Top-1 accuracy (%)"]) for row in rows if (row["line"], row["seed"]) == ("PLD", "2")]
    assert values == [epoch.metrics["top1"] for epoch in records[find_cell(grid, "pld", 2).cell_id].epochs]


def test_draw_figures_records_without_epochs_draw_nothing(own):
    grid, _ = own(PAIR)
    records = {cell.cell_id: make_record(cell) for cell in grid.cells()}
    table = build_table(grid, records)
    assert collect_curves(grid, table, records) is None and count_cost([table], records) is None
    assert draw_figures([grid], [table], records) == []


def test_panels_rows_with_one_number_are_lines_with_distinguishing_names(own):
    (panel,) = curves(*own(LIST.replace("ALPHAS", "0.1, 0.5"))).panels
    # Top-1 and Top-5 are of the same cells, so there is one line per row.
    assert [line.name for line in panel.lines] == ["kd, alpha=0.10", "kd, alpha=0.50", "ce", "ls"]


def test_panels_table_without_labels_has_one_line(own):
    grid, records = own("cells: {student: ResNet-50, loss: ce}\ntable: {columns: [{header: Top-1, metric: top1}]}")
    assert [line.name for line in curves(grid, records).lines] == ["(all)"]
    svg = draw_figures([grid], [build_table(grid, records)], records)[0].svg.decode()
    assert "<!-- (all) -->" in svg and "<!-- Epoch -->" in svg


def test_panels_too_many_lines_are_split_into_sweeps(own):
    rest, sweep = curves(*own(LIST.replace("ALPHAS", ", ".join(f"0.{n}" for n in range(9))))).panels
    assert (rest.title, rest.is_sweep, [line.name for line in rest.lines]) == ("", False, ["ce", "ls"])
    assert (sweep.title, sweep.is_sweep) == ("kd", True)
    assert [line.name for line in sweep.lines] == [f"alpha={n / 10:.2f}" for n in range(9)]


def test_panels_only_the_first_24_are_drawn(own):
    epochs = [100 * n for n in range(1, 14)]
    text = PAIR.replace("student: ResNet-50", f"student: ResNet-50, optimizer: [lamb, adamw], epochs: {epochs}")
    result = curves(*own(text.replace("[student]", "[student, optimizer, epochs]").replace("[0, 1, 2]", "0")))
    assert (len(result.panels), len(result.drawn_panels)) == (26, 24)
    assert result.caption.endswith("The first 24 of 26 panels are drawn; the data hold all.")


def test_curves_axis_is_the_tables_first_metric_on_a_log_scale_if_positive(profile):
    grid = table_grid("table10", profile("digits"))
    records = all_trained([grid])
    result = curves(grid, records)
    assert (result.label, result.log_scale, len(result.panels)) == ("KL(teacher || student) (nats)", True, 9)
    assert result.panels[0].name == "Setting: Homogeneous, Teacher: MobileNetV4-Large, Student: MobileNetV4-Medium"
    for cell_id, record in records.items():
        zeros = [epoch.model_copy(update={"metrics": dict.fromkeys(epoch.metrics, 0.0)}) for epoch in record.epochs]
        records[cell_id] = replace(record, epochs=tuple(zeros))
    assert not curves(grid, records).log_scale


# -- cost --------------------------------------------------------------------------------------------------------------


def costs(grids: list[Grid], records: dict[str, CellRecord]) -> Cost:
    return count_cost([build_table(grid, records) for grid in grids], records)


def test_count_cost_counts_shared_cells_and_cohorts(profile):
    text = "cells: {teacher: ResNet-152, student: ResNet-50, loss: [LOSSES]}"
    grids = [
        own_grid(text.replace("LOSSES", losses), profile("digits"), name)
        for name, losses in (("one", "ce, kd, pld"), ("two", "kd, pld, dist"))
    ]
    students = {str(e.labels["loss"]): e.cell for grid in grids for e in grid.entries}
    teacher = students["kd"].teacher
    # CE, KD and PLD are trained side by side, DIST alone; the teacher takes 20 epochs, students 10.
    records = {cell.cell_id: make_trained_record(cell, rate=100.0) for cell in students.values()}
    records[students["dist"].cell_id] = make_trained_record(students["dist"], rate=500.0)
    records[teacher.cell_id] = make_trained_record(teacher, rate=700.0)
    cost = costs(grids, records)
    assert cost.trainings == {"one": (1, 3), "two": (1, 3)} and cost.distinct == 5
    assert list(cost.epochs.values()) == [
        (2 * (3 * 10 + 20), 4 * 10 + 20, 4 * 10 + 20),
        (2 * (3 * 10 + 20), 4 * 10 + 20, 2 * 10 + 20),
        ((2 + 3) * 10, 3 * 10, 2 * 10),
    ]
    assert cost.caption.startswith("Left: 8 trainings, teachers' included, stand behind the tables; 5 were run.")
    assert "passes through a teacher,each table on its own,50" in cost.csv


def test_count_cost_seeds_never_share_batches_at_any_speed(own):
    grid, _ = own("cells: {student: ResNet-50, loss: ce, seed: [0, 1]}")
    cost = costs([grid], {cell.cell_id: make_trained_record(cell, rate=100.0) for cell in grid.cells()})
    assert list(cost.epochs.values()) == [(20, 20, 20), (20, 20, 20), (0, 0, 0)]


def test_count_cost_cells_without_recorded_epochs_are_left_out_and_counted(own):
    grid, records = own(PAIR)
    del records[find_cell(grid, "kd", 0).cell_id]
    cost = costs([grid], records)
    assert (cost.distinct, cost.unknown) == (6, 1)
    assert cost.caption.endswith("1 of 7 trainings have no recorded epochs and are left out.")
