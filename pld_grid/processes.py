"""Which process somebody is, and whether it is still there: on this machine that can be told, of others it cannot."""

import hashlib
import os
import platform
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process for ever: `machine` is a boot of a machine and its table of processes, `born` in the kernel's ticks.

    Two processes of one number differ in when they were born.
    """

    machine: str
    pid: int
    born: int

    @classmethod
    def own(cls) -> "Process":
        """This one."""
        return cls(this_machine(), os.getpid(), _born(os.getpid()) or 0)

    @property
    def here(self) -> bool:
        """Whether it is, or was, one of this machine."""
        return self.machine == this_machine()

    @property
    def gone(self) -> bool:
        """Whether it is certainly no more."""
        try:
            # What `kill` takes for all processes, or for a group, is none.
            return self.here and (self.pid <= 0 or _born(self.pid) != self.born)
        except OSError:
            return False

    def end(self) -> bool:
        """Kills it, a stopped one too; False if it is not on this machine."""
        if self.here and not self.gone:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self.here

    @property
    def mark(self) -> str:
        """A short text for names of files; see `of_mark`."""
        return f"{hashlib.sha256(self.machine.encode()).hexdigest()[:8]}-{self.pid}-{self.born}"

    @classmethod
    def of_mark(cls, mark: str) -> "Process | None":
        """The process of a mark, if it is one of this machine."""
        own, *numbers = mark.split("-")
        if own != cls.own().mark.partition("-")[0] or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
            return None
        return cls(this_machine(), int(numbers[0]), int(numbers[1]))


@cache
def this_machine() -> str:
    """Names this boot of this machine, and the table of processes that this one sees (a container's own)."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return f"{platform.node()}-{os.getpid()}"


def _born(pid: int) -> int | None:
    """When a process started, in ticks since the boot. None if there is none. Raises OSError: it cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            # There, though another user's processes may be hidden; or that is an error, and it cannot be told.
            os.kill(pid, 0)
            raise
        return None
    # A zombie only waits for its parent to hear of its end.
    return None if fields[0] in "ZX" else int(fields[19])
