from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from pld_grid.experiment.grid import Grid, load_grid
from pld_grid.experiment.machine import ByStudent, MachineSettings, model_key
from pld_grid.experiment.profile import Profile
from pld_grid.planning.plan import ExecutionPool, Plan, make_plan

BASE = "teacher: ResNet-152, student: ResNet-50"
ALPHAS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@pytest.fixture(scope="module", params=["digits", "imagenet"])
def tables(request: pytest.FixtureRequest, profile: Callable[[str], Profile]) -> list[Grid]:
    return [load_grid(path, profile(request.param)) for path in sorted((ROOT / "grids").glob("table*.yaml"))]


def check_plan(plan: Plan, cohort_size: int | None = None) -> None:
    """Assert what holds for every plan."""
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
def test_make_plan_of_any_tables_schedules_each_pending_cell_once(tables, data):
    grids = data.draw(st.lists(st.sampled_from(tables), min_size=1, unique_by=id))
    ids = sorted({cell.cell_id for grid in grids for cell in grid.cells()})
    finished = data.draw(st.sets(st.sampled_from(ids)) | st.just(set(ids)))
    cohort_size = data.draw(st.none() | st.integers(1, 9))
    pools = ByStudent(ExecutionPool(MachineSettings(cohort_size=cohort_size), data.draw(st.integers(1, 20))))
    plan = make_plan(grids, finished | {"0" * 16}, pools)
    check_plan(plan, cohort_size)
    assert plan.finished == finished
    assert plan.cells.keys() == set(ids)
    assert make_plan(grids, finished, pools).waves == plan.waves


def test_make_plan_of_several_tables_shares_their_cells(tables):
    plan = make_plan(tables)
    check_plan(plan)
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


def test_make_plan_trains_teachers_in_the_first_wave(grid):
    made = grid("cells: {teacher: [ResNet-152, ViT-Large/16], student: ResNet-50, loss: [kd, pld, dist]}")
    plan = make_plan([made])
    check_plan(plan)
    assert len(plan.waves) == 2
    first = {cell.cell_id for cohort in plan.waves[0] for cell in cohort.cells}
    assert first == plan.teachers
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [3, 3]


def test_make_plan_with_finished_teachers_needs_one_wave(grid):
    made = grid(f"cells: {{{BASE}, loss: [kd, pld]}}")
    teacher = made.profile.teacher("ResNet-152").cell_id
    plan = make_plan([made], {teacher})
    check_plan(plan)
    assert len(plan.waves) == 1
    assert len(plan.pending) == 2
    students = {entry.cell.cell_id for entry in made.entries}
    assert make_plan([made], {teacher, *students}).waves == ()
    # A teacher is a cell of the plan even if all its students are finished.
    rest = make_plan([made], students)
    assert [cell.cell_id for cell in rest.pending] == [teacher]


def test_make_plan_with_measured_teachers_needs_one_wave(grid):
    made = grid(f"cells: {{{BASE}, loss: [kd, pld]}}", "imagenet")
    plan = make_plan([made])
    check_plan(plan)
    assert len(plan.waves) == 1
    assert len(plan.measurements) == 1
    assert not plan.teachers
    assert Counter(len(cohort.cells) for cohort in plan.waves[0]) == {1: 1, 2: 1}


def test_make_plan_adds_students_without_teacher_to_the_smallest_group(grid):
    made = grid(
        "cells:\n - {teacher: [ResNet-152, ViT-Large/16], student: ResNet-50, loss: kd}\n"
        " - {teacher: ViT-Large/16, student: ResNet-50, loss: pld}\n - {student: [ResNet-50, ViT-Small/16], loss: ce}\n"
    )
    plan = make_plan([made])
    check_plan(plan)
    assert sorted(len(cohort.cells) for cohort in plan.waves[1]) == [2, 3]
    alone = make_plan([grid("cells: {student: ResNet-50, loss: [ce, ls]}")])
    check_plan(alone)
    assert [len(cohort.cells) for wave in alone.waves for cohort in wave] == [2]


def test_make_plan_separates_different_batches(grid):
    made = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1, 2], epochs: [100, 300]}}")
    plan = make_plan([made])
    check_plan(plan)
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [2] * 6
    # The longest first, because it determines when the wave ends.
    assert [cohort.epochs for cohort in plan.waves[1]] == sorted((c.epochs for c in plan.waves[1]), reverse=True)


@pytest.mark.parametrize(
    ("slots", "limit", "sizes"),
    [
        (1, None, [8]),
        (2, None, [4, 4]),
        (4, None, [2] * 4),
        (100, None, [1] * 8),
        (1, 1, [1] * 8),
        (1, 3, [3, 3, 2]),
        (1, 7, [7, 1]),
        (1, 100, [8]),
    ],
)
def test_make_plan_splits_groups_for_idle_slots_and_at_the_cohort_size(grid, slots, limit, sizes):
    made = grid(f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{alpha: {ALPHAS}}}}}}}")
    plan = make_plan([made], pools=ByStudent(ExecutionPool(MachineSettings(cohort_size=limit), slots)))
    check_plan(plan, limit)
    assert sorted((len(cohort.cells) for cohort in plan.waves[1]), reverse=True) == sizes


def test_make_plan_with_a_group_per_slot_splits_none(grid):
    made = grid(f"cells: {{{BASE}, loss: [kd, pld], seed: [0, 1, 2, 3]}}")
    plan = make_plan([made], pools=ByStudent(ExecutionPool(slots=4)))
    assert [len(cohort.cells) for cohort in plan.waves[1]] == [2] * 4


def test_make_plan_runs_students_in_the_pool_of_their_machine(grid, profile):
    made = grid("cells: {teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [kd, pld], seed: [0, 1]}")
    large = MachineSettings(accelerator="H100", cohort_size=3)
    vits = frozenset({model_key(profile("digits").student("ViT-Small/16"))})
    plan = make_plan([made], (), ByStudent(ExecutionPool(), ((vits, ExecutionPool(large)),)))
    check_plan(plan)
    students = [cohort for cohort in plan.waves[1] if cohort.machine == large]
    assert [cell.student.architecture for cohort in students for cell in cohort.cells] == ["test_vit"] * 4
    assert max(len(cohort.cells) for cohort in students) == 2  # its two seeds see different batches
    assert {c.student.architecture for cohort in plan.waves[1] if cohort not in students for c in cohort.cells} == {
        "test_resnet"
    }
    assert all(half.machine == large for half in students[0].halves())


def test_make_plan_with_a_teacher_in_another_pool_trains_it_first(grid, profile):
    """The teacher must not join students of another teacher that see the same batches in its pool."""
    made = grid(
        "cells:\n - {teacher: ResNet-152, student: ResNet-50, loss: kd}\n"
        " - {teacher: ViT-Large/16, student: ResNet-152, loss: kd}\n"
    )
    teachers = frozenset({model_key(profile("digits").student("ResNet-152"))})
    plan = make_plan(
        [made], (), ByStudent(ExecutionPool(), ((teachers, ExecutionPool(MachineSettings(accelerator="H100"))),))
    )
    check_plan(plan)
    trained = {cell.cell_id for cohort in plan.waves[0] for cell in cohort.cells}
    assert trained == plan.teachers


def test_make_plan_without_grids_is_empty():
    plan = make_plan([])
    check_plan(plan)
    assert plan.waves == ()
    assert plan.summary()["pending"] == 0
