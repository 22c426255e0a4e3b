"""Runs of one experiment, all or by tag, and the records that they give back."""

import gc
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pld_grid.errors import TrackingError
from pld_grid.records import Record
from pld_grid.track import content
from pld_grid.track.content import CELL_ID, LOGGED, SUBMISSION_ID
from pld_grid.track.server import EXPERIMENT, connect, database_path, reporting

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000  # runs per request
_Precedence = tuple[bool, int, str]


def records(
    tracking_uri: str, experiment: str = EXPERIMENT, cell_ids: Collection[str] | None = None
) -> dict[str, Record]:
    """Records of all mirrored cells (or those asked for), from MLflow alone: equal to `pld_grid.records.from_store`.

    Raises:
        TrackingError: MLflow cannot be reached, or there is none.
    """
    path = database_path(tracking_uri)
    if path is not None and not path.exists():
        raise TrackingError(f"there is no MLflow database {path}")
    found: dict[str, tuple[_Precedence, Record]] = {}
    with reporting(tracking_uri):
        client = connect(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        for run in stream(client, known.experiment_id) if known else ():
            record = content.record(run.info.run_id, run.data.tags)
            if record is not None and (record.cell_id not in found or precedence(run) < found[record.cell_id][0]):
                found[record.cell_id] = precedence(run), record
    wanted = found if cell_ids is None else [cell_id for cell_id in dict.fromkeys(cell_ids) if cell_id in found]
    return {cell_id: found[cell_id][1] for cell_id in wanted}


def stream(client: "MlflowClient", experiment_id: str, query: str = "") -> "Iterator[Run]":
    """All runs, oldest first: new ones then do not shift the pages."""
    token: str | None = None
    while True:
        with _uncollected():
            page = client.search_runs(
                [experiment_id], query, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


def index(runs: "Iterable[Run]") -> "dict[str, Run]":
    """Runs by cell or submission id. Of two runs of one cell, every process picks the same."""
    found: dict[str, Run] = {}
    for run in runs:
        key = run.data.tags.get(CELL_ID) or run.data.tags.get(SUBMISSION_ID)
        if key and (key not in found or precedence(run) < precedence(found[key])):
            found[key] = run
    return found


def precedence(run: "Run") -> _Precedence:
    """The least of several runs of one cell is the one that counts: it has metrics, or is the oldest."""
    return LOGGED not in run.data.tags, run.info.start_time, run.info.run_id


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: MLflow makes 70 objects per run, and looking for garbage doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
