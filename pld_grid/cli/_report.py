"""`pld-grid report`: build tables, check them, keep them up to date."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pld_grid.cli import console
from pld_grid.cli._options import (
    DEFAULT_PROFILE,
    Experiment,
    MaxCells,
    OptionalGrids,
    OwnProfile,
    Seeds,
    Source,
    StorePath,
    TrackingUri,
    load,
    workspace_of,
)  # fmt: skip
from pld_grid.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from pld_grid.grid import Grid
    from pld_grid.records import Records


def write_report(
    grids: "list[Grid]", folder: str, workspace: Any, source: Source, publish: bool = False
) -> None:  # fmt: skip
    from pld_grid import api

    changed = api.report(grids, folder, workspace, source=source.value, publish=publish)
    console.output.print(
        f"{folder}: {len(changed)} files written" if changed else f"{folder}: up to date", soft_wrap=True
    )


def check_report(grids: "list[Grid]", folder: str) -> None:
    """Prints what does not follow; exit code 1 if there is any."""
    from pld_grid import api

    differences = api.check_report(grids, folder)
    for difference in differences:
        console.output.print(f"{folder}/{difference}", soft_wrap=True, markup=False, highlight=False)
    if differences:
        raise typer.Exit(1)
    console.output.print(f"{folder} follows from its records", soft_wrap=True)


def watch_report(grids: "list[Grid]", folder: str, workspace: Any, interval: float) -> None:
    """A line per refresh, until there is nothing to wait for."""
    from pld_grid import api

    cells = {cell.cell_id for grid in grids for cell in grid.cells()}

    def tell(records: "Records", changed: "list[Path]") -> None:
        count = Counter(records[i].state if i in records else "not run" for i in cells)
        done = count.pop("finished", 0)
        rest = "".join(f", {number} {state}" for state, number in sorted(count.items()))
        what = f"{len(changed)} files written" if changed else "up to date"
        console.output.print(f"{folder}: {done} of {len(cells)} cells finished{rest}; {what}", soft_wrap=True)

    try:
        api.watch_report(grids, folder, workspace, interval=interval, told=tell)
    except KeyboardInterrupt:
        console.errors.print("no longer watching; the same command goes on")
        raise typer.Exit(130) from None


def report(
    grids: OptionalGrids = None,
    out: Annotated[str, typer.Option(help="Folder to write. \\[default: reports/PROFILE]")] = "",
    profile: OwnProfile = None,
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    source: Annotated[
        Source, typer.Option("--from", help="Take numbers from the store, MLflow, or the report's own records.")
    ] = Source.store,
    check: Annotated[
        bool, typer.Option(help="Write nothing; exit with 1 unless the report there follows from its records.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Write again as cells finish, until all have.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=10**6, help="With --watch: seconds between two looks.")] = 5.0,
    show: Annotated[bool, typer.Option(help="Print the tables too.")] = False,
) -> None:
    """Rebuild tables as CSV and Markdown, ours beside the paper's."""
    from pld_grid import api

    own = check or source is Source.records
    if watch and (own or source is not Source.store):
        raise InputError("--watch: goes with the store's records only, without --check")
    if own:
        folder = out or f"reports/{profile or DEFAULT_PROFILE}"
        loaded = api.grids_of_report(folder, grids or (), profile, seeds=seeds, max_cells=max_cells)
    else:
        loaded = load(grids or [], profile or DEFAULT_PROFILE, seeds, max_cells)
        folder = out or f"reports/{loaded[0].profile.name}"
    if check:
        check_report(loaded, folder)
        return
    workspace = workspace_of(store, tracking_uri, experiment)
    if watch:
        watch_report(loaded, folder, workspace, interval)
    else:
        write_report(loaded, folder, workspace, source)
    if show:
        api.print_tables(loaded, workspace, console.output, source=source.value, folder=folder)
