"""Measuring this machine or a cluster, and finding what was measured before."""

import time
from collections.abc import Sequence

from pld_grid import cost
from pld_grid.errors import InputError, listing
from pld_grid.grid import Grid
from pld_grid.profile import MachineSettings
from pld_grid.store import Store
from pld_grid.workspace import Workspace, local_resources, surroundings


def costs_of(store: Store, machine: MachineSettings, device: str | None = None, *, here: bool) -> cost.Costs:
    """What is known of a device: the one named, else this machine's (`here`), else the only one there is."""
    if device is not None:
        named = cost.find(store, machine, device)
        if named is None:
            known = [calibration.device for calibration in cost.known(store, machine)]
            raise InputError(f'--device: no calibration of "{device}"; there are: {listing(known) or "none"}')
        return cost.Costs(named)
    local = cost.find(store, machine, local_device(machine)) if here else None
    return cost.Costs(local or cost.find(store, machine))


def local_device(machine: MachineSettings) -> str:
    """The kind of device that cohorts would run on here."""
    import torch

    from pld_grid.train.calibrate import device_name

    return device_name(torch.device("cuda" if machine.gpus_per_cohort and torch.cuda.is_available() else "cpu"))


def calibrate(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machine: MachineSettings | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    again: bool = False,
) -> tuple[cost.Calibration, int]:
    """Measures what prices the grids' cells on this machine, or on the cluster at `address`, and keeps it in the store.

    Returns the calibration and how many of its parts were measured now; `again` measures those that are known too.

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
    old = costs_of(store, machine, here=address is None).calibration
    if address is None:
        schedule.check_resources(machine, local_resources())
        # Another device's calibration says nothing about this one.
        old = old if old is not None and old.device == local_device(machine) else None
    cells = list({cell.cell_id: cell for grid in grids for cell in grid.cells()}.values())
    wanted = cost.Costs(None if again else old).missing(cells)
    if old is not None and not wanted:
        return old, 0
    store.check_writable()
    started = time.monotonic()
    with schedule.cluster(address) as resources:
        schedule.check_resources(machine, resources)
        connecting = time.monotonic() - started
        slots = schedule.slots(machine, resources)
        measured, wave_seconds = schedule.measure_costs(wanted, told, slots)
    kept = old.rates if old is not None and old.device == measured.device else {}
    calibration = cost.Calibration(
        device=measured.device,
        machine=machine,
        slots=slots,
        memory_bytes=measured.memory_bytes,
        base_bytes=measured.base_bytes,
        # The driver imports what a worker does.
        start_seconds=measured.import_seconds + connecting,
        wave_seconds=wave_seconds,
        rates=kept | measured.rates,
    )
    cost.keep(store, calibration)
    return calibration, len(measured.rates)
