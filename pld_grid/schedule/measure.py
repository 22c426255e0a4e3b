"""Asks workers what they are and what parts of cohorts cost on them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pld_grid.cost import Rate, Request
from pld_grid.errors import PldGridError, ResourceError, listing
from pld_grid.machine import MachineSettings
from pld_grid.reading import one_line
from pld_grid.schedule.cluster import local_cpus, local_memory, resources_per_device
from pld_grid.train.surroundings import Surroundings

# Enough to make a machine as busy as a run does; more would only cost.
_MOST_MEASURING = 8


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

    needed = resources_per_device(machine)
    cpus, gpus = needed.pop("CPU"), needed.pop("GPU", 0)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=needed, max_retries=0)(function)
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
