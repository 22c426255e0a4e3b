from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell, make_distilled, make_measured

from pld_grid import cost
from pld_grid.cost import Calibration, Costs, Rate
from pld_grid.grid import Grid
from pld_grid.machine import ByStudent, MachineSettings
from pld_grid.plan import Room, compare, make_plan
from pld_grid.spec import Cell, Loss, Model, Optimizer, Recipe
from pld_grid.store import Store

MakeGrid = Callable[..., Grid]
BASE = "teacher: ResNet-152, student: ResNet-50"


def calibration_of(*cells: Cell, **changes: Any) -> Calibration:
    """A device on which loading takes 1 s an image, teachers 2 s, a student's step 10 s and its validation 3 s."""
    rates = {}
    for request in cost.requests(cells):
        if request.kind == "loading":
            rate = Rate(what="l", train_seconds=1, validation_seconds=0.5, setup_seconds=7, train_images=150,
                        validation_images=20)  # fmt: skip
        elif request.kind == "teacher":
            rate = Rate(what="t", train_seconds=2, setup_seconds=11, held_bytes=1000, peak_bytes=50)
        else:
            rate = Rate(what="s", train_seconds=10, validation_seconds=3, setup_seconds=13, checkpoint_seconds=4,
                        held_bytes=300, peak_bytes=70)  # fmt: skip
        rates[request.key] = rate
    fields: dict[str, Any] = {
        "device": "Abacus", "measured": "2026-11-23", "commit": "",
        "machine": MachineSettings(), "slots": 1, "memory_bytes": 10_000, "base_bytes": 5,
        "start_seconds": 100, "wave_seconds": 20, "rates": rates,
    }  # fmt: skip
    return Calibration(**(fields | changes))


def test_numbers_do_not_change_what_a_student_costs_but_choices_do() -> None:
    def key(**changes: Any) -> str:
        return cost.student_key(make_distilled(**changes))

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


def test_loading_depends_on_the_stream_without_its_seed() -> None:
    assert cost.loading_key(make_cell(seed=0)) == cost.loading_key(make_distilled(seed=5))
    other = Recipe(batch_size=64, micro_batch_size=64, mean=(0.3,), std=(0.4,))
    assert cost.loading_key(make_cell()) != cost.loading_key(make_cell(recipe=other))


def test_requests_name_every_part_once() -> None:
    cells = [make_distilled(seed=seed) for seed in range(3)] + [make_cell(), make_measured()]
    found = cost.requests(cells)
    assert sorted((r.kind, r.model.architecture) for r in found if r.kind != "loading") == [
        ("student", "mobilenetv4_conv_small"),
        ("student", "mobilenetv4_conv_small"),
        # Trained here and published, it runs alike.
        ("teacher", "resnet152"),
    ]
    assert sum(r.kind == "loading" for r in found) == 1


def test_a_cohort_pays_loading_and_teacher_once() -> None:
    cells = [make_distilled(), make_distilled(seed=1)]
    costs = Costs(calibration_of(*cells))
    # 150 images make two batches of 64; three epochs.
    student = costs.student(cells[0])
    assert student.seconds == 13 + 3 * (128 * 10 + 20 * 3 + 4)
    assert student.held_bytes == 300
    shared = costs.shared(cells)
    assert shared.seconds == 7 + 11 + 3 * (128 * (1 + 2) + 20 * 0.5) + 20 * 2
    # The students' activations: one at a time, and more than the teacher's.
    assert shared.held_bytes == 5 + 1000 + 70
    assert costs.memory == int(cost.HEADROOM * 10_000)


def test_a_student_without_a_teacher_and_a_measurement() -> None:
    alone, measured = make_cell(), make_measured()
    costs = Costs(calibration_of(alone, measured))
    assert costs.shared([alone]).seconds == 7 + 3 * (128 + 20 * 0.5)
    assert costs.student(measured).seconds == 11 + 20 * 2
    assert costs.shared([measured]).seconds == 7 + 20 * 0.5


def test_loader_processes_cost_only_what_they_are_slower() -> None:
    cell = make_distilled()
    beside = MachineSettings(loader_workers=2)
    assert Costs(calibration_of(cell, machine=beside)).shared([cell]).seconds == 18 + 3 * (128 * 2 + 10) + 40
    slow = calibration_of(cell, machine=beside)
    slow.rates[cost.loading_key(cell)] = slow.rates[cost.loading_key(cell)].model_copy(update={"train_seconds": 30})
    # Beside 2 s of the teacher and 10 s of the one student, 18 of the 30 are left.
    assert Costs(slow).shared([cell]).seconds == 18 + 3 * (128 * (18 + 2) + 10) + 40


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
        ("rate", "held_bytes", 10**400),
        ("rate", "peak_bytes", -1),
    ],
)
def test_a_calibration_with_absurd_numbers_is_another_versions(
    tmp_path: Path, part: str, key: str, value: float
) -> None:
    cell, store = make_cell(), Store(tmp_path)
    whole = calibration_of(cell)
    cost.keep(store, whole)
    assert cost.find(store, whole.machine) == whole
    first, rate = next(iter(whole.rates.items()))
    odd = {key: value} if part == "device" else {"rates": {first: rate.model_copy(update={key: value})}}
    cost.keep(store, whole.model_copy(update=odd))
    assert cost.find(store, whole.machine) is None


def test_no_more_slots_are_planned_than_there_are_cells(grid: MakeGrid) -> None:
    planned = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1]}}")
    found = calibration_of(*planned.cells(), slots=10**9, memory_bytes=2**53)
    assert len(make_plan([planned], (), ByStudent(Room(slots=found.slots, costs=Costs(found)))).pending) == 5


def test_checkpoints_are_paid_as_often_as_they_are_written() -> None:
    cell = make_distilled()
    every, seldom = (Costs(calibration_of(cell), MachineSettings(checkpoint_every=n)) for n in (1, 4))
    assert every.student(cell).seconds - seldom.student(cell).seconds == 3 * (4 - 1)


def test_what_does_not_fit_is_planned_alone_and_not_forecast(grid: MakeGrid) -> None:
    made = grid("cells: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [kd, pld]}")
    calibration = calibration_of(*made.cells())
    plan = make_plan([made], rooms=ByStudent(Room(costs=Costs(calibration))))
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [4]
    students = [entry.cell for entry in made.entries]
    large = {cost.student_key(cell) for cell in students if "vit" in cell.student.architecture}
    rates = {k: Rate(what="vit", fits=False) if k in large else rate for k, rate in calibration.rates.items()}
    costs = Costs(calibration.model_copy(update={"rates": rates}))
    plan = make_plan([made], rooms=ByStudent(Room(costs=costs)))
    assert sorted(len(cohort.cells) for cohort in plan.waves[1]) == [1, 1, 2]
    assert plan.forecast is None
    vits = {cell.cell_id for cell in students if "vit" in cell.student.architecture}
    assert make_plan([made], vits, rooms=ByStudent(Room(costs=costs))).forecast is not None


def test_without_a_calibration_epochs_are_the_cost() -> None:
    costs = Costs()
    assert costs.student(make_cell(epochs=7)) == (7, 0)
    assert 0 < costs.student(make_measured()).seconds < 1
    assert costs.memory is None
    assert {request.kind for request in costs.missing([make_distilled()])} == {"loading", "teacher", "student"}


def test_calibrations_are_found_by_device_and_settings(tmp_path: Path) -> None:
    store, cell = Store(tmp_path), make_distilled()
    first, second = calibration_of(cell), calibration_of(cell, device="Slide rule", slots=2)
    machine = MachineSettings()
    assert cost.find(store, machine) is None
    cost.keep(store, first)
    assert cost.find(store, machine) == first
    cost.keep(store, second)
    assert cost.find(store, machine) is None
    assert cost.find(store, machine, "Slide rule") == second
    # How often a checkpoint is written is no matter of speed per part.
    assert cost.find(store, MachineSettings(checkpoint_every=5), "Abacus") == first
    assert cost.find(store, MachineSettings(cpus_per_cohort=2), "Abacus") is None
    cost.keep(store, first.model_copy(update={"slots": 9}))
    assert cost.find(store, machine, "Abacus").slots == 9  # type: ignore[union-attr]
    for path in (tmp_path / cost.FOLDER).glob("abacus*"):
        path.write_bytes(path.read_bytes()[:-20])
    assert cost.find(store, machine, "Abacus") is None
    assert store.finished([cell]) == frozenset()


# -- plans with costs ------------------------------------------------------------------------------------------------


def grid_of(grid: MakeGrid, losses: str) -> Grid:
    return grid(f"cells: {{{BASE}, {losses}}}")


def test_a_forecast_by_hand(grid: MakeGrid) -> None:
    made = grid_of(grid, "loss: [kd, pld, dist]")
    students = [entry.cell for entry in made.entries]
    costs = Costs(calibration_of(*made.cells()))
    teacher = students[0].teacher
    assert teacher is not None
    first = costs.shared([teacher]).seconds + costs.student(teacher).seconds
    second = costs.shared(students).seconds + sum(costs.student(cell).seconds for cell in students)
    forecast = make_plan([made], rooms=ByStudent(Room(costs=costs))).forecast
    assert forecast is not None
    assert forecast.seconds == pytest.approx(100 + 2 * 20 + first + second)
    assert forecast.busy_seconds == pytest.approx(first + second)
    after = make_plan([made], {teacher.cell_id}, rooms=ByStudent(Room(costs=costs))).forecast
    assert after is not None
    assert after.seconds == pytest.approx(100 + 20 + second)
    done = make_plan([made], {c.cell_id for c in made.cells()}, rooms=ByStudent(Room(costs=costs))).forecast
    assert done is not None
    assert done.seconds == 0


def test_sharing_and_cohorts_are_compared(grid: MakeGrid) -> None:
    one, two = grid_of(grid, "loss: [kd, pld]"), grid_of(grid, "loss: [kd, dist]")
    costs = Costs(calibration_of(*one.cells(), *two.cells()))
    rooms = ByStudent(Room(costs=costs))
    found = compare(make_plan([one, two], (), rooms), [one, two], (), rooms)
    work = {name: forecast.busy_seconds for name, forecast in found.items()}
    assert list(work) == ["as planned", "without sharing between grids", "without cohorts", "without either"]
    assert work["as planned"] < work["without cohorts"] < work["without either"]
    assert work["as planned"] < work["without sharing between grids"] < work["without either"]
    parts = [make_plan([grid], rooms=ByStudent(Room(slots=1, costs=costs))).forecast for grid in (one, two)]
    assert found["without sharing between grids"].seconds == sum(f.seconds for f in parts if f is not None)


def test_a_part_that_was_not_measured_gives_no_forecast(grid: MakeGrid) -> None:
    made, other = grid_of(grid, "loss: [kd, pld]"), grid_of(grid, "loss: [kd, dist]")
    costs = Costs(calibration_of(*made.cells()))
    assert make_plan([made], rooms=ByStudent(Room(costs=costs))).forecast is not None
    assert make_plan([other], rooms=ByStudent(Room(costs=costs))).forecast is None
    rooms = ByStudent(Room(costs=costs))
    assert compare(make_plan([other], (), rooms), [other], (), rooms) == {}
    # Nothing about a finished cell has to be known.
    dist = {entry.cell.cell_id for entry in other.entries if entry.cell.loss.name == "dist"}
    assert make_plan([other], dist, rooms=ByStudent(Room(costs=costs))).forecast is not None


@pytest.mark.parametrize(("memory", "sizes"), [(10_000, [8]), (2_500, [3, 3, 2]), (1_700, [1] * 8), (10, [1] * 8)])
def test_cohorts_fit_into_memory(grid: MakeGrid, memory: int, sizes: list[int]) -> None:
    made = grid_of(grid, "loss: kd, hyperparameters: {kd: {alpha: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}")
    plan = make_plan([made], rooms=ByStudent(Room(costs=Costs(calibration_of(*made.cells(), memory_bytes=memory)))))
    assert sorted((len(cohort.cells) for cohort in plan.waves[1]), reverse=True) == sizes


def test_seconds_and_not_epochs_balance_the_slots(grid: MakeGrid) -> None:
    """Two students of the same length, one ten times as costly: they must not wait for each other in one slot."""
    made = grid(
        "cells:\n - {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld, dist]}\n"
        " - {teacher: ViT-Large/16, student: ViT-Small/16, loss: [kd, pld, dist]}\n"
    )
    calibration = calibration_of(*made.cells())
    slow = {cost.student_key(e.cell) for e in made.entries if "vit" in e.cell.student.architecture}
    rates = {k: r.model_copy(update={"train_seconds": 100.0}) if k in slow else r for k, r in calibration.rates.items()}
    costs = Costs(calibration.model_copy(update={"rates": rates}))
    plan = make_plan([made], rooms=ByStudent(Room(slots=3, costs=costs)))
    waves = [[cohort.cells[0].student.architecture for cohort in wave] for wave in plan.waves]
    # Three slots: a ViT each, and the cheap three beside one of them.
    assert sum("vit" in name for name in waves[1]) == 3
    assert "vit" in waves[1][0]
