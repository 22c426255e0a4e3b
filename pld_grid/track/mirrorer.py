"""The mirror's thread: training never waits for MLflow, and never fails because of it."""

import logging
import math
import threading
import time

from pld_grid.errors import PldGridError, TrackingError
from pld_grid.track.server import load, passing
from pld_grid.track.tracker import Tracker

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two passes: no cell is synced more often
QUIET = 600.0  # seconds between two warnings that MLflow is away
LONGEST_PAUSE = 30.0  # seconds between two attempts while MLflow is away


class Mirrorer:
    """Keeps MLflow up to date in the background.

    `mark` says that something changed; a daemon thread brings it to MLflow soon. While MLflow is away, what is marked
    stays marked and one warning is logged; what is still marked at `close` waits in the store for the next `run` or
    `pld-grid sync`.

    Args:
        tracker: used by the thread alone from `start` to `close`, except for its submissions.
        replay: whether to begin with what earlier runs could not log.

    Raises InputError for a setting of MLflow's that it cannot take.
    """

    def __init__(self, tracker: Tracker, *, replay: bool = True) -> None:
        # Imports it in this thread: Tune does so too, from threads of its own, and two at once can both fail.
        load()
        self.tracker = tracker
        self._replay = replay
        self._marked: dict[str, None] = {}  # a set that keeps the order
        self._busy: str | None = None
        self._closing = False
        self._away = False
        self._refused: set[str] = set()
        self._warned = -math.inf
        self._arrived = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="pld_grid-mirror", daemon=True)

    def start(self) -> None:
        """Starts the thread; MLflow is first contacted there."""
        self._thread.start()

    def mark(self, item: str) -> None:
        """Notes that a cell or submission (by id) changed. Never blocks."""
        with self._changed:
            self._marked[item] = None
            self._changed.notify()

    def pending(self) -> int:
        """How many marked cells and submissions are not in MLflow yet."""
        with self._changed:
            return len(self._marked.keys() | ({self._busy} if self._busy else set()))

    def close(self, timeout: float = 30.0, patience: float = math.inf) -> int:
        """Makes one last attempt; returns how many items MLflow lacks.

        It takes at most `timeout` seconds, and no longer than `patience` seconds in which not one item arrived.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        until = time.monotonic() + timeout
        while self._thread.is_alive() and time.monotonic() < until:
            arrived = self._arrived
            self._thread.join(min(patience, max(0.0, until - time.monotonic())))
            if self._arrived == arrived:
                break
        return self.pending()

    def _loop(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=pause)
                self._changed.wait_for(lambda: self._closing or self._marked or self._replay)
                last = self._closing
            # A driver that died on another machine is known to be dead a while after one first looked.
            self._replay = self._replay or (last and self.tracker.in_doubt)
            done = self._pass()
            if last:
                return
            pause = INTERVAL if done else min(max(INTERVAL, 2 * pause), LONGEST_PAUSE)

    def _pass(self) -> bool:
        """Syncs what is marked, each once, up to the first that shows that MLflow is away. Whether all went well."""
        done = not self._replay or self._mark_outdated()
        with self._changed:
            items = list(self._marked)
        for item in items:
            if self._away and not done:
                return False
            done = self._sync(item) and done
        return done

    def _mark_outdated(self) -> bool:
        try:
            waiting = self.tracker.outdated()
        except Exception as error:
            self._failed(error, "the backlog")
            self._replay = self._away  # what else stands in its way will still do so in a second
            return False
        self._replay = False
        for item in waiting:
            self.mark(item)
        return True

    def _sync(self, item: str) -> bool:
        with self._changed:
            # Unmarked before, not after: what changes meanwhile must be synced again.
            self._marked.pop(item, None)
            self._busy = item
        try:
            self.tracker.sync(item)
        except Exception as error:
            self.mark(item)
            self._failed(error, item)
            return False
        finally:
            with self._changed:
                self._busy = None
        if self._away:
            logger.info("MLflow is back")
        self._arrived += 1
        self._away = False
        return True

    def _failed(self, error: Exception, item: str) -> None:
        """Warns once per outage, not too often, and once per item or reason that MLflow refuses although it is there.

        A server that now answers and now does not has many short outages: they are one to whoever reads of them.
        """
        away = not self.tracker.reachable()
        if away or (isinstance(error, TrackingError) and passing(error)):
            if not self._away and time.monotonic() - self._warned > QUIET:
                logger.warning("%s; training goes on, and what MLflow lacks stays in the store", error)
                self._warned = time.monotonic()
        elif not {item, str(error)} & self._refused:
            # What is not in our tree of errors is a bug: its traceback is wanted, but not at training's expense.
            logger.warning(
                "%s is not mirrored: %s", item, error, exc_info=None if isinstance(error, PldGridError) else error
            )
            self._refused |= {item, str(error)}
        self._away = away
