"""Where a cohort runs."""

from dataclasses import dataclass, field

from pld_grid.machine import MachineSettings


@dataclass(frozen=True)
class Surroundings:
    """What is no part of the experiment: store, data, weights, machine, code version, run.

    `lapsed` are leases of other runs that are known to have lapsed; `node` is Ray's id of the machine.
    """

    store: str
    data_folder: str | None = None
    weights_folder: str | None = None
    machine: MachineSettings = field(default_factory=MachineSettings)
    commit: str = ""
    run: str = ""
    lapsed: tuple[str, ...] = ()
    node: str = ""
