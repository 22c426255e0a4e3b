"""Runs a plan: one Tune trial per cohort, a wave at a time.

Tune is a disposable executor: it hands out resources and starts again what died. What is done, and what a result is,
stands in the store alone.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from pld_grid import stop
from pld_grid.events import Event, Listener
from pld_grid.plan import Cohort, Plan
from pld_grid.schedule.cluster import slots
from pld_grid.schedule.devices import resources_per_device
from pld_grid.schedule.trial import run_trial
from pld_grid.spec import Cell
from pld_grid.store import Status, Store
from pld_grid.train.cohort import Surroundings

logger = logging.getLogger(__name__)

WORKER_DEATHS = 3
# Of a half of a cohort whose workers died so often.
HALF_DEATHS = 1


def run_plan(plan: Plan, surroundings: Surroundings, listener: Listener) -> None:
    """Runs what the plan has pending, inside `cluster`; every cell ends in the store with a receipt or a status.

    On KeyboardInterrupt the running cells become `cancelled`, keeping their checkpoints, and it is raised again; so it
    is once cohorts have stopped as `pld_grid.stop` asked them to.
    """
    store = Store(surroundings.store)
    for wave in plan.waves:
        cohorts = [c for c in (_trainable(cohort, store, listener) for cohort in wave) if c is not None]
        retries = WORKER_DEATHS
        while cohorts:
            lost = _run_wave(cohorts, surroundings, store, listener, retries)
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
    return Cohort(kept) if kept else None


def _note_failure(store: Store, cell: Cell, reason: str, listener: Listener) -> None:
    store.write_cell(cell)
    store.write_status(cell.cell_id, Status(state="failed", reason=reason, time=time.time()))
    listener(Event("failed", cell.cell_id, reason=reason))


def _run_wave(
    cohorts: Sequence[Cohort], surroundings: Surroundings, store: Store, listener: Listener, retries: int
) -> list[Cohort]:
    """Runs cohorts side by side; returns those of several students whose worker died again and again."""
    import ray
    from ray import tune

    machine = surroundings.machine
    ended: set[str] = set()

    def hear(event: Event) -> None:
        if event.kind in ("finished", "diverged", "failed"):
            ended.add(event.cell_id)
        listener(event)

    class Ears(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            for event in result.get("events", ()):
                hear(Event(**event))

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            logger.warning("a worker died; its cohort goes on from its checkpoints (at most %d times)", retries)

        def __reduce__(self) -> Any:
            # Tune pickles its callbacks to resume a driver, which we never do; a listener cannot be pickled.
            return tune.Callback, ()

    trainable = tune.with_parameters(
        run_trial, cohorts=[[c.model_dump(mode="json") for c in cohort.cells] for cohort in cohorts],
        surroundings=surroundings,
    )  # fmt: skip
    if machine.devices_per_cohort > 1:
        # The trial's own workers have them. What Ray would let wait for each other for ever must not be started.
        resources: dict[str, float] = {"memory": 1}
        at_a_time = slots(machine, ray.cluster_resources())  # type: ignore[no-untyped-call]
    else:
        resources, at_a_time = resources_per_device(machine), None
    with tempfile.TemporaryDirectory(prefix="pld_grid-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
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
        try:
            results = tuner.fit()
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
    # A trial that says nothing, or died too often, is a success to Tune: only the store tells.
    lost = []
    for cohort, result in ((cohort, results[place]) for place, cohort in enumerate(cohorts)):
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
            hear(Event(receipt.state, cell.cell_id, epoch, dict(receipt.metrics), receipt.reason))
        if not left:
            continue
        if result.error is None:
            reason = "its trial ended without a result"
        else:
            reason = f"its worker died {retries + 1} times: {str(result.error).splitlines()[-1][:300]}"
        if result.error is not None and len(left) > 1:
            lost.append(Cohort(tuple(left)))
            hear(Event("split", left[0].cell_id, reason=reason))
            continue
        for cell in left:
            _note_failure(store, cell, reason, hear)
    return lost
