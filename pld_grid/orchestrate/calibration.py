"""Measures workers of a cluster and what parts of cohorts cost on them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pld_grid.experiment.machine import MachineSettings
from pld_grid.orchestrate.resources import local_cpus, local_memory, resources_per_device
from pld_grid.planning.calibration_file import Rate
from pld_grid.planning.cost_model import PartRequest
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import PldGridError, ResourceError
from pld_grid.util.text import join_names, one_line

# Enough to load a machine as a run does.
_MAX_WORKERS = 8


class Worker(NamedTuple):
    """A fresh worker: its device, a slot's memory, what the process holds itself, and the seconds until it is ready."""

    device: str
    memory_bytes: int
    base_bytes: int
    import_seconds: float
    ready_seconds: float


def inspect_worker(machine: MachineSettings) -> Worker:
    """Start a worker on the connected cluster and describe it. Raises ResourceError if it cannot start."""
    worker: Worker
    (worker,) = _run_in_workers(machine, _inspect, [(machine, time.time())])
    return worker


def measure_costs(requests: Sequence[PartRequest], context: RunContext, slots: int, device: str) -> dict[str, Rate]:
    """Measure parts of cohorts on the connected cluster, with as many workers at a time as cohorts will run.

    Args:
        requests: The parts to measure.
        context: The run context, with the machine settings to measure under.
        slots: How many cohorts will run at a time.
        device: The kind of device that all workers must have.

    Returns:
        The rate of each part, by its key.

    Raises:
        ResourceError: A worker died or has another device.
    """
    workers = max(1, min(slots, _MAX_WORKERS, len(requests)))
    results = _run_in_workers(context.machine, _measure, [(requests[i::workers], context) for i in range(workers)])
    devices = {device, *(name for name, _ in results)}
    if len(devices) > 1:
        raise ResourceError(f"calibration: the cluster has devices of several kinds: {join_names(devices)}")
    return {key: rate for _, rates in results for key, rate in rates.items()}


def _run_in_workers(machine: MachineSettings, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """Call a function once per argument, in concurrent workers that have a cohort's resources."""
    import ray

    resources = resources_per_device(machine)
    cpus, gpus = resources.pop("CPU"), resources.pop("GPU", 0)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=resources, max_retries=0)(function)
    try:
        results: list[Any] = ray.get([task.remote(argument) for argument in arguments])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, PldGridError):
            raise cause from None
        raise ResourceError(one_line(f"calibration: {type(cause).__name__}: {cause}", 300)) from None
    return results


def _inspect(task: tuple[MachineSettings, float]) -> Worker:
    """Describe this worker, which was requested at a Unix time."""
    machine, requested = task
    started = time.perf_counter()
    import torch

    from pld_grid.train.device import get_device_name, resolve_device
    from pld_grid.train.part_profiler import process_resident_bytes

    import_seconds, ready_seconds = time.perf_counter() - started, max(0.0, time.time() - requested)
    device = resolve_device(machine)
    if device.type == "cuda":
        fraction, base = min(1.0, machine.gpus_per_cohort), 0
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        fraction, base = min(1.0, machine.cpus_per_cohort / local_cpus()), process_resident_bytes()
        total = local_memory()
    return Worker(get_device_name(device), int(fraction * total), base, import_seconds, ready_seconds)


def _measure(task: tuple[Sequence[PartRequest], RunContext]) -> tuple[str, dict[str, Rate]]:
    """Measure parts in this worker; return its device and their rates."""
    import torch

    from pld_grid.train import part_profiler
    from pld_grid.train.device import get_device_name, resolve_device

    requests, context = task
    torch.set_num_threads(max(1, int(context.machine.cpus_per_cohort)))
    device = resolve_device(context.machine)
    return get_device_name(device), part_profiler.measure_parts(requests, context, device)
