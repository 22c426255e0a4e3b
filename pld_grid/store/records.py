"""What is known about one cell, the same whether it was read from the store or from MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pld_grid.store.schema import Epoch, EpochRecord, Metrics, Provenance, Receipt, State, Text, WholeNumber


@dataclass(frozen=True)
class CellRecord:
    """One cell's state and numbers.

    `queued` cells wait for a run that is in progress. `metrics` are those of the last recorded `epoch` (accuracies in
    percent, divergences in nats); they are results only if `state` is `finished`. `parameters` counts the model's,
    `run_id` and `experiment_id` are MLflow's, or empty. A record from MLflow has `metrics` but no `epochs` until the
    cell has a receipt, and never the `receipt` itself.
    """

    cell_id: Text
    state: State
    reason: Text = ""
    epoch: Epoch = 0
    metrics: Metrics = field(default_factory=dict)
    parameters: WholeNumber | None = None
    commit: Text = ""
    run_id: Text = ""
    experiment_id: Text = ""
    epochs: tuple[EpochRecord, ...] = ()
    provenance: Provenance | None = None
    receipt: Receipt | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_epochs(cls, cell_id: str, state: State, epochs: tuple[EpochRecord, ...], **others: Any) -> "CellRecord":
        """Return a record whose `epoch` and `metrics` are those of the last of the epochs."""
        if epochs:
            others |= {"epoch": epochs[-1].epoch, "metrics": epochs[-1].metrics}
        return cls(cell_id, state, epochs=epochs, **others)


Records = Mapping[str, CellRecord]
