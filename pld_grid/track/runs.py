"""Runs of one experiment, all or by tag, and the records that they give back."""

from collections.abc import Collection, Iterable, Iterator
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
    with reporting(tracking_uri):
        client = connect(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        runs = index(stream(client, found.experiment_id)) if found else {}
    wanted = runs if cell_ids is None else [cell_id for cell_id in dict.fromkeys(cell_ids) if cell_id in runs]
    made = (content.record(runs[key].info.run_id, runs[key].data.tags) for key in wanted)
    return {record.cell_id: record for record in made if record is not None}


def stream(client: "MlflowClient", experiment_id: str, query: str = "") -> "Iterator[Run]":
    """All runs, oldest first: new ones then do not shift the pages."""
    token: str | None = None
    while True:
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
        if key and (key not in found or _precedence(run) < _precedence(found[key])):
            found[key] = run
    return found


def _precedence(run: "Run") -> tuple[bool, int, str]:
    return LOGGED not in run.data.tags, run.info.start_time, run.info.run_id
