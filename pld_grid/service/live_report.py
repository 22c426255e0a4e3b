"""Read records repeatedly while cells train, and refresh a report when they change."""

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pld_grid.experiment.cell import Cell
from pld_grid.store import Store
from pld_grid.store.leases import Observer
from pld_grid.store.records import CellRecord, Records
from pld_grid.track.parent_runs import load_active_parent_runs, load_latest_parent_run, queued_records
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import PldGridError, StoreError

logger = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 5.0
PUBLISH_INTERVAL_SECONDS = 60.0
TERMINAL_STATES = ("finished", "diverged", "failed", "lost", "cancelled")


class _CachedRecord(NamedTuple):
    """A record and the state of its files when it was read; `settled` if two reads saw the same state."""

    fingerprint: Hashable
    settled: bool
    record: CellRecord | None


class LiveRecords:
    """The records of some cells in a store, for repeated reading: only cells whose files changed are read again.

    Args:
        store: where the cells are.
        cells: the cells to read.
        mirrored_in: see `pld_grid.store.Store.report_record`.

    Attributes:
        active: whether a run was training some of the cells at the last read.
    """

    def __init__(self, store: Store, cells: Iterable[Cell], mirrored_in: str | None = None) -> None:
        self.store = store
        self.cells = {cell.cell_id: cell for cell in cells}
        self.mirrored_in = mirrored_in
        self.active = False
        self._observer = Observer(store)
        self._cache: dict[str, _CachedRecord] = {}
        self._shown: dict[str, CellRecord] | None = None

    def show_changes(self, show: Callable[[Records], object]) -> bool:
        """Call `show` with the records if they have changed since the last call; return whether they are complete.

        They are once every cell is in a terminal state and no run is active. Raises StoreError.
        """
        records = self.read()
        complete = not self.active and all(i in records and records[i].state in TERMINAL_STATES for i in self.cells)
        if records != self._shown:
            show(records)
            self._shown = records
        return complete

    def read(self) -> dict[str, CellRecord]:
        """Return all records, including those of queued cells, in the order of the cells. Raises StoreError."""
        # Read runs before cells: a cell that starts in between is in both, and its own record wins.
        active = load_active_parent_runs(self.store, self._observer)
        runs = [run for run in active if not self.cells.keys().isdisjoint(run.trained)]
        self.active = bool(runs)
        present = self.store.cell_ids()
        fingerprints = _fingerprint_cells(self.store, [cell_id for cell_id in self.cells if cell_id in present])
        cached = ((cell_id, self._read_cell(cell_id, state)) for cell_id, state in fingerprints.items())
        records = {cell_id: record for cell_id, record in cached if record is not None}
        records |= queued_records(runs, [cell_id for cell_id in self.cells if cell_id not in records])
        return {cell_id: records[cell_id] for cell_id in self.cells if cell_id in records}

    def _read_cell(self, cell_id: str, fingerprint: Hashable) -> CellRecord | None:
        cached = self._cache.get(cell_id)
        unchanged = cached is not None and cached.fingerprint == fingerprint
        if cached is None or not unchanged or not cached.settled:
            # Two writes may fall into one tick of the file system's clock: read what changed once more next time.
            cached = _CachedRecord(fingerprint, unchanged, self.store.report_record(cell_id, self.mirrored_in))
            self._cache[cell_id] = cached
        return cached.record


@contextmanager
def refresh_in_background(
    live: LiveRecords,
    refresh: Callable[[Records], object],
    on_end: Callable[[], None] = lambda: None,
    interval: float = POLL_INTERVAL_SECONDS,
    timeout: float = 60.0,
) -> Iterator[threading.Thread]:
    """Call `refresh` after every change while a run trains, in a thread that neither delays nor fails the run.

    Between two refreshes it waits for nine times the CPU time of one, since workers need the CPUs. If the block ends
    with an exception, a last refresh shows the final states of the cells. Yields the thread.

    Args:
        live: the records to follow.
        refresh: called with the records; its errors are logged.
        on_end: called in the thread before it ends.
        interval: seconds between two reads of the store, at least.
        timeout: seconds that leaving the block waits for the thread.
    """
    stop, failed, logged = threading.Event(), threading.Event(), set[str]()

    def log_errors(action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if str(error) not in logged:
                # Any other error is a bug: log its traceback, but do not fail the run.
                expected = isinstance(error, PldGridError)
                logger.warning("the report is not up to date: %s", error, exc_info=None if expected else error)
            logged.add(str(error))

    def loop() -> None:
        pause = interval
        while not stop.wait(pause):
            started = time.thread_time()  # without the time spent waiting for MLflow
            log_errors(lambda: live.show_changes(refresh))
            pause = max(interval, 9 * (time.thread_time() - started))
        if failed.is_set():
            log_errors(lambda: live.show_changes(refresh))
        log_errors(on_end)

    thread = threading.Thread(target=loop, name="pld_grid-report", daemon=True)
    thread.start()
    try:
        yield thread
    except BaseException:
        failed.set()
        raise
    finally:
        stop.set()
        thread.join(timeout)


class Publisher:
    """Upload a report to MLflow from time to time, to the run of the newest submission of its cells.

    Args:
        tracker: the MLflow.
        cells: ids of the report's cells.
        interval: seconds between two uploads; doubled after an error, which is logged once.
    """

    def __init__(self, tracker: Tracker, cells: Iterable[str], interval: float = PUBLISH_INTERVAL_SECONDS) -> None:
        self.tracker, self.cells, self.interval = tracker, frozenset(cells), interval
        self._pending: Mapping[str, bytes] | None = None
        self._last_upload = -math.inf
        self._warned = False

    def update(self, files: Mapping[str, bytes]) -> None:
        """Replace the files to upload, by name, and upload them unless the last upload was recent."""
        self._pending = files
        if time.monotonic() - self._last_upload >= self.interval:
            self.flush()

    def flush(self) -> None:
        """Upload the latest files unless they are uploaded already."""
        if self._pending is None:
            return
        self._last_upload = time.monotonic()
        try:
            parent = load_latest_parent_run(self.tracker.store, self.cells)
            if parent is not None:
                self.tracker.log_report(parent, self._pending)
            self._pending = None
        except PldGridError as error:
            if not self._warned:
                logger.warning("%s; the report is in its folder", error)
            self._warned = True
            self.interval *= 2  # each attempt to reach an absent server takes time


def _fingerprint_cells(store: Store, cell_ids: Iterable[str]) -> dict[str, Hashable]:
    """Return, for each cell in the store, a value that changes with its receipt, status, mirror or checkpoints."""
    if store.local:
        # Every write ends with a rename, which changes the modification time of its folder.
        times = {i: (_modified(store.path(i)), _modified(store.path(i, "checkpoints"))) for i in cell_ids}
        return {cell_id: pair for cell_id, pair in times.items() if pair[0] is not None}
    try:
        # Object stores cache listings, which other processes may have outdated.
        store.fs.invalidate_cache()
        listed = store.fs.find(store.root, detail=True)
    except OSError as error:
        raise StoreError(f"store {store.uri}: cannot be listed: {error}") from error
    entries: dict[str, list[str]] = {cell_id: [] for cell_id in cell_ids}
    for path in sorted(listed):
        cell_id = path.removeprefix(store.path("")).partition("/")[0]
        if cell_id in entries:
            entries[cell_id].append(str(listed[path]))
    return {cell_id: tuple(files) for cell_id, files in entries.items() if files}


def _modified(path: str) -> int | None:
    """Return a folder's modification time in nanoseconds, or None if it does not exist."""
    try:
        return Path(path).stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
