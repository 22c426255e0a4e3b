"""What runs in a Ray worker: one cohort."""

from dataclasses import replace
from typing import Any

from pld_grid.errors import StoreError, StoreFull
from pld_grid.events import Event
from pld_grid.schedule.devices import WorkerDied, train_on_devices
from pld_grid.spec import Cell
from pld_grid.store import PATIENCE, Store, claims
from pld_grid.train.cohort import train_cohort
from pld_grid.train.failure import Failed, fail_cell, loader_died
from pld_grid.train.surroundings import Surroundings
from pld_grid.train.training import held


def run_trial(config: dict[str, Any], cohorts: list[list[dict[str, Any]]], surroundings: Surroundings) -> None:
    """One cohort, in a Ray worker. Errors end here: only a process's death is worth another try."""
    import ray
    import torch
    from ray import tune

    # Ray exports OMP_NUM_THREADS=1; a cohort has its CPUs to itself.
    torch.set_num_threads(max(1, int(surroundings.machine.cpus_per_cohort)))
    cells = [Cell.model_validate(cell) for cell in cohorts[config["cohort"]]]
    outbox: list[dict[str, Any]] = []
    gone: set[str] = set()

    def send() -> None:
        # All that an epoch's end brings goes in one report: each waits for the driver.
        if outbox:
            tune.report({"events": outbox.copy()})
            outbox.clear()

    def listener(event: Event) -> None:
        outbox.append(event.to_dict())
        if event.kind in ("held", "failed"):
            gone.add(event.cell_id)

    here = replace(surroundings, node=ray.get_runtime_context().get_node_id())
    train = train_on_devices if surroundings.machine.devices_per_cohort > 1 else train_cohort
    try:
        train(cells, here, listener, send)
    except StoreFull as error:
        listener(Event("full", cells[0].cell_id, reason=str(error)))
    except Exception as error:
        if isinstance(error, WorkerDied) or loader_died(error):
            raise
        store = Store(surroundings.store, PATIENCE)
        for cell in cells:
            if cell.cell_id in gone:
                continue
            try:
                if store.receipt(cell) is not None:
                    continue
                # Of what trained it nothing goes on, though it may have had no time to leave the cell.
                if claims.leave(store, cell.cell_id, surroundings.run, surroundings.lapsed):
                    fail_cell(store, cell, 0, error, listener)
                else:
                    listener(held(store, cell))
            except StoreFull as full:
                listener(Event("full", cell.cell_id, reason=str(full)))
            except StoreError:
                # Perhaps that was the error: then nobody but the driver can be told.
                listener(Event("failed", cell.cell_id, reason=str(Failed.of(error))))
    send()
