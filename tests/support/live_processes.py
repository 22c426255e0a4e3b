"""Queries of running processes, each of which may have exited before it is queried; that is never an error."""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")


def query(question: Callable[[], T], default: T) -> T:
    """Return the result of a query, or a default if the process has exited."""
    try:
        return question()
    except psutil.NoSuchProcess:
        return default


def list_descendants(process: "subprocess.Popen[Any]") -> list[psutil.Process]:
    """Return all running processes that a process started, directly or not; none if it has exited itself."""
    return query(lambda: psutil.Process(process.pid).children(recursive=True), [])


def process_name(process: psutil.Process) -> str:
    """Return the name, or an empty string for a process that has exited."""
    return query(process.name, "")


def process_command(process: psutil.Process) -> list[str]:
    """Return the command line; one empty word for a process that has exited or hides it."""
    return query(process.cmdline, []) or [""]


def working_folder(pid: int) -> Path:
    """Return the working folder, or a path that does not exist for a process that has exited."""
    return Path(query(lambda: psutil.Process(pid).cwd(), "/nowhere"))


def process_status(process: psutil.Process) -> str:
    """Return psutil's status; STATUS_DEAD for a process that has exited."""
    return query(process.status, psutil.STATUS_DEAD)


def listening_addresses(process: psutil.Process) -> set[tuple[str, int]]:
    """Return the addresses and ports on which a process listens."""
    connections = query(process.net_connections, [])
    return {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}


def _has_exited(process: psutil.Process) -> bool:
    return process_status(process) in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def kill(process: psutil.Process) -> bool:
    """Send SIGKILL; return False if the process had exited before."""
    return not _has_exited(process) and query(lambda: process.kill() is None, False)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL to all processes and wait for their exit."""
    for each in processes:
        kill(each)
    psutil.wait_procs(processes, timeout=20)


def terminate(processes: Iterable[psutil.Process]) -> None:
    """Send SIGTERM to all processes."""
    for each in processes:
        query(each.terminate, None)


def have_exited(processes: list[psutil.Process]) -> bool:
    """Wait for the exit of processes, for which Ray's agents need a minute after a driver was killed."""
    _, alive = psutil.wait_procs(processes, timeout=120)
    return all(map(_has_exited, alive))


def describe_processes(processes: list[psutil.Process]) -> list[Any]:
    """Return ids and names of those that still run, for the message of a failure."""
    return [(each.pid, process_name(each)) for each in processes if each.is_running()]
