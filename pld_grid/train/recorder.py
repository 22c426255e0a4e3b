"""Record the progress of a cohort's cells: checkpoints, receipts, failures, and an event for each of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import torch

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellEnded, CellFailed, ClaimedElsewhere, EpochCompleted, Event, EventCallback
from pld_grid.store import Provenance, Receipt, Store, stop_requests
from pld_grid.store.claims import ClaimLost, Claims
from pld_grid.train.failure import fail_cell, report_claimed_elsewhere
from pld_grid.train.group import Group
from pld_grid.train.models import dump_weights
from pld_grid.train.run_context import RunContext
from pld_grid.train.student import Student

# Packages that can change a number.
_RECORDED_PACKAGES = ("pld_grid", "torch", "torchvision", "timm", "numpy")


@dataclass
class CellRecorder:
    """Write to the store and emit events for the cells that a group of processes has claimed.

    All processes of the group call the same methods in the same order; only the main process writes and emits.

    Args:
        store: for checkpoints, weights, receipts and statuses.
        context: the run, and the code and machine that a receipt names.
        claims: of the main process; they decide whether a cell may still be written.
        group: the processes that train together.
        on_event: called with each event.
        on_flush: called when no event follows for a while.
        dropped: ids of cells that failed, or that another process trains.
    """

    store: Store
    context: RunContext
    claims: Claims
    group: Group
    on_event: EventCallback
    on_flush: Callable[[], None]
    dropped: set[str] = field(default_factory=set)

    def emit(self, event: Event) -> None:
        """Pass an event to the callback, in the main process."""
        if isinstance(event, CellFailed | ClaimedElsewhere):
            self.dropped.add(event.cell_id)
        if self.group.is_main:
            self.on_event(event)

    def flush(self) -> None:
        """Tell the callback, in the main process, that an epoch begins and no event follows for a while."""
        if self.group.is_main:
            self.on_flush()

    def note_progress(self) -> None:
        """Note that this process is not hung. Costs nothing."""
        self.claims.lease.record_progress()

    def stop_requested(self) -> bool:
        """Return whether somebody has asked this run to stop."""
        return self.group.broadcast(lambda: stop_requests.requested(self.store, self.context.run))

    def prepare(self, cell: Cell) -> None:
        """Write a cell and clear its old status, before its training can be seen."""
        with self.group.collective_errors():
            self.store.clear_status(cell.cell_id)
            self.store.write_cell(cell)

    def save_checkpoint(self, student: Student) -> bool:
        """Write a checkpoint of the last epoch unless there is one; return False if the cell is no longer claimed."""
        if not student.records or student.saved_epoch >= student.last_epoch:
            return True
        if not self._holds(student.cell):
            report_claimed_elsewhere(self.store, student.cell, self.emit)
            return False
        self.note_progress()
        with self.group.collective_errors():
            if self.group.is_main:
                self.store.save_checkpoint(*student.make_checkpoint())
        student.saved_epoch = student.last_epoch
        self.emit(EpochCompleted(student.cell.cell_id, student.last_epoch, dict(student.records[-1].metrics)))
        return True

    def finish(self, student: Student, diverged: str = "") -> None:
        """Write weights and receipt, unless the cell is no longer claimed.

        Args:
            student: is done, or has diverged.
            diverged: why it diverged; empty if it did not.
        """
        receipt = self.group.broadcast(lambda: self._write_receipt(student, diverged))
        if receipt is None:
            report_claimed_elsewhere(self.store, student.cell, self.emit)
            return
        self.emit(
            CellEnded.in_state(
                receipt.state,
                cell_id=student.cell.cell_id,
                epoch=student.last_epoch,
                metrics=dict(receipt.metrics),
                reason=diverged,
            )
        )

    def fail(self, cell: Cell, epoch: int, error: Exception) -> None:
        """Record that a cell failed after an epoch, unless the cell is no longer claimed."""
        if self._holds(cell):
            fail_cell(self.store, cell, epoch, error, self.emit)
        else:
            report_claimed_elsewhere(self.store, cell, self.emit)

    def _holds(self, cell: Cell) -> bool:
        return self.group.broadcast(lambda: self.claims.holds(cell.cell_id))

    def _write_receipt(self, student: Student, diverged: str) -> Receipt | None:
        """Write weights and receipt; return None if the cell is no longer claimed."""
        cell = student.cell
        if not self.claims.holds(cell.cell_id):
            return None
        weights = None
        # A measurement has the published weights, which stay where they are published.
        if not diverged and not cell.is_measurement:
            weights = self.store.write_weights(cell.cell_id, dump_weights(student.model))
        receipt = Receipt(
            cell=cell,
            state="diverged" if diverged else "finished",
            reason=diverged,
            parameters=student.parameter_count,
            metrics=student.records[-1].metrics if student.records else {},
            epochs=tuple(student.records),
            weights_sha256=weights,
            provenance=self._provenance(student),
        )
        try:
            self.claims.finish(receipt)
        except ClaimLost:
            return None
        return receipt

    def _provenance(self, student: Student) -> Provenance:
        machine = self.context.machine
        return Provenance(
            commit=self.context.commit,
            versions={name: version(name) for name in _RECORDED_PACKAGES},
            device=torch.cuda.get_device_name() if student.device.type == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            channels_last=machine.channels_last,
            compile=machine.compile,
            devices=self.group.size,
            started=student.started,
            ended=max(student.started, time.time()),
        )
