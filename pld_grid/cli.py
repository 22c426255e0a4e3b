"""`pld-grid`: parse, call the API, print."""

import json
import logging
import os
import subprocess
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pld_grid.errors import CellsFailed, PldGridError

if TYPE_CHECKING:
    from pld_grid.grid import Grid
    from pld_grid.plan import Forecast

app = typer.Typer(
    help="Experiment grids for knowledge distillation: plan, run on Ray, look in MLflow, rebuild the paper's tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
errors = Console(stderr=True)
output = Console()


class Source(StrEnum):
    """Where a report takes its numbers from."""

    store = "store"
    mlflow = "mlflow"


Grids = Annotated[list[str], typer.Argument(metavar="GRID...", help="Grid YAML files.", show_default=False)]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="Profile: a name in grids/profiles, or a file.")]
StorePath = Annotated[
    str | None, typer.Option("--store", help="Store: a folder or fsspec URI. [default: $PLD_GRID_STORE or .pld_grid]")
]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow. [default: $MLFLOW_TRACKING_URI or .pld_grid/mlflow.db]")]
Experiment = Annotated[str | None, typer.Option(help="MLflow experiment. [default: pld_grid]")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Replicates per cell: seeds 0 .. N-1, instead of the grid's.")]
MaxCells = Annotated[int | None, typer.Option(min=1, help="Allow a grid to expand to this many cells.")]
Cpus = Annotated[float | None, typer.Option(help="CPUs per cohort. [default: the profile's]")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster. [default: a local one]")]
DataDir = Annotated[str | None, typer.Option(envvar="PLD_GRID_DATA", help="Folder of the dataset, where it needs one.")]
Gpus = Annotated[float | None, typer.Option(help="GPUs per cohort, may be a fraction. [default: the profile's]")]
CohortSize = Annotated[int | None, typer.Option(help="Most students in one trial. [default: the profile's]")]


def _load(grids: list[str], profile: str, seeds: int | None, max_cells: int | None) -> "list[Grid]":
    from pld_grid import api, grid

    return api.load_grids(grids, profile, seeds=seeds, max_cells=max_cells or grid.MAX_CELLS)


def _workspace(store: str | None, tracking_uri: str | None = None, experiment: str | None = None) -> Any:
    from dataclasses import replace

    from pld_grid import api

    workspace = api.Workspace.default(store, tracking_uri)
    return replace(workspace, experiment=experiment) if experiment else workspace


def _write_report(grids: "list[Grid]", folder: str, workspace: Any, source: Literal["store", "mlflow"]) -> None:
    from pld_grid import api

    changed = api.report(grids, folder, workspace, source=source)
    output.print(f"{folder}: {len(changed)} files written" if changed else f"{folder}: up to date", soft_wrap=True)


@app.command()
def plan(
    grids: Grids,
    profile: ProfileName = "digits",
    store: StorePath = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    cpus_per_cohort: Cpus = None,
    gpus_per_cohort: Gpus = None,
    cohort_size: CohortSize = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Cohorts at a time. [default: what fits here]")] = None,
    device: Annotated[
        str | None, typer.Option(help="Whose calibration prices the plan. [default: this machine's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what grids need, what is finished and what the rest costs, without touching data or Ray."""
    from pld_grid import api

    loaded = _load(grids, profile, seeds, max_cells)
    machine = api.machine_of(
        loaded, cpus_per_cohort=cpus_per_cohort, gpus_per_cohort=gpus_per_cohort, cohort_size=cohort_size
    )
    workspace = _workspace(store)
    summary = api.plan(loaded, workspace, machine=machine, slots=slots, device=device).summary()
    costs = api.compare_costs(loaded, workspace, machine=machine, slots=slots, device=device)
    summary["costs"] = {
        name: {"seconds": cost.seconds, **dict(_device_hours(machine, cost.busy_seconds))}
        for name, cost in costs.items()
    }
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for key, text in (
        ("entries", "table entries"),
        ("student_cells", "distinct student cells"),
        ("teacher_cells", "teacher cells to train"),
        ("teacher_measurements", "published teachers to measure"),
        ("finished", "cells finished"),
        ("pending", "cells to run"),
        ("student_epochs", "student-epochs to run"),
        ("cohorts", "cohorts (Ray trials)"),
        ("waves", "waves"),
    ):
        table.add_row(text, str(summary[key]))
    output.print(table)
    for number, wave in enumerate(summary["schedule"], 1):
        for cohort in wave:
            teacher = f"teacher {cohort['teacher']}" if cohort["teacher"] else "no teacher"
            output.print(f"wave {number}: {len(cohort['cells']):>3} cells, {cohort['epochs']} epochs, {teacher}")
    if summary["pending"]:
        _print_costs(costs, machine)


def _device_hours(machine: Any, busy_seconds: float) -> list[tuple[str, float]]:
    """What busy slots come to: GPU-hours where cohorts have GPUs, else CPU-hours."""
    if machine.gpus_per_cohort:
        return [("gpu_hours", machine.gpus_per_cohort * busy_seconds / 3600)]
    return [("cpu_hours", machine.cpus_per_cohort * busy_seconds / 3600)]


def _print_costs(costs: "dict[str, Forecast]", machine: Any) -> None:
    from pld_grid.progress import duration

    if not costs:
        output.print("cost: not known yet; `pld-grid calibrate` measures these cells on this machine", soft_wrap=True)
        return
    first = costs["as planned"]
    output.print(f"\ncost on {first.device}, {first.slots} cohorts at a time", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("wall-clock", justify="right")
    table.add_column("GPU-hours" if machine.gpus_per_cohort else "CPU-hours", justify="right")
    for name, cost in costs.items():
        ((_, hours),) = _device_hours(machine, cost.busy_seconds)
        table.add_row(name, duration(cost.seconds), f"{hours:.3g}")
    output.print(table)


@app.command()
def calibrate(
    grids: Grids,
    profile: ProfileName = "digits",
    store: StorePath = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    address: Address = None,
    data_dir: DataDir = None,
    cpus_per_cohort: Cpus = None,
    gpus_per_cohort: Gpus = None,
    again: Annotated[bool, typer.Option(help="Measure again what is known already.")] = False,
) -> None:
    """Measure what grids' students, teachers and batches cost here, so that `plan` and `run` know beforehand."""
    from pld_grid import api

    loaded = _load(grids, profile, seeds, max_cells)
    machine = api.machine_of(loaded, cpus_per_cohort=cpus_per_cohort, gpus_per_cohort=gpus_per_cohort)
    errors.print("measuring what is not known yet; up to a second or two for each part")
    calibration, measured = api.calibrate(
        loaded, _workspace(store), machine=machine, address=address, data_folder=data_dir, again=again
    )
    output.print(
        f"{calibration.device}: {len(measured)} parts measured, {len(calibration.rates)} known", soft_wrap=True
    )
    for rate in measured:
        if not rate.fits:
            output.print(f"does not fit into a slot's memory: {rate.what}", soft_wrap=True)


@app.command()
def run(
    grids: Grids,
    profile: ProfileName = "digits",
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    address: Address = None,
    data_dir: DataDir = None,
    cpus_per_cohort: Cpus = None,
    gpus_per_cohort: Gpus = None,
    cohort_size: CohortSize = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Epochs between checkpoints.")] = None,
    report_to: Annotated[str | None, typer.Option("--report", help="Also write the report into this folder.")] = None,
    show: Annotated[bool, typer.Option(help="Print the tables at the end.")] = False,
) -> None:
    """Train what grids need and the store lacks; go on where an earlier run stopped."""
    from pld_grid import api
    from pld_grid.progress import duration

    loaded = _load(grids, profile, seeds, max_cells)
    machine = api.machine_of(
        loaded,
        cpus_per_cohort=cpus_per_cohort,
        gpus_per_cohort=gpus_per_cohort,
        cohort_size=cohort_size,
        checkpoint_every=checkpoint_every,
    )
    workspace = _workspace(store, tracking_uri, experiment)
    try:
        done = api.run(loaded, workspace, machine=machine, address=address, data_folder=data_dir, console=errors)
    except KeyboardInterrupt:
        errors.print("interrupted: checkpoints are kept; the same command goes on from there")
        raise typer.Exit(130) from None
    errors.print(
        f"{done.finished} cells trained in {duration(done.seconds)}, {done.diverged} diverged, {done.failed} "
        f"failed; {done.finished_before} were finished before."
    )
    if report_to:
        _write_report(loaded, report_to, workspace, "store")
    if show:
        api.print_tables(loaded, workspace, output)
    if done.failed:
        raise CellsFailed(f"{done.failed} cells failed; the same command tries them again")


@app.command()
def report(
    grids: Grids,
    out: Annotated[str, typer.Option(help="Folder to write. [default: reports/PROFILE]")] = "",
    profile: ProfileName = "digits",
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    source: Annotated[
        Source, typer.Option("--from", help="Take numbers from the store or from MLflow.")
    ] = Source.store,
    show: Annotated[bool, typer.Option(help="Print the tables too.")] = False,
) -> None:
    """Rebuild tables as CSV and Markdown, ours beside the paper's."""
    from pld_grid import api

    loaded = _load(grids, profile, seeds, max_cells)
    workspace = _workspace(store, tracking_uri, experiment)
    folder = out or f"reports/{loaded[0].profile.name}"
    _write_report(loaded, folder, workspace, source.value)
    if show:
        api.print_tables(loaded, workspace, output, source=source.value)


@app.command()
def sync(store: StorePath = None, tracking_uri: TrackingUri = None, experiment: Experiment = None) -> None:
    """Log to MLflow what it lacks of the store, exactly once."""
    from pld_grid import api

    count = api.sync(_workspace(store, tracking_uri, experiment))
    output.print(f"{count} runs brought up to date" if count else "MLflow is up to date")


@app.command()
def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's UI on the runs."""
    from pld_grid import track

    uri = _workspace(None, tracking_uri).tracking_uri
    command = track.ui_command(uri, port)
    if command is None:
        output.print(f"MLflow's UI is at {track.public_uri(uri)}", soft_wrap=True)
        return
    track.prepare_database(uri)
    output.print(f"MLflow's UI: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    raise typer.Exit(subprocess.run(command).returncode)


def main() -> None:
    """Runs a command; known errors are one line on standard error. Raises SystemExit with the exit code."""
    try:
        app()
    except PldGridError as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(error.exit_code)


def script() -> None:
    """The console script: `main`, and gone at once."""
    try:
        main()
        code: object = 0
    except SystemExit as ended:
        code = ended.code or 0
    if not isinstance(code, int):
        sys.exit(str(code))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking torch and timm apart module by module takes a second or two. What is ours is closed by now.
    os._exit(code)
