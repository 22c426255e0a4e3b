"""A connection to Ray, and what the cluster behind it has room for."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pld_grid.errors import ResourceError
from pld_grid.profile import MachineSettings
from pld_grid.schedule.address import check_reachable

_PORT, _CLIENT_PORT = 6379, 10001

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
        if address != "auto":
            check_reachable(address, _CLIENT_PORT if address.startswith("ray://") else _PORT)
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
    devices = machine.devices_per_cohort
    for name, each in (("CPU", machine.cpus_per_cohort), ("GPU", machine.gpus_per_cohort)):
        if devices * each > available.get(name, 0):
            share = f" ({each:g} for each of {devices} devices)" if devices > 1 else ""
            raise ResourceError(
                f"a cohort asks for {devices * each:g} {name}s{share}, the cluster has {available.get(name, 0):g} "
                f"(--{name.lower()}s-per-cohort changes it)"
            )
    nodes = _nodes(available)
    room = sum(_room(machine, node) for node in nodes)
    if room < devices:
        gpus = f" and {machine.gpus_per_cohort:g} GPUs" if machine.gpus_per_cohort else ""
        raise ResourceError(
            f"the cluster's {len(nodes)} nodes have room for {room} devices of {machine.cpus_per_cohort:g} CPUs{gpus}, "
            f"a cohort has {devices}"
        )


def slots(machine: MachineSettings, available: dict[str, float]) -> int:
    """How many cohorts can run at a time."""
    return max(1, sum(_room(machine, node) for node in _nodes(available)) // machine.devices_per_cohort)


def _nodes(available: dict[str, float]) -> list[dict[str, float]]:
    """What each node has of a cluster's resources; those of a machine are one node's."""
    if not any(name.startswith("node:") for name in available):
        return [available]
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _room(machine: MachineSettings, node: dict[str, float]) -> int:
    """How many devices of cohorts, which are processes, a node has room for."""
    by_cpu = node.get("CPU", 0) / machine.cpus_per_cohort
    by_gpu = node.get("GPU", 0) / machine.gpus_per_cohort if machine.gpus_per_cohort else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-9)
