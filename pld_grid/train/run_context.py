"""Where a cohort runs."""

from dataclasses import dataclass, field

from pld_grid.experiment.machine import MachineSettings


@dataclass(frozen=True)
class RunContext:
    """Everything that a training needs to know beside its cells. None of it changes a cell's id.

    Args:
        store: path or URI of the store.
        data_folder: has the datasets; None for those that come with packages.
        weights_folder: has published weights; None for the hub's cache.
        machine: device, loader processes, memory format and so on.
        commit: of the code, as the receipts record it.
        run: id of the run, named by its claims; empty for a training outside a run.
        expired: leases of other runs that are known to have expired, so that their cells may be claimed.
        node: Ray's id of the machine; empty outside Ray.
    """

    store: str
    data_folder: str | None = None
    weights_folder: str | None = None
    machine: MachineSettings = field(default_factory=MachineSettings)
    commit: str = ""
    run: str = ""
    expired: tuple[str, ...] = ()
    node: str = ""
