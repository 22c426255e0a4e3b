"""`pld-grid run`: train what is missing."""

import contextlib
from typing import Annotated

import typer

from pld_grid.cli import console
from pld_grid.cli._options import (
    Address,
    CohortSize,
    Cpus,
    DataDir,
    Devices,
    Experiment,
    Gpus,
    Grace,
    Grids,
    MaxCells,
    ProfileName,
    Seeds,
    Source,
    StorePath,
    TrackingUri,
    WeightsDir,
    cell_ids,
    check_again,
    load,
    workspace_of,
)  # fmt: skip
from pld_grid.cli._report import write_report
from pld_grid.errors import CellsFailed


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
    weights_dir: WeightsDir = None,
    cpus_per_cohort: Cpus = None,
    gpus_per_cohort: Gpus = None,
    devices_per_cohort: Devices = None,
    cohort_size: CohortSize = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="CELL[,CELL...]", help="Train just these cells, by id, and the teachers that they need."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="With --only: even if they are finished; earlier results are set aside.")
    ] = False,
    checkpoint_every: Annotated[int | None, typer.Option(help="Epochs between checkpoints.")] = None,
    grace: Grace = None,
    report_to: Annotated[str | None, typer.Option("--report", help="Keep a report in this folder up to date.")] = None,
    show: Annotated[bool, typer.Option(help="Print the tables at the end.")] = False,
) -> None:
    """Train what grids need and the store lacks; go on where an earlier run stopped."""
    from pld_grid import api
    from pld_grid.progress import duration

    check_again(again, only)
    loaded = load(grids, profile, seeds, max_cells)
    chosen = cell_ids(only)
    machines = api.machines_of(
        loaded,
        cpus_per_cohort=cpus_per_cohort,
        gpus_per_cohort=gpus_per_cohort,
        devices_per_cohort=devices_per_cohort,
        cohort_size=cohort_size,
        checkpoint_every=checkpoint_every,
    )
    workspace = workspace_of(store, tracking_uri, experiment)
    wanted = api.only(loaded, chosen) if chosen else loaded
    following = api.refreshed(loaded, report_to, workspace) if report_to else contextlib.nullcontext()
    try:
        with following:
            done = api.run(
                wanted, workspace, machines=machines, address=address, data_folder=data_dir,
                weights_folder=weights_dir, grace=api.GRACE if grace is None else grace, console=console.errors,
                again=chosen if again else (),
            )  # fmt: skip
    except KeyboardInterrupt:
        console.errors.print("interrupted: checkpoints are kept; the same command goes on from there")
        raise typer.Exit(130) from None
    console.errors.print(
        f"{done.finished} cells trained in {duration(done.seconds)}, "
        + (f"{done.shared} by other runs, " if done.shared else "")
        + f"{done.diverged} diverged, {done.failed} failed; {done.finished_before} were finished before."
    )
    if report_to:
        write_report(loaded, report_to, workspace, Source.store, publish=True)
    if show:
        api.print_tables(loaded, workspace, console.output)
    if done.failed:
        raise CellsFailed(f"{done.failed} cells failed; the same command tries them again")
