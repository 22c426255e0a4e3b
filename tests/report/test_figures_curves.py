"""Learning curves and the cost figure: what is counted and drawn, from records with epochs."""

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from synthetic import PAPER, make_record, own_grid, table_grid

from pld_grid.grid import Grid
from pld_grid.layout import Metric
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import Table, build_table
from pld_grid.report.figures import draw
from pld_grid.report.figures.cost import Cost, cost_of
from pld_grid.report.figures.curves import Curves, curves_of
from pld_grid.report.figures.quantities import QUANTITIES
from pld_grid.spec import Cell
from pld_grid.store import EpochRecord

Profiles = Callable[[str], Profile]

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


def trained(cell: Cell, rate: float = 0.0, **changes: object) -> Record:
    """A finished record with a curve towards its numbers; `rate` images per second in every epoch, or its own."""
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


def all_trained(grids: Iterable[Grid]) -> dict[str, Record]:
    return {cell.cell_id: trained(cell) for grid in grids for cell in grid.cells()}


def curves(grid: Grid, records: dict[str, Record]) -> Curves:
    found = curves_of(grid, build_table(grid, records, PAPER), records)
    assert found is not None
    return found


def test_a_line_is_the_mean_over_seeds_between_the_least_and_the_greatest(profile: Profiles) -> None:
    grid = own_grid(PAIR, profile("digits"))
    records = all_trained([grid])
    (panel,) = curves(grid, records).panels
    # Neither the difference nor the teacher has a line.
    assert panel.title == "Student: ResNet-50" and [line.name for line in panel.lines] == ["KD", "PLD"]
    at_4 = [records[e.cell.cell_id].epochs[3].metrics["top1"] for e in grid.entries if e.labels["loss"] == "kd"]
    assert panel.lines[0].band[3] == (4, statistics.fmean(at_4), min(at_4), max(at_4))
    assert len(panel.lines[0].band) == 10


@pytest.mark.parametrize("state", ["unfinished", "diverged", "failed"])
def test_only_finished_curves_are_drawn_and_the_others_counted(profile: Profiles, state: str) -> None:
    grid = own_grid(PAIR, profile("digits"))
    records = all_trained([grid])
    stopped = next(e.cell for e in grid.entries if e.labels["loss"] == "pld" and e.cell.seed == 1)
    records[stopped.cell_id] = trained(stopped, state=state)
    found = curves(grid, records)
    assert [sorted(line.curves) for line in found.lines] == [[0, 1, 2], [0, 2]]
    assert "1 of 6 trainings have no finished curve and are not drawn." in found.caption
    assert "mean over seeds (up to 3), band from the least to the greatest" in found.caption


def test_the_data_are_every_epoch_of_every_cell_in_full(profile: Profiles) -> None:
    grid = own_grid(PAIR, profile("digits"))
    records = all_trained([grid])
    rows = list(csv.DictReader(io.StringIO(curves(grid, records).csv)))
    assert len(rows) == 2 * 3 * 10
    cell = next(e.cell for e in grid.entries if e.labels["loss"] == "pld" and e.cell.seed == 2)
    mine = [float(r["Top-1 accuracy (%)"]) for r in rows if (r["line"], r["seed"]) == ("PLD", "2")]
    assert mine == [each.metrics["top1"] for each in records[cell.cell_id].epochs]


def test_a_table_without_curves_gets_no_figure(profile: Profiles) -> None:
    grid = own_grid(PAIR, profile("digits"))
    records = {cell.cell_id: make_record(cell) for cell in grid.cells()}
    table = build_table(grid, records)
    assert curves_of(grid, table, records) is None and cost_of([table], records) is None
    assert draw([grid], [table], records) == []


def test_rows_with_one_number_are_lines_named_by_what_tells_them_apart(profile: Profiles) -> None:
    grid = own_grid(LIST.replace("ALPHAS", "0.1, 0.5"), profile("digits"))
    (panel,) = curves(grid, all_trained([grid])).panels
    # Top-1 and Top-5 are of the same cells, so there is one line a row.
    assert [line.name for line in panel.lines] == ["kd, alpha=0.10", "kd, alpha=0.50", "ce", "ls"]


def test_a_table_without_labels_has_one_nameless_line(profile: Profiles) -> None:
    grid = own_grid(
        "cells: {student: ResNet-50, loss: ce}\ntable: {columns: [{header: Top-1, metric: top1}]}", profile("digits")
    )
    records = all_trained([grid])
    assert [line.name for line in curves(grid, records).lines] == ["(all)"]
    svg = draw([grid], [build_table(grid, records)], records)[0].svg.decode()
    assert "<!-- (all) -->" in svg and "<!-- Epoch -->" in svg


def test_too_many_lines_make_panels_of_sweeps(profile: Profiles) -> None:
    grid = own_grid(LIST.replace("ALPHAS", ", ".join(f"0.{n}" for n in range(9))), profile("digits"))
    rest, sweep = curves(grid, all_trained([grid])).panels
    assert (rest.title, [line.name for line in rest.lines]) == ("", ["ce", "ls"]) and not rest.shaded
    assert sweep.title == "kd" and sweep.shaded
    assert [line.name for line in sweep.lines] == [f"alpha={n / 10:.2f}" for n in range(9)]


def test_no_picture_has_more_panels_than_can_be_seen(profile: Profiles) -> None:
    pair = PAIR.replace("student: ResNet-50", "student: ResNet-50, optimizer: [lamb, adamw], epochs: [EPOCHS]")
    text = pair.replace("[student]", "[student, optimizer, epochs]").replace("[0, 1, 2]", "0")
    epochs = ", ".join(str(100 * n) for n in range(1, 14))
    grid = own_grid(text.replace("EPOCHS", epochs), profile("digits"))
    found = curves(grid, all_trained([grid]))
    assert len(found.panels) == 26 and len(found.drawn) == 24
    assert found.caption.endswith("The first 24 of 26 panels are drawn; the data hold all.")


def test_the_axis_is_the_metric_that_the_table_shows(profile: Profiles) -> None:
    grid = table_grid("table10", profile("digits"))
    found = curves(grid, all_trained([grid]))
    assert found.label == "KL(teacher || student) (nats)" and found.by_ratio and len(found.panels) == 9
    assert found.panels[0].name == "Setting: Homogeneous, Teacher: MobileNetV4-Large, Student: MobileNetV4-Medium"
    nothing = {i: replace(r, epochs=tuple(_zero(e) for e in r.epochs)) for i, r in all_trained([grid]).items()}
    assert not curves(grid, nothing).by_ratio


def _zero(epoch: EpochRecord) -> EpochRecord:
    return EpochRecord(epoch=epoch.epoch, time=epoch.time, metrics=dict.fromkeys(epoch.metrics, 0.0))


def test_every_metric_of_a_table_has_a_name_and_a_unit() -> None:
    assert set(QUANTITIES) == set(Metric.__args__)  # type: ignore[attr-defined]
    assert QUANTITIES["top1"].label(difference=True) == "Difference in top-1 accuracy (points)"


# -- cost --------------------------------------------------------------------------------------------------------------


def costs(grids: list[Grid], records: dict[str, Record]) -> Cost:
    tables: list[Table] = [build_table(grid, records) for grid in grids]
    found = cost_of(tables, records)
    assert found is not None
    return found


def test_shared_cells_and_cohorts_are_counted_from_the_records(profile: Profiles) -> None:
    text = "cells: {teacher: ResNet-152, student: ResNet-50, loss: [LOSSES]}"
    grids = [
        own_grid(text.replace("LOSSES", losses), profile("digits"), name)
        for name, losses in (("one", "ce, kd, pld"), ("two", "kd, pld, dist"))
    ]
    students = {str(e.labels["loss"]): e.cell for grid in grids for e in grid.entries}
    teacher = students["kd"].teacher
    assert teacher is not None
    # CE, KD and PLD went side by side, DIST alone; the teacher takes 20 epochs, students 10.
    records = {cell.cell_id: trained(cell, rate=100.0) for cell in students.values()}
    records[students["dist"].cell_id] = trained(students["dist"], rate=500.0)
    records[teacher.cell_id] = trained(teacher, rate=700.0)
    found = costs(grids, records)
    assert found.trainings == {"one": (1, 3), "two": (1, 3)} and found.distinct == 5
    assert list(found.epochs.values()) == [
        (2 * (3 * 10 + 20), 4 * 10 + 20, 4 * 10 + 20),
        (2 * (3 * 10 + 20), 4 * 10 + 20, 2 * 10 + 20),
        ((2 + 3) * 10, 3 * 10, 2 * 10),
    ]
    assert found.caption.startswith("Left: 8 trainings, teachers' included, stand behind the tables; 5 were run.")
    assert "passes through a teacher,each table on its own,50" in found.csv


def test_seeds_never_share_batches_however_fast_they_were(profile: Profiles) -> None:
    grid = own_grid("cells: {student: ResNet-50, loss: ce, seed: [0, 1]}", profile("digits"))
    found = costs([grid], {cell.cell_id: trained(cell, rate=100.0) for cell in grid.cells()})
    assert list(found.epochs.values()) == [(20, 20, 20), (20, 20, 20), (0, 0, 0)]


def test_what_has_no_recorded_epochs_is_said_to_be_left_out(profile: Profiles) -> None:
    grid = own_grid(PAIR, profile("digits"))
    records = all_trained([grid])
    lost = next(e.cell for e in grid.entries if e.labels["loss"] == "kd")
    del records[lost.cell_id]
    found = costs([grid], records)
    assert (found.distinct, found.unknown) == (6, 1)
    assert found.caption.endswith("1 of 7 trainings have no recorded epochs and are left out.")
