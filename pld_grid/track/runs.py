"""One experiment of an MLflow and its runs: connect, list, find, create and log."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pld_grid.track import mlflow_internals
from pld_grid.track.database import prepare_database
from pld_grid.track.mlflow_client import connect, translate_errors
from pld_grid.track.run_content import CELL_ID, LOGGED, PREFIX, SUBMISSION_ID
from pld_grid.track.tracking_uri import database_path
from pld_grid.util.atomic_files import temporary_folder
from pld_grid.util.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MAX_BATCH_METRICS = 500  # MLflow takes 1000 metrics, parameters and tags together, and 1 MB
MAX_PAGE_RUNS = 250  # MLflow needs about 0.1 MB for each while it reads them
# Without this tag, MLflow's UI takes the experiment for one about language models and hides training runs.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunInfo:
    """The part of a run that identifies its cell or parent run and tells how far it is logged.

    `start_time` is in milliseconds; `tags` are those of this package.
    """

    run_id: str
    experiment_id: str
    status: str
    start_time: int
    artifact_uri: str
    tags: Mapping[str, str]

    @classmethod
    def from_run(cls, run: "Run") -> "RunInfo":
        """Return the info of a run, without any content of unexpected types."""
        tags = {k: v for k, v in run.data.tags.items() if k.startswith(PREFIX) and isinstance(v, str)}
        info = run.info
        started = info.start_time if isinstance(info.start_time, int) else 0
        return cls(info.run_id, info.experiment_id, info.status, started, info.artifact_uri or "", tags)

    @property
    def item(self) -> str:
        """The id of the cell or of the parent run; empty for a run of another program."""
        return self.tags.get(CELL_ID) or self.tags.get(SUBMISSION_ID) or ""

    @property
    def is_redundant(self) -> bool:
        """Whether `ExperimentRuns.find` would end or delete this run, if it is not the valid one."""
        return LOGGED not in self.tags or self.status == "RUNNING"

    @property
    def precedence(self) -> tuple[bool, int, str]:
        """A sort key: of several runs of one item, the first is valid. It has metrics, or is the oldest."""
        return LOGGED not in self.tags, self.start_time, self.run_id


def group_runs(runs: Iterable[RunInfo]) -> dict[str, list[RunInfo]]:
    """Return the runs of each item, the valid one first: every process chooses the same one."""
    groups: dict[str, list[RunInfo]] = {}
    for run in sorted(runs, key=lambda run: run.precedence):
        groups.setdefault(run.item, []).append(run)
    groups.pop("", None)
    return groups


class ExperimentRuns:
    """The runs of one experiment, as `client` reaches them."""

    def __init__(self, client: "MlflowClient", tracking_uri: str, experiment_id: str) -> None:
        self.client, self.tracking_uri, self.experiment_id = client, tracking_uri, experiment_id

    def list_runs(self) -> list[RunInfo]:
        """Return all active runs with tags of this package, oldest first."""
        path = database_path(self.tracking_uri)
        rows = mlflow_internals.list_runs(path, self.experiment_id, PREFIX) if path is not None else None
        if rows is not None:
            return [RunInfo(*row) for row in rows]
        return [info for info in map(RunInfo.from_run, self.search()) if info.tags]

    def search(self, query: str = "") -> "Iterator[Run]":
        """Yield all active runs that match a query, oldest first, so that new runs do not shift the pages."""
        order, token = ["attributes.start_time ASC"], None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], query, max_results=MAX_PAGE_RUNS, order_by=order, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def find(self, tag: str, value: str) -> "Run | None":
        """Return the run with a tag; of several, the valid one: end the others, and delete those without metrics.

        MLflow has no unique tags. Several runs come from drivers that share no store, and from a request whose answer
        was lost, so that the client repeated it.
        """
        from mlflow.exceptions import MlflowException

        runs = sorted(self.search(f"tags.`{tag}` = '{value}'"), key=lambda run: RunInfo.from_run(run).precedence)
        for run in runs[1:]:
            with suppress(MlflowException):  # another process has deleted it, or the next `sync` will
                if run.info.status == "RUNNING":
                    # Deleted runs, too, are shown with their status.
                    self.client.set_terminated(run.info.run_id, status="KILLED")
                if LOGGED not in run.data.tags:
                    self.client.delete_run(run.info.run_id)
        return runs[0] if runs else None

    def create(self, tag: str, tags: Mapping[str, str], name: str, started: float) -> "Run":
        """Create a run, or return that which another process has created in the meantime.

        Args:
            tag: the name of the tag that identifies the run.
            tags: all tags of the new run.
            name: the name of the new run.
            started: Unix time in seconds.
        """
        start_time = int(started * 1000)
        run = self.client.create_run(self.experiment_id, start_time=start_time, tags=dict(tags), run_name=name)
        return self.find(tag, tags[tag]) or run

    def log(self, run: "Run", metrics: Sequence["Metric"], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log metrics, and those parameters and tags that the run lacks.

        The tags name the last logged epoch, so they are sent with the last batch of metrics and never before.
        """
        from mlflow.entities import Param, RunTag

        new_params = [Param(name, value) for name, value in params.items() if name not in run.data.params]
        new_tags = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        # MLflow sends metrics in batches itself, but the tags with the first of them.
        if metrics[:-MAX_BATCH_METRICS]:
            self.client.log_batch(run.info.run_id, metrics=metrics[:-MAX_BATCH_METRICS])
        if metrics or new_params or new_tags:
            last = metrics[-MAX_BATCH_METRICS:]
            self.client.log_batch(run.info.run_id, metrics=last, params=new_params, tags=new_tags)

    def missing_metrics(self, run: "Run", metrics: Sequence["Metric"]) -> list["Metric"]:
        """Return those of the metrics whose epochs the run does not have, whatever its tags say."""
        names = run.data.metrics.keys() & {metric.key for metric in metrics}
        present = {(name, e.step) for name in names for e in self.client.get_metric_history(run.info.run_id, name)}
        return [metric for metric in metrics if (metric.key, metric.step) not in present]

    def set_status(self, run: "Run", status: str, ended: float) -> None:
        """Set a run's status, and its end (Unix time in seconds) unless it is running."""
        if run.info.status == status:
            return
        if status == "RUNNING":
            self.client.update_run(run.info.run_id, status=status)
        else:
            self.client.set_terminated(run.info.run_id, status=status, end_time=int(ended * 1000))

    def upload(self, run: "Run", files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Upload files, by name, as a run's artifacts, into a folder of these if one is named."""
        with temporary_folder("pld_grid-mlflow-") as scratch:
            for name, data in files.items():
                path = Path(scratch, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            artifacts = mlflow_internals.open_artifacts(run.info.artifact_uri, self.tracking_uri)
            artifacts.log_artifacts(scratch, folder)


class Connection:
    """A connection to an experiment, made on first use, and again after an error."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self._runs: ExperimentRuns | None = None

    @contextmanager
    def open(self) -> Iterator[ExperimentRuns]:
        """Yield the runs of the experiment, which is created if it is missing.

        Raises TrackingError for every error of MLflow in the block. The next block connects anew, as the server may be
        another one by then.
        """
        try:
            with translate_errors(self.tracking_uri):
                if self._runs is None:
                    prepare_database(self.tracking_uri)
                    client = connect(self.tracking_uri)
                    self._runs = ExperimentRuns(client, self.tracking_uri, self._ensure_experiment(client))
                yield self._runs
        except TrackingError:
            self._runs = None
            raise

    def _ensure_experiment(self, client: "MlflowClient") -> str:
        """Return the id of the experiment; several processes may create it at the same time."""
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            path = database_path(self.tracking_uri)
            # An embedded database keeps artifacts in its own folder; a server chooses their place.
            artifacts = (path.parent / "mlartifacts").as_uri() if path else None
            try:
                return client.create_experiment(self.experiment, artifact_location=artifacts, tags=_EXPERIMENT_TAGS)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None or not experiment.experiment_id:
            raise MlflowException(f'its answer about experiment "{self.experiment}" is incomplete')
        if experiment.lifecycle_stage != "active":
            raise MlflowException(f'experiment "{self.experiment}" was deleted; restore it, or name another one')
        return experiment.experiment_id
