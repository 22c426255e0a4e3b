"""Make MLflow runs equal to the store's records."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pld_grid.experiment.cell import SPEC_VERSION, Cell, digest
from pld_grid.store import CellRecord, Mirror, Receipt, Store, claims
from pld_grid.track import parent_runs, run_content
from pld_grid.track.parent_runs import ParentRun, ParentRuns
from pld_grid.track.run_content import CELL_ID, GRIDS, LOGGED, PROFILE, RECEIPT, STATE, STATUS, SUBMISSION_ID
from pld_grid.track.runs import Connection, ExperimentRuns, RunInfo, group_runs
from pld_grid.track.tracking_uri import EXPERIMENT
from pld_grid.util.errors import StoreError, TrackingError
from pld_grid.util.redact import public_uri

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

logger = logging.getLogger(__name__)

LOCKS = ".locks"
LOCK_TIMEOUT_SECONDS = 60


class Tracker:
    """Mirrors one store in one experiment of one MLflow.

    All content of a run is computed from the store, and `sync` asks MLflow for what a run has before it logs. It may
    therefore be interrupted anywhere, repeated, and called by several processes. Stores that share a cell share its
    run, which keeps the metrics of the first store that logged an epoch.

    Args:
        store: the store to mirror.
        tracking_uri: any URI that MLflow takes. MLflow is contacted by the first `sync`.
        experiment: the name of the experiment, which is created if it is missing. Stores can share it.
    """

    def __init__(self, store: Store, tracking_uri: str, experiment: str = EXPERIMENT) -> None:
        self.store = store
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.address = f"{public_uri(tracking_uri)}#{experiment}"
        self.parent_runs = ParentRuns(store)
        self._connection = Connection(tracking_uri, experiment)

    def sync(self, item: str) -> None:
        """Make the run of a cell or of a parent run, by id, equal to the store's record.

        Raises:
            TrackingError: MLflow could not be reached, or refused; a later call makes up for it.
            StoreError: the store could not be read.
        """
        with self._connection.open() as runs, self._lock(item):
            parent = parent_runs.read(self.store, item)
            if parent is not None:
                run = self._ensure_parent(runs, parent)
                runs.set_status(run, STATUS[parent.state], parent.ended or time.time())
            else:
                self._sync_cell(runs, item)

    def outdated(self) -> list[str]:
        """Return the ids of the parent runs and cells whose runs are missing, not up to date, or more than one."""
        self.parent_runs.reload()
        self.parent_runs.end_lost()
        with self._connection.open() as runs:
            groups = group_runs(runs.list_runs())
        states = {parent.submission_id: parent.state for parent in self.parent_runs.all()}
        outdated = []
        for item in [*states, *sorted(self.store.cell_ids())]:
            run, *others = groups.get(item, [None])
            try:
                if item in states:
                    current = run is not None and run.status == STATUS[states[item]]
                else:
                    current = self._is_current(item, run)
            except StoreError:
                current = False  # `sync` reports the error
            if not current or any(other.is_redundant for other in others if other):
                outdated.append(item)
        return outdated

    def sync_all(self) -> int:
        """Sync everything that is outdated.

        Returns:
            How many cells and parent runs that were.

        Raises:
            TrackingError: with the number of items that failed, and the reason of the first.
        """
        self.parent_runs.reload()
        self.parent_runs.wait_for_heartbeats()
        outdated = self.outdated()
        errors: list[TrackingError | StoreError] = []
        remaining = len(outdated)
        for item in outdated:
            try:
                self.sync(item)
                remaining -= 1
            except (TrackingError, StoreError) as error:
                errors.append(error)
                if not self.reachable():
                    break
        if errors:
            raise TrackingError(f"{errors[0]} ({remaining} of {len(outdated)} not mirrored)") from errors[0]
        return len(outdated)

    def reachable(self) -> bool:
        """Return whether MLflow answers at all: distinguishes an outage from an item that MLflow refuses."""
        try:
            with self._connection.open() as runs:
                runs.client.search_experiments(max_results=1)
        except Exception:  # the caller reports the error that it has seen before
            return False
        return True

    def log_report(self, parent: ParentRun, files: Mapping[str, bytes]) -> None:
        """Upload a report's files, by name, to `report/` of a parent run, replacing earlier ones.

        Raises:
            TrackingError: MLflow could not be reached, or refused.
        """
        with self._connection.open() as runs:
            with self._lock(parent.submission_id):
                run = self._ensure_parent(runs, parent)
            runs.upload(run, files, "report")

    # -- parent runs -------------------------------------------------------------------------------------------------

    def _ensure_parent(self, runs: ExperimentRuns, parent: ParentRun) -> "Run":
        """Return the MLflow run of a parent run, created if it is missing, with all parameters."""
        tags = {SUBMISSION_ID: parent.submission_id, GRIDS: parent.grids, PROFILE: parent.profile}
        run = runs.find(SUBMISSION_ID, parent.submission_id)
        if run is None:
            tags[run_content.SPEC_VERSION_TAG] = str(SPEC_VERSION)
            run = runs.create(SUBMISSION_ID, tags, parent.name, parent.started)
        params = {**parent.summary, "cells": len(parent.cells), "to_train": len(parent.trained)}
        params |= {"grids": parent.grids, "profile": parent.profile}
        runs.log(run, [], {name: str(value) for name, value in params.items()}, {})
        return run

    # -- cells -------------------------------------------------------------------------------------------------------

    def _sync_cell(self, runs: ExperimentRuns, cell_id: str) -> None:
        record = self.store.record(cell_id)
        cell = self._read_cell(cell_id, record)
        if cell is None:
            return
        run = runs.find(CELL_ID, cell_id) or self._create_run(runs, cell, record)
        present = dict(RunInfo.from_run(run).tags)
        replaced = bool(present.get(RECEIPT)) and present[RECEIPT] in map(digest, self.store.archived_receipts(cell_id))
        if replaced:
            # The run has the epochs of an archived training, and none of the next one.
            present.pop(LOGGED, None)
        tags = self._make_tags(cell, record, present)
        if replaced and record is None:
            tags |= run_content.NO_RESULT
        if record is not None and record.receipt is not None and present.get(RECEIPT) != tags[RECEIPT]:
            runs.upload(run, self._read_artifacts(record.receipt))
        metrics = self._unlogged_metrics(runs, run, record, present)
        runs.log(run, metrics, run_content.make_params(cell), tags)
        state = record.state if record else "unfinished"
        runs.set_status(run, self._run_status(cell_id, state), run_content.training_time(record)[1])
        mirror = Mirror(
            tracking_uri=self.address,
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            epochs=len(record.epochs) if record else 0,
            state=state,
        )
        if self.store.mirror(cell_id) != mirror:
            self.store.write_mirror(cell_id, mirror)

    def _unlogged_metrics(
        self, runs: ExperimentRuns, run: "Run", record: CellRecord | None, present: Mapping[str, str]
    ) -> "list[Metric]":
        """Return the metrics of the record's epochs that the run lacks, given its tags."""
        from mlflow.entities import Metric

        logged = run_content.last_logged_epoch(present)
        metrics = [
            Metric(name, value, timestamp=int(epoch.time * 1000), step=epoch.epoch)
            for epoch in (record.epochs if record else ())
            if epoch.epoch > logged
            for name, value in epoch.metrics.items()
        ]
        if not metrics or not run.data.metrics or self.store.archived_receipts(run.data.tags[CELL_ID]):
            # After an archived training, the run gets the epochs of the next one beside the earlier ones.
            return metrics
        try:
            complete = run.data.metrics == run_content.read_metrics(present)
        except (ValueError, LookupError):
            complete = False
        # MLflow commits the metrics of a batch before its tags. If the two disagree, a writer was killed in between.
        return metrics if complete else runs.missing_metrics(run, metrics)

    def _make_tags(self, cell: Cell, record: CellRecord | None, present: Mapping[str, str]) -> dict[str, str]:
        """Return all tags that a cell's run should have, given those that it has."""
        tags = run_content.make_tags(cell, record)
        parents = self.parent_runs.requesting(cell.cell_id)
        # Another store may have requested the cell in other grids.
        grids = self._list_grids(cell.cell_id).union(filter(None, present.get(GRIDS, "").split(",")))
        tags[GRIDS] = ",".join(sorted(grids))
        if parents:
            tags[PROFILE] = parents[-1].profile
        if record is not None and record.epochs:
            tags[LOGGED] = str(max(record.epoch, run_content.last_logged_epoch(present)))
        return tags

    def _list_grids(self, cell_id: str) -> set[str]:
        return {grid for parent in self.parent_runs.requesting(cell_id) for grid in parent.cells[cell_id]}

    def _run_status(self, cell_id: str, state: str) -> str:
        """Return MLflow's status of a cell: RUNNING only as long as a live process has claimed it."""
        if state != "unfinished":
            return STATUS[state]
        claim = claims.holder(self.store, cell_id)
        return "KILLED" if claim is None or self.parent_runs.observer.expired(claim.lease) else "RUNNING"

    def _is_current(self, cell_id: str, run: RunInfo | None) -> bool:
        mirror = self.store.mirror(cell_id)
        if run is None or mirror is None or mirror.place != (self.address, run.experiment_id, run.run_id):
            return run is None and self._read_cell(cell_id, self.store.record(cell_id)) is None
        if mirror.state in ("finished", "diverged"):
            # The receipt of a final cell need not be read, which makes this fast where nearly all cells are final.
            same = run.tags.get(STATE) == mirror.state and run.status == STATUS[mirror.state]
            return same and self._list_grids(cell_id) <= set(run.tags.get(GRIDS, "").split(","))
        record = self.store.record(cell_id)
        cell = self._read_cell(cell_id, record)
        if cell is None:
            return True
        status = self._run_status(cell_id, record.state if record else "unfinished")
        return run.status == status and self._make_tags(cell, record, run.tags).items() <= run.tags.items()

    def _read_cell(self, cell_id: str, record: CellRecord | None) -> Cell | None:
        return record.receipt.cell if record and record.receipt else self.store.cell(cell_id)

    def _read_artifacts(self, receipt: Receipt) -> dict[str, bytes]:
        files = run_content.make_artifacts(receipt)
        if receipt.weights_sha256 is not None:
            try:
                files["weights.safetensors"] = self.store.read_weights(receipt.cell)
            except StoreError as error:
                # The run is useful without weights.
                logger.warning("%s; its MLflow run goes without them", error)
        return files

    def _create_run(self, runs: ExperimentRuns, cell: Cell, record: CellRecord | None) -> "Run":
        tags = {CELL_ID: cell.cell_id}
        parents = [run for run in self.parent_runs.requesting(cell.cell_id) if cell.cell_id in run.trained]
        if parents:
            with self._lock(parents[-1].submission_id):
                tags[run_content.PARENT] = self._ensure_parent(runs, parents[-1]).info.run_id
        return runs.create(CELL_ID, tags, run_content.make_run_name(cell), run_content.training_time(record)[0])

    @contextmanager
    def _lock(self, item: str) -> Iterator[None]:
        """Let one process at a time sync an item, among those that share a store's folder.

        Other processes share only MLflow: they agree on one run of a cell, which keeps the epochs of the first writer.
        """
        if not self.store.local:
            yield
            return
        try:
            with FileLock(self.store.path(LOCKS, item), timeout=LOCK_TIMEOUT_SECONDS):
                yield
        except Timeout:
            raise TrackingError(f"MLflow at {self.address}: another process is still mirroring {item}") from None
