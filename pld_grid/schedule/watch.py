"""Looks after the workers of a run: ends what hangs, so that Tune starts it again."""

import logging
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pld_grid.errors import StoreError
from pld_grid.store import Store, leases

logger = logging.getLogger(__name__)


@contextmanager
def hung_workers_ended(store: Store, run: str) -> Iterator[Container[str]]:
    """While the block runs, ends processes of this run that give no sign of life though they are there.

    Yields the ids of their leases, to which it adds.

    Nothing of theirs is lost: what they trained goes on from its checkpoints.
    """
    over = threading.Event()
    hung: set[str] = set()

    def look() -> None:
        observer = leases.Observer(store)
        while not over.wait(leases.BEAT):
            try:
                for lease_id in leases.of_run(store, run):
                    beat = leases.read(store, lease_id)
                    if beat is not None and not leases.gone(beat) and observer.lapsed(lease_id):
                        logger.warning("a worker (process %d on %s) hangs and is ended", beat.pid, beat.host)
                        hung.add(lease_id)
                        _end(beat)
                        store.remove(leases.FOLDER, f"{lease_id}.json")
            except StoreError:
                observer.forget()

    with suppress(StoreError):
        leases.forget(store)
    thread = threading.Thread(target=look, name="pld_grid-watch", daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            leases.forget(store)


def end_worker(beat: leases.Beat) -> bool:
    """Kills a worker of Ray's; False if it is not on this machine.

    Nothing else: a beat is a file, and whoever may write into the store can have it name any process.
    """
    with suppress(OSError):
        if not Path(f"/proc/{beat.pid}/cmdline").read_bytes().startswith(b"ray::"):
            return leases.here(beat)
    return leases.end(beat)


def _end(beat: leases.Beat) -> None:
    """Ends a worker, wherever it is."""
    if end_worker(beat) or not beat.node:
        return
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    task = ray.remote(end_worker).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    # A node that is gone has no processes.
    with suppress(RayError, ValueError):
        ray.get(task.remote(beat), timeout=60)
