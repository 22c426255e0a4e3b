"""Read the records of cells back from MLflow alone."""

import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pld_grid.store import CellRecord
from pld_grid.track import mlflow_internals, run_content
from pld_grid.track.database import prepare_database
from pld_grid.track.mlflow_client import connect, translate_errors
from pld_grid.track.run_content import RECEIPT, RECEIPT_FILE
from pld_grid.track.runs import ExperimentRuns, RunInfo, group_runs
from pld_grid.track.tracking_uri import EXPERIMENT, database_path
from pld_grid.util.atomic_files import read_regular, temporary_folder
from pld_grid.util.errors import TrackingError
from pld_grid.util.redact import public_uri

logger = logging.getLogger(__name__)

MAX_DOWNLOADS = 8  # at the same time


def load_records(
    tracking_uri: str, experiment: str = EXPERIMENT, cell_ids: Collection[str] | None = None
) -> dict[str, CellRecord]:
    """Return the records of mirrored cells, from MLflow alone: equal to `Store.report_records`.

    Epochs and provenance are read from the receipts among the runs' artifacts. A record whose receipt is missing, or
    is not that which the run's tags name, is returned without them, and a warning gives the number of these records.

    Args:
        tracking_uri: the MLflow to read.
        experiment: the experiment's name.
        cell_ids: the cells to return, in this order; all if None.

    Raises:
        TrackingError: MLflow cannot be reached, or does not exist.
    """
    runs: dict[str, RunInfo] = {}
    records: dict[str, CellRecord] = {}
    for cell_id, group in _load_runs(tracking_uri, experiment).items():
        for run in group:
            record = run_content.read_record(run.run_id, run.experiment_id, run.tags)
            if record is not None:
                runs[cell_id], records[cell_id] = run, record
                break
    if cell_ids is not None:
        records = {cell_id: records[cell_id] for cell_id in dict.fromkeys(cell_ids) if cell_id in records}
    final = [cell_id for cell_id in records if runs[cell_id].tags.get(RECEIPT)]
    missing = 0
    for cell_id, receipt in zip(final, _download_receipts(tracking_uri, [runs[i] for i in final]), strict=True):
        complete = run_content.add_receipt(records[cell_id], receipt, runs[cell_id].tags[RECEIPT])
        missing += complete is None
        records[cell_id] = complete or records[cell_id]
    if missing:
        runs_without = f"MLflow at {public_uri(tracking_uri)}: {missing} of {len(final)} finished runs"
        logger.warning(
            "%s have no %s, or a wrong one; their epochs and devices are not known", runs_without, RECEIPT_FILE
        )
    return records


def _load_runs(tracking_uri: str, experiment: str) -> dict[str, list[RunInfo]]:
    path = database_path(tracking_uri)
    with translate_errors(tracking_uri):
        if path is not None and not path.exists():
            raise TrackingError(f"there is no MLflow database {path}")
        # This detects a database that is down within seconds; MLflow retries for minutes.
        prepare_database(tracking_uri)
        client = connect(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        return group_runs(ExperimentRuns(client, tracking_uri, known.experiment_id).list_runs()) if known else {}


def _download_receipts(tracking_uri: str, runs: Collection[RunInfo]) -> Iterator[bytes | None]:
    """Yield the receipt of each run, or None: local files are read in place, others downloaded in parallel."""
    with temporary_folder("pld_grid-mlflow-") as scratch, ThreadPoolExecutor(MAX_DOWNLOADS) as pool:
        # Folders have numbers: a forged run id might be `../..`.
        folders = (Path(scratch, str(number)) for number in range(len(runs)))
        yield from pool.map(partial(_download_receipt, tracking_uri), runs, folders)


def _download_receipt(tracking_uri: str, run: RunInfo, folder: Path) -> bytes | None:
    try:
        parts = urlsplit(run.artifact_uri)
        if parts.scheme == "file":
            return read_regular(Path(unquote(parts.path), RECEIPT_FILE))
        folder.mkdir()
        artifacts = mlflow_internals.open_artifacts(run.artifact_uri, tracking_uri)
        return read_regular(Path(artifacts.download_artifacts(RECEIPT_FILE, str(folder))))
    except Exception:  # every artifact store raises its own kind; the caller counts what is missing
        return None
