"""Disk space that a plan needs, and the error when a file system lacks it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_process import Service
from size_limited_disk import MIB, SmallDisk, small_disk

from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import ByStudent, MachineSettings
from pld_grid.orchestrate.cluster import ray_temp_folder
from pld_grid.planning.plan import ExecutionPool, Plan, make_plan
from pld_grid.service import disk_space
from pld_grid.service.workspace import Workspace
from pld_grid.train.sizes import estimate_sizes
from pld_grid.util.errors import ResourceError

SMALL_FILES_BYTES = MIB  # more than the small files of a test's cell take


@pytest.fixture
def losses(tmp_path: Path) -> Grid:
    return Service(tmp_path).load_grid()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 2 * MIB) as made:
        yield made


def _plan(grid: Grid, slots: int, cohort_size: int | None = None) -> Plan:
    """Plan the students of a grid whose teacher is finished."""
    pools = ByStudent(ExecutionPool(MachineSettings(cohort_size=cohort_size), slots))
    return make_plan([grid], make_plan([grid]).teachers, pools)


def _bytes(plan: Plan, workspace: Workspace, place: str) -> int:
    needs = disk_space.estimate_needs(plan, workspace)
    return next(need.size for need in needs if need.place.startswith(place))


@pytest.mark.parametrize(("slots", "size", "running"), [(1, 1, 1), (2, 1, 2), (2, 3, 6), (1, None, 8), (4, None, 8)])
def test_store_needs_all_weights_and_the_checkpoints_of_running_students(losses, workspace, slots, size, running):
    plan = _plan(losses, slots, size)
    sizes = [estimated for cell in plan.pending if (estimated := estimate_sizes(cell)) is not None]
    assert len(sizes) == 8
    # Each student keeps two checkpoints and writes a third before it removes the first.
    checkpoints = 3 * running * max(each.checkpoint for each in sizes)
    needed = _bytes(plan, workspace, "store") - sum(each.weights for each in sizes)
    assert 0.97 * checkpoints < needed < checkpoints + len(sizes) * SMALL_FILES_BYTES


def test_mlflow_needs_all_weights_and_temporary_files_the_largest(losses, workspace):
    plan = _plan(losses, 2)
    weights = [estimated.weights for cell in plan.pending if (estimated := estimate_sizes(cell)) is not None]
    assert 0 < _bytes(plan, workspace, "MLflow") - sum(weights) < (len(weights) + 10) * SMALL_FILES_BYTES
    assert 0 <= _bytes(plan, workspace, "temporary") - max(weights) < SMALL_FILES_BYTES


def test_remote_places_are_not_checked(losses, workspace):
    plan = _plan(losses, 2)
    remote = Workspace("memory://store", "http://mlflow:5000")
    needs = disk_space.estimate_needs(plan, remote, local_ray=False)
    assert [need.option for need in needs] == ["TMPDIR"]
    needs = disk_space.estimate_needs(plan, workspace)
    assert [need.option for need in needs] == ["--store", "--tracking-uri", "RAY_TMPDIR", "TMPDIR"]


def test_ray_temp_folder_follows_rays_own_rule(monkeypatch):
    from ray._common.utils import get_default_system_temp_dir

    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert str(ray_temp_folder()) == get_default_system_temp_dir() == "/tmp"
    for name, folder in (("TMPDIR", "/b"), ("RAY_TMPDIR", "/a")):
        monkeypatch.setenv(name, folder)
        assert str(ray_temp_folder()) == get_default_system_temp_dir() == folder


def test_check_names_the_place_that_lacks_space(losses, workspace, disk):
    plan = _plan(losses, 2)
    disk_space.check_disk_space(plan, workspace)
    with pytest.raises(ResourceError) as refused:
        # A folder that does not exist yet counts for the disk on which it will be created.
        disk_space.check_disk_space(plan, replace(workspace, store=str(disk.path / "not" / "yet")))
    assert re.fullmatch(
        rf"store {disk.path}/not/yet: about \d+\.\d MiB needed, 2\.0 MiB free; free some, or name another place "
        r"\(--store\)",
        str(refused.value),
    )
    assert list(disk.path.iterdir()) == []


def test_check_adds_up_needs_on_one_file_system(losses, workspace, tmp_path):
    plan = _plan(losses, 2)
    store, mlflow = (_bytes(plan, workspace, place) for place in ("store", "MLflow"))
    with small_disk(tmp_path / "both", max(store, mlflow) + MIB) as disk:
        on_disk, database = str(disk.path / "store"), f"sqlite:///{disk.path}/mlflow.db"
        disk_space.check_disk_space(plan, replace(workspace, store=on_disk))
        disk_space.check_disk_space(plan, replace(workspace, tracking_uri=database))
        with pytest.raises(ResourceError) as refused:
            disk_space.check_disk_space(plan, replace(workspace, store=on_disk, tracking_uri=database))
    message = str(refused.value)
    assert message.startswith(f"about {(store + mlflow) / MIB:.1f} MiB needed on one file system")
    assert f"store {on_disk} {store / MIB:.1f} MiB" in message
    assert f"MLflow {disk.path}/mlflow.db {mlflow / MIB:.1f} MiB" in message


def test_check_of_a_finished_plan_needs_nothing(losses, workspace, disk):
    finished = make_plan([losses], {cell.cell_id for cell in losses.cells()})
    with disk.full():
        disk_space.check_disk_space(finished, replace(workspace, store=str(disk.path / "store")))
