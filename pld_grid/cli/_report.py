"""`pld-grid report`: build tables, check them, keep them up to date."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pld_grid.cli import console, options
from pld_grid.util.errors import InputError

if TYPE_CHECKING:
    from pld_grid.experiment.grid import Grid
    from pld_grid.service.workspace import Workspace
    from pld_grid.store.records import Records


def report(
    workspace_options: options.WorkspaceOptions,
    grids: options.OptionalGrids = None,
    out: Annotated[str, typer.Option(help="Folder to write. \\[default: reports/PROFILE]")] = "",
    profile: options.OptionalProfile = None,
    seeds: options.Seeds = None,
    max_cells: options.MaxCells = None,
    source: Annotated[
        options.Source, typer.Option("--from", help="Take numbers from the store, MLflow, or the report's own records.")
    ] = "store",
    check: Annotated[
        bool, typer.Option(help="Write nothing; exit with 1 unless the report's files follow from its records.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Write again as cells finish, until all have ended.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=10**6, help="With --watch: seconds between two reads of the store.")
    ] = 5.0,
    show: Annotated[bool, typer.Option(help="Print the tables too.")] = False,
) -> None:
    """Rebuild tables as CSV and Markdown, beside the paper's."""
    from pld_grid.service import loading, report_writer

    from_records = check or source == "records"
    if watch and (from_records or source != "store"):
        raise InputError("--watch: goes with the store's records only, without --check")
    if from_records:
        folder = out or f"reports/{profile or options.DEFAULT_PROFILE}"
        loaded = loading.load_report_grids(folder, grids or (), profile, seeds=seeds, max_cells=max_cells)
    else:
        loaded = loading.load_grids(grids or [], profile or options.DEFAULT_PROFILE, seeds=seeds, max_cells=max_cells)
        folder = out or f"reports/{loaded[0].profile.name}"
    if check:
        check_report(loaded, folder)
        return
    workspace = workspace_options.resolve()
    if watch:
        watch_report(loaded, folder, workspace, interval)
    else:
        write_report(loaded, folder, workspace, source)
    if show:
        report_writer.print_tables(loaded, workspace, console.output, source=source, folder=folder)


def write_report(
    grids: "list[Grid]", folder: str, workspace: "Workspace", source: options.Source, publish: bool = False
) -> None:
    """Write a report and print how many files changed."""
    from pld_grid.service import report_writer

    changed = report_writer.write_report(grids, folder, workspace, source=source, publish=publish)
    console.output.print(f"{folder}: {_describe_changes(len(changed))}", soft_wrap=True)


def check_report(grids: "list[Grid]", folder: str) -> None:
    """Print differences between a report and its records; exit with 1 if there are any."""
    from pld_grid.service import report_writer

    differences = report_writer.check_report(grids, folder)
    for difference in differences:
        console.output.print(f"{folder}/{difference}", soft_wrap=True, highlight=False)
    if differences:
        raise typer.Exit(1)
    console.output.print(f"{folder} follows from its records", soft_wrap=True)


def watch_report(grids: "list[Grid]", folder: str, workspace: "Workspace", interval: float) -> None:
    """Keep a report up to date and print a line per refresh."""
    from pld_grid.service import report_writer

    cells = {cell.cell_id for grid in grids for cell in grid.cells()}

    def print_progress(records: "Records", changed: list[Path]) -> None:
        count = Counter(records[i].state if i in records else "not run" for i in cells)
        finished = count.pop("finished", 0)
        others = "".join(f", {number} {state}" for state, number in sorted(count.items()))
        line = f"{folder}: {finished} of {len(cells)} cells finished{others}; {_describe_changes(len(changed))}"
        console.output.print(line, soft_wrap=True)

    with console.exit_on_interrupt("no longer watching; the same command continues"):
        report_writer.watch_report(grids, folder, workspace, interval=interval, on_refresh=print_progress)


def _describe_changes(changed: int) -> str:
    return f"{changed} files written" if changed else "up to date"


COMMANDS = (report,)
