"""Runs a plan: one Tune trial per cohort, a wave at a time.

Tune is a disposable executor. What is done, who does it, and what a result is, stands in the store alone.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from pld_grid import stop
from pld_grid.errors import StoreError, StoreFull, WaveStopped
from pld_grid.events import Event, Listener
from pld_grid.plan import Cohort, Plan
from pld_grid.schedule.breaker import Breaker
from pld_grid.schedule.tuner import Death, run_trials
from pld_grid.schedule.watch import hung_workers_ended
from pld_grid.spec import Cell
from pld_grid.store import PATIENCE, Receipt, Status, Store, claims, leases
from pld_grid.train.surroundings import Surroundings

logger = logging.getLogger(__name__)

WORKER_DEATHS = 3
# Of a half of a cohort whose workers died so often.
HALF_DEATHS = 1
# Seconds between two looks at what other runs train.
LOOK = 1.0


def run_plan(plan: Plan, surroundings: Surroundings, listener: Listener) -> None:
    """Runs what the plan has pending, inside `cluster`; every cell ends in the store with a receipt or a status.

    Cells that other runs train are left to them, and waited for; what they leave unfinished is gone on with. On
    KeyboardInterrupt the running cells become `cancelled`, keeping their checkpoints, and it is raised again; so it is
    once cohorts have stopped as `pld_grid.stop` asked them to.

    Raises:
        StoreFull: the store has no room left.
        WaveStopped: all that was tried first failed with one and the same error.
    """
    store = Store(surroundings.store, PATIENCE)
    # Who judges others by their signs of life waits for nothing.
    with hung_workers_ended(Store(surroundings.store), surroundings.run) as hung:
        for wave in plan.waves:
            _Wave(store, surroundings, listener, hung).run(wave)


class _Wave:
    """Cohorts that can run side by side, until all their cells have come to an end."""

    def __init__(self, store: Store, surroundings: Surroundings, listener: Listener, hung: Container[str]) -> None:
        self.store, self.surroundings, self.listener, self.hung = store, surroundings, listener, hung
        self.begun: set[str] = set()
        self.ended: set[str] = set()
        self.held: set[str] = set()
        self.waiting: list[Cohort] = []
        self.again: list[Cohort] = []
        self.unstarted: Counter[str] = Counter()
        self.full = ""
        self.breaker = Breaker([])
        self.observer = leases.Observer(store, leases.FROZEN)
        self.lapsed: set[str] = set()
        self._lock = threading.Lock()

    def run(self, wave: Iterable[Cohort]) -> None:
        """Trains the cohorts; see `run_plan`."""
        cohorts = [c for c in (self._trainable(cohort) for cohort in wave) if c is not None]
        self.breaker = Breaker(cohorts)
        deaths = WORKER_DEATHS
        try:
            cohorts = cohorts or self._freed()
            while cohorts:
                self.held.clear()
                told = replace(self.surroundings, lapsed=tuple(sorted(self.lapsed)))
                results = run_trials(cohorts, told, self._hear_trial, self._died, deaths)
                self._check(cohorts)
                left = [c for c in (self._left_of(*pair, deaths) for pair in results) if c is not None]
                # Too much memory, or one student that takes its process down: the halves will tell.
                halves = [half for cohort in left for half in cohort.halves()]
                cohorts, self.again = [*halves, *self.again], []
                self._check_breaker(cell for cohort in cohorts for cell in cohort.cells)
                deaths = HALF_DEATHS if halves else deaths
                if not cohorts:
                    cohorts, deaths = self._freed(), WORKER_DEATHS
        except KeyboardInterrupt:
            self._cancel(cohorts)
            raise

    def _hear_trial(self, event: Event) -> None:
        """Takes in an event of a trial, while others go on."""
        self.hear(event)
        if self.breaker.error:
            with suppress(StoreError):
                stop.request(self.store, self.surroundings.run)

    def hear(self, event: Event) -> None:
        """Takes in an event, from whichever thread."""
        # Tuners run side by side.
        with self._lock:
            if event.kind == "started":
                self.begun.add(event.cell_id)
            elif event.kind in ("finished", "diverged", "failed", "lost"):
                self.ended.add(event.cell_id)
            elif event.kind == "held":
                self.held.add(event.cell_id)
            elif event.kind == "full":
                self.full = event.reason
            self.listener(event)
            self.breaker.hear(event)

    def _check(self, cohorts: Sequence[Cohort]) -> None:
        """Whether to go on, after trials have ended."""
        run = self.surroundings.run
        if self.full:
            raise StoreFull(f"{self.full}; what is in it is whole, and the same command goes on from there")
        left = [cell for cohort in cohorts for cell in cohort.cells if cell.cell_id not in self.ended | self.held]
        if self.breaker.error:
            stop.clear(self.store, run)
        self._check_breaker(left)
        if left and stop.requested(self.store, run):
            raise KeyboardInterrupt

    def _check_breaker(self, left: Iterable[Cell]) -> None:
        """Whether it is worth while to try what is left."""
        others = len(list(left))
        if self.breaker.error and others:
            raise WaveStopped(
                f"the first {self.breaker.failed} cells all failed with one error, so the other {others} were not "
                f"tried: {self.breaker.error}"
            )

    def _cancel(self, cohorts: Iterable[Cohort]) -> None:
        for cell_id in (cell.cell_id for cohort in cohorts for cell in cohort.cells):
            if cell_id in self.ended or self.store.receipt(cell_id) is not None:
                continue
            # The news that it began may be on its way; and another run may have gone on with it.
            _, last = claims.newest(self.store, cell_id)
            begun = last is not None and last.run == self.surroundings.run
            if begun and claims.leave(self.store, cell_id, self.surroundings.run):
                self.store.write_status(cell_id, Status(state="cancelled", reason="interrupted", time=time.time()))

    def _died(self, cohort: Cohort) -> None:
        logger.warning("a worker died; its cohort goes on from its checkpoints")
        for cell in cohort.cells:
            if cell.cell_id not in self.begun or cell.cell_id in self.ended:
                continue
            # Inside Tune, which an error would end.
            with suppress(StoreError):
                self.store.note(cell.cell_id, f"its worker {self._how(cell)}; another goes on from its checkpoint")

    def _how(self, cell: Cell) -> str:
        """How the process ended that trained a cell last. Raises StoreError."""
        claim = claims.holder(self.store, cell.cell_id)
        return "hung" if claim is not None and claim.lease in self.hung else "died"

    def _trainable(self, cohort: Cohort) -> Cohort | None:
        """The cohort without the cells whose teacher could not be made."""
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
                self._note_end("failed", cohort, cell, reason)
        kept = tuple(cell for cell in cohort.cells if cell.teacher is None)
        return replace(cohort, cells=kept) if kept else None

    def _note_end(self, state: str, cohort: Cohort, cell: Cell, reason: str) -> None:
        if claims.leave(self.store, cell.cell_id, self.surroundings.run):
            self.store.write_cell(cell)
            status = Status.model_validate({"state": state, "reason": reason, "time": time.time()})
            self.store.write_status(cell.cell_id, status)
        elif claims.holder(self.store, cell.cell_id) is not None:
            # Another run has gone on with it.
            self.waiting.append(replace(cohort, cells=(cell,)))
            return
        self.hear(Event.of(state, cell.cell_id, reason=reason))

    def _tell(self, receipt: Receipt) -> None:
        """Tells of a result that nobody told of yet."""
        cell_id, last = receipt.cell.cell_id, receipt.epochs[-1].epoch if receipt.epochs else 0
        _, entry = claims.newest(self.store, cell_id)
        event = Event.of(
            receipt.state, cell_id, epoch=last, metrics=dict(receipt.metrics), reason=receipt.reason,
            shared=entry is not None and entry.run != self.surroundings.run,
        )  # fmt: skip
        self.hear(event)

    def _left_of(self, cohort: Cohort, death: Death | None, deaths: int) -> Cohort | None:
        """Gives every cell of a cohort whose trial has ended its end, or returns those to be tried in halves.

        A trial that says nothing, or died too often, is a success to Tune: only the store tells.
        """
        left = []
        for cell in cohort.cells:
            if cell.cell_id in self.ended:
                continue
            receipt = self.store.receipt(cell)
            if receipt is not None:
                # Another run finished it, or its worker died with the news still unsent.
                self._tell(receipt)
            elif cell.cell_id not in self.held:
                left.append(cell)
        others = tuple(c for c in cohort.cells if c.cell_id in self.held and c.cell_id not in self.ended)
        if others:
            self.waiting.append(replace(cohort, cells=others))
        if not left:
            return None
        first = left[0].cell_id
        if death is not None and death.times <= deaths and self.unstarted[first] < WORKER_DEATHS:
            # Tune gives up at once what dies before it has begun.
            self.unstarted[first] += 1
            self.again.append(replace(cohort, cells=tuple(left)))
            return None
        if death is None:
            reason = "its trial ended without a result"
        else:
            how = self._how(left[0])
            said = f": {death.reason[:300]}" if how == "died" and death.reason else ""
            reason = f"its worker {how} {death.times} times{said}"
        if death is not None and len(left) > 1:
            self.hear(Event("split", first, reason=reason))
            return replace(cohort, cells=tuple(left))
        for cell in left:
            self._note_end("lost", cohort, cell, reason)
        return None

    def _freed(self) -> list[Cohort]:
        """Waits until other runs have left cells unfinished, which it returns, or finished all that we wait for."""
        found: list[Cohort] = []
        while self.waiting:
            began = time.monotonic()
            free = [cohort for cohort in map(self._free_of, self.waiting) if cohort.cells]
            stopped = stop.requested(self.store, self.surroundings.run)
            gone = self.ended.union(cell.cell_id for cohort in free for cell in cohort.cells)
            kept = (replace(c, cells=tuple(i for i in c.cells if i.cell_id not in gone)) for c in self.waiting)
            self.waiting = [cohort for cohort in kept if cohort.cells]
            found += free
            # Who stops leaves its cohorts one after the other: until no more come, none begins.
            if found and not free:
                break
            if stopped:
                raise KeyboardInterrupt
            if self.waiting:
                # Thousands of cells are not looked at all the time.
                time.sleep(max(LOOK, 10 * (time.monotonic() - began)))
        return found

    def _free_of(self, cohort: Cohort) -> Cohort:
        """The cells of a cohort that nobody trains any more; tells of those that are finished."""
        free = []
        for cell in cohort.cells:
            if cell.cell_id in self.ended:
                continue
            receipt = self.store.receipt(cell)
            if receipt is not None:
                self._tell(receipt)
                continue
            claim = claims.holder(self.store, cell.cell_id)
            if claim is not None and claim.run != self.surroundings.run:
                if not self.observer.lapsed(claim.lease):
                    continue
                self.lapsed.add(claim.lease)
            free.append(cell)
        return replace(cohort, cells=tuple(free))
