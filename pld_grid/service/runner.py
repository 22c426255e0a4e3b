"""Train what grids need: check a request, prepare the cluster and the plan, execute it."""

import contextlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import Event
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import Machines, MachineSettings
from pld_grid.orchestrate import cluster
from pld_grid.orchestrate.calibration import inspect_worker
from pld_grid.orchestrate.resources import check_devices, check_resources, count_slots
from pld_grid.orchestrate.waves import run_plan
from pld_grid.planning.calibration_file import find_calibration
from pld_grid.planning.cost_model import CostModel
from pld_grid.planning.plan import ExecutionPool, Plan, make_plan
from pld_grid.service.calibrator import local_device
from pld_grid.service.disk_space import check_disk_space
from pld_grid.service.mirroring import mirror_to_mlflow
from pld_grid.service.progress import ProgressDisplay
from pld_grid.service.signals import graceful_shutdown
from pld_grid.service.workspace import Workspace, describe_missing_store, local_resources, make_run_context
from pld_grid.store import RETRY_TIMEOUT_SECONDS, Store, claims
from pld_grid.track.mlflow_client import import_mlflow
from pld_grid.util.text import format_duration, join_names

GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class RunSummary:
    """The outcome of a run: numbers of cells, seconds, and the number of runs that MLflow still lacks.

    `finished` cells were trained by this run, `shared` ones by other runs at the same time.
    """

    finished: int
    shared: int
    failed: int
    diverged: int
    finished_before: int
    seconds: float
    not_mirrored: int


def run(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machines: Machines | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    weights_folder: str | None = None,
    grace_seconds: float = GRACE_SECONDS,
    console: Console | None = None,
    retrain: Collection[str] = (),
) -> RunSummary:
    """Train the cells that grids need and the store lacks.

    Results are in the store, whether or not MLflow can be reached. In the main thread, Ctrl-C and SIGTERM ask running
    cohorts to finish their epoch and save a checkpoint; a second signal does not wait. Their cells become `cancelled`.

    Args:
        grids: what to train.
        workspace: the store and MLflow; default: `Workspace.default()`.
        machines: machine settings; default: the profile's.
        address: a running Ray cluster; default: a local one for this run.
        data_folder: folder of the dataset, where it needs one.
        weights_folder: folder of published weights.
        grace_seconds: how long cohorts have to finish their epoch after a signal.
        console: where progress is printed; default: standard error.
        retrain: ids of finished cells to train again. Earlier results are archived once the cluster is available.

    Raises:
        KeyboardInterrupt: the run was stopped.
        ResourceError: a cohort needs more than the cluster has, or a disk lacks space.
        StoreError: the store cannot be written, or is full.
        WaveStopped: all cells that ran first failed with the same error.
        InputError: the data folder is missing, a batch cannot be split over a cohort's devices, the profile describes
            a model that cannot be built, or MLflow rejects an environment variable.
        WeightsError: published weights are missing and must not be fetched.
    """
    workspace = workspace or Workspace.default()
    machines = machines or grids[0].profile.machines
    console = console or Console(stderr=True, markup=False, emoji=False)
    request = _Run(grids, workspace, machines, address, console, data_folder, weights_folder, frozenset(retrain))
    display = ProgressDisplay(request.pending, len(request.finished), console)
    with contextlib.ExitStack() as stack:
        if request.pending:
            stack.enter_context(graceful_shutdown(request.store, request.context.run, grace_seconds, console))
            plan = request.prepare(stack, display)
        else:
            plan = make_plan(grids, request.finished)
        return request.execute(plan, display)


class _Run:
    """What to train and where.

    Creating it finds what is to do, and refuses what cannot work, before anything starts: only the store's own folder
    is created, at the end. For arguments and errors see `run`.

    Attributes:
        finished: ids of the cells that need no training.
        replaced: results to archive before their cells are trained again.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        workspace: Workspace,
        machines: Machines,
        address: str | None,
        console: Console,
        data_folder: str | None,
        weights_folder: str | None,
        retrain: frozenset[str],
    ) -> None:
        from pld_grid.train.weights import check_weights

        self.grids, self.workspace, self.machines = grids, workspace, machines
        self.address, self.console = address, console
        self.store = Store(workspace.store, RETRY_TIMEOUT_SECONDS)
        context = make_run_context(grids, workspace, data_folder, weights_folder)
        self.context = replace(context, run=uuid.uuid4().hex)
        store = Store(workspace.store)
        cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
        finished = store.finished(cells.values())
        retrained = (store.receipt(cell_id) for cell_id in sorted(finished & retrain))
        self.replaced = [receipt for receipt in retrained if receipt is not None]
        self.finished = _drop_damaged_teachers(store, cells, finished - retrain)
        self.pending = [cell for cell_id, cell in cells.items() if cell_id not in self.finished]
        grids[0].profile.check_models(cell.student for cell in self.pending)
        check_devices(machines, self.pending)
        if address is None:
            check_disk_space(self._plan(store, local_resources()), workspace)
        self.weights_to_fetch = check_weights(self.pending, weights_folder)
        if self.pending and address is not None:
            cluster.check_address(address)
        # Import MLflow now: it rejects bad settings, and its import takes no time from training later.
        import_mlflow()
        new_store = describe_missing_store(workspace, creates=True)
        store.check_writable()
        if new_store:
            console.print(new_store, soft_wrap=True, highlight=False)

    def _plan(self, store: Store, resources: dict[str, float]) -> Plan:
        """Plan for a cluster with these resources. Raises ResourceError if a cohort needs more."""
        in_use = list(dict.fromkeys(self.machines.for_cell(cell) for cell in self.pending))

        def make_pool(machine: MachineSettings) -> ExecutionPool:
            if machine not in in_use:
                return ExecutionPool(machine)
            device = local_device(machine) if self.address is None else inspect_worker(machine).device
            costs = CostModel(find_calibration(store, machine, device), machine)
            return ExecutionPool(machine, count_slots(machine, resources), costs)

        check_resources(in_use, resources)
        if self.address is not None:
            cluster.check_workers()
        return make_plan(self.grids, self.finished, self.machines.map(make_pool))

    def prepare(self, stack: contextlib.ExitStack, display: ProgressDisplay) -> Plan:
        """Connect to Ray until `stack` ends, plan for its resources, and archive results that will be replaced."""
        if self.weights_to_fetch:
            names = join_names(self.weights_to_fetch)
            self.console.print(f"published weights that timm will fetch: {names}", soft_wrap=True)
        resources = stack.enter_context(cluster.connect(self.address))
        plan = self._plan(self.store, resources)
        if self.address is not None:
            check_disk_space(plan, self.workspace, local_ray=False)
        if plan.forecast is not None:
            expected, slots = format_duration(plan.forecast.seconds), plan.forecast.slots
            self.console.print(f"{len(plan.pending)} cells to train, about {expected} with {slots} slots")
            find_pool = plan.pools.for_cell
            display.set_durations({c.cell_id: find_pool(c).costs.student_cost(c).seconds for c in plan.pending})
        for receipt in self.replaced:
            # None if another run has archived it already.
            archived = claims.archive(self.store, receipt, self.context.run)
            if archived is not None:
                self.console.print(f"earlier results kept in {archived}", soft_wrap=True)
        return plan

    def execute(self, plan: Plan, display: ProgressDisplay) -> RunSummary:
        """Run the plan, with a progress display, and mirror it to MLflow in the background."""
        with mirror_to_mlflow(self.grids, plan, self.store, self.workspace, self.console) as mirror:

            def on_event(event: Event) -> None:
                display.on_event(event)
                mirror.request_sync(event.cell_id)

            if plan.pending:
                with display:
                    run_plan(plan, self.context, on_event)
            else:
                self.console.print(f"Nothing to train: all {len(plan.finished)} cells are finished.")
        return RunSummary(
            finished=display.count("finished") - display.shared,
            shared=display.shared,
            failed=display.count("failed") + display.count("lost"),
            diverged=display.count("diverged"),
            finished_before=len(self.finished),
            seconds=display.elapsed,
            not_mirrored=mirror.pending(),
        )


def _drop_damaged_teachers(store: Store, cells: dict[str, Cell], finished: frozenset[str]) -> frozenset[str]:
    """Quarantine damaged weights of teachers that pending students need; return the cells still finished."""
    pending = (cell for cell_id, cell in cells.items() if cell_id not in finished)
    teachers = {cell.teacher.cell_id for cell in pending if cell.teacher is not None}
    for teacher_id in teachers:
        store.check_weights(cells[teacher_id])
    return finished - {teacher_id for teacher_id in teachers if store.receipt(teacher_id) is None}
