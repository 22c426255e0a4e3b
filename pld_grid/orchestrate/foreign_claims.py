"""Waits for cells that other runs train."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from operator import not_

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.store import Receipt, Store, claims, leases, stop_requests

# Between two looks at the cells of other runs.
POLL_INTERVAL_SECONDS = 1.0


class ForeignClaims:
    """Cells that other runs have claimed, until they are finished or may be taken over.

    Args:
        store: The store that the runs share.
        run: The id of this run.
        on_finished: Receives the receipt of a cell that another run finished.
    """

    def __init__(self, store: Store, run: str, on_finished: Callable[[Receipt], None]) -> None:
        self.store, self.run, self.on_finished = store, run, on_finished
        self.cohorts: list[Cohort] = []
        # Ids of leases whose processes are known to be dead or unreachable.
        self.expired: set[str] = set()
        self._observer = leases.Observer(store, leases.MAX_CLOCK_GAP_SECONDS)

    def wait(self) -> list[Cohort]:
        """Wait until other runs have finished the cells or left some unfinished; return the latter.

        Raises:
            KeyboardInterrupt: The run was asked to stop.
        """
        available: list[Cohort] = []
        while self.cohorts:
            started = time.monotonic()
            released = self._take_released()
            available += released
            # A run that stops releases its cohorts one after the other, so wait until no more follow.
            if available and not released:
                break
            if stop_requests.requested(self.store, self.run):
                raise KeyboardInterrupt
            if self.cohorts:
                # Reading the claims of thousands of cells takes time; spend at most a tenth on it.
                time.sleep(max(POLL_INTERVAL_SECONDS, 10 * (time.monotonic() - started)))
        return available

    def _take_released(self) -> list[Cohort]:
        """Remove the cells that are finished or may be taken over; return the latter."""
        released, claimed = [], []
        for cohort in self.cohorts:
            unfinished = [cell for cell in cohort.cells if not self._is_finished(cell)]
            available = [self._is_available(cell) for cell in unfinished]
            released.append(replace(cohort, cells=tuple(compress(unfinished, available))))
            claimed.append(replace(cohort, cells=tuple(compress(unfinished, map(not_, available)))))
        self.cohorts = [cohort for cohort in claimed if cohort.cells]
        return [cohort for cohort in released if cohort.cells]

    def _is_finished(self, cell: Cell) -> bool:
        receipt = self.store.receipt(cell)
        if receipt is not None:
            self.on_finished(receipt)
        return receipt is not None

    def _is_available(self, cell: Cell) -> bool:
        """Return whether no live process of another run trains a cell."""
        claim = claims.holder(self.store, cell.cell_id)
        if claim is None or claim.run == self.run:
            return True
        if self._observer.expired(claim.lease):
            self.expired.add(claim.lease)
            return True
        return False
