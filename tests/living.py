"""Processes of others, looked at while they live: each may end between two looks, which is never an error."""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

Answer = TypeVar("Answer")


def asked(question: Callable[[], Answer], gone: Answer) -> Answer:
    """What a process answers, or another answer if it has ended."""
    try:
        return question()
    except psutil.NoSuchProcess:
        return gone


def family(process: "subprocess.Popen[Any]") -> list[psutil.Process]:
    """All processes that a process started and that live, directly or not; none if it has ended itself."""
    return asked(lambda: psutil.Process(process.pid).children(recursive=True), [])


def name(process: psutil.Process) -> str:
    """A process's name; none of one that has ended."""
    return asked(process.name, "")


def command(process: psutil.Process) -> list[str]:
    """What a process was started with; an empty word for one that has ended, or that hides it."""
    return asked(process.cmdline, []) or [""]


def folder(pid: int) -> Path:
    """A process's working folder; one that never exists for one that has ended."""
    return Path(asked(lambda: psutil.Process(pid).cwd(), "/nowhere"))


def status(process: psutil.Process) -> str:
    """One of psutil's states; that of the dead for one that has ended."""
    return asked(process.status, psutil.STATUS_DEAD)


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Addresses and ports at which a process waits for others."""
    found = asked(process.net_connections, [])
    return {(each.laddr.ip, each.laddr.port) for each in found if each.status == psutil.CONN_LISTEN}


def kill(process: psutil.Process) -> bool:
    """`kill -9`; False if it had ended, be it that nobody has heard of that yet."""
    if status(process) in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return False
    return asked(lambda: process.kill() is None, False)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """`kill -9` to those that live; they have ended afterwards."""
    for each in processes:
        kill(each)
    psutil.wait_procs(processes, timeout=20)


def terminate(processes: Iterable[psutil.Process]) -> None:
    """Asks those that live to end."""
    for each in processes:
        asked(each.terminate, None)


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether processes ended; Ray's agents take a minute to believe that a killed driver is dead."""
    _, alive = psutil.wait_procs(processes, timeout=120)
    return all(status(each) in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) for each in alive)


def details(processes: list[psutil.Process]) -> list[Any]:
    """What is left of processes, for a failure's message."""
    return [(each.pid, name(each)) for each in processes if each.is_running()]
