"""What people do with grids: load, plan, run, report, sync. The command line and notebooks call the same functions."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from pld_grid import records as records_module
from pld_grid import report as report_module
from pld_grid import track
from pld_grid.errors import InputError
from pld_grid.events import Event
from pld_grid.grid import MAX_CELLS, Grid
from pld_grid.grid import load_grid as _load_grid
from pld_grid.plan import Plan, make_plan
from pld_grid.profile import MachineSettings, Profile, find_profile
from pld_grid.profile import load_profile as _load_profile
from pld_grid.progress import Progress
from pld_grid.records import Record
from pld_grid.store import Store

FOLDER = Path(".pld_grid")
MIRROR_TIMEOUT = 30.0


@dataclass(frozen=True)
class Workspace:
    """Where results go: a store of receipts and weights, and the MLflow that mirrors it."""

    store: str
    tracking_uri: str
    experiment: str = track.EXPERIMENT

    @classmethod
    def default(cls, store: str | None = None, tracking_uri: str | None = None) -> "Workspace":
        """Flags first, then PLD_GRID_STORE and MLFLOW_TRACKING_URI, then `.pld_grid/` in this folder."""
        return cls(
            store=store or os.environ.get("PLD_GRID_STORE") or str(FOLDER / "store"),
            tracking_uri=tracking_uri or track.default_tracking_uri(FOLDER),
        )


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: counts of cells, seconds, and what MLflow still lacks."""

    finished: int
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
    paths: Sequence[str | Path], profile: str = "digits", *, seeds: int | None = None, max_cells: int = MAX_CELLS
) -> list[Grid]:
    """Reads, checks and expands grids under one profile.

    Raises InputError with file, line, key path, what is wrong and the nearest valid name.
    """
    if not paths:
        raise InputError("no grid was given")
    loaded = load_profile(profile, Path(paths[0]).parent)
    grids: list[Grid] = []
    for path in paths:
        grid = _load_grid(path, loaded, seeds=seeds, max_cells=max_cells)
        if any(grid.name == other.name for other in grids):
            raise InputError(f"{path}: two grids are called {grid.name}")
        # A table that cannot be built should be known before its cells are trained.
        report_module.build_table(grid, {}, paper_folder())
        grids.append(grid)
    return grids


def load_grid(path: str | Path, profile: str = "digits", *, seeds: int | None = None) -> Grid:
    """One grid; see `load_grids`."""
    return load_grids([path], profile, seeds=seeds)[0]


def machine_of(grids: Sequence[Grid], **changes: Any) -> MachineSettings:
    """The profile's machine settings with the changes that are not None. Raises InputError for a bad value."""
    settings = grids[0].profile.machine.model_dump() | {k: v for k, v in changes.items() if v is not None}
    try:
        return MachineSettings.model_validate(settings)
    except ValueError as error:
        first = error.errors()[0] if hasattr(error, "errors") else {"loc": ("machine",), "msg": str(error)}
        flag = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{flag}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def local_resources() -> dict[str, float]:
    """This machine's CPUs and GPUs."""
    import torch

    from pld_grid import schedule

    return {"CPU": float(schedule.local_cpus()), "GPU": float(torch.cuda.device_count())}


def plan(
    grids: Sequence[Grid], workspace: Workspace | None = None, *, machine: MachineSettings | None = None,
    slots: int | None = None,
) -> Plan:  # fmt: skip
    """What the grids need and what is still to do; touches neither data nor Ray.

    `slots` is how many cohorts run at a time (default: as many as this machine has CPUs or GPUs for).
    """
    from pld_grid import schedule

    machine = machine or grids[0].profile.machine
    store = Store((workspace or Workspace.default()).store)
    finished = store.finished(cell for grid in grids for cell in grid.cells())
    slots = slots or schedule.slots(machine, local_resources())
    return make_plan(grids, finished, slots=slots, cohort_size=machine.cohort_size)


def run(
    grids: Sequence[Grid],
    workspace: Workspace | None = None,
    *,
    machine: MachineSettings | None = None,
    address: str | None = None,
    data_folder: str | None = None,
    console: Console | None = None,
) -> RunSummary:
    """Trains what the grids need and the store lacks, on a local Ray or the one at `address`.

    Results are in the store, with or without MLflow. On KeyboardInterrupt the running cells become `cancelled` and
    keep their checkpoints.

    Raises:
        ResourceError: a cohort asks for more than the cluster has.
        StoreError: the store cannot be written.
        InputError: the data folder is missing.
    """
    from pld_grid import schedule
    from pld_grid.train import data
    from pld_grid.train.cohort import Surroundings

    workspace = workspace or Workspace.default()
    console = console or Console(stderr=True)
    machine = machine or grids[0].profile.machine
    try:
        data.check(grids[0].profile.dataset, Path(data_folder) if data_folder else None)
    except data.DataError as error:
        raise InputError(str(error)) from None
    if address is None:
        schedule.check_resources(machine, local_resources())
    store = Store(workspace.store)
    store.check_writable()
    cells = {cell.cell_id: cell for grid in grids for cell in grid.cells()}
    finished = store.finished(cells.values())
    teachers = {c.teacher.cell_id for i, c in cells.items() if i not in finished and c.teacher is not None}
    for teacher_id in teachers:
        store.check_weights(cells[teacher_id])
    # Only a teacher's receipt can have been set aside, so a finished grid reads its receipts once.
    finished -= {i for i in teachers if store.receipt(i) is None}
    everything = make_plan(grids, finished)
    surroundings = Surroundings(
        store=workspace.store if "://" in workspace.store else str(Path(workspace.store).resolve()),
        # Workers start elsewhere.
        data_folder=str(Path(data_folder).resolve()) if data_folder else None,
        machine=machine,
        commit=code_version(),
    )
    progress = Progress(everything.pending, len(everything.finished), console)
    with contextlib.ExitStack() as stack:
        current = everything
        if everything.pending:
            stack.enter_context(_terminated_as_interrupted())
            resources = stack.enter_context(schedule.cluster(address))
            schedule.check_resources(machine, resources)
            slots = schedule.slots(machine, resources)
            current = make_plan(grids, everything.finished, slots=slots, cohort_size=machine.cohort_size)
        mirror = stack.enter_context(_mirrored(grids, current, store, workspace, console))

        def listener(event: Event) -> None:
            progress.hear(event)
            mirror.mark(event.cell_id)

        if current.pending:
            with progress:
                schedule.run_plan(current, surroundings, listener)
        else:
            console.print(f"Nothing to train: all {len(current.finished)} cells are finished.")
    return RunSummary(
        finished=progress.count("finished"),
        failed=progress.count("failed"),
        diverged=progress.count("diverged"),
        finished_before=len(everything.finished),
        seconds=progress.elapsed,
        not_mirrored=mirror.pending(),
    )


@contextlib.contextmanager
def _mirrored(
    grids: Sequence[Grid], plan: Plan, store: Store, workspace: Workspace, console: Console
) -> Iterator[track.Mirrorer]:
    """The mirror at work in the background, with this run as a submission."""
    tracker = track.Tracker(store, workspace.tracking_uri, workspace.experiment)
    mirror = track.Mirrorer(tracker)
    submission = None
    if plan.pending or not tracker.knows(plan.grids):
        submission = tracker.start_submission(
            ", ".join(grid.name for grid in grids),
            profile=grids[0].profile.name,
            cells=plan.grids,
            trained=[cell.cell_id for cell in plan.pending],
            summary={k: v for k, v in plan.summary().items() if isinstance(v, int)},
        )
    mirror.start()
    state: Literal["finished", "failed", "cancelled"] = "failed"
    try:
        yield mirror
        missing = [cell for cell in plan.pending if store.receipt(cell) is None]
        state = "failed" if missing else "finished"
    except KeyboardInterrupt:
        state = "cancelled"
        raise
    finally:
        if submission is not None:
            tracker.end_submission(submission, state)
            mirror.mark(submission.submission_id)
            # Finished cells that a new grid wants get its name by the replay that the mirror begins with.
            for cell in plan.pending:
                mirror.mark(cell.cell_id)
        left = mirror.close(MIRROR_TIMEOUT)
        if left:
            console.print(
                f"MLflow at {track.public_uri(workspace.tracking_uri)} lacks {left} runs; they are kept in the store: "
                "`pld-grid sync` logs them later.",
                style="yellow",
                soft_wrap=True,
            )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: checkpoints kept, cells cancelled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fetch_records(grids: Sequence[Grid], workspace: Workspace, source: Literal["store", "mlflow"]) -> dict[str, Record]:
    """Records of the grids' cells, from the store or from MLflow alone."""
    wanted = list({cell.cell_id: None for grid in grids for cell in grid.cells()})
    if source == "mlflow":
        return track.records(workspace.tracking_uri, workspace.experiment, wanted)
    store = Store(workspace.store)
    mirrored_in = track.Tracker(store, workspace.tracking_uri, workspace.experiment).address
    return records_module.from_store(store, wanted, mirrored_in)


def report(
    grids: Sequence[Grid],
    out: str | Path,
    workspace: Workspace | None = None,
    *,
    source: Literal["store", "mlflow"] = "store",
) -> list[Path]:
    """Writes the grids' tables, their index and provenance into a folder; returns the files that changed."""
    workspace = workspace or Workspace.default()
    found = fetch_records(grids, workspace, source)
    return report_module.write_report(grids, found, out, paper_folder())


def print_tables(
    grids: Sequence[Grid], workspace: Workspace, console: Console, *, source: Literal["store", "mlflow"] = "store"
) -> None:
    """Prints the grids' tables, ours beside the paper's."""
    found = fetch_records(grids, workspace, source)
    for grid in grids:
        report_module.print_table(report_module.build_table(grid, found, paper_folder()), console)


def sync(workspace: Workspace | None = None) -> int:
    """Logs to MLflow what it lacks of the store; returns how many runs that were. Raises TrackingError."""
    workspace = workspace or Workspace.default()
    return track.Tracker(Store(workspace.store), workspace.tracking_uri, workspace.experiment).sync_all()


def paper_folder() -> Path | None:
    """Where the printed figures lie: `reports/paper` here, or beside the package."""
    folders = (Path("reports/paper"), Path(__file__).parent.parent / "reports" / "paper")
    return next((folder for folder in folders if folder.is_dir()), None)


def code_version() -> str:
    """The commit that runs, with `-dirty` if files differ from it; empty if unknown."""
    given = os.environ.get("PLD_GRID_COMMIT")
    if given is not None:
        return given
    answers = []
    for command in (
        # Installed into somebody else's repository, this file is not part of it.
        ["git", "ls-files", "--error-unmatch", __file__],
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode != 0:
            return ""
        answers.append(done.stdout.strip())
    return answers[-1]
