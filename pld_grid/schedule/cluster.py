"""A connection to Ray, and what the cluster behind it has room for."""

import importlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pld_grid.errors import InputError, ResourceError, listing, nearest
from pld_grid.files import temporary_folder
from pld_grid.machine import Machines, MachineSettings
from pld_grid.reading import one_line
from pld_grid.schedule.address import check_reachable
from pld_grid.spec import Cell
from pld_grid.uris import public_uri, without_secrets

_PORT, _CLIENT_PORT = 6379, 10001
# Ray's resource of a node that has such devices.
_KIND = "accelerator_type:"
# Bytes of a session of Ray: sockets and logs, which a run of some hours does not fill.
RAY_BYTES = 8 * 2**20
# What a worker imports.
_TRIAL = "pld_grid.schedule.trial"
# Seconds for a process to start and import torch.
_IMPORTED = 120.0

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
    with ExitStack() as private:
        if address is None:
            folder = private.enter_context(_own_cluster())
            options |= {"address": "local", "include_dashboard": False, "num_cpus": local_cpus(), "_temp_dir": folder}
        else:
            check_address(address)
            options["address"] = address
        asked_to_end = signal.getsignal(signal.SIGTERM)
        try:
            _start(options)
        except Exception as error:  # a start that takes too long is a plain Exception
            said = without_secrets(str(error).partition("\n")[0], address or "")
            raise ResourceError(f"Ray at {public_uri(address or 'this machine')}: {said}") from None
        if threading.current_thread() is threading.main_thread():
            # A local node's own answer is to kill everything at once.
            signal.signal(signal.SIGTERM, asked_to_end)
        try:
            yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """Connects to Ray, or starts it; once more if a busy machine takes longer than Ray waits."""
    import ray

    try:
        ray.init(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


@contextmanager
def _own_cluster() -> Iterator[str]:
    """What keeps others out of a local cluster, whose processes run whatever they are sent; yields its folder.

    Left to itself, Ray listens on all addresses of the machine and lets everybody write where its sockets are. Here it
    listens on loopback, wants a token that nobody else has, and keeps sockets and logs in a folder of this user's.
    """
    from ray._private import ray_constants

    settings = {
        # Despite its name: 0 has Ray take the loopback address for this machine's.
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        # In the environment, as one in the home folder would be every later cluster's.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with ExitStack() as undo:
        # Ray opens its own folder to everybody, but not the one around it.
        folder = undo.enter_context(temporary_folder("ray-", _temporary_folder()))
        undo.callback(_apply, {name: os.environ.get(name) for name in settings}, ray_constants.ENABLE_RAY_CLUSTER)
        _apply(settings, False)
        yield folder


def _temporary_folder() -> str:
    from ray._common.utils import get_default_system_temp_dir

    return str(get_default_system_temp_dir())  # type: ignore[no-untyped-call]


def _apply(settings: Mapping[str, str | None], several_nodes: bool) -> None:
    """Sets or clears environment variables that Ray has read already, and has it read them again."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    ray_constants.ENABLE_RAY_CLUSTER = several_nodes
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def check_address(address: str) -> None:
    """Raises ResourceError within seconds if there is no cluster at an address, InputError if it is none."""
    if address != "auto":
        check_reachable(address, _CLIENT_PORT if address.startswith("ray://") else _PORT)


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


def check_resources(machines: Iterable[MachineSettings], available: dict[str, float]) -> None:
    """Raises ResourceError if a cohort needs more than the cluster has: Ray would wait for it for ever.

    The error says what is the largest that fits. That of a machine which Ray has not looked at does not tell the kind
    of its devices, so that these are taken as asked for.
    """
    nodes = _nodes(available)
    for machine in machines:
        fitting = [node for node in nodes if _has_kind(machine, node)]
        if not fitting:
            kinds = sorted({name[len(_KIND) :] for node in nodes for name in node if name.startswith(_KIND)})
            raise ResourceError(
                f'a cohort asks for devices of kind "{machine.accelerator}", the cluster has: '
                f"{listing(kinds) or 'none that Ray knows'}{nearest(machine.accelerator, kinds)}"
            )
        room, devices = sum(_room(machine, node) for node in fitting), machine.devices_per_cohort
        if room >= devices:
            continue
        gpus = f" and {machine.gpus_per_cohort:g} GPUs" if machine.gpus_per_cohort else ""
        kind = f" of kind {machine.accelerator}" if machine.accelerator else ""
        need = f"{machine.cpus_per_cohort:g} CPUs{gpus}"
        if room:
            raise ResourceError(
                f"a cohort asks for {devices} devices{kind} with {need} each, the cluster has room for {room} "
                "(--devices-per-cohort changes it)"
            )
        largest = max(fitting, key=lambda node: (node.get("GPU", 0) if gpus else 0, node.get("CPU", 0)))
        has = f"{largest.get('CPU', 0):g} CPUs" + (f" and {largest.get('GPU', 0):g} GPUs" if gpus else "")
        flags = "--cpus-per-cohort and --gpus-per-cohort change it" if gpus else "--cpus-per-cohort changes it"
        where = f"the largest of {len(fitting)} nodes" if len(fitting) > 1 else "the cluster"
        raise ResourceError(f"a cohort asks for {need}{kind}, {where} has {has} ({flags})")


def check_devices(machines: Machines, cells: Iterable[Cell]) -> None:
    """Raises InputError unless the devices of a cohort can have the same share of every batch."""
    batches = {
        (machines.of(cell).devices_per_cohort, cell.recipe.batch_size, cell.recipe.micro_batch_size) for cell in cells
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


def check_workers() -> None:
    """Raises ResourceError if a node that cohorts may run on cannot import what they run.

    Trials there would die before they can say why. A node that does not answer in time may still be starting.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Not a function of ours, which could not arrive there.
    load = ray.remote(importlib.import_module)
    answers = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = load.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(_TRIAL)
            answers[answer] = node["NodeName"]
    done, _ = ray.wait(list(answers), num_returns=len(answers), timeout=_IMPORTED) if answers else ([], [])
    for answer in done:
        try:
            ray.get(answer)
        except RayTaskError as error:
            cause = error.cause
            raise ResourceError(
                one_line(
                    f"Ray's node {answers[answer]} cannot import {_TRIAL} ({type(cause).__name__}: {cause}); "
                    "every node needs pld_grid in the environment that Ray was started from"
                )
            ) from None
        except RayError:
            # Gone meanwhile.
            continue


def slots(machine: MachineSettings, available: dict[str, float]) -> int:
    """How many cohorts can run at a time, if no others do."""
    room = sum(_room(machine, node) for node in _nodes(available) if _has_kind(machine, node))
    return max(1, room // machine.devices_per_cohort)


def resources_per_device(machine: MachineSettings) -> dict[str, float]:
    """What each process of a cohort asks Ray for."""
    resources = {"CPU": machine.cpus_per_cohort}
    if machine.gpus_per_cohort:
        resources["GPU"] = machine.gpus_per_cohort
    if machine.accelerator is not None:
        # As Ray does it for tasks: each node has 1 of its kind, and gives a little of it to whoever asks.
        resources[_KIND + machine.accelerator] = 0.001
    return resources


def _nodes(available: dict[str, float]) -> list[dict[str, float]]:
    """What each node has of a cluster's resources; those of a machine are one node's."""
    if not _is_cluster(available):
        return [available]
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _is_cluster(resources: dict[str, float]) -> bool:
    """Whether Ray says so: then it names nodes."""
    return any(name.startswith("node:") for name in resources)


def _has_kind(machine: MachineSettings, node: dict[str, float]) -> bool:
    return machine.accelerator is None or not _is_cluster(node) or _KIND + machine.accelerator in node


def _room(machine: MachineSettings, node: dict[str, float]) -> int:
    """How many devices of cohorts, which are processes, a node has room for."""
    by_cpu = node.get("CPU", 0) / machine.cpus_per_cohort
    by_gpu = node.get("GPU", 0) / machine.gpus_per_cohort if machine.gpus_per_cohort else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-9)
