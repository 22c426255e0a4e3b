"""The code that runs in a Ray worker: one trial trains one cohort."""

from dataclasses import replace
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellFailed, OutOfSpace
from pld_grid.orchestrate.distributed import EventBuffer, WorkerDied, train_on_devices
from pld_grid.orchestrate.tuner import EVENTS
from pld_grid.store import RETRY_TIMEOUT_SECONDS, Store, claims
from pld_grid.train.cohort import train_cohort
from pld_grid.train.failure import TrainingError, fail_cell, report_claimed_elsewhere
from pld_grid.train.loader import LoaderWorkerDied
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import StoreError, StoreFull


def run_trial(config: dict[str, Any], cohorts: list[list[dict[str, Any]]], context: RunContext) -> None:
    """Train one cohort.

    Only the death of a process is raised, so that Tune starts the trial again; other errors end the cohort's cells.

    Args:
        config: The trial's parameters; `cohort` is the index of its cohort.
        cohorts: The cells of all cohorts, as JSON data.
        context: The run context.
    """
    import ray
    import torch
    from ray import tune

    # Ray sets OMP_NUM_THREADS=1, but a cohort has its CPUs to itself.
    torch.set_num_threads(max(1, int(context.machine.cpus_per_cohort)))
    cells = [Cell.model_validate(cell) for cell in cohorts[config["cohort"]]]
    context = replace(context, node=ray.get_runtime_context().get_node_id())
    reporter = EventBuffer(lambda events: tune.report({EVENTS: events}))
    try:
        if context.machine.devices_per_cohort > 1:
            train_on_devices(cells, context, reporter.on_event, reporter.flush)
        else:
            train_cohort(cells, context, reporter.on_event, reporter.flush)
    except StoreFull as error:
        reporter.on_event(OutOfSpace(cells[0].cell_id, reason=str(error)))
    except Exception as error:
        if isinstance(error, WorkerDied | LoaderWorkerDied):
            raise
        store = Store(context.store, RETRY_TIMEOUT_SECONDS)
        for cell in cells:
            if cell.cell_id not in reporter.left:
                _end_cell(store, cell, error, context, reporter)
    reporter.flush()


def _end_cell(store: Store, cell: Cell, error: Exception, context: RunContext, reporter: EventBuffer) -> None:
    """Record that a cell failed, unless it is finished or another run has continued it."""
    try:
        if store.receipt(cell) is not None:
            return
        # The process that trained it may have ended without releasing it.
        if claims.end_claim(store, cell.cell_id, context.run, context.expired):
            fail_cell(store, cell, 0, error, reporter.on_event)
        else:
            report_claimed_elsewhere(store, cell, reporter.on_event)
    except StoreFull as full:
        reporter.on_event(OutOfSpace(cell.cell_id, reason=str(full)))
    except StoreError:
        # The store may be what failed; then only the driver learns of it.
        reporter.on_event(CellFailed(cell.cell_id, reason=str(TrainingError.from_exception(error))))
