"""Runs a plan: one Tune trial per cohort, a wave at a time.

Tune is a disposable executor: it hands out resources and starts again what died. What is done, and what a result is,
stands in the store alone.
"""

import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pld_grid import stop
from pld_grid.events import Event, Listener
from pld_grid.machine import MachineSettings
from pld_grid.plan import Cohort, Plan
from pld_grid.schedule.cluster import resources_per_device, slots
from pld_grid.schedule.trial import run_trial
from pld_grid.spec import Cell
from pld_grid.store import Status, Store
from pld_grid.train.cohort import Surroundings

logger = logging.getLogger(__name__)
T = TypeVar("T")

WORKER_DEATHS = 3
# Of a half of a cohort whose workers died so often.
HALF_DEATHS = 1


def run_plan(plan: Plan, surroundings: Surroundings, listener: Listener) -> None:
    """Runs what the plan has pending, inside `cluster`; every cell ends in the store with a receipt or a status.

    On KeyboardInterrupt the running cells become `cancelled`, keeping their checkpoints, and it is raised again; so it
    is once cohorts have stopped as `pld_grid.stop` asked them to.
    """
    store, lock, ended = Store(surroundings.store), threading.Lock(), set[str]()

    def hear(event: Event) -> None:
        # Tuners run side by side.
        with lock:
            if event.kind in ("finished", "diverged", "failed"):
                ended.add(event.cell_id)
            listener(event)

    for wave in plan.waves:
        cohorts = [c for c in (_trainable(cohort, store, hear) for cohort in wave) if c is not None]
        retries = WORKER_DEATHS
        while cohorts:
            try:
                results = _tune(cohorts, surroundings, hear, retries)
                left = [cell for cohort in cohorts for cell in cohort.cells if cell.cell_id not in ended]
                if left and stop.requested(store, surroundings.run):
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                for cell in (cell for cohort in cohorts for cell in cohort.cells):
                    begun = store.cell(cell.cell_id) is not None
                    if begun and cell.cell_id not in ended and store.receipt(cell) is None:
                        status = Status(state="cancelled", reason="interrupted", time=time.time())
                        store.write_status(cell.cell_id, status)
                raise
            lost = [c for c in (_left_of(*pair, store, ended, hear, retries) for pair in results) if c is not None]
            # Too much memory, or one student that takes its process down: the halves will tell.
            cohorts = [half for cohort in lost for half in cohort.halves()]
            retries = HALF_DEATHS


def _trainable(cohort: Cohort, store: Store, listener: Listener) -> Cohort | None:
    """The cohort without the cells whose teacher could not be made."""
    teacher = cohort.teacher
    if teacher is None or teacher.is_measurement:
        return cohort
    receipt = store.receipt(teacher)
    if receipt is not None and receipt.state == "finished":
        return cohort
    state = "was not trained" if receipt is None else receipt.state
    reason = f"its teacher {teacher.cell_id} ({teacher.student.architecture}) {state}"
    for cell in cohort.cells:
        if cell.teacher is not None:
            _note_failure(store, cell, reason, listener)
    kept = tuple(cell for cell in cohort.cells if cell.teacher is None)
    return replace(cohort, cells=kept) if kept else None


def _note_failure(store: Store, cell: Cell, reason: str, listener: Listener) -> None:
    store.write_cell(cell)
    store.write_status(cell.cell_id, Status(state="failed", reason=reason, time=time.time()))
    listener(Event("failed", cell.cell_id, reason=reason))


def _tune(
    cohorts: Sequence[Cohort], surroundings: Surroundings, listener: Listener, retries: int
) -> list[tuple[Cohort, Any]]:
    """Runs cohorts side by side, with a Tuner for each kind of machine; returns them with Tune's results."""
    by_machine: dict[MachineSettings, list[Cohort]] = {}
    for cohort in cohorts:
        by_machine.setdefault(cohort.machine, []).append(cohort)
    # Tune's registry is one for all threads and guarded by none: what is written there is written here.
    calls = [
        partial(_tune_alike, same, machine, _register(same, replace(surroundings, machine=machine)), listener, retries)
        for machine, same in by_machine.items()
    ]
    return [pair for pairs in _side_by_side(calls) for pair in pairs]


def _register(cohorts: Sequence[Cohort], surroundings: Surroundings) -> str:
    """Tells Tune how to train these cohorts, which are of one kind of machine; the name of that."""
    from ray import tune

    trainable = tune.with_parameters(
        run_trial, cohorts=[[c.model_dump(mode="json") for c in cohort.cells] for cohort in cohorts],
        surroundings=surroundings,
    )  # fmt: skip
    machine = surroundings.machine
    # Of several devices, the trial's own workers have them.
    resources = resources_per_device(machine) if machine.devices_per_cohort == 1 else {"memory": 1.0}
    name = f"cohorts-{uuid.uuid4().hex}"
    tune.register_trainable(name, tune.with_resources(trainable, resources))
    return name


def _side_by_side(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Makes all calls at once, the first in this thread; raises what one of them did."""
    first, *others = calls
    futures: list[Future[T]] = [Future() for _ in others]

    def answer(future: Future[T], call: Callable[[], T]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    for future, call in zip(futures, others, strict=True):
        # Not a pool's: on Ctrl-C nobody waits for it.
        threading.Thread(target=answer, args=(future, call), daemon=True).start()
    return [first(), *(future.result() for future in futures)]


def _tune_alike(
    cohorts: Sequence[Cohort], machine: MachineSettings, trainable: str, listener: Listener, retries: int
) -> list[tuple[Cohort, Any]]:
    """Runs cohorts of one kind of machine side by side."""
    import ray
    from ray import tune

    class Ears(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            for event in result.get("events", ()):
                listener(Event(**event))

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            logger.warning("a worker died; its cohort goes on from its checkpoints (at most %d times)", retries)

        def __reduce__(self) -> Any:
            # Tune pickles its callbacks to resume a driver, which we never do; a listener cannot be pickled.
            return tune.Callback, ()

    at_a_time = None
    if machine.devices_per_cohort > 1:
        # What Ray would let wait for each other for ever must not be started.
        at_a_time = slots(machine, ray.cluster_resources())  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory(prefix="pld_grid-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            trainable,
            param_space={"cohort": tune.grid_search(list(range(len(cohorts))))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=at_a_time,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="wave",
                storage_path=folder,
                callbacks=[Ears()],
                failure_config=tune.FailureConfig(max_failures=retries),
                verbose=0,
            ),
        )
        results = tuner.fit()
        return [(cohort, results[place]) for place, cohort in enumerate(cohorts)]


def _left_of(
    cohort: Cohort, result: Any, store: Store, ended: Container[str], listener: Listener, retries: int
) -> Cohort | None:
    """Gives every cell of a cohort whose trial has ended its end, or returns those that should be tried in halves.

    A trial that says nothing, or died too often, is a success to Tune: only the store tells.
    """
    left = []
    for cell in cohort.cells:
        if cell.cell_id in ended:
            continue
        receipt = store.receipt(cell)
        if receipt is None:
            left.append(cell)
            continue
        # Its worker died with the news still unsent.
        epoch = receipt.epochs[-1].epoch if receipt.epochs else 0
        listener(Event(receipt.state, cell.cell_id, epoch, dict(receipt.metrics), receipt.reason))
    if not left:
        return None
    if result.error is None:
        reason = "its trial ended without a result"
    else:
        reason = f"its worker died {retries + 1} times: {str(result.error).splitlines()[-1][:300]}"
    if result.error is not None and len(left) > 1:
        listener(Event("split", left[0].cell_id, reason=reason))
        return replace(cohort, cells=tuple(left))
    for cell in left:
        _note_failure(store, cell, reason, listener)
    return None
