"""Runs of one experiment: all, by tag, and made; and the records that they give back."""

import gc
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pld_grid.errors import TrackingError
from pld_grid.files import read_regular, temporary_folder
from pld_grid.records import Record
from pld_grid.track import content
from pld_grid.track.content import CELL_ID, LOGGED, PREFIX, RECEIPT, RECEIPT_FILE, SUBMISSION_ID
from pld_grid.track.database import prepare_database
from pld_grid.track.server import EXPERIMENT, connect, database_path, reporting
from pld_grid.uris import public_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag

logger = logging.getLogger(__name__)

DOWNLOADS = 8  # at a time
BATCH = 500  # metrics per request: MLflow takes 1000 metrics, parameters and tags together, and 1 MB
PAGE = 250  # runs per request; MLflow takes about 0.1 MB for each while it reads them
_BRIEFS = f"""
    SELECT run_uuid, experiment_id, status, start_time, artifact_uri, key, value FROM runs JOIN tags USING (run_uuid)
    WHERE experiment_id = ? AND lifecycle_stage = 'active' AND key LIKE '{PREFIX}%' AND typeof(start_time) = 'integer'
        AND typeof(run_uuid) = 'text' AND typeof(artifact_uri) = 'text' AND typeof(value) = 'text'
    ORDER BY start_time, run_uuid
"""


@dataclass(frozen=True)
class Brief:
    """What of a run says which cell or submission it shows, and how far; `start_time` in milliseconds."""

    run_id: str
    experiment_id: str
    status: str
    start_time: int
    artifact_uri: str
    tags: Mapping[str, str]

    @property
    def precedence(self) -> tuple[bool, int, str]:
        """The least of several runs of one cell is the one that counts: it has metrics, or is the oldest."""
        return LOGGED not in self.tags, self.start_time, self.run_id


def records(
    tracking_uri: str, experiment: str = EXPERIMENT, cell_ids: Collection[str] | None = None
) -> dict[str, Record]:
    """Records of all mirrored cells (or those asked for), from MLflow alone: equal to `pld_grid.records.from_store`.

    Epochs and provenance come from the receipts among the runs' artifacts. A record whose receipt is not there, or
    is not the one that the run's tags speak of, goes without them, and a warning counts these.

    Raises:
        TrackingError: MLflow cannot be reached, or there is none.
    """
    chosen = _chosen(tracking_uri, experiment, cell_ids)
    final = [cell_id for cell_id, (run, _) in chosen.items() if run.tags.get(RECEIPT)]
    found = {cell_id: record for cell_id, (_, record) in chosen.items()}
    lacking = 0
    for cell_id, file in zip(final, _receipts(tracking_uri, [chosen[i][0] for i in final]), strict=True):
        complete = content.with_receipt(found[cell_id], file, chosen[cell_id][0].tags[RECEIPT])
        lacking += complete is None
        found[cell_id] = complete or found[cell_id]
    if lacking:
        logger.warning(
            "MLflow at %s: %d of %d finished runs have no %s, or a wrong one; their epochs and devices are not known",
            public_uri(tracking_uri), lacking, len(final), RECEIPT_FILE,
        )  # fmt: skip
    return found


def finished(tracking_uri: str, experiment: str, cell_ids: Collection[str]) -> set[str]:
    """Which ids have a finished run, of whatever spec version. Raises TrackingError as `records` does."""
    chosen = _chosen(tracking_uri, experiment, cell_ids)
    return {cell_id for cell_id, (_, record) in chosen.items() if record.state == "finished"}


def _chosen(tracking_uri: str, experiment: str, cell_ids: Collection[str] | None) -> dict[str, tuple[Brief, Record]]:
    """The run of each cell with what its tags say, in the order asked for."""
    path = database_path(tracking_uri)
    found: dict[str, tuple[Brief, Record]] = {}
    with reporting(tracking_uri):
        if path is not None and not path.exists():
            raise TrackingError(f"there is no MLflow database {path}")
        # It finds out within seconds whether there is a database; MLflow tries for minutes.
        prepare_database(tracking_uri)
        client = connect(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        for run in survey(tracking_uri, client, known.experiment_id) if known else ():
            record = content.record(run.run_id, run.experiment_id, run.tags)
            if record is None:
                continue
            if record.cell_id not in found or run.precedence < found[record.cell_id][0].precedence:
                found[record.cell_id] = run, record
    wanted = found if cell_ids is None else [cell_id for cell_id in dict.fromkeys(cell_ids) if cell_id in found]
    return {cell_id: found[cell_id] for cell_id in wanted}


def _receipts(tracking_uri: str, runs: Collection[Brief]) -> Iterator[bytes | None]:
    """The receipts that runs keep as artifacts: files are read as such, others fetched, a few at a time."""
    folders = [_local(run.artifact_uri) for run in runs]
    if None not in folders:
        yield from (_read(folder / RECEIPT_FILE) for folder in folders if folder)
        return
    with temporary_folder("pld_grid-mlflow-") as scratch, ThreadPoolExecutor(DOWNLOADS) as pool:
        # Not after the runs: whoever answers as MLflow may call one `../..`.
        places = (Path(scratch, str(number)) for number in range(len(runs)))
        yield from pool.map(partial(_download, connect(tracking_uri)), runs, places)


def _local(artifact_uri: str) -> Path | None:
    """The folder behind a run's artifacts, if it is one of this machine's."""
    try:
        parts = urlsplit(artifact_uri)
    except ValueError:
        return None
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except (OSError, ValueError):  # ValueError: no path at all
        return None


def _download(client: "MlflowClient", run: Brief, folder: Path) -> bytes | None:
    try:
        folder.mkdir()
        return _read(Path(client.download_artifacts(run.run_id, RECEIPT_FILE, str(folder))))
    except Exception:  # every artifact store raises its own kind; the caller counts what is missing
        return None


def survey(tracking_uri: str, client: "MlflowClient", experiment_id: str) -> Iterable[Brief]:
    """All runs of an experiment in brief, oldest first.

    MLflow's client makes an object of every parameter and metric, 80 for each run, which for thousands of runs takes
    many times as long as what is needed. So an embedded database is asked for just that; if it is not laid out as
    expected, the client still is.
    """
    path = database_path(tracking_uri)
    found = _from_database(path, experiment_id) if path is not None else None
    return found if found is not None else map(brief, stream(client, experiment_id))


def _from_database(path: Path, experiment_id: str) -> list[Brief] | None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute(_BRIEFS, (experiment_id,))
            runs = groupby(rows, key=lambda row: row[:5])
            return [
                Brief(run_id, str(experiment), status, start_time, artifacts, {name: value for *_, name, value in tags})
                for (run_id, experiment, status, start_time, artifacts), tags in runs
            ]
    except sqlite3.Error:
        return None


def brief(run: "Run") -> Brief:
    """What `survey` tells of a run."""
    tags = {k: v for k, v in run.data.tags.items() if k.startswith(PREFIX) and isinstance(v, str)}
    info = run.info
    started = info.start_time if isinstance(info.start_time, int) else 0
    return Brief(info.run_id, info.experiment_id, info.status, started, info.artifact_uri or "", tags)


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


def active(client: "MlflowClient", run_id: str) -> "Run | None":
    """The run of that id unless it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def find(client: "MlflowClient", experiment_id: str, tag: str, value: str) -> "Run | None":
    """The run with a tag. Of several, the one that counts: the others are ended, and deleted unless they have metrics.

    Several are made by drivers that do not know of each other, and by a request whose answer is lost or late: it is
    made again. MLflow has no unique tags, but all agree on which run stays.
    """
    from mlflow.exceptions import MlflowException

    runs = sorted(stream(client, experiment_id, f"tags.`{tag}` = '{value}'"), key=lambda run: brief(run).precedence)
    for run in runs[1:]:
        with suppress(MlflowException):  # somebody else has deleted it, or the next look at all runs finds it
            if run.info.status == "RUNNING":
                # As which it would be shown among the deleted ones, too.
                client.set_terminated(run.info.run_id, status="KILLED")
            if LOGGED not in run.data.tags:
                client.delete_run(run.info.run_id)
    return runs[0] if runs else None


def create(
    client: "MlflowClient", experiment_id: str, tag: str, tags: Mapping[str, str], name: str, started: float
) -> "Run":
    """A new run (`started` in seconds), or the one that somebody else made meanwhile: `tag` tells which are the same.

    Raises TrackingError if MLflow does not show it.
    """
    client.create_run(experiment_id, start_time=int(started * 1000), tags=dict(tags), run_name=name)
    run = find(client, experiment_id, tag, tags[tag])
    if run is None:
        raise TrackingError(f"MLflow does not show the run {name} that it has just made")
    return run


def log(
    client: "MlflowClient",
    run_id: str,
    metrics: Sequence["Metric"],
    params: Sequence["Param"],
    tags: Sequence["RunTag"],
) -> None:
    """Logs in batches. The tags say how far the metrics go, so they travel with the last of them and never before."""
    while len(metrics) > BATCH:
        client.log_batch(run_id, metrics=metrics[:BATCH])
        metrics = metrics[BATCH:]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)


def lacking(client: "MlflowClient", run: "Run", metrics: Sequence["Metric"]) -> list["Metric"]:
    """Those of the metrics whose epochs a run does not have, whatever its tags say.

    MLflow commits a batch's metrics before its tags. Where somebody died in between, and the epochs were lost as well,
    they come again, with another time, and would be there twice.
    """
    names = run.data.metrics.keys() & {metric.key for metric in metrics}
    there = {(name, each.step) for name in names for each in client.get_metric_history(run.info.run_id, name)}
    return [metric for metric in metrics if (metric.key, metric.step) not in there]


def index(runs: Iterable[Brief]) -> dict[str, Brief]:
    """Runs by cell or submission id. Of two runs of one cell, every process picks the same."""
    found: dict[str, Brief] = {}
    for run in runs:
        key = run.tags.get(CELL_ID) or run.tags.get(SUBMISSION_ID)
        if key and (key not in found or run.precedence < found[key].precedence):
            found[key] = run
    return found


def doubled(runs: Iterable[Brief], chosen: Mapping[str, Brief]) -> frozenset[str]:
    """Cells and submissions, by id, that have a run too many, which `find` ends or deletes."""
    keys = ((run.tags.get(CELL_ID) or run.tags.get(SUBMISSION_ID) or "", run) for run in runs)
    return frozenset(
        key
        for key, run in keys
        if key in chosen and run is not chosen[key] and (LOGGED not in run.tags or run.status == "RUNNING")
    )


def upload(tracking_uri: str, artifact_uri: str, files: Mapping[str, bytes], into: str | None = None) -> None:
    """Keeps files by name as a run's artifacts, in a folder of these if one is named. Raises what MLflow does.

    A client would ask where the artifacts of the run lie, and remember a wrong answer as long as the process lives.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with temporary_folder("pld_grid-mlflow-") as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        get_artifact_repository(artifact_uri, tracking_uri).log_artifacts(folder, into)  # type: ignore[no-untyped-call]


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
