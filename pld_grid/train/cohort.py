"""Trains a cohort: claims its cells, trains them side by side, and in halves where memory is short.

Runs in a plain process; whoever calls it hears of progress through a listener.
"""

import contextlib
import gc
import uuid
from collections.abc import Callable, Sequence
from functools import partial

import torch

from pld_grid import stop
from pld_grid.errors import StoreError, StoreFull
from pld_grid.events import Event, Listener
from pld_grid.plan import Cohort
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.train.device import out_of_memory
from pld_grid.train.failure import Failed, fail_cell
from pld_grid.train.group import Group
from pld_grid.train.surroundings import Surroundings
from pld_grid.train.training import Training, held


def train_cohort(
    cells: Sequence[Cell],
    surroundings: Surroundings,
    listener: Listener = lambda _: None,
    flush: Callable[[], None] = lambda: None,
    group: Group | None = None,
) -> None:
    """Trains every cell that has no receipt yet and that no other run trains, from its last checkpoint on.

    Cells that diverge or whose own code raises leave the cohort; the others go on with the same numbers. A cohort that
    does not fit into memory is split in two, and both halves go on from their checkpoints. Asked to stop (see
    `pld_grid.stop`), it keeps a checkpoint after the epoch and returns. What happens is told to `listener` and kept in
    the store; `flush` says that nothing more comes for a while (an epoch begins).

    All processes of a group call this with the same cells and settings, and get the same numbers up to rounding as one
    process does. The first one alone writes to the store, calls `listener` and `flush`. Of a process that raises, the
    others must be ended, or will raise GroupBroken once it is gone.

    Raises:
        DataError: the dataset is missing or damaged.
        StoreError: the store cannot be used, or the teacher's weights are missing.
        ValueError: the cells do not share batches and teacher.
    """
    group = group or Group()
    store = group.store(surroundings.store)
    lease = Lease(
        store, f"{surroundings.run or 'alone'}-{uuid.uuid4().hex[:12]}", node=surroundings.node,
        hung_after=surroundings.machine.hung_after,
    )  # fmt: skip
    claims = Claims(store, lease, surroundings.run, surroundings.lapsed)
    with lease.held() if group.first else contextlib.nullcontext():
        try:
            _train_claimed(cells, surroundings, listener, flush, group, store, claims)
        finally:
            claims.release_all()


def _train_claimed(
    cells: Sequence[Cell], surroundings: Surroundings, listener: Listener, flush: Callable[[], None], group: Group,
    store: Store, claims: Claims,
) -> None:  # fmt: skip
    gone: set[str] = set()

    def hear(event: Event) -> None:
        if event.kind in ("failed", "held"):
            gone.add(event.cell_id)
        if group.first:
            listener(event)

    def claimed(cohort: Cohort) -> list[Cell]:
        ours = []
        for cell in cohort.cells:
            if cell.cell_id in gone or store.receipt(cell) is not None:
                continue
            try:
                if claims.take(cell):
                    ours.append(cell)
                elif store.receipt(cell) is None:
                    hear(held(store, cell))
            except StoreFull:
                raise
            except StoreError as error:
                fail_cell(store, cell, 0, error, hear)
        return ours

    def fail(cell: Cell, error: Exception) -> None:
        if not group.decide(lambda: claims.holds(cell.cell_id)):
            hear(held(store, cell))
            return
        known = store.progress(cell.cell_id)
        fail_cell(store, cell, known.epochs[-1].epoch if known is not None and known.epochs else 0, error, hear)

    queue = [Cohort(tuple(cells))]
    while queue and not group.decide(lambda: stop.requested(store, surroundings.run)):
        wanted = group.decide(partial(claimed, queue.pop()))
        if not wanted:
            continue
        try:
            Training(wanted, store, surroundings, claims, hear, flush if group.first else lambda: None, group).run()
            continue
        except Exception as error:
            # In a group, only what all processes have agreed on finds them at the same place.
            if not out_of_memory(error) or (group.size > 1 and not isinstance(error, Failed)):
                raise
            left = [cell for cell in wanted if cell.cell_id not in gone]
            if len(left) == 1:
                fail(left[0], error)
            else:
                queue += reversed(Cohort(tuple(left)).halves())
                hear(Event("split", left[0].cell_id, reason=f"{len(left)} students do not fit into memory"))
        # Not inside the handler: the traceback keeps every tensor.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
