"""Measuring this machine or a cluster, and finding what was measured before."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pld_grid import cost
from pld_grid.errors import InputError, listing
from pld_grid.grid import Grid
from pld_grid.machine import Machines, MachineSettings
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.workspace import Workspace, local_resources, surroundings

if TYPE_CHECKING:
    from pld_grid.train.surroundings import Surroundings


def costs_of(store: Store, machine: MachineSettings, device: str | None = None) -> cost.Costs:
    """What is known of a device: the one named, else this machine's, else the only one that the store has."""
    if device is not None:
        named = cost.find(store, machine, device)
        if named is None:
            known = [calibration.device for calibration in cost.known(store, machine)]
            raise InputError(f'--device: no calibration of "{device}"; there are: {listing(known) or "none"}')
        return cost.Costs(named, machine)
    return cost.Costs(cost.find(store, machine, local_device(machine)) or cost.find(store, machine), machine)


def local_device(machine: MachineSettings) -> str:
    """The kind of device that cohorts would run on here."""
    from pld_grid.train.device import device_name, device_of

    return device_name(device_of(machine))


class Measured(NamedTuple):
    """What is known of a kind of device, and which of it was measured now."""

    calibration: cost.Calibration
    rates: tuple[cost.Rate, ...]


def calibrate(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machines: Machines | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    again: bool = False,
    begin: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Measures what prices the grids' cells on this machine, or on the cluster at `address`, and keeps it in the store.

    Returns what each of the machine settings that these cells run with is known to cost; `again` measures what is known
    too. `begin` is called once there is something to measure, and nothing stands in its way.

    Raises:
        ResourceError: a cohort asks for more than the cluster has, or its devices are of several kinds.
        InputError: the data folder is missing, or the profile describes a model that cannot be made.
        StoreError: the store cannot be written.
    """
    from pld_grid import schedule

    workspace = workspace or Workspace.default()
    machines = machines or grids[0].profile.machines
    told = surroundings(grids, workspace, data_folder)
    store = Store(workspace.store)
    wanted: dict[MachineSettings, list[Cell]] = {}
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    grids[0].profile.check_models(cell.student for cell in cells.values())
    for cell in cells.values():
        wanted.setdefault(machines.of(cell), []).append(cell)

    if address is None:
        schedule.check_resources(wanted, local_resources())
        here = {machine: cost.find(store, machine, local_device(machine)) for machine in wanted}
        known = [
            Measured(found, ())
            for machine, found in here.items()
            if found is not None and not cost.Costs(found).missing(wanted[machine])
        ]
        if len(known) == len(wanted) and not again:
            return known
    if address is not None:
        schedule.check_address(address)
    store.check_writable()
    begin()
    started = time.monotonic()
    with schedule.cluster(address) as resources:
        schedule.check_resources(wanted, resources)
        connecting = time.monotonic() - started
        return [
            _measure(
                cells, replace(told, machine=machine), store, schedule.slots(machine, resources), connecting, again
            )
            for machine, cells in wanted.items()
        ]


def _measure(
    cells: list[Cell], told: "Surroundings", store: Store, slots: int, connecting: float, again: bool
) -> Measured:
    """Measures what is not known of the device that workers have, and keeps it."""
    from pld_grid import schedule

    worker = schedule.inspect(told.machine)
    old = cost.find(store, told.machine, worker.device)
    # What other grids need stays known, whatever is measured again.
    wanted = cost.Costs(None if again else old).missing(cells)
    rates = schedule.measure_costs(wanted, told, slots, worker.device)
    calibration = cost.Calibration(
        device=worker.device,
        measured=time.strftime("%Y-%m-%d"),
        commit=told.commit,
        machine=told.machine,
        slots=slots,
        memory_bytes=worker.memory_bytes,
        base_bytes=worker.base_bytes,
        # The driver imports what a worker does.
        start_seconds=worker.import_seconds + connecting,
        wave_seconds=worker.ready_seconds,
        rates=(old.rates if old is not None else {}) | rates,
    )
    cost.keep(store, calibration)
    return Measured(calibration, tuple(rates.values()))
