"""Submissions: one `run` of one or more grids, kept in the store so that its MLflow run can be replayed too.

A driver that dies says nothing, so while it lives it writes the time into `submissions/<id>.alive`, on whatever store.
The clocks of the machines that share a store must agree within a minute or two.
"""

import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from pld_grid.errors import StoreError
from pld_grid.records import Record, without_progress
from pld_grid.spec import Frozen, Scalar, canonical_json
from pld_grid.store import Store

logger = logging.getLogger(__name__)

FOLDER = "submissions"
BEAT = 20.0  # seconds between two signs of life
DEAD = 180.0  # seconds without one, after which a driver counts as dead


class Submission(Frozen):
    """Which cells were asked for, by which grids, and which of them had to be trained.

    `cells` names the grids of every cell wanted, finished ones included; `trained` the cells still to do at the start.
    """

    submission_id: str
    name: str
    profile: str
    cells: dict[str, tuple[str, ...]]
    trained: tuple[str, ...]
    summary: dict[str, Scalar]
    state: Literal["running", "finished", "failed", "cancelled"] = "running"
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
        return Submission.model_validate(json.loads(data or b""))
    except ValueError:
        return None


def load(store: Store) -> Iterator[Submission]:
    """All submissions of a store, oldest first."""
    yield from _load(store, ".json")


def alive(store: Store) -> list[Submission]:
    """The submissions whose drivers live, oldest first. Raises StoreError if the store cannot be read."""
    found = []
    for known in _load(store, ".alive"):
        with suppress(ValueError):
            last = float(store.read(FOLDER, f"{known.submission_id}.alive") or b"0")
            if time.time() - last < DEAD:
                found.append(known)
    return found


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
    """Gives signs of life, from a thread of its own, while its block runs."""
    over, failures = threading.Event(), itertools.count()

    def beat() -> None:
        try:
            store.write(f"{time.time():.0f}\n".encode(), FOLDER, f"{submission_id}.alive", durable=False)
        except StoreError as error:
            if next(failures) == 0:
                logger.warning("%s; others may take this run for dead", error)

    def go_on() -> None:
        while not over.wait(BEAT):
            beat()

    beat()
    thread = threading.Thread(target=go_on, name="pld_grid-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            store.remove(FOLDER, f"{submission_id}.alive")


def _load(store: Store, ending: str) -> Iterator[Submission]:
    """The submissions that have a file with that ending, oldest first."""
    for name in sorted(name for name in store.names(FOLDER) if name.endswith(ending)):
        found = read(store, name.removesuffix(ending))
        if found is not None:
            yield found
