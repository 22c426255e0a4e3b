"""Reports while cells train: records read again and again, at little cost, and what is done when they changed."""

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pld_grid.errors import PldGridError, StoreError
from pld_grid.records import Record, Records, finished_in, read_record, with_stale
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.store.leases import Observer
from pld_grid.track import Tracker, alive, newest, queued

logger = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds between two looks at the store
PUBLISHED = 60.0  # seconds between two uploads of a report
ENDED = ("finished", "diverged", "failed", "lost", "cancelled")


class _Known(NamedTuple):
    """What was read of a cell, and of which state of its files; `settled` if two readings agree on that."""

    mark: Hashable
    settled: bool
    record: Record | None


class LiveRecords:
    """The records of some cells as a store has them, for reading more than once: only what changed is read again.

    Args:
        cells: what is wanted.
        mirrored_in: as for `pld_grid.records.from_store`.
    """

    def __init__(self, store: Store, cells: Iterable[Cell], mirrored_in: str | None = None) -> None:
        self.store = store
        self.cells = {cell.cell_id: cell for cell in cells}
        self.mirrored_in = mirrored_in
        self._observer = Observer(store)
        self.going_on = False
        self._known: dict[str, _Known] = {}
        self._stale: dict[str, Record] | None = None

    def read(self) -> dict[str, Record]:
        """All records there are, `queued` and `stale` ones included, in the order of the cells.

        Afterwards `going_on` says whether a run is training some of the cells. Raises StoreError.
        """
        # Runs first: a cell that begins meanwhile is then both waited for and there, and there is what counts.
        runs = [each for each in alive(self.store, self._observer) if not self.cells.keys().isdisjoint(each.trained)]
        self.going_on = bool(runs)
        present = self.store.cell_ids()
        marks = _marks(self.store, [cell_id for cell_id in self.cells if cell_id in present])
        found = {cell_id: record for cell_id in marks if (record := self._record(cell_id, marks[cell_id])) is not None}
        found |= queued(runs, [cell_id for cell_id in self.cells if cell_id not in found])
        if self._stale is None:
            others = present - self.cells.keys()  # without any, nothing can be stale
            everything = with_stale(found, self.cells.values(), partial(finished_in, self.store)) if others else found
            self._stale = {cell_id: record for cell_id, record in everything.items() if cell_id not in found}
        found = self._stale | found
        return {cell_id: found[cell_id] for cell_id in self.cells if cell_id in found}

    def _record(self, cell_id: str, mark: Hashable) -> Record | None:
        known = self._known.get(cell_id)
        same = known is not None and known.mark == mark
        if known is None or not same or not known.settled:
            # Two writes may lie between two ticks of a clock: what changed is read once more the next time.
            known = _Known(mark, same, read_record(self.store, cell_id, self.mirrored_in))
            self._known[cell_id] = known
        return known.record

    def over(self, records: Records) -> bool:
        """Whether nothing is left to wait for: every cell has come to an end, and no run is going on."""
        return not self.going_on and all(i in records and records[i].state in ENDED for i in self.cells)


def follow(
    live: LiveRecords,
    refresh: Callable[[Records], object],
    interval: float = INTERVAL,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Calls `refresh` with the records now and whenever they changed, until nothing is left to wait for.

    Raises StoreError if the store cannot be read, and what `refresh` does.
    """
    shown = None
    while True:
        records = live.read()
        over = live.over(records)
        if records != shown:
            refresh(records)
            shown = records
        if over:
            return
        pause(interval)


class Refresher:
    """`follow` beside a run, in a thread of its own: it never holds up training, and never fails it.

    Use as a context manager. When it ends, by an exception after a last refresh (as nobody else will then say what
    became of the cells), `at_end` is called, all within `timeout` seconds. At least `interval` seconds lie between two
    refreshes, and nine times as long as one takes: workers need the CPUs.
    """

    def __init__(
        self,
        live: LiveRecords,
        refresh: Callable[[Records], object],
        at_end: Callable[[], None] = lambda: None,
        interval: float = INTERVAL,
        timeout: float = 60.0,
    ) -> None:
        self.live, self.refresh, self.at_end, self.interval, self.timeout = live, refresh, at_end, interval, timeout
        self._over = threading.Event()
        self._shown: dict[str, Record] | None = None
        self._told: set[str] = set()
        self._failed = False
        self._thread = threading.Thread(target=self._loop, name="pld_grid-report", daemon=True)

    def __enter__(self) -> "Refresher":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._failed = kind is not None
        self._over.set()
        self._thread.join(self.timeout)

    def _loop(self) -> None:
        pause = self.interval
        while not self._over.wait(pause):
            started = time.thread_time()  # not the time that MLflow makes it wait
            self._try(self._look)
            pause = max(self.interval, 9 * (time.thread_time() - started))
        if self._failed:
            self._try(self._look)
        self._try(self.at_end)

    def _look(self) -> None:
        records = self.live.read()
        if records != self._shown:
            self.refresh(records)
            self._shown = records

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:
            if str(error) not in self._told:
                # What is not in our tree of errors is a bug: its traceback is wanted, but not at training's expense.
                known = isinstance(error, PldGridError)
                logger.warning("the report is not up to date: %s", error, exc_info=None if known else error)
            self._told.add(str(error))


class Publisher:
    """Keeps a report in MLflow, with the newest submission that wanted some of its cells, now and then.

    That MLflow is away is told once; the report itself lies in its folder.
    """

    def __init__(self, tracker: Tracker, cells: Iterable[str], interval: float = PUBLISHED) -> None:
        self.tracker, self.cells, self.interval = tracker, frozenset(cells), interval
        self._waiting: Mapping[str, bytes] | None = None
        self._last = -math.inf
        self._told = False

    def offer(self, files: Mapping[str, bytes]) -> None:
        """Takes the report's files as they now are, by name; they are uploaded if the last ones were long ago."""
        self._waiting = files
        if time.monotonic() - self._last >= self.interval:
            self.flush()

    def flush(self) -> None:
        """Uploads what was offered last, unless it is there already."""
        if self._waiting is None:
            return
        self._last = time.monotonic()
        try:
            submission = newest(self.tracker.store, self.cells)
            if submission is not None:
                self.tracker.log_report(submission.submission_id, self._waiting)
            self._waiting = None
        except PldGridError as error:
            if not self._told:
                logger.warning("%s; the report is in its folder", error)
            self._told = True
            self.interval *= 2  # waiting for one that is away costs time


def _marks(store: Store, cell_ids: Iterable[str]) -> dict[str, Hashable]:
    """For each cell that a store has, something that changes with its receipt, status, mirror or checkpoints."""
    if store.local:
        times = {cell_id: _folder_times(store, cell_id) for cell_id in cell_ids}
        return {cell_id: each for cell_id, each in times.items() if each[0] is not None}
    try:
        # Object stores remember listings, which others may have made old.
        store.fs.invalidate_cache()
        listed = store.fs.find(store.root, detail=True)
    except OSError as error:
        raise StoreError(f"store {store.uri}: cannot be listed: {error}") from error
    entries: dict[str, list[str]] = {cell_id: [] for cell_id in cell_ids}
    for path in sorted(listed):
        cell_id = path.removeprefix(store.path("")).partition("/")[0]
        if cell_id in entries:
            entries[cell_id].append(str(listed[path]))
    return {cell_id: tuple(each) for cell_id, each in entries.items() if each}


def _folder_times(store: Store, cell_id: str) -> tuple[int | None, int | None]:
    """Every write ends in a rename, which changes its folder's time."""
    return _time(store.path(cell_id)), _time(store.path(cell_id, "checkpoints"))


def _time(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
