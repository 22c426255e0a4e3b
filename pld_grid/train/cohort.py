"""Train a cohort in a plain process: claim its cells, train them side by side, and in halves if memory is short."""

import contextlib
import gc
import uuid
from collections.abc import Callable, Sequence
from functools import partial

import torch

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import CohortSplit, EventCallback
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.failure import TrainingError, fail_cell, report_claimed_elsewhere
from pld_grid.train.group import Group
from pld_grid.train.recorder import CellRecorder
from pld_grid.train.run_context import RunContext
from pld_grid.train.training import Training
from pld_grid.util.errors import StoreError, StoreFull


def train_cohort(
    cells: Sequence[Cell],
    context: RunContext,
    on_event: EventCallback = lambda _: None,
    flush: Callable[[], None] = lambda: None,
    group: Group | None = None,
) -> None:
    """Train every cell that has no receipt and that no other run trains, from its last checkpoint on.

    Cells that diverge or whose own code raises leave the cohort; the others continue with the same numbers. A cohort
    that does not fit into memory is split in two, and both halves continue from their checkpoints. If the run is asked
    to stop (see `store.stop_requests`), it saves a checkpoint after the epoch and returns.

    All processes of a group call this with the same cells and settings, and get the same numbers up to rounding as one
    process does. Only the main process writes to the store and calls `on_event` and `flush`. If one process raises, the
    others raise GroupBroken once it has exited.

    Args:
        cells: share batches and teacher.
        context: where to train.
        on_event: called with each event.
        flush: called when no event follows for a while, as an epoch begins.
        group: the processes that train the cohort; None for this process alone.

    Raises:
        DataError: the dataset is missing or damaged.
        LoaderWorkerDied: a data loader process was killed.
        StoreError: the store cannot be used, or the teacher's weights are missing.
        ValueError: the cells do not share batches and teacher.
    """
    group = group or Group()
    store = group.open_store(context.store)
    lease = Lease(
        store,
        f"{context.run or 'alone'}-{uuid.uuid4().hex[:12]}",
        node=context.node,
        hung_after=context.machine.hung_after,
    )
    claims = Claims(store, lease, context.run, context.expired)
    recorder = CellRecorder(store, context, claims, group, on_event, flush)
    with lease.keep_alive() if group.is_main else contextlib.nullcontext():
        try:
            _train_or_split(cells, recorder)
        finally:
            claims.release_all()


def _train_or_split(cells: Sequence[Cell], recorder: CellRecorder) -> None:
    """Train the cells together, or in ever smaller halves if they do not fit into memory."""
    queue = [Cohort(tuple(cells))]
    while queue and not recorder.stop_requested():
        claimed = recorder.group.broadcast(partial(_claim, queue.pop(), recorder))
        halves = _train(claimed, recorder) if claimed else None
        if halves is not None:
            queue += halves
            # Only now: the traceback of the error kept every tensor alive.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _claim(cohort: Cohort, recorder: CellRecorder) -> list[Cell]:
    """Claim the unfinished cells of a cohort that no other process trains, and return them."""
    store, claimed = recorder.store, []
    for cell in cohort.cells:
        if cell.cell_id in recorder.dropped or store.receipt(cell) is not None:
            continue
        try:
            if recorder.claims.acquire(cell):
                claimed.append(cell)
            elif store.receipt(cell) is None:
                report_claimed_elsewhere(store, cell, recorder.emit)
        except StoreFull:
            raise
        except StoreError as error:
            fail_cell(store, cell, 0, error, recorder.emit)
    return claimed


def _train(cells: list[Cell], recorder: CellRecorder) -> list[Cohort] | None:
    """Train claimed cells; if they do not fit into memory, return the halves to train instead."""
    try:
        Training(cells, recorder).run()
        return None
    except Exception as error:
        # In a group, processes are at the same place only after an error that all have received.
        if not is_out_of_memory(error) or (recorder.group.size > 1 and not isinstance(error, TrainingError)):
            raise
        return _split(cells, recorder, error)


def _split(cells: list[Cell], recorder: CellRecorder, error: Exception) -> list[Cohort]:
    """Return the halves of what is left of a cohort that does not fit into memory; a single cell fails instead."""
    remaining = [cell for cell in cells if cell.cell_id not in recorder.dropped]
    if len(remaining) == 1:
        record = recorder.store.record(remaining[0].cell_id)
        recorder.fail(remaining[0], record.epoch if record is not None else 0, error)
        return []
    recorder.emit(CohortSplit(remaining[0].cell_id, reason=f"{len(remaining)} students do not fit into memory"))
    return list(reversed(Cohort(tuple(remaining)).halves()))
