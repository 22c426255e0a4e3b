"""CPUs, memory and devices: what this machine and a cluster have, and how many cohorts fit."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.machine import Machines, MachineSettings
from pld_grid.util.errors import InputError, ResourceError
from pld_grid.util.text import join_names, nearest

# Prefix of the resource that Ray gives a node for its kind of device.
_ACCELERATOR_PREFIX = "accelerator_type:"
# The amount of it that Ray's own `accelerator_type` option requests; each node has 1.
_ACCELERATOR_AMOUNT = 0.001

Resources = Mapping[str, float]


def local_cpus() -> int:
    """Return how many CPUs this process may use: fewer than the machine's in a container or under taskset."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def local_memory() -> int:
    """Return how many bytes of memory this process may use: less than the machine's in a container."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return physical


def resources_per_device(machine: MachineSettings) -> dict[str, float]:
    """Return the Ray resources of each process of a cohort."""
    resources = {"CPU": machine.cpus_per_cohort}
    if machine.gpus_per_cohort:
        resources["GPU"] = machine.gpus_per_cohort
    if machine.accelerator is not None:
        resources[_ACCELERATOR_PREFIX + machine.accelerator] = _ACCELERATOR_AMOUNT
    return resources


def count_slots(machine: MachineSettings, available: Resources) -> int:
    """Return how many cohorts can run at a time if nothing else runs."""
    devices = sum(_count_devices(machine, node) for node in _list_nodes(available) if _has_accelerator(machine, node))
    return max(1, devices // machine.devices_per_cohort)


def check_resources(machines: Iterable[MachineSettings], available: Resources) -> None:
    """Raise ResourceError if a cohort needs more than the cluster has; Ray would wait for it forever.

    Before Ray has started, the kind of this machine's devices is unknown and assumed to be the requested one.
    """
    nodes = _list_nodes(available)
    for machine in machines:
        matching = [node for node in nodes if _has_accelerator(machine, node)]
        if not matching:
            names = {name for node in nodes for name in node if name.startswith(_ACCELERATOR_PREFIX)}
            kinds = sorted(name.removeprefix(_ACCELERATOR_PREFIX) for name in names)
            raise ResourceError(
                f'a cohort asks for devices of kind "{machine.accelerator}", the cluster has: '
                f"{join_names(kinds) or 'none that Ray knows'}{nearest(machine.accelerator, kinds)}"
            )
        devices = sum(_count_devices(machine, node) for node in matching)
        if devices < machine.devices_per_cohort:
            raise ResourceError(_describe_shortage(machine, matching, devices))


def check_devices(machines: Machines, cells: Iterable[Cell]) -> None:
    """Raise InputError unless every batch divides equally among the devices of its cohort."""
    batches = {
        (machines.for_cell(cell).devices_per_cohort, cell.recipe.batch_size, cell.recipe.micro_batch_size)
        for cell in cells
    }
    for devices, batch, micro in sorted(batches):
        parts = batch // micro
        if parts % devices:
            *some, last = [str(number) for number in range(1, parts + 1) if parts % number == 0]
            valid = f"{', '.join(some)} or {last}" if some else last
            raise InputError(
                f"devices_per_cohort {devices} does not divide the {parts} micro-batch{'es' * (parts > 1)} of a batch "
                f"({batch} / {micro}); use {valid}"
            )


def _describe_shortage(machine: MachineSettings, nodes: list[Resources], devices: int) -> str:
    """Return the error for a cohort that does not fit on the matching nodes, which have room for `devices`."""
    kind = f" of kind {machine.accelerator}" if machine.accelerator else ""
    need = _describe_amount(machine, machine.cpus_per_cohort, machine.gpus_per_cohort)
    if devices:
        return (
            f"a cohort asks for {machine.devices_per_cohort} devices{kind} with {need} each, the cluster has room for "
            f"{devices} (--devices-per-cohort changes it)"
        )
    wants_gpus = bool(machine.gpus_per_cohort)
    largest = max(nodes, key=lambda node: (node.get("GPU", 0) * wants_gpus, node.get("CPU", 0)))
    has = _describe_amount(machine, largest.get("CPU", 0), largest.get("GPU", 0))
    flags = "--cpus-per-cohort and --gpus-per-cohort change it" if wants_gpus else "--cpus-per-cohort changes it"
    where = f"the largest of {len(nodes)} nodes" if len(nodes) > 1 else "the cluster"
    return f"a cohort asks for {need}{kind}, {where} has {has} ({flags})"


def _describe_amount(machine: MachineSettings, cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if machine.gpus_per_cohort else "")


def _list_nodes(available: Resources) -> list[Resources]:
    """Return the resources of each node; those of a machine without Ray are one node's."""
    if not _names_nodes(available):
        return [available]
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _names_nodes(resources: Resources) -> bool:
    """Return whether the resources were reported by Ray, which has one for each node's address."""
    return any(name.startswith("node:") for name in resources)


def _has_accelerator(machine: MachineSettings, node: Resources) -> bool:
    return machine.accelerator is None or not _names_nodes(node) or _ACCELERATOR_PREFIX + machine.accelerator in node


def _count_devices(machine: MachineSettings, node: Resources) -> int:
    """Return how many processes of cohorts, one per device, a node has room for."""
    by_cpu = node.get("CPU", 0) / machine.cpus_per_cohort
    by_gpu = node.get("GPU", 0) / machine.gpus_per_cohort if machine.gpus_per_cohort else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-9)
