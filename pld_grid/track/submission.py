"""Submissions: one `run` of one or more grids, kept in the store so that its MLflow run can be replayed too.

A driver that dies says nothing, so while it lives it holds a lease by its submission's id: from before the submission
is there until after it has ended.
"""

import json
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pld_grid.records import Record, without_progress
from pld_grid.spec import Frozen, Scalar, canonical_json
from pld_grid.store import Store, leases
from pld_grid.store.leases import Lease, Observer

FOLDER = "submissions"
LOOK = 0.5  # seconds between two looks for a sign of life


class Submission(Frozen):
    """Which cells were asked for, by which grids, and which of them had to be trained.

    `cells` names the grids of every cell wanted, finished ones included; `trained` the cells still to do at the start.
    `lost` is one whose driver died; `started` and `ended` are Unix times in seconds.
    """

    submission_id: str
    name: str
    profile: str
    cells: dict[str, tuple[str, ...]]
    trained: tuple[str, ...]
    summary: dict[str, Scalar]
    state: Literal["running", "finished", "failed", "cancelled", "lost"] = "running"
    started: float
    ended: float | None = None

    @property
    def grids(self) -> str:
        """The grids' names, comma-joined."""
        return ",".join(sorted({grid for grids in self.cells.values() for grid in grids}))


def new_id() -> str:
    """A name that sorts by time and that two drivers never share."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def write(store: Store, submission: Submission) -> None:
    """Keeps a submission, replacing what was known of it."""
    store.write(canonical_json(submission).encode() + b"\n", FOLDER, f"{submission.submission_id}.json")


def read(store: Store, submission_id: str) -> Submission | None:
    """A submission as the store has it now; None if it is not there or cannot be read: it holds no results."""
    data = store.read(FOLDER, f"{submission_id}.json")
    try:
        found = Submission.model_validate(json.loads(data or b""))
    except (ValueError, RecursionError):
        return None
    return found if found.submission_id == submission_id else None


def load(store: Store, only: Collection[str] | None = None) -> Iterator[Submission]:
    """All submissions of a store, or those of these ids, oldest first."""
    for name in sorted(store.names(FOLDER)):
        submission_id = name.removesuffix(".json")
        if name.endswith(".json") and (only is None or submission_id in only):
            found = read(store, submission_id)
            if found is not None:
                yield found


def alive(store: Store, observer: Observer | None = None) -> list[Submission]:
    """The submissions whose drivers live, oldest first. Raises StoreError if the store cannot be read.

    Only an observer that is asked again and again knows of those that died on other machines.
    """
    lapsed = (observer or Observer(store)).lapsed
    held = {name.removesuffix(".json") for name in store.names(leases.FOLDER)}
    return [known for known in load(store, held) if not lapsed(known.submission_id)]


def lost(known: Submission, observer: Observer) -> bool:
    """Whether a submission counts as running although its driver is dead. Raises StoreError."""
    return known.state == "running" and observer.lapsed(known.submission_id)


def observe(submissions: Iterable[Submission], observer: Observer) -> None:
    """Looks until the observer can judge the drivers that may live, and the workers there are.

    That takes a beat if they live, and `leases.LAPSED` seconds if they died on another machine. Raises StoreError.
    """
    if all(known.state != "running" or observer.lapsed(known.submission_id) for known in submissions):
        return
    store = observer.store
    ids = [name.removesuffix(".json") for name in store.names(leases.FOLDER)]
    seen = {lease_id: leases.read(store, lease_id) for lease_id in ids if not observer.lapsed(lease_id)}
    while seen:
        time.sleep(LOOK)
        seen = {
            lease_id: beat
            for lease_id, beat in seen.items()
            if not observer.lapsed(lease_id) and leases.read(store, lease_id) == beat
        }


def newest(store: Store, cell_ids: Iterable[str]) -> Submission | None:
    """Of the submissions that wanted most of these cells, the latest."""
    wanted = set(cell_ids)
    return max(
        (each for each in load(store) if not wanted.isdisjoint(each.cells)),
        key=lambda each: (len(wanted & each.cells.keys()), each.submission_id),
        default=None,
    )


def queued(submissions: Iterable[Submission], cell_ids: Iterable[str]) -> dict[str, Record]:
    """Records of those cells without progress that running submissions are to train."""
    waiting = {cell_id for each in submissions if each.state == "running" for cell_id in each.trained}
    return {cell_id: without_progress(cell_id, "queued") for cell_id in cell_ids if cell_id in waiting}


@contextmanager
def living(store: Store, submission_id: str) -> Iterator[None]:
    """Gives signs of life while its block runs. Raises StoreError if not even the first one can be given."""
    with Lease(store, submission_id).held():
        yield


class Submissions:
    """The submissions of a store, read once; any thread may use it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._found: dict[str, Submission] | None = None
        self._lock = threading.Lock()

    def keep(self, changed: Submission) -> None:
        """Writes one that is new or has changed."""
        write(self.store, changed)
        with self._lock:
            if self._found is not None:
                self._found[changed.submission_id] = changed

    def forget(self) -> None:
        """Reads them anew when next asked: other drivers may have added some."""
        with self._lock:
            self._found = None

    def all(self) -> list[Submission]:
        """Every one, oldest first."""
        with self._lock:
            if self._found is None:
                self._found = {each.submission_id: each for each in load(self.store)}
            return list(self._found.values())

    def get(self, submission_id: str) -> Submission | None:
        """The one of that id."""
        return next((each for each in self.all() if each.submission_id == submission_id), None)

    def of(self, cell_id: str) -> list[Submission]:
        """Those that wanted a cell, oldest first."""
        return [each for each in self.all() if cell_id in each.cells]

    def know(self, cells: Mapping[str, Iterable[str]]) -> bool:
        """Whether every cell is known to belong to its grids, by cell id."""
        pairs = {(cell, grid) for each in self.all() for cell, grids in each.cells.items() for grid in grids}
        return all((cell, grid) in pairs for cell, grids in cells.items() for grid in grids)
