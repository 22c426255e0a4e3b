"""Parent runs: every execution of `pld-grid run`, kept in the store so that `sync` can replay it to MLflow.

A driver that is killed cannot report its end. It therefore holds a lease with the id of its parent run, from before the
parent run is written to the store until after its end is.
"""

import json
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

from pydantic import Field

from pld_grid.experiment.cell import Scalar, StrictModel, canonical_json
from pld_grid.store import Store, leases
from pld_grid.store.leases import Observer
from pld_grid.store.records import CellRecord

FOLDER = "submissions"
POLL_INTERVAL_SECONDS = 0.5


def _new_id() -> str:
    """Return an id that sorts by time and that two drivers never share."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


class ParentRun(StrictModel):
    """One execution of `pld-grid run`: in MLflow, the parent of the runs of the cells that it trains.

    Attributes:
        cells: the grids of every requested cell, by cell id, finished cells included.
        trained: ids of the cells that had no result at the start.
        summary: counts and the like; they become the run's parameters.
        state: `lost` if the driver was killed.
        started: Unix time in seconds, as `ended`.
    """

    submission_id: str = Field(default_factory=_new_id)
    name: str
    profile: str
    cells: dict[str, tuple[str, ...]]
    trained: tuple[str, ...]
    summary: dict[str, Scalar] = Field(default_factory=dict)
    state: Literal["running", "finished", "failed", "cancelled", "lost"] = "running"
    started: float = Field(default_factory=time.time)
    ended: float | None = None

    @property
    def grids(self) -> str:
        """The names of the grids, joined by commas."""
        return ",".join(sorted({grid for grids in self.cells.values() for grid in grids}))


def write(store: Store, run: ParentRun) -> None:
    """Write a parent run, replacing its earlier version."""
    store.write(canonical_json(run).encode() + b"\n", FOLDER, f"{run.submission_id}.json")


def read(store: Store, submission_id: str) -> ParentRun | None:
    """Return a parent run as the store has it now; None if it is missing or damaged, as it holds no results."""
    data = store.read(FOLDER, f"{submission_id}.json")
    try:
        run = ParentRun.model_validate(json.loads(data or b""))
    except (ValueError, RecursionError):
        return None
    return run if run.submission_id == submission_id else None


def load(store: Store, only: Collection[str] | None = None) -> Iterator[ParentRun]:
    """Yield all parent runs of a store, or those with these ids, oldest first."""
    for name in sorted(store.names(FOLDER)):
        submission_id = name.removesuffix(".json")
        if name.endswith(".json") and (only is None or submission_id in only):
            run = read(store, submission_id)
            if run is not None:
                yield run


def load_active_parent_runs(store: Store, observer: Observer | None = None) -> list[ParentRun]:
    """Return the parent runs whose drivers are alive, oldest first.

    A driver that was killed on another machine counts as alive until the same observer was asked several times.

    Raises:
        StoreError: the store cannot be read.
    """
    expired = (observer or Observer(store)).expired
    lease_ids = {name.removesuffix(".json") for name in store.names(leases.FOLDER)}
    return [run for run in load(store, lease_ids) if not expired(run.submission_id)]


def load_latest_parent_run(store: Store, cell_ids: Iterable[str]) -> ParentRun | None:
    """Return the latest of the parent runs that requested most of these cells."""
    requested = set(cell_ids)
    runs = (run for run in load(store) if not requested.isdisjoint(run.cells))
    return max(runs, key=lambda run: (len(requested & run.cells.keys()), run.submission_id), default=None)


def queued_records(runs: Iterable[ParentRun], cell_ids: Iterable[str]) -> dict[str, CellRecord]:
    """Return records for those of the cells that running parent runs are going to train."""
    queued = {cell_id for run in runs if run.state == "running" for cell_id in run.trained}
    return {cell_id: CellRecord(cell_id, "queued") for cell_id in cell_ids if cell_id in queued}


class ParentRuns:
    """The parent runs of a store, read once and cached.

    Any thread may use it: the driver adds its own while the background thread reads them.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.observer = Observer(store)
        self._cached: dict[str, ParentRun] | None = None
        self._lock = threading.Lock()
        self._own = set[str]()

    def start(self, run: ParentRun) -> ParentRun:
        """Write a new parent run to the store; this neither waits for MLflow nor fails with it.

        Its driver must keep a lease of this id alive already: other processes end it as lost if it has none.
        """
        self._own.add(run.submission_id)
        self._save(run)
        return run

    def end(self, run: ParentRun, state: Literal["finished", "failed", "cancelled", "lost"]) -> ParentRun:
        """Write to the store how a parent run ended."""
        ended = run.model_copy(update={"state": state, "ended": max(run.started, time.time())})
        self._save(ended)
        return ended

    def reload(self) -> None:
        """Clear the cache: other drivers may have added parent runs."""
        with self._lock:
            self._cached = None

    def all(self) -> list[ParentRun]:
        """Return all parent runs, oldest first."""
        with self._lock:
            if self._cached is None:
                self._cached = {run.submission_id: run for run in load(self.store)}
            return list(self._cached.values())

    def requesting(self, cell_id: str) -> list[ParentRun]:
        """Return the parent runs that requested a cell, oldest first."""
        return [run for run in self.all() if cell_id in run.cells]

    def cover(self, cells: Mapping[str, Iterable[str]]) -> bool:
        """Return whether the parent runs together name all these grids, by cell id."""
        pairs = {(cell, grid) for run in self.all() for cell, grids in run.cells.items() for grid in grids}
        return all((cell, grid) in pairs for cell, grids in cells.items() for grid in grids)

    @property
    def undecided(self) -> bool:
        """Whether other drivers may be running: alive, or killed on another machine a short time ago."""
        return any(run.state == "running" and run.submission_id not in self._own for run in self.all())

    def end_lost(self) -> None:
        """End the parent runs whose drivers were killed. Raises StoreError."""
        for run in self.all():
            if run.submission_id in self._own or run.state != "running" or not self.observer.expired(run.submission_id):
                continue
            # A driver that ends in order writes its end before it removes its lease.
            current = read(self.store, run.submission_id)
            if current is not None and current.state == "running":
                self.end(current, "lost")
            self.store.remove(leases.FOLDER, f"{run.submission_id}.json")

    def wait_for_heartbeats(self) -> None:
        """Wait until every driver and worker that may be running has sent a heartbeat or is known to be dead.

        It takes one heartbeat if they are alive, and `leases.LEASE_TTL_SECONDS` if one was killed on another machine.
        Raises StoreError.
        """
        ids = [name.removesuffix(".json") for name in self.store.names(leases.FOLDER)] if self.undecided else []
        first = {lease_id: leases.read_heartbeat(self.store, lease_id) for lease_id in ids}
        while waiting := [i for i in first if not self.observer.expired(i)]:
            if all(leases.read_heartbeat(self.store, i) != first[i] for i in waiting):
                return
            time.sleep(POLL_INTERVAL_SECONDS)

    def _save(self, run: ParentRun) -> None:
        write(self.store, run)
        with self._lock:
            if self._cached is not None:
                self._cached[run.submission_id] = run
