"""`pld-grid run`: train the cells that are missing."""

import contextlib
from dataclasses import asdict

from pld_grid.cli import console, options
from pld_grid.cli._report import write_report
from pld_grid.util.errors import CellsFailed


def run(
    grid_options: options.GridOptions,
    workspace_options: options.WorkspaceOptions,
    training: options.TrainingOptions,
    machine: options.MachineOptions,
    address: options.Address = None,
    data_dir: options.DataDir = None,
    weights_dir: options.WeightsDir = None,
) -> None:
    """Train what grids need and the store lacks; continue where an earlier run stopped."""
    from pld_grid.service import loading, report_writer, runner
    from pld_grid.util.text import format_duration

    cell_ids = training.parse_cell_ids()
    grids = grid_options.load()
    machines = loading.resolve_machines(grids, asdict(machine))
    selected = loading.select_cells(grids, cell_ids) if cell_ids else grids
    workspace = workspace_options.resolve(creates_store=True)
    report = training.report_to
    refreshed = report_writer.keep_refreshed(grids, report, workspace) if report else contextlib.nullcontext()
    with (
        console.exit_on_interrupt("interrupted: checkpoints are kept; the same command continues from there"),
        refreshed,
    ):
        summary = runner.run(
            selected,
            workspace,
            machines=machines,
            address=address,
            data_folder=data_dir,
            weights_folder=weights_dir,
            grace_seconds=runner.GRACE_SECONDS if training.grace is None else training.grace,
            console=console.errors,
            retrain=cell_ids if training.again else (),
        )
    console.errors.print(
        f"{summary.finished} cells trained in {format_duration(summary.seconds)}, "
        + (f"{summary.shared} by other runs, " if summary.shared else "")
        + f"{summary.diverged} diverged, {summary.failed} failed; {summary.finished_before} were finished before."
    )
    if report:
        write_report(grids, report, workspace, "store", publish=True)
    if training.show:
        report_writer.print_tables(grids, workspace, console.output)
    if summary.failed:
        raise CellsFailed(f"{summary.failed} cells failed; the same command tries them again")


COMMANDS = (run,)
