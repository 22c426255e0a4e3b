"""Plan grids with the costs of this machine or of a calibrated device."""

from collections.abc import Sequence

from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import Machines, MachineSettings
from pld_grid.orchestrate.resources import check_devices, count_slots
from pld_grid.planning.plan import ExecutionPool, Plan, make_plan
from pld_grid.service.calibrator import load_costs
from pld_grid.service.workspace import Workspace, local_resources
from pld_grid.store import Store


def plan(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machines: Machines | None = None,
    slots: int | None = None,
    device: str | None = None,
) -> Plan:
    """Plan grids without touching data or Ray.

    Args:
        grids: what to plan; cells that they share are planned once.
        workspace: its store says which cells are finished.
        machines: machine settings; default: the profile's.
        slots: number of concurrent cohorts; default: as many as this machine has CPUs or GPUs for.
        device: name of the calibrated device that prices the plan; default: this machine's, or the only one that the
            store has.

    Raises:
        InputError: the device has no calibration, or the profile describes a model that cannot be built.
    """
    machines = machines or grids[0].profile.machines
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    check_devices(machines, cells.values())
    store, resources = Store((workspace or Workspace.default()).store), local_resources()
    finished = store.finished(cells.values())
    grids[0].profile.check_models(cell.student for cell_id, cell in cells.items() if cell_id not in finished)

    def make_pool(machine: MachineSettings) -> ExecutionPool:
        costs = load_costs(store, machine, device)
        calibrated = costs.calibration.slots if device and costs.calibration else None
        return ExecutionPool(machine, slots or calibrated or count_slots(machine, resources), costs)

    return make_plan(grids, finished, machines.map(make_pool))
