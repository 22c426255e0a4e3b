"""Stops a wave in which every cell fails with the same error."""

from collections.abc import Iterable

from pld_grid.experiment import events
from pld_grid.experiment.cohort import Cohort

# Failures with the same error after which a wave stops.
MIN_FAILURES = 5


class CircuitBreaker:
    """Trips once all cells that a wave has started so far failed with one and the same error.

    One bad student, loss or optimizer must not stop the others, so the failed cells must differ in each of these in
    which the wave's cells differ. It also waits for the cells that were running at the last of the first failures, and
    never trips after a cell has completed an epoch. Once tripped, it stays tripped.

    Attributes:
        error: The common error; empty until the breaker trips.
        failed: The errors of the failed cells, by cell id.
    """

    def __init__(self, cohorts: Iterable[Cohort]) -> None:
        cells = [cell for cohort in cohorts for cell in cohort.cells]
        self._variants = {c.cell_id: (c.student.architecture, c.loss.name, c.optimizer.name) for c in cells}
        self._running: set[str] = set()
        self._awaited: set[str] | None = None
        self._disabled = len(cells) <= MIN_FAILURES
        self.failed: dict[str, str] = {}
        self.error = ""

    def on_event(self, event: events.Event) -> None:
        """Take an event into account. Not thread-safe."""
        if isinstance(event, events.CellStarted):
            self._running.add(event.cell_id)
        elif isinstance(event, events.CellFailed | events.CellLost):
            self.failed[event.cell_id] = event.reason
            self._running.discard(event.cell_id)
            if self._awaited is None and len(self.failed) >= MIN_FAILURES:
                self._awaited = self._running.copy()
        elif isinstance(event, events.EpochCompleted | events.CellFinished | events.CellDiverged):
            self._disabled = True
        self.error = self.error or self._find_common_error()

    def _find_common_error(self) -> str:
        if self._disabled or self._awaited is None or self._awaited - self.failed.keys():
            return ""
        reasons = set(self.failed.values())
        failed = [self._variants[cell_id] for cell_id in self.failed if cell_id in self._variants]
        return reasons.pop() if len(reasons) == 1 and _are_representative(failed, self._variants.values()) else ""


def _are_representative(sample: Iterable[tuple[str, ...]], population: Iterable[tuple[str, ...]]) -> bool:
    """Return whether the sample has at least two values in every column in which the population has."""
    columns = zip(zip(*sample, strict=True), zip(*population, strict=True), strict=True)
    return all(len(set(sampled)) >= min(2, len(set(existing))) for sampled, existing in columns)
