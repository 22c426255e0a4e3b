"""Runs cohorts as Tune trials: Tune assigns resources and starts trials again whose worker died."""

import errno
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import EventCallback
from pld_grid.experiment.machine import MachineSettings
from pld_grid.orchestrate.cluster import RAY_SESSION_BYTES
from pld_grid.orchestrate.ray_internals import keep_credentials_out_of_trials
from pld_grid.orchestrate.resources import count_slots, resources_per_device
from pld_grid.train.run_context import RunContext
from pld_grid.util.atomic_files import temporary_folder
from pld_grid.util.errors import ResourceError

if TYPE_CHECKING:
    from pld_grid.orchestrate.event_forwarder import EventForwarder

# Keys of a trial's reports.
EVENTS, PLACEMENT_GROUP = "events", "placement_group"


class TrialFailure(NamedTuple):
    """Why Tune gave a trial up, and how often its worker died without progress: once if it could not start."""

    reason: str
    deaths: int


def run_trials(
    cohorts: Sequence[Cohort],
    context: RunContext,
    on_event: EventCallback,
    on_retry: Callable[[Cohort], None],
    max_failures: int,
) -> list[tuple[Cohort, TrialFailure | None]]:
    """Run cohorts side by side, with one Tuner for each kind of machine.

    Args:
        cohorts: The cohorts, each with the machine settings that it runs with.
        context: The run context; its machine is replaced by the cohort's.
        on_event: Receives the trials' events, from several threads.
        on_retry: Receives a cohort whose worker died and that is tried again.
        max_failures: How many deaths without progress in between are followed by another attempt.

    Returns:
        Each cohort with its failure, or None if its trial ended by itself.
    """
    by_machine: dict[MachineSettings, list[Cohort]] = {}
    for cohort in cohorts:
        by_machine.setdefault(cohort.machine, []).append(cohort)
    from pld_grid.orchestrate.event_forwarder import EventForwarder

    forwarders, calls = [], []
    for machine, group in by_machine.items():
        forwarders.append(EventForwarder(group, on_event, on_retry))
        # Here and not in the threads, because Tune's registry is shared by all and not thread-safe.
        trainable = _register(group, replace(context, machine=machine))
        calls.append(partial(_run_tuner, trainable, forwarders[-1], max_failures))
    _run_concurrently(calls)
    return [pair for forwarder in forwarders for pair in forwarder.results()]


def _register(cohorts: Sequence[Cohort], context: RunContext) -> str:
    """Register the training of cohorts that share machine settings with Tune; return the name of the trainable."""
    from ray import tune

    from pld_grid.orchestrate.trial import run_trial

    keep_credentials_out_of_trials()
    serialized = [[cell.model_dump(mode="json") for cell in cohort.cells] for cohort in cohorts]
    trainable = tune.with_parameters(run_trial, cohorts=serialized, context=context)
    machine = context.machine
    # With several devices, the trial's own workers hold the resources.
    resources = resources_per_device(machine) if machine.devices_per_cohort == 1 else {"memory": 1.0}
    name = f"cohorts-{uuid.uuid4().hex}"
    tune.register_trainable(name, tune.with_resources(trainable, resources))
    return name


def _run_concurrently(calls: Sequence[Callable[[], None]]) -> None:
    """Make all calls at once, the first in this thread; raise the error of the first one that failed."""
    futures: list[Future[None]] = [Future() for _ in calls[1:]]

    def fulfil(future: Future[None], call: Callable[[], None]) -> None:
        try:
            call()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    for arguments in zip(futures, calls[1:], strict=True):
        # Daemon threads, unlike a pool's, do not delay the exit on Ctrl-C.
        threading.Thread(target=fulfil, args=arguments, daemon=True).start()
    calls[0]()
    for future in futures:
        future.result()


def _run_tuner(trainable: str, forwarder: "EventForwarder", max_failures: int) -> None:
    """Run cohorts that share machine settings side by side, in one trial each."""
    with temporary_folder("pld_grid-tune-") as folder:
        tuner = _make_tuner(trainable, forwarder, max_failures, folder)
        try:
            tuner.fit()
        except OSError as error:
            # Tune saves its state, which is never read, beside Ray's logs.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceError(
                f"Ray's temporary folder is full ({error.filename}: {error.strerror}); free about "
                f"{RAY_SESSION_BYTES / 2**20:.0f} MiB, or name another place (RAY_TMPDIR); "
                "the same command continues from there"
            ) from error


def _make_tuner(trainable: str, forwarder: "EventForwarder", max_failures: int, folder: str) -> Any:
    """Return a Tuner with one trial per cohort, whose parameter is the cohort's index."""
    import ray
    from ray import tune

    cohorts, max_concurrent = forwarder.cohorts, None
    machine = cohorts[0].machine
    if machine.devices_per_cohort > 1:
        # Trials that each hold some workers would otherwise wait for each other forever.
        max_concurrent = count_slots(machine, ray.cluster_resources())  # type: ignore[no-untyped-call]
    return tune.Tuner(
        trainable,
        param_space={"cohort": tune.grid_search(list(range(len(cohorts))))},
        tune_config=tune.TuneConfig(
            reuse_actors=True, max_concurrent_trials=max_concurrent, trial_dirname_creator=lambda trial: trial.trial_id
        ),
        run_config=tune.RunConfig(
            name="wave",
            storage_path=folder,
            callbacks=[forwarder],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    )
