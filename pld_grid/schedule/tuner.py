"""Cohorts as Tune trials: Tune hands out resources, and starts again what died."""

import errno
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pld_grid.errors import ResourceError
from pld_grid.events import Event, Listener
from pld_grid.files import temporary_folder
from pld_grid.machine import MachineSettings
from pld_grid.plan import Cohort
from pld_grid.schedule.cluster import RAY_BYTES, resources_per_device, slots
from pld_grid.train.surroundings import Surroundings

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Events after which a cohort has something to go on from.
_PROGRESS = ("epoch", "finished", "diverged")


class Death(NamedTuple):
    """Why a trial was given up, and how often it had died; that is once where not even its process could start."""

    reason: str
    times: int


def run_trials(
    cohorts: Sequence[Cohort],
    surroundings: Surroundings,
    listener: Listener,
    died: Callable[[Cohort], None],
    deaths: int,
) -> list[tuple[Cohort, Death | None]]:
    """Runs cohorts side by side, with a Tuner for each kind of machine; returns each with its death, or None.

    Args:
        listener: hears what they tell, from several threads.
        died: told of a cohort whose worker died and that is tried again.
        deaths: how many of them are forgiven while there is no progress.
    """
    by_machine: dict[MachineSettings, list[Cohort]] = {}
    for cohort in cohorts:
        by_machine.setdefault(cohort.machine, []).append(cohort)
    # Tune's registry is one for all threads and guarded by none: what is written there is written here.
    calls = [
        partial(_run_alike, same, machine, _register(same, replace(surroundings, machine=machine)), listener, died,
                deaths)
        for machine, same in by_machine.items()
    ]  # fmt: skip
    return [pair for pairs in _side_by_side(calls) for pair in pairs]


def _register(cohorts: Sequence[Cohort], surroundings: Surroundings) -> str:
    """Tells Tune how to train these cohorts, which are of one kind of machine; the name of that."""
    from ray import tune
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    from pld_grid.schedule.trial import run_trial

    # Tune would put the driver's keys into every trial's runtime environment, which Ray logs and its dashboard shows.
    # Nodes have keys of their own, and those of a local cluster inherit the driver's.
    ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
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


def _run_alike(
    cohorts: Sequence[Cohort],
    machine: MachineSettings,
    trainable: str,
    listener: Listener,
    died: Callable[[Cohort], None],
    deaths: int,
) -> list[tuple[Cohort, Death | None]]:
    """Runs cohorts of one kind of machine side by side."""
    import ray
    from ray import tune

    # By place: Tune's own results are in no order that it promises.
    dead: dict[int, Death] = {}

    class Ears(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            events = [Event(**event) for event in result.get("events", ())]
            if any(event.kind in _PROGRESS for event in events):
                # A grid may run for weeks: only deaths that follow each other without a checkpoint say something.
                trial.run_metadata.num_failures = 0
            for event in events:
                listener(event)

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            died(cohorts[trial.config["cohort"]])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            said = Path(trial.error_file).read_text().split("\n") if trial.error_file else []
            last = next((line for line in reversed(said) if line.strip()), "")
            dead[trial.config["cohort"]] = Death(last, trial.run_metadata.num_failures)

        def __reduce__(self) -> Any:
            # Tune pickles its callbacks to resume a driver, which we never do; a listener cannot be pickled.
            return tune.Callback, ()

    at_a_time = None
    if machine.devices_per_cohort > 1:
        # What Ray would let wait for each other for ever must not be started.
        at_a_time = slots(machine, ray.cluster_resources())  # type: ignore[no-untyped-call]
    with temporary_folder("pld_grid-tune-") as folder:
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
                failure_config=tune.FailureConfig(max_failures=deaths),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except OSError as error:
            # Tune keeps a state that we never read, beside Ray's logs.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceError(
                f"Ray's temporary folder is full ({error.filename}: {error.strerror}); free about "
                f"{RAY_BYTES / 2**20:.0f} MiB, or name another place (RAY_TMPDIR); the same command goes on from there"
            ) from error
    return [(cohort, dead.get(place)) for place, cohort in enumerate(cohorts)]
