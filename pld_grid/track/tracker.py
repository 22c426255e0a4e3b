"""Brings MLflow up to date with the store, and reads records back."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from pld_grid.errors import StoreError, TrackingError
from pld_grid.spec import SPEC_VERSION, Cell, Scalar, digest
from pld_grid.store import Mirror, Progress, Receipt, Store, claims, leases
from pld_grid.store.leases import Observer
from pld_grid.track import content, submission
from pld_grid.track.connection import Connection
from pld_grid.track.content import (
    CELL_ID,
    GRIDS,
    LOGGED,
    PARENT,
    PREFIX,
    PROFILE,
    RECEIPT,
    STATE,
    STATUS,
    SUBMISSION_ID,
)
from pld_grid.track.runs import Brief, active, brief, create, doubled, find, index, lacking, log, survey, upload
from pld_grid.track.server import EXPERIMENT, explained
from pld_grid.track.submission import Submission, Submissions
from pld_grid.uris import public_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

LOCKS = ".locks"
REPORT = "report"
LOCK_TIMEOUT = 60  # seconds to wait for a process that mirrors the same cell


class Tracker:
    """The mirror of one store in one experiment of one MLflow.

    Everything it logs is a function of the store, and it asks MLflow what it has before it logs: so it may be
    interrupted anywhere, repeated, and run by several processes. Cells that stores share have one run in MLflow,
    which keeps the metrics of whoever logged an epoch first.

    Args:
        store: what to mirror.
        tracking_uri: any that MLflow understands. Nothing is contacted before the first `sync`.
        experiment: MLflow's name for the set of runs; created when missing, and shared by any number of stores.
    """

    def __init__(self, store: Store, tracking_uri: str, experiment: str = EXPERIMENT) -> None:
        self.store = store
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.address = f"{public_uri(tracking_uri)}#{experiment}"
        self._connection = Connection(tracking_uri, experiment)
        self._submissions = Submissions(store)  # the driver adds to them while the mirror's thread reads them
        self._observer = Observer(store)
        self.in_doubt = False  # whether `outdated` saw other drivers that are alive, or died on other machines
        self._own = set[str]()
        self._certain = set[str]()  # runs whose tags are known to say how far their metrics go
        self._doubled = frozenset[str]()  # what had a run too many when `outdated` last looked

    # -- submissions: written to the store only, so these neither wait for MLflow nor fail with it ----------------

    def start_submission(
        self,
        name: str,
        *,
        profile: str,
        cells: Mapping[str, Iterable[str]],
        trained: Iterable[str],
        summary: Mapping[str, Scalar] | None = None,
        submission_id: str | None = None,
    ) -> Submission:
        """Notes that cells were asked for. The next `sync` of its id, or of a cell it trains, makes its run.

        Args:
            name: the run's name.
            profile: the profile's name.
            cells: the grids of every cell wanted, by cell id, finished ones included.
            trained: ids of those that this submission trains; their runs become children of its run.
            summary: counts and the like; they become the run's parameters.
            submission_id: as which the driver is `living` already: others take it for dead if it is not.
        """
        started = Submission(
            submission_id=submission_id or submission.new_id(),
            name=name,
            profile=profile,
            cells={cell_id: tuple(grids) for cell_id, grids in cells.items()},
            trained=tuple(trained),
            summary=dict(summary or {}),
            started=time.time(),
        )
        self._own.add(started.submission_id)
        self._submissions.keep(started)
        return started

    def end_submission(
        self, started: Submission, state: Literal["finished", "failed", "cancelled", "lost"]
    ) -> Submission:
        """Notes how a submission ended; the next `sync` of its id tells MLflow."""
        ended = started.model_copy(update={"state": state, "ended": max(started.started, time.time())})
        self._submissions.keep(ended)
        return ended

    def knows(self, cells: Mapping[str, Iterable[str]]) -> bool:
        """Whether every cell is known to belong to its grids, so that no new submission need say so."""
        return self._submissions.know(cells)

    # -- mirroring ----------------------------------------------------------------------------------------------

    def sync(self, item: str) -> None:
        """Brings the run of a cell id or submission id up to date.

        Raises:
            TrackingError: MLflow could not be reached or refused; nothing is lost, call again later.
            StoreError: the store could not be read.
        """
        with self._connection.reporting():
            known = self._submissions.get(item)
            with self._alone(item):
                if known is not None:
                    self._sync_submission(known)
                else:
                    self._sync_cell(item)

    def log_report(self, submission_id: str, files: Mapping[str, bytes]) -> None:
        """Keeps a report's files, by name, under `report/` in a submission's run; later ones replace earlier ones.

        Raises:
            TrackingError: MLflow could not be reached or refused; or the store has no such submission.
        """
        known = submission.read(self.store, submission_id)
        if known is None:
            raise TrackingError(f"store {self.store.uri} has no submission {submission_id}")
        with self._connection.reporting():
            with self._alone(submission_id):
                run = self._run_of_submission(known)
            self._upload(run, files, REPORT)

    def _end_lost(self) -> None:
        """Ends the submissions whose drivers died. Raises StoreError."""
        for known in self._submissions.all():
            if known.submission_id not in self._own and submission.lost(known, self._observer):
                # Who ends in order notes that before its lease goes.
                now = submission.read(self.store, known.submission_id)
                if now is not None and now.state == "running":
                    self.end_submission(now, "lost")
                self.store.remove(leases.FOLDER, f"{known.submission_id}.json")
        self.in_doubt = any(
            each.state == "running" for each in self._submissions.all() if each.submission_id not in self._own
        )

    def outdated(self) -> list[str]:
        """Submissions and cells of the store that MLflow lacks or has an older state of; one search for all."""
        self._submissions.forget()
        self._end_lost()
        found: list[str] = []
        with self._connection.reporting():
            client, experiment = self._connection.get()
            everything = list(survey(self.tracking_uri, client, experiment))
            runs = index(everything)
            self._doubled = doubled(everything, runs)
            for known in self._submissions.all():
                run = runs.get(known.submission_id)
                current = run is not None and run.status == STATUS[known.state]
                if not current or known.submission_id in self._doubled:
                    found.append(known.submission_id)
            for cell_id in sorted(self.store.cell_ids()):
                try:
                    current = self._is_current(cell_id, runs.get(cell_id))
                except StoreError:
                    current = False  # `sync` will say what is wrong with this one
                if not current or cell_id in self._doubled:
                    found.append(cell_id)
        return found

    def sync_all(self) -> int:
        """Replays everything that MLflow lacks; returns how many cells and submissions that were.

        Raises:
            TrackingError: with how many are left, and why the first of them is.
        """
        self._submissions.forget()
        submission.observe(self._submissions.all(), self._observer)
        waiting = self.outdated()
        failures = self._sync_each(waiting)
        if failures:
            # Another process may have replaced a run just then: what fails twice is refused.
            failures = self._sync_each(list(failures))
        if failures:
            first = next(iter(failures.values()))
            raise TrackingError(f"{first} ({len(failures)} of {len(waiting)} not mirrored)") from first
        return len(waiting)

    def _sync_each(self, waiting: Sequence[str]) -> dict[str, TrackingError | StoreError]:
        """Syncs every item, whatever happens to the others; returns those that failed, and why."""
        failures: dict[str, TrackingError | StoreError] = {}
        for done, item in enumerate(waiting):
            try:
                self.sync(item)
            except (TrackingError, StoreError) as error:
                failures[item] = error
                if not self.reachable():
                    raise TrackingError(f"{error} ({len(waiting) - done + len(failures) - 1} not mirrored)") from error
        return failures

    def reachable(self) -> bool:
        """Whether MLflow answers at all: tells an outage from a cell that it refuses."""
        return self._connection.works()

    def _sync_cell(self, cell_id: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        progress = self.store.progress(cell_id)
        cell = _cell(self.store, cell_id, progress)
        if cell is None:
            return
        client, _ = self._connection.get()
        run = self._run_of_cell(cell, progress)
        run_id, had = run.info.run_id, brief(run).tags
        replaced = bool(had.get(RECEIPT)) and had[RECEIPT] in map(digest, self.store.earlier_receipts(cell_id))
        if replaced:
            # In favour of another training, all of whose epochs the run lacks.
            had = {name: value for name, value in had.items() if name != LOGGED}
        wanted = self._tags(cell, progress, had)
        if replaced and progress is None:
            wanted |= content.NO_RESULT
        if progress is not None and progress.receipt is not None and had.get(RECEIPT) != wanted[RECEIPT]:
            self._upload_results(run, progress.receipt)

        metrics = [
            Metric(name, value, timestamp=int(epoch.time * 1000), step=epoch.epoch)
            for epoch in content.unlogged(progress, had)
            for name, value in epoch.metrics.items()
        ]
        in_doubt = metrics and run.data.metrics and run_id not in self._certain
        # Beside the epochs of results that were set aside, those of the next training come.
        if in_doubt and not self.store.earlier_receipts(cell_id):
            metrics = lacking(client, run, metrics)
        self._certain.discard(run_id)
        tags = [RunTag(k, v) for k, v in wanted.items() if had.get(k) != v]
        params = [Param(k, v) for k, v in content.params(cell).items() if k not in run.data.params]
        log(client, run_id, metrics, params, tags)
        self._certain.add(run_id)

        state = progress.state if progress else "unfinished"
        self._tell_status(run, self._status(cell_id, state), content.ended(progress))
        mirror = Mirror(
            tracking_uri=self.address,
            run_id=run_id,
            experiment_id=run.info.experiment_id,
            epochs=len(progress.epochs) if progress else 0,
            state=state,
        )
        if self.store.mirror(cell_id) != mirror:
            self.store.write_mirror(cell_id, mirror)
        if state == "unfinished" and not self.store.local and self.store.receipt(cell_id) is not None:
            # Nobody was kept away who has shown meanwhile how it ended.
            self._sync_cell(cell_id)

    def _sync_submission(self, known: Submission) -> None:
        # Its driver may have ended it, and told MLflow, since we read it.
        now = submission.read(self.store, known.submission_id) or known
        self._tell_status(self._run_of_submission(now), STATUS[now.state], now.ended)

    def _tell_status(self, run: "Run", status: str, ended: float | None) -> None:
        client, _ = self._connection.get()
        if run.info.status == status:
            return
        if status == "RUNNING":
            client.update_run(run.info.run_id, status=status)
        else:
            client.set_terminated(run.info.run_id, status=status, end_time=int((ended or time.time()) * 1000))

    def _status(self, cell_id: str, state: str) -> str:
        """What MLflow should call a cell's run: RUNNING as long as somebody trains it, and no longer."""
        if state == "unfinished":
            claim = claims.holder(self.store, cell_id)
            return "KILLED" if claim is None or self._observer.lapsed(claim.lease) else "RUNNING"
        return STATUS[state]

    def _tags(self, cell: Cell, progress: Progress | None, had: Mapping[str, str]) -> dict[str, str]:
        """All tags that the run should have, given those it has."""
        tags = content.tags(cell, progress)
        wanted_by = self._submissions.of(cell.cell_id)
        grids = {grid for each in wanted_by for grid in each.cells[cell.cell_id]}
        # Another store may have asked for the same cell under other grids: its share stays.
        grids |= set(filter(None, had.get(GRIDS, "").split(",")))
        tags[GRIDS] = ",".join(sorted(grids))
        if wanted_by:
            tags[PROFILE] = wanted_by[-1].profile
        if progress is not None and progress.epochs:
            tags[LOGGED] = str(max(progress.epochs[-1].epoch, content.logged(had)))
        return tags

    def _is_current(self, cell_id: str, run: Brief | None) -> bool:
        mirror = self.store.mirror(cell_id)
        if run is None or mirror is None or mirror.place != (self.address, run.experiment_id, run.run_id):
            return run is None and _cell(self.store, cell_id, self.store.progress(cell_id)) is None
        had = run.tags
        if mirror.state in ("finished", "diverged"):
            # Final: no need to read the receipt, which makes this fast where nearly every cell is done.
            grids = {grid for each in self._submissions.of(cell_id) for grid in each.cells[cell_id]}
            same = had.get(STATE) == mirror.state and run.status == STATUS[mirror.state]
            return same and grids <= set(had.get(GRIDS, "").split(","))
        progress = self.store.progress(cell_id)
        cell = _cell(self.store, cell_id, progress)
        if cell is None:
            return True
        state = progress.state if progress else "unfinished"
        wanted = self._tags(cell, progress, had)
        return run.status == self._status(cell_id, state) and all(
            had.get(name) == value for name, value in wanted.items()
        )

    def _upload_results(self, run: "Run", receipt: Receipt) -> None:
        files = content.artifacts(receipt)
        if receipt.weights_sha256 is not None:
            try:
                files["weights.safetensors"] = self.store.weights_of(receipt.cell)
            except StoreError as error:
                # The numbers are worth showing without them.
                logger.warning("%s; its MLflow run goes without them", error)
        self._upload(run, files)

    def _upload(self, run: "Run", files: Mapping[str, bytes], into: str | None = None) -> None:
        try:
            upload(self.tracking_uri, run.info.artifact_uri, files, into)
        except Exception as error:  # every artifact store raises its own kind
            reason = explained(error, self.tracking_uri)
            raise TrackingError(f"MLflow at {self.address}: cannot keep {', '.join(files)}: {reason}") from error

    # -- finding runs -------------------------------------------------------------------------------------------

    def _run_of_cell(self, cell: Cell, progress: Progress | None) -> "Run":
        client, experiment = self._connection.get()
        mirror = self.store.mirror(cell.cell_id)
        if mirror is not None and mirror.tracking_uri == self.address and cell.cell_id not in self._doubled:
            run = active(client, mirror.run_id)
            # A mirror file that came here from elsewhere names another cell's run.
            if run is not None and run.data.tags.get(CELL_ID) == cell.cell_id:
                return run
        run = find(client, experiment, CELL_ID, cell.cell_id)
        if run is not None:
            return run
        tags = {CELL_ID: cell.cell_id}
        parents = [each for each in self._submissions.of(cell.cell_id) if cell.cell_id in each.trained]
        if parents:
            with self._alone(parents[-1].submission_id):
                tags[PARENT] = self._run_of_submission(parents[-1]).info.run_id
        return create(client, experiment, CELL_ID, tags, content.title(cell), content.started(progress))

    def _run_of_submission(self, known: Submission) -> "Run":
        from mlflow.entities import Param

        client, experiment = self._connection.get()
        run = find(client, experiment, SUBMISSION_ID, known.submission_id)
        if run is None:
            tags = {
                SUBMISSION_ID: known.submission_id,
                GRIDS: known.grids,
                PROFILE: known.profile,
                f"{PREFIX}spec_version": str(SPEC_VERSION),
            }
            run = create(client, experiment, SUBMISSION_ID, tags, known.name, known.started)
        counts: dict[str, Scalar] = {"cells": len(known.cells), "to_train": len(known.trained)}
        values = {**known.summary, **counts, "grids": known.grids, "profile": known.profile}
        missing = [Param(k, str(v)) for k, v in values.items() if k not in run.data.params]
        if missing:
            client.log_batch(run.info.run_id, params=missing)
        return run

    @contextmanager
    def _alone(self, item: str) -> Iterator[None]:
        """Of the processes that share a store's folder, one at a time mirrors an item; the next ones find it done.

        Only MLflow is common to others: their runs of one cell become one, whose epochs are the first one's who logs.
        """
        if not self.store.local:
            yield
            return
        try:
            with FileLock(self.store.path(LOCKS, item), timeout=LOCK_TIMEOUT):
                yield
        except Timeout:
            raise TrackingError(f"MLflow at {self.address}: another process is still mirroring {item}") from None


def _cell(store: Store, cell_id: str, progress: Progress | None) -> Cell | None:
    return progress.receipt.cell if progress and progress.receipt else store.cell(cell_id)
