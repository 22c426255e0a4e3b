"""Ends workers of a run that hang, so that Tune starts them again."""

import logging
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pld_grid.store import Store, leases
from pld_grid.store.leases import Heartbeat, Lease
from pld_grid.util.errors import StoreError

logger = logging.getLogger(__name__)

# For a node to end a process; a node that does not answer in time is asked again.
_KILL_TIMEOUT_SECONDS = 60.0


@contextmanager
def end_hung_workers(store: Store, run: str) -> Iterator[Container[str]]:
    """While the block runs, end processes of this run that exist but have stopped their heartbeat.

    No results are lost: their cohorts continue from their checkpoints. Yields the lease ids of the ended processes, to
    which a background thread adds.
    """
    watchdog, stop = _Watchdog(store, run), threading.Event()
    with suppress(StoreError):
        leases.remove_dead(store)
    thread = threading.Thread(target=watchdog.watch, args=(stop,), name="pld_grid-watchdog", daemon=True)
    thread.start()
    try:
        yield watchdog.hung
    finally:
        stop.set()
        thread.join()
        with suppress(StoreError):
            store.remove(leases.FOLDER, f"{watchdog.lease.lease_id}.json")
            leases.remove_dead(store)


class _Watchdog:
    """Checks the heartbeats of a run's workers; `hung` has the lease ids of those that it ended."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self.hung: set[str] = set()
        self.lease = Lease(store, f"driver-{run}")
        self._observer = leases.Observer(store, leases.MAX_CLOCK_GAP_SECONDS)
        self._warned: set[str] = set()

    def watch(self, stop: threading.Event) -> None:
        """Check all workers at every heartbeat interval until `stop` is set."""
        while not stop.wait(leases.HEARTBEAT_SECONDS):
            try:
                # While this process cannot write a heartbeat, workers cannot either.
                self.lease.record_heartbeat()
                for lease_id in leases.list_leases(self.store, self.run):
                    self._check(lease_id)
            except StoreError:
                self._observer.reset()
            except Exception as error:  # such as a lack of memory or of file descriptors, which may be temporary
                self._observer.reset()
                reason = str(error) or type(error).__name__
                self._warn_once(reason, f"hung workers are not detected for a moment: {reason}")

    def _check(self, lease_id: str) -> None:
        heartbeat = leases.read_heartbeat(self.store, lease_id)
        if heartbeat is None or leases.is_dead(heartbeat) or not self._observer.expired(lease_id):
            return
        self._warn_once(lease_id, f"a worker (process {heartbeat.pid} on {heartbeat.host}) hangs and is ended")
        if _end_on_its_node(heartbeat):
            self.hung.add(lease_id)
            self.store.remove(leases.FOLDER, f"{lease_id}.json")

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            logger.warning(message)


def end_worker(heartbeat: Heartbeat) -> bool:
    """Kill a Ray worker; return False if it runs on another machine.

    Any other process is left alone: a heartbeat is a file, so everyone with write access to the store could name one.
    """
    with suppress(OSError):
        if Path(f"/proc/{heartbeat.pid}/cmdline").read_bytes().startswith(b"ray::"):
            return heartbeat.process.end()
    return heartbeat.process.here


def _end_on_its_node(heartbeat: Heartbeat) -> bool:
    """End a worker on whichever node it runs; return False if that is to be tried again."""
    if end_worker(heartbeat) or not heartbeat.node:
        return True
    import ray
    from ray.exceptions import RayError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(heartbeat.node, soft=False)
    task = ray.remote(end_worker).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    try:
        return bool(ray.get(task.remote(heartbeat), timeout=_KILL_TIMEOUT_SECONDS))
    except (TaskUnschedulableError, ValueError):
        return True  # the node has left the cluster, and its processes with it
    except RayError:
        return False
