"""Leases: how a process shows that it is alive, and how others learn that it is not.

What is written: every process that claims cells, and every driver, has one small file `leases/<id>.json` in the store.
Every `HEARTBEAT_SECONDS` it writes a new `Heartbeat` into that file, which names the process and has a counter that is
one higher than the last time. A process that ends in good order removes its file.

When a lease expires:

- at once, if the file is gone, or if the process ran on this machine and no longer exists;
- otherwise when an `Observer` has seen the same heartbeat for more than `LEASE_TTL_SECONDS`.

Who may take over: any process may claim the cells of a process whose lease has expired (see `pld_grid.store.claims`).
Drivers observe the leases, and give the ids of expired ones to their workers. A process that was only slow or suspended
loses nothing but its cells: the claim log shows it that they are taken.

Why no clocks are compared: a heartbeat has no time in it, because clocks of machines differ and may jump. The observer
measures the silence itself, with a monotonic clock, between its own reads. That clock also runs while the observer is
suspended (a paused container, a sleeping laptop), when no process could write a heartbeat; an observer that polls often
therefore counts at most `MAX_CLOCK_GAP_SECONDS` for the time between two reads.
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

from pld_grid.experiment.cell import StrictModel
from pld_grid.store.cells import Store
from pld_grid.store.file_store import add_checksum, verify_checksum
from pld_grid.util.errors import StoreError
from pld_grid.util.processes import Process

logger = logging.getLogger(__name__)

FOLDER = "leases"
HEARTBEAT_SECONDS = 5.0  # between two heartbeats of one process
LEASE_TTL_SECONDS = 45.0  # without a new heartbeat, after which a lease has expired
MAX_CLOCK_GAP_SECONDS = 15.0  # a longer gap between two reads or heartbeats means that this process was suspended


class Heartbeat(StrictModel):
    """The content of a lease's file.

    `machine`, `pid` and `start_ticks` identify the process (see `Process`), `host` is the machine's name for people,
    `node` Ray's id of the machine. `count` is different in every heartbeat.
    """

    machine: str
    host: str
    # `kill` takes 0 and negative numbers for groups of processes.
    pid: int = Field(ge=0, lt=2**31)
    start_ticks: int
    node: str = ""
    count: int

    @property
    def process(self) -> Process:
        """The process that wrote it."""
        return Process(self.machine, self.pid, self.start_ticks)


class Lease:
    """The lease of this process.

    Args:
        store: where its heartbeats are written.
        lease_id: unique in the store.
        node: Ray's id of this machine.
        hung_after: seconds without `record_progress` after which heartbeats stop, so that the lease expires; None:
            never.
    """

    def __init__(self, store: Store, lease_id: str, *, node: str = "", hung_after: float | None = None) -> None:
        self.store, self.lease_id, self.node, self.hung_after = store, lease_id, node, hung_after
        self.host = platform.node()
        self._count = 0
        self._last_progress = time.monotonic()

    def record_progress(self) -> None:
        """Note that the process does not hang. Costs nothing."""
        self._last_progress = time.monotonic()

    def record_heartbeat(self) -> None:
        """Write the next heartbeat, unless the process hangs. Raises StoreError."""
        if self.hung_after is not None and time.monotonic() - self._last_progress > self.hung_after:
            return
        self._count += 1
        heartbeat = Heartbeat(**Process.own()._asdict(), host=self.host, node=self.node, count=self._count)
        self.store.write(add_checksum(heartbeat), FOLDER, f"{self.lease_id}.json", durable=False)

    @contextmanager
    def keep_alive(self) -> Iterator["Lease"]:
        """Write heartbeats from a thread while the block runs, then remove the lease's file.

        Raises StoreError if the first heartbeat cannot be written.
        """
        self.record_heartbeat()
        stopped = threading.Event()
        thread = threading.Thread(target=self._record_heartbeats, args=(stopped,), name="pld_grid-lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stopped.set()
            thread.join()
            with suppress(StoreError):
                self.store.remove(FOLDER, f"{self.lease_id}.json")

    def _record_heartbeats(self, stopped: threading.Event) -> None:
        failed, last = False, time.monotonic()
        while not stopped.wait(HEARTBEAT_SECONDS):
            if time.monotonic() - last > MAX_CLOCK_GAP_SECONDS:
                # The whole process was suspended, training included: that is no hang.
                self.record_progress()
            try:
                self.record_heartbeat()
                failed = False
            except Exception as error:  # even a lack of memory or of open files may be over the next time
                if not failed:
                    logger.warning("%s; others may take this process for dead", str(error) or type(error).__name__)
                failed = True
            last = time.monotonic()


def read_heartbeat(store: Store, lease_id: str) -> Heartbeat | None:
    """Return the last heartbeat of a lease, or None if its file is gone. Raises StoreError."""
    data = store.read(FOLDER, f"{lease_id}.json")
    if data is None:
        return None
    with suppress(ValueError):
        return Heartbeat.model_validate_json(verify_checksum(data) or b"")
    # A damaged file names no process, but the next heartbeat replaces it: until then it counts as one of its own.
    return Heartbeat(machine="", host="", pid=0, start_ticks=0, count=zlib.crc32(data))


def is_dead(heartbeat: Heartbeat | None) -> bool:
    """Return whether a process has certainly ended: its file is gone, or it ran on this machine and does not exist."""
    return heartbeat is None or heartbeat.process.has_exited


def list_leases(store: Store, run: str) -> list[str]:
    """Return the ids of the leases of a run's processes. Raises StoreError."""
    names = store.names(FOLDER) if run else []
    return [name.removesuffix(".json") for name in names if name.startswith(f"{run}-") and name.endswith(".json")]


def remove_dead(store: Store) -> None:
    """Remove the leases of processes that have certainly ended. Raises StoreError."""
    for name in store.names(FOLDER):
        lease_id = name.removesuffix(".json")
        if lease_id != name and is_dead(read_heartbeat(store, lease_id)):
            store.remove(FOLDER, name)


class Observer:
    """Decide which leases have expired, by being asked repeatedly.

    Args:
        store: where the leases are.
        max_gap: seconds that count at most for the time between two questions: `MAX_CLOCK_GAP_SECONDS` for an observer
            that is asked more often than that, because a longer gap means that it was suspended itself.
    """

    def __init__(self, store: Store, max_gap: float = math.inf) -> None:
        self.store, self.max_gap = store, max_gap
        # By lease id: the last heartbeat, when it was read last, and the seconds for which it has not changed.
        self._seen: dict[str, tuple[Heartbeat, float, float]] = {}

    def expired(self, lease_id: str) -> bool:
        """Return whether a lease has expired: its process has ended, or was silent for `LEASE_TTL_SECONDS`.

        Raises StoreError.
        """
        began = time.monotonic()
        try:
            heartbeat = read_heartbeat(self.store, lease_id)
        except StoreError:
            self.reset()
            raise
        if heartbeat is None or is_dead(heartbeat):
            return True
        now = time.monotonic()
        if now - began > HEARTBEAT_SECONDS:
            self.reset()
        last, read_at, silence = self._seen.get(lease_id, (None, now, 0.0))
        silence = silence + min(now - read_at, self.max_gap) if heartbeat == last else 0.0
        self._seen[lease_id] = heartbeat, now, silence
        return silence > LEASE_TTL_SECONDS

    def reset(self) -> None:
        """Start all measurements anew: while the store was away or slow, heartbeats could not be written either."""
        self._seen.clear()
