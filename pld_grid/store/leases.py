"""Signs of life: `leases/<id>.json`, renewed every few seconds by the process that it stands for.

Nobody's clock is compared with anybody else's: a lease has lapsed if an observer has seen no new sign of life for so
long by a clock of its own that only runs forward. A process of this machine need not be waited for: it is there or not.
That clock runs on while a machine or a container is frozen, where nobody beats and nobody looks: who looks often counts
no more than some seconds of such a gap.
"""

import logging
import math
import platform
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pydantic import Field

from pld_grid.errors import StoreError
from pld_grid.processes import Process
from pld_grid.spec import Frozen
from pld_grid.store.cells import Store
from pld_grid.store.files import enveloped, opened

logger = logging.getLogger(__name__)

FOLDER = "leases"
BEAT = 5.0  # seconds between two signs of life
LAPSED = 45.0  # seconds without one, after which nobody waits any longer
FROZEN = 15.0  # seconds after which whoever meant to look again, or to beat, stood still as a whole


class Beat(Frozen):
    """A sign of life.

    `machine`, `pid` and `born` name the process, `host` is the machine's name for people, `node` Ray's id of it;
    `count` differs from beat to beat.
    """

    machine: str
    host: str
    # Not what `kill` takes for a group of processes, or for all.
    pid: int = Field(ge=0, lt=2**31)
    born: int
    node: str = ""
    count: int

    @property
    def process(self) -> Process:
        """Whose sign of life it is."""
        return Process(self.machine, self.pid, self.born)


class Lease:
    """One process's lease.

    Args:
        lease_id: unique in the store.
        node: Ray's id of the machine.
        hung_after: seconds without `progress` after which there are no more signs of life; None: never.
    """

    def __init__(self, store: Store, lease_id: str, *, node: str = "", hung_after: float | None = None) -> None:
        self.store, self.lease_id, self.node, self.hung_after = store, lease_id, node, hung_after
        self.host = platform.node()
        self._count = 0
        self._progress = time.monotonic()

    def progress(self) -> None:
        """Notes that the process gets on. Costs nothing."""
        self._progress = time.monotonic()

    def beat(self) -> None:
        """Gives a sign of life, unless there was no progress for too long. Raises StoreError."""
        if self.hung_after is not None and time.monotonic() - self._progress > self.hung_after:
            return
        self._count += 1
        beat = Beat(**Process.own()._asdict(), host=self.host, node=self.node, count=self._count)
        self.store.write(enveloped(beat), FOLDER, f"{self.lease_id}.json", durable=False)

    @contextmanager
    def held(self) -> Iterator["Lease"]:
        """Beats, from a thread of its own, while the block runs; then the lease is gone.

        Raises StoreError if not even the first sign of life can be given.
        """
        self.beat()
        over = threading.Event()
        thread = threading.Thread(target=self._go_on, args=(over,), name="pld_grid-lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()
            with suppress(StoreError):
                self.store.remove(FOLDER, f"{self.lease_id}.json")

    def _go_on(self, over: threading.Event) -> None:
        failed, before = False, time.monotonic()
        while not over.wait(BEAT):
            if time.monotonic() - before > FROZEN:
                self.progress()
            try:
                self.beat()
                failed = False
            except Exception as error:  # such as no memory, or no open file more: it may pass
                if not failed:
                    logger.warning("%s; others may take this process for dead", str(error) or type(error).__name__)
                failed = True
            before = time.monotonic()


def read(store: Store, lease_id: str) -> Beat | None:
    """The last sign of life; None if there is none, as after an orderly end. Raises StoreError."""
    data = store.read(FOLDER, f"{lease_id}.json")
    if data is None:
        return None
    with suppress(ValueError):
        return Beat.model_validate_json(opened(data) or b"")
    # Damaged: whose it is cannot be told, but perhaps it beats again.
    return Beat(machine="", host="", pid=0, born=0, count=zlib.crc32(data))


def gone(beat: Beat | None) -> bool:
    """Whether a process is certainly no more: it said so, or it ran on this machine and is not there."""
    return beat is None or beat.process.gone


def of_run(store: Store, run: str) -> list[str]:
    """Ids of the leases of a run's processes. Raises StoreError."""
    names = store.names(FOLDER) if run else []
    return [name.removesuffix(".json") for name in names if name.startswith(f"{run}-") and name.endswith(".json")]


def forget(store: Store) -> None:
    """Removes what processes left that are certainly gone. Raises StoreError."""
    for name in store.names(FOLDER):
        lease_id = name.removesuffix(".json")
        if lease_id != name and gone(read(store, lease_id)):
            store.remove(FOLDER, name)


class Observer:
    """Watches leases; to be asked again and again.

    Args:
        longest: seconds that count at most between two looks: `FROZEN` for who looks more often, as all may have stood
            still together.
    """

    def __init__(self, store: Store, longest: float = math.inf) -> None:
        self.store, self.longest = store, longest
        # The last beat, when that was looked for last, and for how long there was no other.
        self._seen: dict[str, tuple[Beat, float, float]] = {}

    def lapsed(self, lease_id: str) -> bool:
        """Whether the process is gone, or gave no sign of life for `LAPSED` seconds. Raises StoreError."""
        began = time.monotonic()
        try:
            beat = read(self.store, lease_id)
        except StoreError:
            self.forget()
            raise
        if gone(beat):
            return True
        assert beat is not None
        now = time.monotonic()
        if now - began > BEAT:
            self.forget()
        before, looked, silent = self._seen.get(lease_id, (None, now, 0.0))
        silent = silent + min(now - looked, self.longest) if beat == before else 0.0
        self._seen[lease_id] = beat, now, silent
        return silent > LAPSED

    def forget(self) -> None:
        """Begins anew: while the store could not be read, or hung, nobody could give a sign of life either."""
        self._seen.clear()
