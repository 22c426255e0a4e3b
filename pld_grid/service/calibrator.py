"""Measure this machine or a cluster, and look up earlier measurements."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import Machines, MachineSettings
from pld_grid.orchestrate import cluster
from pld_grid.orchestrate.calibration import inspect_worker, measure_costs
from pld_grid.orchestrate.resources import check_resources, count_slots
from pld_grid.planning.calibration_file import Calibration, Rate, find_calibration, load_calibrations, save_calibration
from pld_grid.planning.cost_model import CostModel
from pld_grid.service.workspace import Workspace, local_resources, make_run_context
from pld_grid.store import Store
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import InputError
from pld_grid.util.text import join_names


class CalibrationResult(NamedTuple):
    """All that is known of a kind of device, and the rates that were measured now."""

    calibration: Calibration
    measured: tuple[Rate, ...]


def load_costs(store: Store, machine: MachineSettings, device: str | None = None) -> CostModel:
    """Return the costs of a device: the named one, else this machine's, else the only one that the store has."""
    if device is not None:
        calibration = find_calibration(store, machine, device)
        if calibration is None:
            known = [calibration.device for calibration in load_calibrations(store, machine)]
            raise InputError(f'--device: no calibration of "{device}"; there are: {join_names(known) or "none"}')
    else:
        calibration = find_calibration(store, machine, local_device(machine)) or find_calibration(store, machine)
    return CostModel(calibration, machine)


def local_device(machine: MachineSettings) -> str:
    """Return the kind of device that cohorts would run on here."""
    from pld_grid.train.device import get_device_name, resolve_device

    return get_device_name(resolve_device(machine))


def calibrate(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machines: Machines | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    remeasure: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> list[CalibrationResult]:
    """Measure what the cells of grids cost on this machine or a cluster, and save it in the store.

    Args:
        grids: their cells are measured.
        workspace: its store keeps the calibrations.
        machines: machine settings; default: the profile's.
        address: a running Ray cluster; default: a local one.
        data_folder: folder of the dataset, where it needs one.
        remeasure: also measure what is known already.
        on_start: called before measuring, unless there is nothing to measure.

    Returns:
        One result for each of the machine settings that the cells use.

    Raises:
        ResourceError: a cohort needs more than the cluster has, or its devices are of several kinds.
        InputError: the data folder is missing, or the profile describes a model that cannot be built.
        StoreError: the store cannot be written.
    """
    workspace = workspace or Workspace.default()
    machines = machines or grids[0].profile.machines
    context = make_run_context(grids, workspace, data_folder)
    store = Store(workspace.store)
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    grids[0].profile.check_models(cell.student for cell in cells.values())
    by_machine: dict[MachineSettings, list[Cell]] = {}
    for cell in cells.values():
        by_machine.setdefault(machines.for_cell(cell), []).append(cell)
    if address is None:
        check_resources(by_machine, local_resources())
        known = [_find_complete(store, machine, needed) for machine, needed in by_machine.items()]
        if all(known) and not remeasure:
            return [CalibrationResult(calibration, ()) for calibration in known if calibration is not None]
    else:
        cluster.check_address(address)
    store.check_writable()
    on_start()
    started = time.monotonic()
    with cluster.connect(address) as resources:
        check_resources(by_machine, resources)
        connect_seconds = time.monotonic() - started
        return [
            _measure(needed, replace(context, machine=machine), store, resources, connect_seconds, remeasure)
            for machine, needed in by_machine.items()
        ]


def _find_complete(store: Store, machine: MachineSettings, cells: list[Cell]) -> Calibration | None:
    """Return this machine's calibration if it covers all these cells."""
    calibration = find_calibration(store, machine, local_device(machine))
    return calibration if calibration is not None and not CostModel(calibration).missing(cells) else None


def _measure(
    cells: list[Cell],
    context: RunContext,
    store: Store,
    resources: dict[str, float],
    connect_seconds: float,
    remeasure: bool,
) -> CalibrationResult:
    """Measure what is not known of the workers' device, and save it."""
    slots = count_slots(context.machine, resources)
    worker = inspect_worker(context.machine)
    old = find_calibration(store, context.machine, worker.device)
    # Rates that only other grids need are kept in any case.
    missing = CostModel(None if remeasure else old).missing(cells)
    rates = measure_costs(missing, context, slots, worker.device)
    calibration = Calibration(
        device=worker.device,
        measured=time.strftime("%Y-%m-%d"),
        commit=context.commit,
        machine=context.machine,
        slots=slots,
        memory_bytes=worker.memory_bytes,
        base_bytes=worker.base_bytes,
        # The driver imports the same modules as a worker.
        start_seconds=worker.import_seconds + connect_seconds,
        wave_seconds=worker.ready_seconds,
        rates=(old.rates if old is not None else {}) | rates,
    )
    save_calibration(store, calibration)
    return CalibrationResult(calibration, tuple(rates.values()))
