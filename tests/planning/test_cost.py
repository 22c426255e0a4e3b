from collections.abc import Callable
from typing import Any

import pytest
from cells import make_cell, make_distilled, make_measured

from pld_grid.experiment.cell import Cell, Loss, Model, Optimizer, Recipe
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import ByStudent, MachineSettings
from pld_grid.planning import calibration_file, cost_model
from pld_grid.planning.calibration_file import Calibration, Rate
from pld_grid.planning.cost_model import CostModel
from pld_grid.planning.plan import ExecutionPool, compare, make_plan
from pld_grid.store import Store

MakeGrid = Callable[..., Grid]
BASE = "teacher: ResNet-152, student: ResNet-50"


def make_calibration(*cells: Cell, **changes: Any) -> Calibration:
    """Return a calibration: 1 s per image for loading, 2 s for teachers, 10 s for students, 3 s for validation."""
    rates = {}
    for request in cost_model.collect_requests(cells):
        if request.kind == "loading":
            seconds, others = (1, 0.5, 7, 0), {"train_images": 150, "validation_images": 20}
        elif request.kind == "teacher":
            seconds, others = (2, 0, 11, 0), {"resident_bytes": 1000, "peak_bytes": 50}
        else:
            seconds, others = (10, 3, 13, 4), {"resident_bytes": 300, "peak_bytes": 70}
        names = ("train_seconds", "validation_seconds", "setup_seconds", "checkpoint_seconds")
        rates[request.key] = Rate(what=request.kind, **dict(zip(names, seconds, strict=True)), **others)
    fields: dict[str, Any] = {
        "device": "Abacus",
        "measured": "2026-11-23",
        "commit": "",
        "machine": MachineSettings(),
        "slots": 1,
        "memory_bytes": 10_000,
        "base_bytes": 5,
        "start_seconds": 100,
        "wave_seconds": 20,
        "rates": rates,
    }
    return Calibration(**(fields | changes))


def test_student_key_depends_on_choices_and_not_on_numbers():
    def key(**changes: Any) -> str:
        return cost_model.student_key(make_distilled(**changes))

    def pld(**changes: Any) -> Loss:
        return Loss(name="pld", hyperparameters={"tau": 1.0, "weights": "teacher"} | changes)

    same = {
        key(loss=pld()),
        key(loss=pld(tau=2.0)),
        key(loss=pld(), seed=3),
        key(loss=pld(), epochs=9),
        key(loss=pld(), optimizer=Optimizer(name="lamb", learning_rate=1.0)),
    }
    assert len(same) == 1
    recipe = make_cell().recipe
    others = [
        key(loss=pld(weights="uniform")),
        key(loss=Loss(name="kd")),
        key(loss=pld().model_copy(update={"standardization": "both"})),
        key(loss=pld(), optimizer=Optimizer(name="adan", learning_rate=0.005)),
        key(loss=pld(), student=Model(architecture="resnet50")),
        key(loss=pld(), student=Model(architecture="mobilenetv4_conv_small", options={"x": 1})),
        key(loss=pld(), recipe=recipe.model_copy(update={"micro_batch_size": 64})),
        key(loss=pld(), recipe=recipe.model_copy(update={"precision": "bfloat16"})),
    ]
    assert len({*same, *others}) == 9


def test_loading_key_depends_on_the_batches_and_not_on_the_seed():
    assert cost_model.loading_key(make_cell(seed=0)) == cost_model.loading_key(make_distilled(seed=5))
    other = Recipe(batch_size=64, micro_batch_size=64, mean=(0.3,), std=(0.4,))
    assert cost_model.loading_key(make_cell()) != cost_model.loading_key(make_cell(recipe=other))


def test_collect_requests_returns_every_part_once():
    cells = [make_distilled(seed=seed) for seed in range(3)] + [make_cell(), make_measured()]
    requests = cost_model.collect_requests(cells)
    assert sorted((r.kind, r.model.architecture) for r in requests if r.kind != "loading") == [
        ("student", "mobilenetv4_conv_small"),
        ("student", "mobilenetv4_conv_small"),
        # One part for the teacher that is trained here and the published one.
        ("teacher", "resnet152"),
    ]
    assert sum(r.kind == "loading" for r in requests) == 1


def test_costs_of_a_cohort_count_loading_and_teacher_once():
    cells = [make_distilled(), make_distilled(seed=1)]
    costs = CostModel(make_calibration(*cells))
    # 150 images are two batches of 64; there are three epochs.
    student = costs.student_cost(cells[0])
    assert student.seconds == 13 + 3 * (128 * 10 + 20 * 3 + 4)
    assert student.resident_bytes == 300
    shared = costs.shared_cost(cells)
    assert shared.seconds == 7 + 11 + 3 * (128 * (1 + 2) + 20 * 0.5) + 20 * 2
    # The peak of one student, which is more than the teacher's.
    assert shared.resident_bytes == 5 + 1000 + 70
    assert costs.memory_limit == int(cost_model.MEMORY_FRACTION * 10_000)


def test_costs_of_a_student_without_teacher_and_of_a_measurement():
    alone, measured = make_cell(), make_measured()
    costs = CostModel(make_calibration(alone, measured))
    assert costs.shared_cost([alone]).seconds == 7 + 3 * (128 + 20 * 0.5)
    assert costs.student_cost(measured).seconds == 11 + 20 * 2
    assert costs.shared_cost([measured]).seconds == 7 + 20 * 0.5


def test_costs_with_loader_processes_count_only_the_difference():
    cell = make_distilled()
    beside = MachineSettings(loader_workers=2)
    assert CostModel(make_calibration(cell, machine=beside)).shared_cost([cell]).seconds == 18 + 3 * (128 * 2 + 10) + 40
    slow = make_calibration(cell, machine=beside)
    slow.rates[cost_model.loading_key(cell)] = slow.rates[cost_model.loading_key(cell)].model_copy(
        update={"train_seconds": 30}
    )
    # Of 30 s, 2 s pass beside the teacher and 10 s beside the student.
    assert CostModel(slow).shared_cost([cell]).seconds == 18 + 3 * (128 * (18 + 2) + 10) + 40


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("device", "memory_bytes", 10**400),
        ("device", "base_bytes", -(10**30)),
        ("device", "slots", 10**400),
        ("device", "start_seconds", 1e308),
        ("device", "wave_seconds", 1e308),
        ("rate", "train_images", 10**30),
        ("rate", "train_images", -(10**30)),
        ("rate", "validation_images", 10**400),
        ("rate", "train_seconds", 1e308),
        ("rate", "resident_bytes", 10**400),
        ("rate", "peak_bytes", -1),
    ],
)
def test_find_calibration_with_numbers_out_of_range_ignores_the_file(tmp_path, part, key, value):
    cell, store = make_cell(), Store(tmp_path)
    valid = make_calibration(cell)
    calibration_file.save_calibration(store, valid)
    assert calibration_file.find_calibration(store, valid.machine) == valid
    first, rate = next(iter(valid.rates.items()))
    invalid = {key: value} if part == "device" else {"rates": {first: rate.model_copy(update={key: value})}}
    calibration_file.save_calibration(store, valid.model_copy(update=invalid))
    assert calibration_file.find_calibration(store, valid.machine) is None


def test_make_plan_with_more_slots_than_cells_uses_one_per_cell(grid):
    planned = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1]}}")
    costs = CostModel(make_calibration(*planned.cells(), memory_bytes=2**53))
    assert len(make_plan([planned], pools=ByStudent(ExecutionPool(slots=10**9, costs=costs))).pending) == 5


def test_student_cost_counts_each_checkpoint():
    cell = make_distilled()
    every, seldom = (CostModel(make_calibration(cell), MachineSettings(checkpoint_every=n)) for n in (1, 4))
    assert every.student_cost(cell).seconds - seldom.student_cost(cell).seconds == 3 * (4 - 1)


def test_make_plan_with_a_student_that_does_not_fit_isolates_it_without_forecast(grid):
    made = grid("cells: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [kd, pld]}")
    calibration = make_calibration(*made.cells())
    plan = make_plan([made], pools=ByStudent(ExecutionPool(costs=CostModel(calibration))))
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [4]
    students = [entry.cell for entry in made.entries]
    large = {cost_model.student_key(cell) for cell in students if "vit" in cell.student.architecture}
    rates = {k: Rate(what="vit", fits=False) if k in large else rate for k, rate in calibration.rates.items()}
    costs = CostModel(calibration.model_copy(update={"rates": rates}))
    plan = make_plan([made], pools=ByStudent(ExecutionPool(costs=costs)))
    assert sorted(len(cohort.cells) for cohort in plan.waves[1]) == [1, 1, 2]
    assert plan.forecast is None
    vits = {cell.cell_id for cell in students if "vit" in cell.student.architecture}
    assert make_plan([made], vits, pools=ByStudent(ExecutionPool(costs=costs))).forecast is not None


def test_costs_without_a_calibration_are_epochs():
    costs = CostModel()
    assert costs.student_cost(make_cell(epochs=7)) == (7, 0)
    assert 0 < costs.student_cost(make_measured()).seconds < 1
    assert costs.memory_limit is None
    assert {request.kind for request in costs.missing([make_distilled()])} == {"loading", "teacher", "student"}


def test_find_calibration_matches_device_and_settings(tmp_path):
    store, cell = Store(tmp_path), make_distilled()
    first, second = make_calibration(cell), make_calibration(cell, device="Slide rule", slots=2)
    machine = MachineSettings()
    assert calibration_file.find_calibration(store, machine) is None
    calibration_file.save_calibration(store, first)
    assert calibration_file.find_calibration(store, machine) == first
    calibration_file.save_calibration(store, second)
    assert calibration_file.find_calibration(store, machine) is None
    assert calibration_file.find_calibration(store, machine, "Slide rule") == second
    # The checkpoint interval does not change the speed of a part.
    assert calibration_file.find_calibration(store, MachineSettings(checkpoint_every=5), "Abacus") == first
    assert calibration_file.find_calibration(store, MachineSettings(cpus_per_cohort=2), "Abacus") is None
    calibration_file.save_calibration(store, first.model_copy(update={"slots": 9}))
    assert calibration_file.find_calibration(store, machine, "Abacus").slots == 9  # type: ignore[union-attr]
    for path in (tmp_path / calibration_file.FOLDER).glob("abacus*"):
        path.write_bytes(path.read_bytes()[:-20])
    assert calibration_file.find_calibration(store, machine, "Abacus") is None
    assert store.finished([cell]) == frozenset()


def make_grid(grid: MakeGrid, losses: str) -> Grid:
    return grid(f"cells: {{{BASE}, {losses}}}")


def test_forecast_equals_a_calculation_by_hand(grid):
    made = make_grid(grid, "loss: [kd, pld, dist]")
    students = [entry.cell for entry in made.entries]
    costs = CostModel(make_calibration(*made.cells()))
    teacher = students[0].teacher
    first = costs.shared_cost([teacher]).seconds + costs.student_cost(teacher).seconds
    second = costs.shared_cost(students).seconds + sum(costs.student_cost(cell).seconds for cell in students)
    forecast = make_plan([made], pools=ByStudent(ExecutionPool(costs=costs))).forecast
    assert forecast.seconds == pytest.approx(100 + 2 * 20 + first + second)
    assert forecast.busy_seconds == pytest.approx(first + second)
    after = make_plan([made], {teacher.cell_id}, pools=ByStudent(ExecutionPool(costs=costs))).forecast
    assert after.seconds == pytest.approx(100 + 20 + second)
    done = make_plan([made], {c.cell_id for c in made.cells()}, pools=ByStudent(ExecutionPool(costs=costs))).forecast
    assert done.seconds == 0


def test_compare_orders_forecasts_by_sharing(grid):
    one, two = make_grid(grid, "loss: [kd, pld]"), make_grid(grid, "loss: [kd, dist]")
    costs = CostModel(make_calibration(*one.cells(), *two.cells()))
    pools = ByStudent(ExecutionPool(costs=costs))
    forecasts = compare(make_plan([one, two], (), pools), [one, two])
    work = {name: forecast.busy_seconds for name, forecast in forecasts.items()}
    assert list(work) == ["as planned", "without sharing between grids", "without cohorts", "without either"]
    assert work["as planned"] < work["without cohorts"] < work["without either"]
    assert work["as planned"] < work["without sharing between grids"] < work["without either"]
    parts = [make_plan([grid], pools=ByStudent(ExecutionPool(slots=1, costs=costs))).forecast for grid in (one, two)]
    assert forecasts["without sharing between grids"].seconds == sum(f.seconds for f in parts if f is not None)


def test_forecast_with_an_unmeasured_part_is_none(grid):
    made, other = make_grid(grid, "loss: [kd, pld]"), make_grid(grid, "loss: [kd, dist]")
    costs = CostModel(make_calibration(*made.cells()))
    assert make_plan([made], pools=ByStudent(ExecutionPool(costs=costs))).forecast is not None
    assert make_plan([other], pools=ByStudent(ExecutionPool(costs=costs))).forecast is None
    pools = ByStudent(ExecutionPool(costs=costs))
    assert compare(make_plan([other], (), pools), [other]) == {}
    # The cost of finished cells is not needed.
    dist = {entry.cell.cell_id for entry in other.entries if entry.cell.loss.name == "dist"}
    assert make_plan([other], dist, pools=ByStudent(ExecutionPool(costs=costs))).forecast is not None


@pytest.mark.parametrize(("memory", "sizes"), [(10_000, [8]), (2_500, [3, 3, 2]), (1_700, [1] * 8), (10, [1] * 8)])
def test_make_plan_limits_cohorts_by_memory(grid, memory, sizes):
    made = make_grid(grid, "loss: kd, hyperparameters: {kd: {alpha: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}")
    plan = make_plan(
        [made], pools=ByStudent(ExecutionPool(costs=CostModel(make_calibration(*made.cells(), memory_bytes=memory))))
    )
    assert sorted((len(cohort.cells) for cohort in plan.waves[1]), reverse=True) == sizes


def test_make_plan_balances_slots_by_seconds_and_not_epochs(grid):
    """Of two students with the same number of epochs, one is ten times as slow."""
    made = grid(
        "cells:\n - {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld, dist]}\n"
        " - {teacher: ViT-Large/16, student: ViT-Small/16, loss: [kd, pld, dist]}\n"
    )
    calibration = make_calibration(*made.cells())
    slow = {cost_model.student_key(e.cell) for e in made.entries if "vit" in e.cell.student.architecture}
    rates = {k: r.model_copy(update={"train_seconds": 100.0}) if k in slow else r for k, r in calibration.rates.items()}
    costs = CostModel(calibration.model_copy(update={"rates": rates}))
    plan = make_plan([made], pools=ByStudent(ExecutionPool(slots=3, costs=costs)))
    waves = [[cohort.cells[0].student.architecture for cohort in wave] for wave in plan.waves]
    # Each slot trains one ViT, and one of them also the three fast students.
    assert sum("vit" in name for name in waves[1]) == 3
    assert "vit" in waves[1][0]
