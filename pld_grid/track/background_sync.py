"""Sync MLflow in the background, so that training never waits for it and never fails because of it."""

import logging
import math
import threading
import time
from collections.abc import Iterator

from pld_grid.track.mlflow_client import import_mlflow
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import PldGridError, TrackingError

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0  # between two passes: no cell is synced more often
MAX_INTERVAL_SECONDS = 30.0  # between two passes while MLflow is down
_BACKLOG = ""  # the request to sync everything that MLflow lacks


class BackgroundSync:
    """Keep MLflow up to date from a daemon thread, best effort.

    What is still pending at `close` stays in the store for the next `run` or `pld-grid sync`.

    Args:
        tracker: between `start` and `close` only this thread calls its `sync`.

    Raises:
        InputError: MLflow cannot parse one of its settings.
    """

    def __init__(self, tracker: Tracker) -> None:
        # Imported in this thread: Tune imports it in threads of its own, and two imports at a time can both fail.
        import_mlflow()
        self.tracker = tracker
        self._requests = {_BACKLOG: 1}  # how often each item was requested; at first what earlier runs could not log
        self._synced = 0
        self._closing = False
        self._warned: set[str] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="pld_grid-sync", daemon=True)

    def start(self) -> None:
        """Start the thread, which connects to MLflow."""
        self._thread.start()

    def request_sync(self, item: str) -> None:
        """Request a sync of a cell or parent run, by id. Never blocks."""
        with self._changed:
            self._requests[item] = self._requests.get(item, 0) + 1
            self._changed.notify()

    def pending(self) -> int:
        """Return how many requested cells and parent runs are not in MLflow yet."""
        with self._changed:
            return len(self._requests.keys() - {_BACKLOG})

    def close(self, timeout: float = 30.0, idle_timeout: float = math.inf) -> int:
        """Make one last attempt; return how many items MLflow lacks.

        Args:
            timeout: seconds that this takes at most.
            idle_timeout: seconds without a synced item after which to give up.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        deadline, synced = time.monotonic() + timeout, -1
        while self._thread.is_alive() and synced < self._synced and (remaining := deadline - time.monotonic()) > 0:
            synced = self._synced
            self._thread.join(min(idle_timeout, remaining))
        return self.pending()

    def _loop(self) -> None:
        interval = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=interval)
                self._changed.wait_for(lambda: self._closing or self._requests)
                closing = self._closing
            if closing and self.tracker.parent_runs.undecided:
                # Meanwhile a driver on another machine may have turned out to be dead.
                self.request_sync(_BACKLOG)
            done = self._sync_requests()
            if closing:
                return
            interval = INTERVAL_SECONDS if done else min(max(INTERVAL_SECONDS, 2 * interval), MAX_INTERVAL_SECONDS)

    def _sync_requests(self) -> bool:
        """Sync every requested item once, up to the first that shows that MLflow is down; return whether all worked."""
        succeeded = True
        for item in self._requested_items():
            if not self._sync(item):
                succeeded = False
                if not self.tracker.reachable():
                    break
        return succeeded

    def _requested_items(self) -> Iterator[str]:
        """Yield the backlog first, as syncing it adds requests."""
        if _BACKLOG in self._requests:
            yield _BACKLOG
        with self._changed:
            items = [item for item in self._requests if item != _BACKLOG]
        yield from items

    def _sync(self, item: str) -> bool:
        with self._changed:
            request = self._requests.get(item)
        try:
            if item == _BACKLOG:
                for outdated in self.tracker.outdated():
                    self.request_sync(outdated)
            else:
                self.tracker.sync(item)
        except Exception as error:
            self._warn(item, error)
            return False
        with self._changed:
            # An item that was requested again meanwhile must be synced again.
            if self._requests.get(item) == request:
                self._requests.pop(item, None)
        self._synced += 1
        return True

    def _warn(self, item: str, error: Exception) -> None:
        """Warn once per run that MLflow fails, and once per item of anything else."""
        key = "MLflow" if isinstance(error, TrackingError) else item
        if key in self._warned:
            return
        self._warned.add(key)
        if isinstance(error, TrackingError):
            logger.warning("%s; training goes on, and what MLflow lacks stays in the store", error)
            return
        # Other exceptions are bugs: log their traceback, but keep training.
        bug = None if isinstance(error, PldGridError) else error
        logger.warning("%s is not mirrored: %s", item or "the backlog", error, exc_info=bug)
