"""Connects to a Ray cluster, or starts a local one that other users cannot reach."""

import importlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pld_grid.orchestrate.ray_internals import LOOPBACK_ONLY, reload_environment
from pld_grid.orchestrate.resources import local_cpus
from pld_grid.util.atomic_files import temporary_folder
from pld_grid.util.errors import InputError, ResourceError
from pld_grid.util.redact import public_uri, without_secrets
from pld_grid.util.text import one_line

_PORT, _CLIENT_PORT = 6379, 10001
# Sockets and logs of a Ray session that lasts some hours.
RAY_SESSION_BYTES = 8 * 2**20
# The module that a worker imports.
_TRIAL_MODULE = "pld_grid.orchestrate.trial"
# For a server to answer; Ray's own attempts take a minute and more to give up.
_CONNECT_TIMEOUT_SECONDS = 5.0
# For a process to start and import torch.
_IMPORT_TIMEOUT_SECONDS = 120.0

# Read by Ray when it is imported or started, hence set here and not at the call.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The new output prints a banner per wave even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Prestarted workers only serve tasks; a trial is an actor, so they would only take CPU time from it.
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own handler of Ctrl-C would go on to save Tune's state.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def connect(address: str | None) -> Iterator[dict[str, float]]:
    """Connect to the cluster at `address`, or to a local one that ends with the block.

    Yields the cluster's resources. Raises ResourceError if the address cannot be reached or Ray does not start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    # Tune prints a traceback for every worker that dies; the wave logs one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with ExitStack() as stack:
        if address is None:
            folder = stack.enter_context(_private_cluster())
            options |= {"address": "local", "include_dashboard": False, "num_cpus": local_cpus(), "_temp_dir": folder}
        else:
            check_address(address)
            options["address"] = address
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _start(options)
        except Exception as error:  # Ray raises a plain Exception for a start that takes too long
            reason = without_secrets(str(error).partition("\n")[0], address or "")
            raise ResourceError(f"Ray at {public_uri(address or 'this machine')}: {reason}") from None
        if threading.current_thread() is threading.main_thread():
            # Ray's handler of a local node kills all processes at once.
            signal.signal(signal.SIGTERM, handler)
        try:
            yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """Connect to Ray or start it; once more if a busy machine takes longer than Ray waits."""
    import ray

    try:
        ray.init(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


@contextmanager
def _private_cluster() -> Iterator[str]:
    """Restrict a local cluster, whose processes run whatever code they receive, to this user; yield its folder.

    By default, Ray listens on all interfaces and its socket folder is writable by everyone. Within the block it listens
    on loopback, requires a random token, and keeps sockets and logs in a folder that only this user can open.
    """
    # A token in the environment, as one in the home folder would apply to every later cluster.
    settings = LOOPBACK_ONLY | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ExitStack() as stack:
        # Ray makes its own folder accessible to everyone, but not the one around it.
        folder = stack.enter_context(temporary_folder("ray-", str(ray_temp_folder())))
        stack.callback(_set_environment, {name: os.environ.get(name) for name in settings})
        _set_environment(settings)
        yield folder


def ray_temp_folder() -> Path:
    """Return the folder in which Ray keeps its sessions by default."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def _set_environment(settings: Mapping[str, str | None]) -> None:
    """Set environment variables of Ray, or remove those that are None, and have Ray read them."""
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    reload_environment()


def check_address(address: str) -> None:
    """Raise ResourceError within seconds if no cluster is at an address, InputError if it is not an address."""
    if address != "auto":
        check_reachable(address, _CLIENT_PORT if address.startswith("ray://") else _PORT)


def check_reachable(address: str, port: int) -> None:
    """Raise ResourceError within seconds unless a server listens at HOST[:PORT] or at the host of a URL."""
    shown = public_uri(address)
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        raise InputError(f'--address: "{shown}" is no address; expected HOST:PORT or http://HOST:PORT') from None
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        # UnicodeError: a label of the name is longer than DNS allows.
        reason = (getattr(error, "strerror", None) or str(error) or "no answer").lower()
        raise ResourceError(f"Ray at {shown}: cannot be reached ({reason})") from None


def check_workers() -> None:
    """Raise ResourceError if a node that cohorts may run on cannot import the code of a trial.

    A trial there would end before it can report why. A node that does not answer in time may still be starting.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A standard function, because one of this package could not be unpickled there.
    load = ray.remote(importlib.import_module)
    node_names = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU"):
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = load.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
            node_names[task.remote(_TRIAL_MODULE)] = node["NodeName"]
    if not node_names:
        return
    done, _ = ray.wait(list(node_names), num_returns=len(node_names), timeout=_IMPORT_TIMEOUT_SECONDS)
    for result in done:
        try:
            ray.get(result)
        except RayTaskError as error:
            cause = error.cause
            raise ResourceError(
                one_line(
                    f"Ray's node {node_names[result]} cannot import {_TRIAL_MODULE} ({type(cause).__name__}: {cause}); "
                    "every node needs pld_grid in the environment that Ray was started from"
                )
            ) from None
        except RayError:
            continue  # the node has left the cluster
