"""What a table needs to know about a cell, the same whether it comes from the store or from MLflow."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pld_grid.store import EpochRecord, Progress, Provenance, State, Store


@dataclass(frozen=True)
class Record:
    """One cell's state and numbers.

    `metrics` are the last epoch's (accuracies in percent, divergences in nats); they are results only if `state` is
    `finished`. `epoch` is the last one recorded, `parameters` the model's count, `run_id` and `experiment_id` MLflow's
    (or empty). All `epochs`, and where the cell was trained, are known once it has a receipt.
    """

    cell_id: str
    state: State
    reason: str
    epoch: int
    metrics: Mapping[str, float]
    parameters: int | None
    commit: str
    run_id: str
    experiment_id: str = ""
    epochs: tuple[EpochRecord, ...] = ()
    provenance: Provenance | None = None


Records = Mapping[str, Record]


def record_of(progress: Progress, run_id: str) -> Record:
    """The record of what the store knows about a cell."""
    receipt = progress.receipt
    return Record(
        cell_id=progress.cell_id,
        state=progress.state,
        reason=progress.reason,
        epoch=progress.epochs[-1].epoch if progress.epochs else 0,
        metrics=progress.metrics,
        parameters=progress.parameters,
        commit=receipt.provenance.commit if receipt else "",
        run_id=run_id,
    )


def from_store(store: Store, cell_ids: Iterable[str], mirrored_in: str | None = None) -> dict[str, Record]:
    """Records of the cells that the store knows.

    `mirrored_in` is a tracker's address: runs in another MLflow then do not count. None takes whichever there is.
    """
    present = store.cell_ids()
    found = {}
    for cell_id in dict.fromkeys(cell_ids):
        progress = store.progress(cell_id) if cell_id in present else None
        if progress is not None:
            mirror = store.mirror(cell_id)
            here = mirror is not None and mirrored_in in (None, mirror.tracking_uri)
            found[cell_id] = record_of(progress, mirror.run_id if mirror is not None and here else "")
    return found
