"""Whether what a plan will write has room where it is written, asked before anything starts.

Shapes give the bytes of weights and checkpoints; the rest is small, and estimated.
"""

import contextlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pld_grid.errors import ResourceError
from pld_grid.machine import MachineSettings
from pld_grid.plan import Cohort, Plan, Rooms
from pld_grid.reading import one_line
from pld_grid.schedule import RAY_BYTES
from pld_grid.spec import Cell
from pld_grid.store import KEPT_CHECKPOINTS, Store
from pld_grid.track.server import database_path
from pld_grid.workspace import Workspace

KIB, MIB = 2**10, 2**20
# Of a cell, beside weights and checkpoints: its folders and small files, and what each epoch adds to them.
_STORE_CELL, _STORE_EPOCH = 48 * KIB, 2 * KIB
# Of a run in MLflow's sqlite, with its small artifacts. Its log of changes grows to 4 MiB before it is emptied.
_MLFLOW, _MLFLOW_CELL, _MLFLOW_EPOCH = 6 * MIB, 48 * KIB, 4 * KIB
# Of Tune, in temporary files.
_TUNE = MIB


class Need(NamedTuple):
    """Bytes that a run will write somewhere: under which name people know the place, and what names another."""

    name: str
    path: Path
    bytes: int
    choice: str


def check_space(plan: Plan, rooms: Rooms, workspace: Workspace, *, here: bool = True) -> None:
    """Raises ResourceError, with one line, unless what the plan will write has room; writes nothing itself.

    What lies on one file system adds up. A store in an object store, and MLflow on a server, are not asked: nobody
    knows what they have room for. Nor are quotas, where the file system does not tell.

    Args:
        plan: as it will run in `rooms`.
        here: whether Ray is to be started on this machine.
    """
    if plan.waves:
        _check(needs(plan, rooms, workspace, here=here))


def needs(plan: Plan, rooms: Rooms, workspace: Workspace, *, here: bool = True) -> list[Need]:
    """What a plan will write on this machine, by place; see `check_space`."""
    found: list[Need] = []
    store, cells = Store(workspace.store), plan.pending
    weights = {cell.cell_id: _weights(cell) for cell in cells}
    if store.local:
        small = sum(_STORE_CELL + _STORE_EPOCH * cell.epochs for cell in cells)
        total = sum(weights.values()) + _checkpoints(plan, rooms, store) + small
        found.append(Need(f"store {workspace.store}", Path(store.root), total, "--store"))
    database = database_path(workspace.tracking_uri)
    if database is not None:
        found.append(Need(f"MLflow {database}", database, mlflow_bytes(cells), "--tracking-uri"))
    if here:
        found.append(Need(f"Ray {ray_folder()}", ray_folder(), RAY_BYTES, "RAY_TMPDIR"))
    # Weights pass through there on their way to MLflow, one cell's at a time.
    temporary = Path(tempfile.gettempdir())
    found.append(Need(f"temporary files {temporary}", temporary, _TUNE + max(weights.values(), default=0), "TMPDIR"))
    return found


def mlflow_bytes(cells: Iterable[Cell]) -> int:
    """What an embedded MLflow needs for cells that it has not got."""
    return _MLFLOW + sum(_weights(cell) + _MLFLOW_CELL + _MLFLOW_EPOCH * cell.epochs for cell in cells)


def ray_folder() -> Path:
    """Where a Ray that is started here keeps its sessions: its own rule."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _weights(cell: Cell) -> int:
    from pld_grid.train.sizes import sizes_of

    found = sizes_of(cell)
    return found.weights if found is not None else 0


def _checkpoints(plan: Plan, rooms: Rooms, store: Store) -> int:
    """Bytes of the checkpoints that there are at a time, in the worst case, beyond those that stand already."""
    slots = {room.machine: room.slots for room in rooms.values()}
    most = 0
    for wave in plan.waves:
        by_machine: dict[MachineSettings, list[int]] = defaultdict(list)
        for cohort in wave:
            by_machine[cohort.machine].append(_cohort_checkpoints(cohort, store))
        largest = (sorted(found, reverse=True)[: slots.get(machine, 1)] for machine, found in by_machine.items())
        most = max(most, sum(map(sum, largest)))
    return most


def _cohort_checkpoints(cohort: Cohort, store: Store) -> int:
    """Every student keeps some, and writes the next one before the oldest goes; they do so one after the other."""
    from pld_grid.train.sizes import sizes_of

    sizes = [(cell, found.checkpoint) for cell in cohort.cells if (found := sizes_of(cell)) is not None]
    added = (max(0, KEPT_CHECKPOINTS * size - _standing(store, cell)) for cell, size in sizes)
    return sum(added) + max((size for _, size in sizes), default=0)


def _standing(store: Store, cell: Cell) -> int:
    """Bytes of the checkpoints that an interrupted cell has."""
    try:
        with os.scandir(store.path(cell.cell_id, "checkpoints")) as files:
            return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _check(found: Iterable[Need]) -> None:
    by_disk: dict[int, list[Need]] = defaultdict(list)
    for need in found:
        by_disk[_existing(need.path).stat().st_dev].append(need)
    short = [text for together in by_disk.values() for text in _lack(together)]
    if short:
        raise ResourceError(one_line("; ".join(short), 600))


def _lack(together: list[Need]) -> Iterator[str]:
    """What there is to say about needs on one file system: nothing, if they have room."""
    together = sorted(together, key=lambda need: -need.bytes)
    needed, free = sum(need.bytes for need in together), shutil.disk_usage(_existing(together[0].path)).free
    if needed <= free:
        return
    first = together[0]
    names = f"{first.name}: about {size_text(needed)} needed"
    if len(together) > 1:
        parts = ", ".join(f"{need.name} {size_text(need.bytes)}" for need in together)
        names = f"about {size_text(needed)} needed on one file system ({parts})"
    yield f"{names}, {size_text(free)} free; free some, or name another place ({first.choice})"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    for each in (path, *path.parents):
        with contextlib.suppress(PermissionError):
            if each.exists():
                return each
    return Path("/")


def size_text(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / MIB:.1f} MiB"
