"""Identify processes, and find out whether they still run; only processes of this machine can be looked up."""

import os
import platform
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """The identity of a process, which no other process ever has.

    `machine` names a boot of a machine and its process namespace. A process number is used again after a while, so
    `start_ticks`, the start time in kernel ticks since the boot, belongs to the identity.
    """

    machine: str
    pid: int
    start_ticks: int

    @classmethod
    def own(cls) -> "Process":
        """Return the identity of this process."""
        return cls(this_machine(), os.getpid(), _start_ticks(os.getpid()) or 0)

    @property
    def here(self) -> bool:
        """Whether the process runs, or ran, on this machine."""
        return self.machine == this_machine()

    @property
    def has_exited(self) -> bool:
        """Whether the process has certainly ended; False if that cannot be found out."""
        try:
            # Zero and negative numbers stand for groups of processes.
            return self.here and (self.pid <= 0 or _start_ticks(self.pid) != self.start_ticks)
        except OSError:
            return False

    def end(self) -> bool:
        """Kill the process, even a stopped one; return False if it is not on this machine."""
        if self.here and not self.has_exited:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self.here


@cache
def this_machine() -> str:
    """Return a name for this boot of this machine and the process namespace (a container has its own)."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return f"{platform.node()}-{os.getpid()}"


def _start_ticks(pid: int) -> int | None:
    """Return when a process started, or None if there is no such process. Raises OSError if neither can be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            # It exists, but /proc hides other users' processes.
            os.kill(pid, 0)
            raise
        return None
    # A zombie has ended, and only waits until its parent reads its exit status.
    return None if fields[0] in "ZX" else int(fields[19])
