"""`pld-grid plan` and `calibrate`: the cells that grids need, and their cost."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pld_grid.cli import console, options
from pld_grid.util.text import join_names

if TYPE_CHECKING:
    from pld_grid.planning.plan import Forecast


_SUMMARY_LABELS = {
    "entries": "table entries",
    "student_cells": "distinct student cells",
    "teacher_cells": "teacher cells to train",
    "teacher_measurements": "published teachers to measure",
    "finished": "cells finished",
    "pending": "cells to run",
    "student_epochs": "student-epochs to run",
    "cohorts": "cohorts (Ray trials)",
    "waves": "waves",
}


def plan(
    grid_options: options.GridOptions,
    machine: options.MachineOptions,
    store: options.StorePath = None,
    weights_dir: options.WeightsDir = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Number of concurrent cohorts. \\[default: what fits here]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device whose calibration gives the cost. \\[default: this machine's]")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show which cells grids need, which are finished, and the cost of the others, without touching data or Ray."""
    from pld_grid.planning.plan import compare
    from pld_grid.service import loading, planner
    from pld_grid.train.weights import missing_weights

    grids = grid_options.load()
    machines = loading.resolve_machines(grids, asdict(machine))
    workspace = options.WorkspaceOptions(store).resolve()
    planned = planner.plan(grids, workspace, machines=machines, slots=slots, device=device)
    costs = compare(planned, grids)
    summary = planned.summary()
    summary["missing_weights"] = missing_weights(planned.pending, weights_dir)
    summary["costs"] = {
        name: {"seconds": cost.seconds, "gpu_hours": cost.gpu_seconds / 3600, "cpu_hours": cost.cpu_seconds / 3600}
        for name, cost in costs.items()
    }
    if as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        return
    _print_summary(summary)
    if summary["pending"]:
        _print_costs(costs)


def _print_summary(summary: dict[str, Any]) -> None:
    """Print counts, cohorts by wave, and missing weights."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for key, label in _SUMMARY_LABELS.items():
        table.add_row(label, str(summary[key]))
    console.output.print(table)
    for number, wave in enumerate(summary["schedule"], 1):
        for cohort in wave:
            teacher = f"teacher {cohort['teacher']}" if cohort["teacher"] else "no teacher"
            place = f", on {cohort['accelerator']}" if cohort["accelerator"] else ""
            console.output.print(
                f"wave {number}: {len(cohort['cells']):>3} cells, {cohort['epochs']} epochs, {teacher}{place}"
            )
    if summary["missing_weights"]:
        missing = f"published weights that are not on this machine: {join_names(summary['missing_weights'])}"
        console.output.print(missing, soft_wrap=True, highlight=False)


def _print_costs(costs: "dict[str, Forecast]") -> None:
    from pld_grid.util.text import format_duration

    if not costs:
        console.output.print(
            "cost: not known yet; `pld-grid calibrate` measures these cells on this machine", soft_wrap=True
        )
        return
    first = costs["as planned"]
    console.output.print(f"\ncost on {first.device}, {first.slots} cohorts at a time", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("wall-clock", justify="right")
    on_gpus = bool(first.gpu_seconds)
    table.add_column("GPU-hours" if on_gpus else "CPU-hours", justify="right")
    for name, cost in costs.items():
        hours = (cost.gpu_seconds if on_gpus else cost.cpu_seconds) / 3600
        table.add_row(name, format_duration(cost.seconds), f"{hours:.3g}")
    console.output.print(table)


def calibrate(
    grid_options: options.GridOptions,
    machine: options.ResourceOptions,
    store: options.StorePath = None,
    address: options.Address = None,
    data_dir: options.DataDir = None,
    again: Annotated[bool, typer.Option(help="Also measure what is known already.")] = False,
) -> None:
    """Measure the cost of grids' students, teachers and batches here, for the estimates of `plan` and `run`."""
    from pld_grid.service import calibrator, loading
    from pld_grid.service.workspace import describe_missing_store

    grids = grid_options.load()
    machines = loading.resolve_machines(grids, asdict(machine))
    workspace = options.WorkspaceOptions(store).resolve(creates_store=True)
    new_store = describe_missing_store(workspace, creates=True)

    def print_start() -> None:
        if new_store:
            console.errors.print(new_store, soft_wrap=True, highlight=False)
        console.errors.print("measuring what is not known yet: one or two seconds for each part")

    results = calibrator.calibrate(
        grids,
        workspace,
        machines=machines,
        address=address,
        data_folder=data_dir,
        remeasure=again,
        on_start=print_start,
    )
    for calibration, measured in results:
        console.output.print(
            f"{calibration.device}: {len(measured)} parts measured, {len(calibration.rates)} known", soft_wrap=True
        )
        for rate in measured:
            if not rate.fits:
                console.output.print(f"does not fit into a slot's memory: {rate.what}", soft_wrap=True)


COMMANDS = (plan, calibrate)
