"""Submissions: one `run` of one or more grids, kept in the store so that its MLflow run can be replayed too."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Literal

from pld_grid.spec import Frozen, Scalar, canonical_json
from pld_grid.store import Store

FOLDER = "submissions"


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
    try:
        names = store.fs.ls(store.path(FOLDER), detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(name.rsplit("/", 1)[-1] for name in names if name.endswith(".json")):
        found = read(store, name.removesuffix(".json"))
        if found is not None:
            yield found
