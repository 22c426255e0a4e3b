"""What people do with grids: load, plan, run, report, sync. The command line and notebooks call the same functions."""

import contextlib
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console

from pld_grid import report as report_module
from pld_grid import track
from pld_grid.calibration import calibrate, costs_of, local_device
from pld_grid.cost import Costs, find
from pld_grid.errors import InputError, StoreError, listing, nearest
from pld_grid.events import Event
from pld_grid.grid import MAX_CELLS, Grid
from pld_grid.grid import load_grid as _load_grid
from pld_grid.machine import Machines, MachineSettings
from pld_grid.plan import Forecast, Plan, Room, Rooms, compare, make_plan
from pld_grid.profile import Profile, find_profile
from pld_grid.profile import load_profile as _load_profile
from pld_grid.progress import Progress, duration
from pld_grid.reading import explained
from pld_grid.report.figures import declared_plots
from pld_grid.reporting import (
    check_report,
    fetch_records,
    paper_folder,
    print_tables,
    refreshed,
    report,
    watch_report,
)
from pld_grid.signals import stoppable
from pld_grid.space import check_space, mlflow_bytes, size_text
from pld_grid.store import PATIENCE, Store, claims
from pld_grid.workspace import Workspace, local_resources, surroundings

__all__ = [
    "RunSummary", "Workspace", "calibrate", "check_report", "fetch_records", "grids_of_report", "load_grid",
    "load_grids", "load_profile", "machines_of", "missing_weights", "only", "paper_folder", "plan", "price",
    "print_tables", "refreshed", "report", "run", "sync", "watch_report",
]  # fmt: skip

MIRROR_TIMEOUT = 30.0
MIRROR_PATIENCE = 5.0  # seconds without anything arriving, after which an interrupted run waits no longer
GRACE = 30.0


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: counts of cells, seconds, and what MLflow still lacks.

    `finished` were trained by this run, `shared` meanwhile by others that wanted them too.
    """

    finished: int
    shared: int
    failed: int
    diverged: int
    finished_before: int
    seconds: float
    not_mirrored: int


def load_profile(name: str, near: Path | None = None) -> Profile:
    """The profile of that name or path. Raises InputError."""
    from pld_grid.train import catalogue

    return _load_profile(find_profile(name, near), catalogue.load())


def load_grids(
    paths: Sequence[str | Path], profile: str = "digits", *, seeds: int | None = None, max_cells: int | None = None
) -> list[Grid]:
    """Reads, checks and expands grids under one profile.

    Raises InputError with file, line, key path, what is wrong and the nearest valid name.
    """
    if not paths:
        raise InputError("no grid was given")
    loaded = load_profile(profile, Path(paths[0]).parent)
    grids: list[Grid] = []
    for path in paths:
        grid = _load_grid(path, loaded, seeds=seeds, max_cells=max_cells or MAX_CELLS)
        if any(grid.name == other.name for other in grids):
            raise InputError(f"{path}: two grids are called {grid.name}")
        grids.append(grid)
    # A table, file or figure that cannot be built should be known before its cells are trained.
    tables = [report_module.build_table(grid, {}, paper_folder()) for grid in grids]
    for table in tables:
        report_module.table_headers(table)
    declared_plots(grids, tables)
    return grids


def load_grid(path: str | Path, profile: str = "digits", *, seeds: int | None = None) -> Grid:
    """One grid; see `load_grids`."""
    return load_grids([path], profile, seeds=seeds)[0]


def only(grids: Sequence[Grid], cell_ids: Collection[str]) -> list[Grid]:
    """The grids narrowed to some cells and their teachers, without those grids that need none of them.

    Raises InputError for an id that is no cell of any.
    """
    known = {cell.cell_id for grid in grids for cell in grid.cells()}
    for cell_id in cell_ids:
        if cell_id not in known:
            raise InputError(f'--only: no cell of these grids is "{cell_id}"{nearest(cell_id, known)}')
    return [narrowed for grid in grids if (narrowed := grid.only(cell_ids)).entries]


def machines_of(grids: Sequence[Grid], **changes: Any) -> Machines:
    """The profile's machine settings, each with the changes that are not None. Raises InputError for a bad value."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return grids[0].profile.machines.map(lambda each: MachineSettings.model_validate(each.model_dump() | given))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')}: {explained(first)}") from None


def _finished(grids: Sequence[Grid], store: Store) -> frozenset[str]:
    return store.finished(cell for grid in grids for cell in grid.cells())


def plan(
    grids: Sequence[Grid], workspace: Workspace | None = None, *, machines: Machines | None = None,
    slots: int | None = None, device: str | None = None,
) -> Plan:  # fmt: skip
    """What the grids need and what is still to do; touches neither data nor Ray.

    `slots` is how many cohorts run at a time (default: as many as this machine has CPUs or GPUs for); `device` whose
    calibration prices it (default: this machine's, or the only one that the store has). Raises InputError for a
    device without one, and for a model that the profile describes so that it cannot be made.
    """
    return make_plan(grids, *_planning(grids, workspace, machines, slots, device))


def price(
    grids: Sequence[Grid], workspace: Workspace | None = None, *, machines: Machines | None = None,
    slots: int | None = None, device: str | None = None,
) -> tuple[Plan, dict[str, Forecast]]:  # fmt: skip
    """`plan`, and its forecast beside that of running without cohorts, or grid by grid; empty without calibration."""
    finished, rooms = _planning(grids, workspace, machines, slots, device)
    planned = make_plan(grids, finished, rooms)
    return planned, compare(planned, grids, finished, rooms)


def missing_weights(planned: Plan, weights_folder: str | None = None) -> list[str]:
    """Names of published weights that the pending cells need and this machine has not got. Raises WeightsError."""
    from pld_grid.train import weights

    return weights.missing_weights(planned.pending, weights_folder)


def _planning(
    grids: Sequence[Grid], workspace: Workspace | None, machines: Machines | None, slots: int | None, device: str | None
) -> tuple[frozenset[str], Rooms]:
    """What is finished, and where the rest would run."""
    from pld_grid import schedule

    machines = machines or grids[0].profile.machines
    schedule.check_devices(machines, (cell for grid in grids for cell in grid.cells()))
    store, here = Store((workspace or Workspace.default()).store), local_resources()
    finished = _finished(grids, store)
    pending = (cell for grid in grids for cell in grid.cells() if cell.cell_id not in finished)
    grids[0].profile.check_models(cell.student for cell in pending)

    def room(machine: MachineSettings) -> Room:
        costs = costs_of(store, machine, device)
        if slots is not None:
            return Room(machine, slots, costs)
        named = costs.calibration if device else None
        return Room(machine, named.slots if named else schedule.slots(machine, here), costs)

    return finished, machines.map(room)


def run(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machines: Machines | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    weights_folder: str | None = None,
    grace: float = GRACE,
    console: Console | None = None,
    again: Collection[str] = (),
) -> RunSummary:
    """Trains what the grids need and the store lacks, on a local Ray or the one at `address`.

    Results are in the store, with or without MLflow. In the main thread, Ctrl-C and SIGTERM ask running cohorts to end
    their epoch and keep a checkpoint, for which they have `grace` seconds; a second Ctrl-C does not wait. The running
    cells become `cancelled`.

    Of the finished cells, those named in `again` are trained anew. Their results are set aside, not deleted, and not
    before the cluster is there to make others.

    Raises:
        KeyboardInterrupt: it was stopped.
        ResourceError: a cohort asks for more than the cluster has, or what it will write has no room.
        StoreError: the store cannot be written, or is full.
        WaveStopped: all that was tried first failed with one and the same error.
        InputError: the data folder is missing, a batch cannot be dealt out to the devices of a cohort, the profile
            describes a model that cannot be made, or MLflow cannot take a setting of the environment's.
        WeightsError: published weights are missing, and must not be fetched.
    """
    from pld_grid import schedule
    from pld_grid.train.weights import check_weights

    workspace = workspace or Workspace.default()
    console = console or Console(stderr=True, markup=False, emoji=False)
    machines = machines or grids[0].profile.machines
    told = replace(surroundings(grids, workspace, data_folder, weights_folder), run=uuid.uuid4().hex)
    store = Store(workspace.store)
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    finished = store.finished(cells.values())
    replaced = {cell_id: store.receipt(cell_id) for cell_id in sorted(finished.intersection(again))}
    finished = finished.difference(replaced)
    teachers = {c.teacher.cell_id for i, c in cells.items() if i not in finished and c.teacher is not None}
    for teacher_id in teachers:
        store.check_weights(cells[teacher_id])
    # Only a teacher's receipt can have been set aside, so a finished grid reads its receipts once.
    finished -= {i for i in teachers if store.receipt(i) is None}
    everything = make_plan(grids, finished)
    grids[0].profile.check_models(cell.student for cell in everything.pending)
    schedule.check_devices(machines, everything.pending)
    needed = {machines.of(cell): None for cell in everything.pending}
    if address is None:
        available = local_resources()
        schedule.check_resources(needed, available)
        rooms = _rooms(machines, needed, store, available, address)
        check_space(make_plan(grids, finished, rooms), rooms, workspace)
    fetched = check_weights(everything.pending, weights_folder)
    if needed and address is not None:
        schedule.check_address(address)
    # A setting that MLflow cannot take is told before anything starts, and its import takes no time from the training.
    track.load()
    # Last, as it makes the store's folder.
    store.check_writable()
    store = Store(workspace.store, PATIENCE)
    if fetched:
        console.print(f"published weights that timm will fetch: {listing(fetched)}", soft_wrap=True)
    progress = Progress(everything.pending, len(everything.finished), console)
    with contextlib.ExitStack() as stack:
        current = everything
        if everything.pending:
            stack.enter_context(stoppable(store, told.run, grace, console))
            resources = stack.enter_context(schedule.cluster(address))
            schedule.check_resources(needed, resources)
            if address is not None:
                schedule.check_workers()
            rooms = _rooms(machines, needed, store, resources, address)
            current = make_plan(grids, everything.finished, rooms)
            if address is not None:
                check_space(current, rooms, workspace, here=False)
            if current.forecast is not None:
                expected, slots = duration(current.forecast.seconds), current.forecast.slots
                console.print(f"{len(current.pending)} cells to train, about {expected} with {slots} slots")
                progress.weigh({c.cell_id: rooms.of(c).costs.student(c).seconds for c in current.pending})
            for receipt in replaced.values():
                # Another driver may do the same.
                kept = claims.set_aside(store, receipt, told.run) if receipt is not None else None
                if kept is not None:
                    console.print(f"earlier results kept in {kept}", soft_wrap=True)
        mirror = stack.enter_context(_mirrored(grids, current, store, workspace, console))

        def listener(event: Event) -> None:
            progress.hear(event)
            mirror.mark(event.cell_id)

        if current.pending:
            with progress:
                schedule.run_plan(current, told, listener)
        else:
            console.print(f"Nothing to train: all {len(current.finished)} cells are finished.")
    return RunSummary(
        finished=progress.count("finished") - progress.shared,
        shared=progress.shared,
        failed=progress.count("failed") + progress.count("lost"),
        diverged=progress.count("diverged"),
        finished_before=len(everything.finished),
        seconds=progress.elapsed,
        not_mirrored=mirror.pending(),
    )


def _rooms(
    machines: Machines, needed: Collection[MachineSettings], store: Store, resources: dict[str, float],
    address: str | None,
) -> Rooms:  # fmt: skip
    """Where cohorts run on a cluster of these resources, and at what cost, as far as these machines are needed."""
    from pld_grid import schedule

    def room(machine: MachineSettings) -> Room:
        if machine not in needed:
            return Room(machine)
        device = local_device(machine) if address is None else schedule.inspect(machine).device
        return Room(machine, schedule.slots(machine, resources), Costs(find(store, machine, device), machine))

    return machines.map(room)


@contextlib.contextmanager
def _mirrored(
    grids: Sequence[Grid], plan: Plan, store: Store, workspace: Workspace, console: Console
) -> Iterator[track.Mirrorer]:
    """The mirror at work in the background, with this run as a submission."""
    tracker = track.Tracker(store, workspace.tracking_uri, workspace.experiment)
    mirror = track.Mirrorer(tracker)
    wanted = bool(plan.pending) or not tracker.knows(plan.grids)
    submission_id, submission = track.new_id(), None
    with track.living(store, submission_id) if wanted else contextlib.nullcontext():
        if wanted:
            submission = tracker.start_submission(
                ", ".join(grid.name for grid in grids),
                profile=grids[0].profile.name,
                cells=plan.grids,
                trained=[cell.cell_id for cell in plan.pending],
                summary={k: v for k, v in plan.summary().items() if isinstance(v, int)},
                submission_id=submission_id,
            )
        mirror.start()
        state: Literal["finished", "failed", "cancelled"] = "failed"
        patience = MIRROR_TIMEOUT
        try:
            yield mirror
            missing = [cell for cell in plan.pending if store.receipt(cell) is None]
            state = "failed" if missing else "finished"
        except KeyboardInterrupt:
            state, patience = "cancelled", MIRROR_PATIENCE
            raise
        finally:
            if submission is not None:
                # Of a store that is full or away, what ended the run has been told; this one counts as lost then.
                with contextlib.suppress(StoreError):
                    tracker.end_submission(submission, state)
                mirror.mark(submission.submission_id)
                # Finished cells that a new grid wants get its name by the replay that the mirror begins with.
                for cell in plan.pending:
                    mirror.mark(cell.cell_id)
            left = mirror.close(MIRROR_TIMEOUT, patience)
            if left:
                console.print(
                    f"MLflow at {track.public_uri(workspace.tracking_uri)} lacks {left} runs"
                    f"{_room_in_mlflow(workspace, plan, store)}; they are kept in the store: `pld-grid sync` logs them "
                    "later.",
                    style="yellow",
                    soft_wrap=True,
                )


def _room_in_mlflow(workspace: Workspace, plan: Plan, store: Store) -> str:
    """What the runs that it lacks need, where it may be the disk that is short."""
    if track.database_path(workspace.tracking_uri) is None:
        return ""
    kept = {c.cell_id: m for c in plan.pending if (m := store.mirror(c.cell_id)) is not None}
    lacking = [c for c in plan.pending if c.cell_id not in kept or kept[c.cell_id].state == "unfinished"]
    return f", for which it needs about {size_text(mlflow_bytes(lacking))}"


def grids_of_report(
    folder: str | Path, paths: Sequence[str | Path] = (), profile: str | None = None, *, seeds: int | None = None,
    max_cells: int | None = None,
) -> list[Grid]:  # fmt: skip
    """The grids that a report's folder says it was made of, or those given, with its profile and seeds if none are.

    Grids are looked for by name in `grids/`, here or in the clone. Raises InputError if the folder has no records, or
    there is no such grid or profile.
    """
    origin, _ = report_module.load(folder)
    if odd := [name for name in origin.grids if Path(name).name != name]:
        raise InputError(f"{folder}: its records name a grid {odd[0]!r}, which must be a plain file name without .yaml")
    if profile is None and Path(origin.profile).suffix in (".yaml", ".yml"):
        raise InputError(f"{folder}: its records name a profile {origin.profile!r}, which must be a name without .yaml")
    folders = (Path("grids"), Path(__file__).parent.parent / "grids")
    place = next((each for each in folders if each.is_dir()), folders[0])
    named = [place / f"{name}.yaml" for name in origin.grids]
    seeds = origin.seeds if seeds is None else seeds
    return load_grids(list(paths) or named, profile or origin.profile, seeds=seeds, max_cells=max_cells)


def sync(workspace: Workspace | None = None) -> int:
    """Logs to MLflow what it lacks of the store; returns how many runs that were. Raises TrackingError."""
    workspace = workspace or Workspace.default()
    return track.Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment).sync_all()
