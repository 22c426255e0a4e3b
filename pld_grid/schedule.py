"""Runs a plan on Ray: one Tune trial per cohort, a wave at a time. The only module that imports Ray.

Tune is a disposable executor: it hands out resources and starts again what died. What is done, and what a result is,
stands in the store alone.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pld_grid.cost import Rate, Request
from pld_grid.errors import PldGridError, ResourceError, listing
from pld_grid.events import Event, Listener
from pld_grid.plan import Cohort, Plan
from pld_grid.profile import MachineSettings
from pld_grid.reading import one_line
from pld_grid.spec import Cell
from pld_grid.store import Status, Store
from pld_grid.train.cohort import Surroundings, fail_cell, train_cohort

logger = logging.getLogger(__name__)

WORKER_DEATHS = 3
# Of a half of a cohort whose workers died so often.
HALF_DEATHS = 1
# Enough to make a machine as busy as a run does; more would only cost.
_MOST_MEASURING = 8

# Read by Ray when it is imported or started, hence set here and not at the call.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output prints a banner per wave even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers started beforehand are for tasks alone; a trial is an actor, so they would only take its time.
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C must reach us: Tune's own handler would go on saving its own state.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def cluster(address: str | None) -> Iterator[dict[str, float]]:
    """A connection to Ray: a local cluster that ends with the block, or a running one at `address`.

    Yields the cluster's resources. Raises ResourceError if the address cannot be reached.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    # Tune prints a traceback for every worker that dies; we say it in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        # Loopback, one user: no token is needed, and none should be left in the home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        options |= {"address": "local", "include_dashboard": False, "num_cpus": local_cpus()}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"Ray at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


def local_cpus() -> int:
    """CPUs that this process may use: fewer than the machine's in a container or under taskset."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def local_memory() -> int:
    """Bytes of memory that this process may use: less than the machine's in a container."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return physical


def check_resources(machine: MachineSettings, available: dict[str, float]) -> None:
    """Raises ResourceError if one cohort needs more than the cluster has: Ray would wait for it for ever."""
    for name, wanted in (("CPU", machine.cpus_per_cohort), ("GPU", machine.gpus_per_cohort)):
        if wanted > available.get(name, 0):
            raise ResourceError(
                f"a cohort asks for {wanted:g} {name}s, the cluster has {available.get(name, 0):g} "
                f"(--{name.lower()}s-per-cohort changes it)"
            )


def slots(machine: MachineSettings, available: dict[str, float]) -> int:
    """How many cohorts can run at a time."""
    by_cpu = available.get("CPU", 0) / machine.cpus_per_cohort
    by_gpu = available.get("GPU", 0) / machine.gpus_per_cohort if machine.gpus_per_cohort else by_cpu
    return max(1, int(min(by_cpu, by_gpu) + 1e-9))


class Worker(NamedTuple):
    """What a fresh worker found: its device, a slot's memory and what it holds itself, and the seconds to get there."""

    device: str
    memory_bytes: int
    base_bytes: int
    import_seconds: float
    ready_seconds: float


def inspect(machine: MachineSettings) -> Worker:
    """Asks a worker of the cluster that we are connected to. Raises ResourceError if it cannot start."""
    started = time.time()
    (found,) = _ask(machine, _inspect, [machine])
    worker: Worker = found[0]
    return worker._replace(ready_seconds=max(0.0, found[1] - started))


def measure_costs(wanted: Sequence[Request], surroundings: Surroundings, slots: int, device: str) -> dict[str, Rate]:
    """Measures parts of cohorts inside `cluster`, as many at a time as cohorts will run.

    Raises ResourceError if a worker dies or has another device.
    """
    workers = max(1, min(slots, _MOST_MEASURING, len(wanted)))
    tasks = [(wanted[i::workers], surroundings) for i in range(workers)]
    found = _ask(surroundings.machine, _measure, tasks)
    devices = {device, *(name for name, _ in found)}
    if len(devices) > 1:
        raise ResourceError(f"calibration: the cluster has devices of several kinds: {listing(devices)}")
    return {key: rate for _, rates in found for key, rate in rates.items()}


def _ask(machine: MachineSettings, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """Calls a function in workers with a cohort's resources, side by side."""
    import ray

    task = ray.remote(num_cpus=machine.cpus_per_cohort, num_gpus=machine.gpus_per_cohort, max_retries=0)(function)
    try:
        answers: list[Any] = ray.get([task.remote(argument) for argument in arguments])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, PldGridError):
            raise cause from None
        raise ResourceError(one_line(f"calibration: {type(cause).__name__}: {cause}", 300)) from None
    return answers


def _inspect(machine: MachineSettings) -> tuple[Worker, float]:
    """In a Ray worker; also the time at which it was ready."""
    started = time.perf_counter()
    import torch

    from pld_grid.train.calibrate import resident_bytes
    from pld_grid.train.device import device_name, device_of

    imported, ready = time.perf_counter() - started, time.time()
    device = device_of(machine)
    if device.type == "cuda":
        share, base = min(1.0, machine.gpus_per_cohort), 0
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        share, base = min(1.0, machine.cpus_per_cohort / local_cpus()), resident_bytes()
        total = local_memory()
    return Worker(device_name(device), int(share * total), base, imported, 0.0), ready


def _measure(task: tuple[Sequence[Request], Surroundings]) -> tuple[str, dict[str, Rate]]:
    """In a Ray worker."""
    import torch

    from pld_grid.train import calibrate
    from pld_grid.train.device import device_name, device_of

    wanted, surroundings = task
    torch.set_num_threads(max(1, int(surroundings.machine.cpus_per_cohort)))
    device = device_of(surroundings.machine)
    return device_name(device), calibrate.measure(wanted, surroundings, device)


def run_plan(plan: Plan, surroundings: Surroundings, listener: Listener) -> None:
    """Runs what the plan has pending, inside `cluster`; every cell ends in the store with a receipt or a status.

    On KeyboardInterrupt the running cells become `cancelled`, keeping their checkpoints, and it is raised again.
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
        _trial, cohorts=[[c.model_dump(mode="json") for c in cohort.cells] for cohort in cohorts],
        surroundings=surroundings,
    )  # fmt: skip
    resources = {"CPU": machine.cpus_per_cohort}
    if machine.gpus_per_cohort:
        resources["GPU"] = machine.gpus_per_cohort
    with tempfile.TemporaryDirectory(prefix="pld_grid-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"cohort": tune.grid_search(list(range(len(cohorts))))},
            tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
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


def _trial(config: dict[str, Any], cohorts: list[list[dict[str, Any]]], surroundings: Surroundings) -> None:
    """One cohort, in a Ray worker. Errors end here: only a worker's death is worth another try."""
    import torch
    from ray import tune

    # Ray exports OMP_NUM_THREADS=1; a cohort has its CPUs to itself.
    torch.set_num_threads(max(1, int(surroundings.machine.cpus_per_cohort)))
    cells = [Cell.model_validate(cell) for cell in cohorts[config["cohort"]]]
    outbox: list[dict[str, Any]] = []

    def send() -> None:
        # All that an epoch's end brings goes in one report: each waits for the driver.
        if outbox:
            tune.report({"events": outbox.copy()})
            outbox.clear()

    def listener(event: Event) -> None:
        outbox.append(event.to_dict())

    try:
        train_cohort(cells, surroundings, listener, send)
    except Exception as error:
        store = Store(surroundings.store)
        for cell in cells:
            if store.receipt(cell) is None:
                fail_cell(store, cell, 0, error, listener)
    send()
