"""Runs a plan wave by wave, with one Tune trial per cohort.

Tune only executes: which cells are finished, which process trains them, and their results are recorded in the store.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto

from pld_grid.experiment import events
from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import EventCallback
from pld_grid.orchestrate.circuit_breaker import CircuitBreaker
from pld_grid.orchestrate.foreign_claims import ForeignClaims
from pld_grid.orchestrate.tuner import TrialFailure, run_trials
from pld_grid.orchestrate.watchdog import end_hung_workers
from pld_grid.planning.plan import Plan
from pld_grid.store import RETRY_TIMEOUT_SECONDS, Receipt, Status, Store, claims, stop_requests
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import StoreError, StoreFull, WaveStopped

logger = logging.getLogger(__name__)

MAX_WORKER_DEATHS = 3
# For the halves of a cohort whose worker died that often.
MAX_WORKER_DEATHS_OF_HALF = 1


def run_plan(plan: Plan, context: RunContext, on_event: EventCallback) -> None:
    """Run the pending cells of a plan on the connected cluster; each ends in the store with a receipt or a status.

    Cells that other runs train are waited for, and continued if those runs stop. On KeyboardInterrupt the running cells
    become `cancelled` and keep their checkpoints.

    Args:
        plan: The plan; cells that are finished meanwhile are skipped.
        context: The run context, with the id of the run.
        on_event: Receives the events of all cells, from several threads but one at a time.

    Raises:
        KeyboardInterrupt: The user or a stop request (see `pld_grid.store.stop_requests`) interrupted the run.
        StoreFull: The store has no space left.
        WaveStopped: All cells of a wave that were tried first failed with the same error.
    """
    store = Store(context.store, RETRY_TIMEOUT_SECONDS)
    # The watchdog's store does not retry: waiting would make heartbeats look older than they are.
    with end_hung_workers(Store(context.store), context.run) as hung:
        for wave in plan.waves:
            _Wave(store, context, wave, on_event, hung).run()


class _State(Enum):
    """Where a cell stands in this run."""

    WAITING = auto()
    RUNNING = auto()
    CLAIMED_ELSEWHERE = auto()
    ENDED = auto()


class _Wave:
    """Runs cohorts that do not depend on each other until every cell has ended."""

    def __init__(
        self, store: Store, context: RunContext, wave: Sequence[Cohort], forward: EventCallback, hung: Container[str]
    ) -> None:
        self.store, self.context, self.wave, self.forward, self.hung = store, context, wave, forward, hung
        self.states = {cell.cell_id: _State.WAITING for cohort in wave for cell in cohort.cells}
        # How often a trial could not even start its process, by the id of its first cell.
        self.failed_starts: Counter[str] = Counter()
        self.foreign = ForeignClaims(store, context.run, self._report)
        self.retry_queue: list[Cohort] = []
        self.breaker = CircuitBreaker([])
        self.out_of_space = ""
        self._lock = threading.Lock()

    def run(self) -> None:
        """Train the cohorts; see `run_plan`."""
        cohorts = [cohort for cohort in map(self._drop_untrainable, self.wave) if cohort is not None]
        self.breaker = CircuitBreaker(cohorts)
        max_deaths = MAX_WORKER_DEATHS
        try:
            cohorts = cohorts or self.foreign.wait()
            while cohorts:
                halves = self._run_trials(cohorts, max_deaths)
                cohorts, self.retry_queue = [*halves, *self.retry_queue], []
                self._check_breaker(cell for cohort in cohorts for cell in cohort.cells)
                max_deaths = MAX_WORKER_DEATHS_OF_HALF if halves else max_deaths
                if not cohorts:
                    cohorts, max_deaths = self.foreign.wait(), MAX_WORKER_DEATHS
        except KeyboardInterrupt:
            self._cancel(cohorts)
            raise

    def on_event(self, event: events.Event) -> None:
        """Update the cell's state and pass the event on. Thread-safe, because Tuners run in several threads."""
        with self._lock:
            if isinstance(event, events.CellStarted):
                self.states[event.cell_id] = _State.RUNNING
            elif isinstance(event, events.CellEnded):
                self.states[event.cell_id] = _State.ENDED
            elif isinstance(event, events.ClaimedElsewhere):
                self.states[event.cell_id] = _State.CLAIMED_ELSEWHERE
            elif isinstance(event, events.OutOfSpace):
                self.out_of_space = event.reason
            self.forward(event)
            self.breaker.on_event(event)

    def _on_trial_event(self, event: events.Event) -> None:
        """Handle an event of a running trial; stop all trials once the circuit breaker has tripped."""
        self.on_event(event)
        if self.breaker.error:
            with suppress(StoreError):
                stop_requests.request(self.store, self.context.run)

    def _on_retry(self, cohort: Cohort) -> None:
        """Note in the store that a worker died and that its cohort is tried again."""
        logger.warning("a worker died; its cohort continues from its checkpoints")
        for cell in cohort.cells:
            if self._state(cell) is _State.RUNNING:
                # Tune calls this method, and would end with its error.
                with suppress(StoreError):
                    cause = self._cause_of_death(cell)
                    self.store.note(cell.cell_id, f"its worker {cause}; another continues from its checkpoint")

    def _run_trials(self, cohorts: Sequence[Cohort], max_deaths: int) -> list[Cohort]:
        """Run each cohort in a trial and record the results; return the halves of those that failed too often."""
        for cell_id, state in self.states.items():
            if state is _State.CLAIMED_ELSEWHERE:
                self.states[cell_id] = _State.WAITING
        context = replace(self.context, expired=tuple(sorted(self.foreign.expired)))
        results = run_trials(cohorts, context, self._on_trial_event, self._on_retry, max_deaths)
        self._check_interruptions(cohorts)
        failed = [self._settle(cohort, failure, max_deaths) for cohort, failure in results]
        # One half fits into memory, or is without the student that kills its process.
        return [half for cohort in failed if cohort is not None for half in cohort.halves()]

    def _check_interruptions(self, cohorts: Iterable[Cohort]) -> None:
        """Raise an error if the trials have ended because the run is to stop."""
        if self.out_of_space:
            advice = "the data in the store is intact, and the same command continues from there"
            raise StoreFull(f"{self.out_of_space}; {advice}")
        unfinished = [cell for cohort in cohorts for cell in cohort.cells if self._is_unsettled(cell)]
        if self.breaker.error:
            stop_requests.clear(self.store, self.context.run)
        self._check_breaker(unfinished)
        if unfinished and stop_requests.requested(self.store, self.context.run):
            raise KeyboardInterrupt

    def _check_breaker(self, unfinished: Iterable[Cell]) -> None:
        """Raise WaveStopped if the circuit breaker has tripped and cells are left."""
        count = len(list(unfinished))
        if self.breaker.error and count:
            raise WaveStopped(
                f"the first {len(self.breaker.failed)} cells all failed with one error, so the other {count} were not "
                f"tried: {self.breaker.error}"
            )

    def _settle(self, cohort: Cohort, failure: TrialFailure | None, max_deaths: int) -> Cohort | None:
        """End the cells of a cohort whose trial is over, or return those to be tried in halves.

        Tune's own result does not matter, as it counts a trial that reported nothing as a success.
        """
        for cell in cohort.cells:
            # Finished by another run, or by a worker that died before it could report.
            receipt = self.store.receipt(cell) if self._state(cell) is not _State.ENDED else None
            if receipt is not None:
                self._report(receipt)
        claimed = [cell for cell in cohort.cells if self._state(cell) is _State.CLAIMED_ELSEWHERE]
        if claimed:
            self.foreign.cohorts.append(replace(cohort, cells=tuple(claimed)))
        left = replace(cohort, cells=tuple(cell for cell in cohort.cells if self._is_unsettled(cell)))
        if not left.cells:
            return None
        first = left.cells[0]
        failed_starts = self.failed_starts[first.cell_id]
        if failure is not None and failure.deaths <= max_deaths and failed_starts < MAX_WORKER_DEATHS:
            # Tune gives a trial up at once whose process cannot start.
            self.failed_starts[first.cell_id] += 1
            self.retry_queue.append(left)
            return None
        reason = self._describe_failure(first, failure)
        if failure is not None and len(left.cells) > 1:
            self.on_event(events.CohortSplit(first.cell_id, reason=reason))
            return left
        for cell in left.cells:
            self._end(left, cell, "lost", reason)
        return None

    def _describe_failure(self, cell: Cell, failure: TrialFailure | None) -> str:
        if failure is None:
            return "its trial ended without a result"
        cause = self._cause_of_death(cell)
        details = f": {failure.reason[:300]}" if cause == "died" and failure.reason else ""
        return f"its worker {cause} {failure.deaths} times{details}"

    def _cause_of_death(self, cell: Cell) -> str:
        """Return whether the last worker of a cell hung or died. Raises StoreError."""
        claim = claims.holder(self.store, cell.cell_id)
        return "hung" if claim is not None and claim.lease in self.hung else "died"

    def _drop_untrainable(self, cohort: Cohort) -> Cohort | None:
        """Fail the cells whose teacher could not be trained; return the others."""
        teacher = cohort.teacher
        if teacher is None or teacher.is_measurement:
            return cohort
        receipt = self.store.receipt(teacher)
        if receipt is not None and receipt.state == "finished":
            return cohort
        state = "was not trained" if receipt is None else receipt.state
        reason = f"its teacher {teacher.cell_id} ({teacher.student.architecture}) {state}"
        for cell in cohort.cells:
            if cell.teacher is not None:
                self._end(cohort, cell, "failed", reason)
        others = tuple(cell for cell in cohort.cells if cell.teacher is None)
        return replace(cohort, cells=others) if others else None

    def _end(self, cohort: Cohort, cell: Cell, state: str, reason: str) -> None:
        """End a cell without a result, unless another run has taken it over."""
        if claims.end_claim(self.store, cell.cell_id, self.context.run):
            self.store.write_cell(cell)
            status = Status.model_validate({"state": state, "reason": reason, "time": time.time()})
            self.store.write_status(cell.cell_id, status)
        elif claims.holder(self.store, cell.cell_id) is not None:
            self.foreign.cohorts.append(replace(cohort, cells=(cell,)))
            return
        self.on_event(events.CellEnded.in_state(state, cell.cell_id, reason=reason))

    def _report(self, receipt: Receipt) -> None:
        """Emit the event of a cell that has a receipt but was not reported."""
        cell_id = receipt.cell.cell_id
        _, claim = claims.last_entry(self.store, cell_id)
        self.on_event(
            events.CellEnded.in_state(
                receipt.state,
                cell_id,
                epoch=receipt.epochs[-1].epoch if receipt.epochs else 0,
                metrics=dict(receipt.metrics),
                reason=receipt.reason,
                shared=claim is not None and claim.run != self.context.run,
            )
        )

    def _cancel(self, cohorts: Iterable[Cohort]) -> None:
        """Mark the cells that this run was training as cancelled."""
        run = self.context.run
        for cell in (cell for cohort in cohorts for cell in cohort.cells):
            if self._state(cell) is _State.ENDED or self.store.receipt(cell.cell_id) is not None:
                continue
            # The claim and not the state, as the event of the start may not have arrived.
            _, claim = claims.last_entry(self.store, cell.cell_id)
            if claim is not None and claim.run == run and claims.end_claim(self.store, cell.cell_id, run):
                self.store.write_status(cell.cell_id, Status(state="cancelled", reason="interrupted", time=time.time()))

    def _state(self, cell: Cell) -> _State:
        return self.states[cell.cell_id]

    def _is_unsettled(self, cell: Cell) -> bool:
        """Return whether this run still has to train a cell."""
        return self._state(cell) in (_State.WAITING, _State.RUNNING)
