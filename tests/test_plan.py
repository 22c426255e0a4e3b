import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_grid.grid import Grid, load_grid
from pld_grid.machine import ByStudent, MachineSettings, model_key
from pld_grid.plan import Plan, Room, make_plan
from pld_grid.profile import Profile

ROOT = Path(__file__).parent.parent
MakeGrid = Callable[..., Grid]
BASE = "teacher: ResNet-152, student: ResNet-50"


@pytest.fixture(scope="module", params=["digits", "imagenet"])
def tables(request: pytest.FixtureRequest, profile: Callable[[str], Profile]) -> list[Grid]:
    return [load_grid(path, profile(request.param)) for path in sorted((ROOT / "grids").glob("table*.yaml"))]


def check(plan: Plan, cohort_size: int | None = None) -> None:
    """What holds for every plan, whatever it is of."""
    scheduled = Counter(cell.cell_id for wave in plan.waves for cohort in wave for cell in cohort.cells)
    assert set(scheduled.values()) <= {1}
    assert scheduled.keys() == plan.cells.keys() - plan.finished
    assert plan.finished <= plan.cells.keys()
    assert [cell.cell_id for cell in plan.pending] == list(scheduled)
    done = set(plan.finished)
    for wave in plan.waves:
        assert wave
        for cohort in wave:
            assert cohort.cells
            assert len({(cell.stream(), cell.epochs) for cell in cohort.cells}) == 1
            assert len({cell.teacher.cell_id for cell in cohort.cells if cell.teacher is not None}) <= 1
            assert cohort_size is None or len(cohort.cells) <= cohort_size
            for cell in cohort.cells:
                teacher = cell.teacher
                assert teacher is None or teacher == cohort.teacher
                assert teacher is None or teacher.is_measurement or teacher.cell_id in done
        done |= {cell.cell_id for cohort in wave for cell in cohort.cells}
    summary = plan.summary()
    assert summary["finished"] + summary["pending"] == len(plan.cells)
    assert summary["student_cells"] + summary["teacher_cells"] + summary["teacher_measurements"] == len(plan.cells)
    assert [c for wave in summary["schedule"] for cohort in wave for c in cohort["cells"]] == list(scheduled)


@given(st.data())
def test_any_plan_of_the_paper(tables: list[Grid], data: st.DataObject) -> None:
    grids = data.draw(st.lists(st.sampled_from(tables), min_size=1, unique_by=id))
    ids = sorted({cell.cell_id for grid in grids for cell in grid.cells()})
    finished = data.draw(st.sets(st.sampled_from(ids)) | st.just(set(ids)))
    cohort_size = data.draw(st.none() | st.integers(1, 9))
    rooms = ByStudent(Room(MachineSettings(cohort_size=cohort_size), data.draw(st.integers(1, 20))))
    plan = make_plan(grids, finished | {"0" * 16}, rooms)
    check(plan, cohort_size)
    assert plan.finished == finished
    assert plan.cells.keys() == set(ids)
    again = make_plan(grids, finished, rooms)
    assert again.waves == plan.waves


def test_cells_of_several_tables_run_once(tables: list[Grid]) -> None:
    plan = make_plan(tables)
    check(plan)
    uses = [entry.cell.cell_id for grid in tables for entry in grid.entries if entry.role != "teacher"]
    assert plan.entries == len(uses)
    assert plan.students == set(uses)
    assert len(plan.students) < len(uses)
    shared = [names for names in plan.grids.values() if len(names) > 1]
    assert shared
    assert all(names == tuple(sorted(set(names))) for names in shared)
    for grid in tables:
        for cell in grid.cells():
            assert grid.name in plan.grids[cell.cell_id]
    assert make_plan([*tables, *tables]).waves == plan.waves


def test_trained_teachers_come_first(grid: MakeGrid) -> None:
    made = grid("cells: {teacher: [ResNet-152, ViT-Large/16], student: ResNet-50, loss: [kd, pld, dist]}")
    plan = make_plan([made])
    check(plan)
    assert len(plan.waves) == 2
    first = {cell.cell_id for cohort in plan.waves[0] for cell in cohort.cells}
    assert first == plan.teachers
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [3, 3]


def test_finished_teachers_need_no_wave(grid: MakeGrid) -> None:
    made = grid(f"cells: {{{BASE}, loss: [kd, pld]}}")
    teacher = made.profile.teacher("ResNet-152").cell_id
    plan = make_plan([made], {teacher})
    check(plan)
    assert len(plan.waves) == 1
    assert len(plan.pending) == 2
    students = {entry.cell.cell_id for entry in made.entries}
    assert make_plan([made], {teacher, *students}).waves == ()
    # A teacher that nobody waits for any more is still a cell of the plan.
    rest = make_plan([made], students)
    assert [cell.cell_id for cell in rest.pending] == [teacher]


def test_measured_teachers_keep_nobody_waiting(grid: MakeGrid) -> None:
    made = grid(f"cells: {{{BASE}, loss: [kd, pld]}}", "imagenet")
    plan = make_plan([made])
    check(plan)
    assert len(plan.waves) == 1
    assert len(plan.measurements) == 1
    assert not plan.teachers
    assert Counter(len(cohort.cells) for cohort in plan.waves[0]) == {1: 1, 2: 1}


def test_students_without_teacher_join_those_with_one(grid: MakeGrid) -> None:
    made = grid(
        "cells:\n - {teacher: [ResNet-152, ViT-Large/16], student: ResNet-50, loss: kd}\n"
        " - {teacher: ViT-Large/16, student: ResNet-50, loss: pld}\n - {student: [ResNet-50, ViT-Small/16], loss: ce}\n"
    )
    plan = make_plan([made])
    check(plan)
    assert sorted(len(cohort.cells) for cohort in plan.waves[1]) == [2, 3]
    alone = make_plan([grid("cells: {student: ResNet-50, loss: [ce, ls]}")])
    check(alone)
    assert [len(cohort.cells) for wave in alone.waves for cohort in wave] == [2]


def test_other_batches_are_other_cohorts(grid: MakeGrid) -> None:
    made = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1, 2], epochs: [100, 300]}}")
    plan = make_plan([made])
    check(plan)
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [2] * 6
    # The longest first: it decides when the wave ends.
    assert [cohort.epochs for cohort in plan.waves[1]] == sorted((c.epochs for c in plan.waves[1]), reverse=True)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_cohort_size(grid: MakeGrid, size: int) -> None:
    made = grid(
        f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{alpha: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}}}}}"
    )
    plan = make_plan([made], rooms=ByStudent(Room(MachineSettings(cohort_size=size))))
    check(plan, size)
    assert len(plan.waves[1]) == math.ceil(8 / size)


@pytest.mark.parametrize(("slots", "cohorts"), [(1, 1), (2, 2), (4, 4), (8, 8), (100, 8)])
def test_slots_split_what_would_leave_them_idle(grid: MakeGrid, slots: int, cohorts: int) -> None:
    made = grid(
        f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{alpha: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}}}}}}"
    )
    plan = make_plan([made], rooms=ByStudent(Room(slots=slots)))
    check(plan)
    assert len(plan.waves[1]) == cohorts
    sizes = [len(cohort.cells) for cohort in plan.waves[1]]
    assert max(sizes) - min(sizes) <= 1


def test_enough_groups_are_not_split(grid: MakeGrid) -> None:
    made = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1, 2, 3]}}")
    plan = make_plan([made], rooms=ByStudent(Room(slots=4)))
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [2] * 4


def test_students_of_another_machine_train_there(grid: MakeGrid, profile: Callable[[str], Profile]) -> None:
    made = grid("cells: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [kd, pld], seed: [0, 1]}")
    large = MachineSettings(accelerator="H100", cohort_size=3)
    vits = frozenset({model_key(profile("digits").student("ViT-Small/16"))})
    plan = make_plan([made], (), ByStudent(Room(), ((vits, Room(large)),)))
    check(plan)
    students = [cohort for cohort in plan.waves[1] if cohort.machine == large]
    assert [cell.student.architecture for cohort in students for cell in cohort.cells] == ["test_vit"] * 4
    assert max(len(cohort.cells) for cohort in students) == 2  # its two seeds see different batches
    assert {c.student.architecture for cohort in plan.waves[1] if cohort not in students for c in cohort.cells} == {
        "test_resnet"
    }
    assert all(half.machine == large for half in students[0].halves())


def test_a_teacher_on_another_machine_comes_first(grid: MakeGrid, profile: Callable[[str], Profile]) -> None:
    """Where it trains, a student of another teacher sees its batches; it must not wait for that one."""
    made = grid(
        "cells:\n - {teacher: ResNet-152, student: ResNet-50, loss: kd}\n"
        " - {teacher: ViT-Large/16, student: ResNet-152, loss: kd}\n"
    )
    teachers = frozenset({model_key(profile("digits").student("ResNet-152"))})
    plan = make_plan([made], (), ByStudent(Room(), ((teachers, Room(MachineSettings(accelerator="H100"))),)))
    check(plan)
    trained = {cell.cell_id for cohort in plan.waves[0] for cell in cohort.cells}
    assert trained == plan.teachers


def test_an_empty_plan() -> None:
    plan = make_plan([])
    check(plan)
    assert plan.waves == ()
    assert plan.summary()["pending"] == 0


def test_importing_a_plan_loads_no_torch() -> None:
    heavy = "('torch', 'timm', 'ray', 'mlflow')"
    code = f"import sys, pld_grid.plan, pld_grid.store; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
