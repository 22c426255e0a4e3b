"""Check that what a plan will write fits on the disks, before anything starts."""

import contextlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pld_grid.experiment.cell import Cell
from pld_grid.orchestrate.cluster import RAY_SESSION_BYTES, ray_temp_folder
from pld_grid.planning.plan import Plan
from pld_grid.service.workspace import Workspace
from pld_grid.store import KEPT_CHECKPOINTS, Store
from pld_grid.track.tracking_uri import database_path
from pld_grid.util.errors import ResourceError
from pld_grid.util.text import one_line

KIB, MIB, GIB = 2**10, 2**20, 2**30
# A student writes its next checkpoint before it removes the oldest.
_CHECKPOINT_COPIES = KEPT_CHECKPOINTS + 1
# Small files or database rows of a cell, in the store and in MLflow.
_CELL_BYTES, _EPOCH_BYTES = 48 * KIB, 4 * KIB
# MLflow's schema and its write-ahead log, which grows to 4 MiB.
_MLFLOW_BYTES = 6 * MIB


class Need(NamedTuple):
    """Bytes that a run will write to one place.

    Attributes:
        place: how error messages name it.
        path: the folder or file.
        size: bytes.
        option: the option or variable that selects another place.
    """

    place: str
    path: Path
    size: int
    option: str


def check_disk_space(plan: Plan, workspace: Workspace, *, local_ray: bool = True) -> None:
    """Raise ResourceError, with one line, unless every file system has room for what the plan will write.

    Object stores, MLflow servers and quotas are not checked, since their free space is unknown.

    Args:
        plan: what will run.
        workspace: the store and MLflow.
        local_ray: whether Ray will be started on this machine.
    """
    if not plan.waves:
        return
    by_device: dict[int, list[Need]] = defaultdict(list)
    for need in estimate_needs(plan, workspace, local_ray=local_ray):
        by_device[_nearest_existing(need.path).stat().st_dev].append(need)
    shortages = [text for needs in by_device.values() if (text := _describe_shortage(needs))]
    if shortages:
        raise ResourceError(one_line("; ".join(shortages), 600))


def estimate_needs(plan: Plan, workspace: Workspace, *, local_ray: bool = True) -> list[Need]:
    """Return upper estimates of what a plan writes on this machine, by place; see `check_disk_space`."""
    needs: list[Need] = []
    store, cells = Store(workspace.store), plan.pending
    if store.local:
        size = sum(map(_cell_bytes, cells)) + _peak_checkpoint_bytes(plan)
        needs.append(Need(f"store {workspace.store}", Path(store.root), size, "--store"))
    database = database_path(workspace.tracking_uri)
    if database is not None:
        needs.append(Need(f"MLflow {database}", database, estimate_mlflow_bytes(cells), "--tracking-uri"))
    if local_ray:
        needs.append(Need(f"Ray {ray_temp_folder()}", ray_temp_folder(), RAY_SESSION_BYTES, "RAY_TMPDIR"))
    # Weights pass through the temporary folder on their way to MLflow, one cell at a time.
    temporary = Path(tempfile.gettempdir())
    needs.append(Need(f"temporary files {temporary}", temporary, max(map(_cell_bytes, cells), default=0), "TMPDIR"))
    return needs


def estimate_mlflow_bytes(cells: Iterable[Cell]) -> int:
    """Return an upper estimate of what an embedded MLflow needs to log cells that it does not have yet."""
    return _MLFLOW_BYTES + sum(map(_cell_bytes, cells))


def format_bytes(size: int) -> str:
    """Return a size as text, in MiB or GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def _cell_bytes(cell: Cell) -> int:
    """Return the bytes of a finished cell: its weights and small files."""
    from pld_grid.train.sizes import estimate_sizes

    sizes = estimate_sizes(cell)
    return (sizes.weights if sizes is not None else 0) + _CELL_BYTES + _EPOCH_BYTES * cell.epochs


def _peak_checkpoint_bytes(plan: Plan) -> int:
    """Return the bytes of all checkpoints while the largest cohorts of a wave run at the same time."""
    from pld_grid.train.sizes import estimate_sizes

    def cohort_bytes(cells: Iterable[Cell]) -> int:
        return sum(sizes.checkpoint for cell in cells if (sizes := estimate_sizes(cell)) is not None)

    slots = sum(pool.slots for pool in plan.pools.values())
    waves = (sorted((cohort_bytes(cohort.cells) for cohort in wave), reverse=True)[:slots] for wave in plan.waves)
    return _CHECKPOINT_COPIES * max(map(sum, waves), default=0)


def _describe_shortage(needs: list[Need]) -> str:
    """Return the message about needs on one file system; empty if they fit."""
    needs = sorted(needs, key=lambda need: -need.size)
    needed, free = sum(need.size for need in needs), shutil.disk_usage(_nearest_existing(needs[0].path)).free
    if needed <= free:
        return ""
    text = f"{needs[0].place}: about {format_bytes(needed)} needed"
    if len(needs) > 1:
        parts = ", ".join(f"{need.place} {format_bytes(need.size)}" for need in needs)
        text = f"about {format_bytes(needed)} needed on one file system ({parts})"
    return f"{text}, {format_bytes(free)} free; free some, or name another place ({needs[0].option})"


def _nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    path = path.absolute()
    for candidate in (path, *path.parents):
        with contextlib.suppress(PermissionError):
            if candidate.exists():
                return candidate
    return Path("/")
