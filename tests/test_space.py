"""What a plan needs where it writes, and what is said if it is not there."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cells import begin
from faults.small_disk import MIB, SmallDisk, small_disk
from service import GRID, PROFILE

from pld_grid import api, space
from pld_grid.errors import ResourceError
from pld_grid.grid import Grid
from pld_grid.machine import ByStudent, MachineSettings
from pld_grid.plan import Plan, Room, Rooms, make_plan
from pld_grid.store import Store
from pld_grid.train.sizes import Sizes, sizes_of


@pytest.fixture
def losses(tmp_path: Path) -> Grid:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "losses.yaml").write_text(GRID)
    return api.load_grid(tmp_path / "losses.yaml", str(tmp_path / "tiny.yaml"))


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    return api.Workspace(str(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 2 * MIB) as made:
        yield made


def _planned(grid: Grid, slots: int, *, size: int | None = None, finished: frozenset[str] = frozenset()) -> Plan:
    return make_plan([grid], finished, _rooms(slots, size))


def _rooms(slots: int, size: int | None = None) -> Rooms:
    return ByStudent(Room(MachineSettings(cohort_size=size), slots))


def _bytes(plan: Plan, rooms: Rooms, workspace: api.Workspace, kind: str) -> int:
    return next(need.bytes for need in space.needs(plan, rooms, workspace) if need.name.startswith(kind))


def _teacher(grid: Grid) -> str:
    return next(iter(_planned(grid, 1).teachers))


def _sizes(plan: Plan) -> tuple[Sizes, list[Sizes]]:
    """Of the teacher, and of its students."""
    found = {cell.cell_id: sizes_of(cell) for cell in plan.cells.values()}
    teacher = next(iter(plan.teachers))
    known = {cell_id: sizes for cell_id, sizes in found.items() if sizes is not None}
    assert len(known) == 9
    return known.pop(teacher), list(known.values())


@pytest.mark.parametrize(("slots", "size", "at_a_time"), [(1, 1, 1), (2, 1, 2), (2, 3, 6), (1, None, 8), (4, None, 8)])
def test_the_store_needs_all_weights_and_the_checkpoints_of_what_runs_at_a_time(
    losses: Grid, workspace: api.Workspace, slots: int, size: int | None, at_a_time: int
) -> None:
    plan, rooms = _planned(losses, slots, size=size, finished=frozenset({_teacher(losses)})), _rooms(slots, size)
    _, students = _sizes(plan)
    largest = max(sizes.checkpoint for sizes in students)
    assert largest == pytest.approx(min(sizes.checkpoint for sizes in students), rel=0.01)
    # Two stand, and each cohort writes one more.
    checkpoints = (2 * at_a_time + min(slots, len(plan.waves[0]))) * largest
    small = 8 * (space._STORE_CELL + 6 * space._STORE_EPOCH)
    needed = sum(sizes.weights for sizes in students) + checkpoints + small
    assert _bytes(plan, rooms, workspace, "store") == pytest.approx(needed, rel=0.01)


def test_waves_follow_each_other_so_the_largest_counts(losses: Grid, workspace: api.Workspace) -> None:
    plan, rooms = _planned(losses, 1, size=1), _rooms(1, 1)
    teacher, students = _sizes(plan)
    assert teacher.checkpoint > max(sizes.checkpoint for sizes in students)
    small = 9 * space._STORE_CELL + (2 + 8 * 6) * space._STORE_EPOCH
    weights = teacher.weights + sum(sizes.weights for sizes in students)
    assert _bytes(plan, rooms, workspace, "store") == weights + 3 * teacher.checkpoint + small


def test_checkpoints_that_stand_need_no_more_room(losses: Grid, workspace: api.Workspace) -> None:
    store, rooms = Store(workspace.store), _rooms(2)
    plan = _planned(losses, 2, finished=frozenset({_teacher(losses)}))
    before = _bytes(plan, rooms, workspace, "store")
    student = plan.pending[0]
    begin(store, student, 3)
    payload = Path(store.path(student.cell_id, "checkpoints", "000003.pt"))
    payload.write_bytes(bytes(200_000))
    stands = sum(path.stat().st_size for path in payload.parent.iterdir())
    assert stands > 200_000
    assert _bytes(plan, rooms, workspace, "store") == before - stands
    # What a cell has too many of makes no room for others.
    sizes = sizes_of(student)
    assert sizes is not None
    payload.write_bytes(bytes(9 * sizes.checkpoint))
    assert _bytes(plan, rooms, workspace, "store") == before - 2 * sizes.checkpoint


def test_mlflow_keeps_the_weights_too_and_each_passes_through_the_temporary_folder(
    losses: Grid, workspace: api.Workspace
) -> None:
    plan, rooms = _planned(losses, 2), _rooms(2)
    teacher, students = _sizes(plan)
    small = space._MLFLOW + 9 * space._MLFLOW_CELL + (2 + 8 * 6) * space._MLFLOW_EPOCH
    assert _bytes(plan, rooms, workspace, "MLflow") == teacher.weights + sum(s.weights for s in students) + small
    assert _bytes(plan, rooms, workspace, "temporary") == space._TUNE + teacher.weights


def test_what_lies_elsewhere_is_not_asked(losses: Grid, workspace: api.Workspace, tmp_path: Path) -> None:
    plan, rooms = _planned(losses, 2), _rooms(2)
    away = api.Workspace("memory://store", "http://mlflow:5000")
    assert [need.choice for need in space.needs(plan, rooms, away, here=False)] == ["TMPDIR"]
    assert [need.choice for need in space.needs(plan, rooms, workspace)] == [
        "--store", "--tracking-uri", "RAY_TMPDIR", "TMPDIR",
    ]  # fmt: skip


def test_ray_keeps_its_sessions_where_its_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_system_temp_dir

    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert str(space.ray_folder()) == get_default_system_temp_dir() == "/tmp"
    monkeypatch.setenv("TMPDIR", "/b")
    assert str(space.ray_folder()) == get_default_system_temp_dir() == "/b"
    monkeypatch.setenv("RAY_TMPDIR", "/a")
    assert str(space.ray_folder()) == get_default_system_temp_dir() == "/a"


def test_a_lack_of_room_is_one_line_that_names_the_place(
    losses: Grid, workspace: api.Workspace, disk: SmallDisk
) -> None:
    plan, rooms = _planned(losses, 2), _rooms(2)
    space.check_space(plan, rooms, workspace)
    with pytest.raises(ResourceError) as told:
        # A folder that is not there yet lies where it will be made.
        space.check_space(plan, rooms, replace(workspace, store=str(disk.path / "not" / "yet")))
    assert re.fullmatch(
        rf"store {disk.path}/not/yet: about \d+\.\d MiB needed, 2\.0 MiB free; free some, or name another place "
        r"\(--store\)",
        str(told.value),
    )
    assert list(disk.path.iterdir()) == []


def test_needs_on_one_file_system_add_up(losses: Grid, workspace: api.Workspace, tmp_path: Path) -> None:
    plan, rooms = _planned(losses, 2), _rooms(2)
    store, mlflow = (_bytes(plan, rooms, workspace, kind) for kind in ("store", "MLflow"))
    with small_disk(tmp_path / "both", max(store, mlflow) + MIB) as disk:
        on_disk, database = str(disk.path / "store"), f"sqlite:///{disk.path}/mlflow.db"
        space.check_space(plan, rooms, replace(workspace, store=on_disk))
        space.check_space(plan, rooms, replace(workspace, tracking_uri=database))
        with pytest.raises(ResourceError) as told:
            space.check_space(plan, rooms, replace(workspace, store=on_disk, tracking_uri=database))
    needed = f"about {(store + mlflow) / MIB:.1f} MiB needed on one file system"
    assert str(told.value).startswith(needed)
    assert f"store {on_disk} {store / MIB:.1f} MiB" in str(told.value)
    assert f"MLflow {disk.path}/mlflow.db {mlflow / MIB:.1f} MiB" in str(told.value)


def test_nothing_to_train_needs_nothing(losses: Grid, workspace: api.Workspace, disk: SmallDisk) -> None:
    everything = frozenset(cell.cell_id for cell in losses.cells())
    done, rooms = _planned(losses, 2, finished=everything), _rooms(2)
    with disk.full():
        space.check_space(done, rooms, replace(workspace, store=str(disk.path / "store")))
