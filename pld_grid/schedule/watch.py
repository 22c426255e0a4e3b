"""Looks after the workers of a run: ends what hangs, so that Tune starts it again."""

import logging
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pld_grid.errors import StoreError
from pld_grid.store import Store, leases
from pld_grid.store.leases import Lease

logger = logging.getLogger(__name__)

# Seconds that a node has to end a process; a busy one is asked again.
_ANSWERED = 60.0


@contextmanager
def hung_workers_ended(store: Store, run: str) -> Iterator[Container[str]]:
    """While the block runs, ends processes of this run that give no sign of life though they are there.

    Yields the ids of their leases, to which it adds.

    Nothing of theirs is lost: what they trained goes on from its checkpoints.
    """
    over = threading.Event()
    hung: set[str] = set()
    told: set[str] = set()
    observer, own = leases.Observer(store, leases.FROZEN), Lease(store, f"driver-{run}")

    def look(lease_id: str) -> None:
        beat = leases.read(store, lease_id)
        if beat is None or leases.gone(beat) or not observer.lapsed(lease_id):
            return
        if lease_id not in told:
            logger.warning("a worker (process %d on %s) hangs and is ended", beat.pid, beat.host)
            told.add(lease_id)
        if _end(beat):
            hung.add(lease_id)
            store.remove(leases.FOLDER, f"{lease_id}.json")

    def watch() -> None:
        while not over.wait(leases.BEAT):
            try:
                # Where this process cannot give a sign of life, others cannot either.
                own.beat()
                for lease_id in leases.of_run(store, run):
                    look(lease_id)
            except StoreError:
                observer.forget()
            except Exception as error:  # such as no memory, or no open file more: it may pass
                observer.forget()
                said = str(error) or type(error).__name__
                if said not in told:
                    logger.warning("workers are not looked after for a moment: %s", said)
                    told.add(said)

    with suppress(StoreError):
        leases.forget(store)
    thread = threading.Thread(target=watch, name="pld_grid-watch", daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            store.remove(leases.FOLDER, f"{own.lease_id}.json")
            leases.forget(store)


def end_worker(beat: leases.Beat) -> bool:
    """Kills a worker of Ray's; False if it is not on this machine.

    Nothing else: a beat is a file, and whoever may write into the store can have it name any process.
    """
    with suppress(OSError):
        if Path(f"/proc/{beat.pid}/cmdline").read_bytes().startswith(b"ray::"):
            return beat.process.end()
    return beat.process.here


def _end(beat: leases.Beat) -> bool:
    """Ends a worker, wherever it is; False if nobody knows whether that is done, and it is to be tried again."""
    if end_worker(beat) or not beat.node:
        return True
    import ray
    from ray.exceptions import RayError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    task = ray.remote(end_worker).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return bool(ray.get(task.remote(beat), timeout=_ANSWERED))
    except (TaskUnschedulableError, ValueError):
        # A node that is gone has no processes.
        return True
    except RayError:
        return False
