"""Measuring this machine or a cluster, and finding what was measured before."""

import time
from collections.abc import Sequence

from pld_grid import cost
from pld_grid.errors import InputError, listing
from pld_grid.grid import Grid
from pld_grid.profile import MachineSettings
from pld_grid.store import Store
from pld_grid.workspace import Workspace, local_resources, surroundings


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


def calibrate(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machine: MachineSettings | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    again: bool = False,
) -> tuple[cost.Calibration, tuple[cost.Rate, ...]]:
    """Measures what prices the grids' cells on this machine, or on the cluster at `address`, and keeps it in the store.

    Returns the calibration and what was measured now; `again` measures what is known too.

    Raises:
        ResourceError: a cohort asks for more than the cluster has, or its devices are of several kinds.
        InputError: the data folder is missing.
        StoreError: the store cannot be written.
    """
    from pld_grid import schedule

    workspace = workspace or Workspace.default()
    machine = machine or grids[0].profile.machine
    told = surroundings(grids, workspace, machine, data_folder)
    store = Store(workspace.store)
    cells = list({cell.cell_id: cell for grid in grids for cell in grid.cells()}.values())

    if address is None:
        schedule.check_resources(machine, local_resources())
        here = cost.find(store, machine, local_device(machine))
        if here is not None and not again and not cost.Costs(here).missing(cells):
            return here, ()
    store.check_writable()
    started = time.monotonic()
    with schedule.cluster(address) as resources:
        schedule.check_resources(machine, resources)
        connecting = time.monotonic() - started
        slots = schedule.slots(machine, resources)
        worker = schedule.inspect(machine)
        old = cost.find(store, machine, worker.device)
        # What other grids need stays known, whatever is measured again.
        wanted = cost.Costs(None if again else old).missing(cells)
        rates = schedule.measure_costs(wanted, told, slots, worker.device)
    calibration = cost.Calibration(
        device=worker.device,
        measured=time.strftime("%Y-%m-%d"),
        commit=told.commit,
        machine=machine,
        slots=slots,
        memory_bytes=worker.memory_bytes,
        base_bytes=worker.base_bytes,
        # The driver imports what a worker does.
        start_seconds=worker.import_seconds + connecting,
        wave_seconds=worker.ready_seconds,
        rates=(old.rates if old is not None else {}) | rates,
    )
    cost.keep(store, calibration)
    return calibration, tuple(rates.values())
