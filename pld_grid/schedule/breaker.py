"""Stops a wave that can only fail."""

import threading
from collections.abc import Iterable

from pld_grid.events import Event
from pld_grid.plan import Cohort

# Cells that failed alike before anything else happened.
ALIKE = 5


class Breaker:
    """Trips once all that a wave has started so far failed with one and the same error.

    One bad student, loss or optimizer must not stop the others: so nothing trips before cells of two of each have
    failed, if the wave has as many; nor before the cells have ended that ran when the last of so many failed, or after
    any cell kept a checkpoint.
    """

    def __init__(self, cohorts: list[Cohort]) -> None:
        cells = [cell for cohort in cohorts for cell in cohort.cells]
        self._parts = {c.cell_id: (c.student.architecture, c.loss.name, c.optimizer.name) for c in cells}
        self._running: set[str] = set()
        self._awaited: set[str] | None = None
        self._failed: dict[str, str] = {}
        self._sound = len(cells) <= ALIKE
        self._error = ""
        self._lock = threading.Lock()

    def hear(self, event: Event) -> None:
        """Takes in an event."""
        with self._lock:
            if event.kind == "started":
                self._running.add(event.cell_id)
            elif event.kind in ("failed", "lost"):
                self._failed[event.cell_id] = event.reason
                self._running.discard(event.cell_id)
                if self._awaited is None and len(self._failed) >= ALIKE:
                    self._awaited = self._running.copy()
            elif event.kind in ("epoch", "finished", "diverged"):
                self._sound = True
            self._error = self._error or self._judged()

    @property
    def error(self) -> str:
        """The one error; empty as long as the wave goes on. What is running when it trips changes nothing more."""
        with self._lock:
            return self._error

    @property
    def failed(self) -> int:
        """How many cells failed."""
        with self._lock:
            return len(self._failed)

    def _judged(self) -> str:
        if self._sound or self._awaited is None or self._awaited - self._failed.keys():
            return ""
        reasons = set(self._failed.values())
        failed = [self._parts[cell_id] for cell_id in self._failed if cell_id in self._parts]
        return reasons.pop() if len(reasons) == 1 and _as_various(failed, self._parts.values()) else ""


def _as_various(some: Iterable[tuple[str, ...]], all_of_them: Iterable[tuple[str, ...]]) -> bool:
    """Whether some cells differ in each part in which all of them do."""
    kinds = zip(zip(*some, strict=True), zip(*all_of_them, strict=True), strict=True)
    return all(len(set(found)) >= min(2, len(set(there))) for found, there in kinds)
