"""`pld-grid plan` and `calibrate`: what grids need and what it costs."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pld_grid.cli import console
from pld_grid.cli._options import (
    Address,
    CohortSize,
    Cpus,
    DataDir,
    Devices,
    Gpus,
    Grids,
    MaxCells,
    ProfileName,
    Seeds,
    StorePath,
    WeightsDir,
    load,
    workspace_of,
)  # fmt: skip
from pld_grid.errors import listing

if TYPE_CHECKING:
    from pld_grid.plan import Forecast


def plan(
    grids: Grids,
    profile: ProfileName = "digits",
    store: StorePath = None,
    seeds: Seeds = None,
    max_cells: MaxCells = None,
    cpus_per_cohort: Cpus = None,
    gpus_per_cohort: Gpus = None,
    devices_per_cohort: Devices = None,
    cohort_size: CohortSize = None,
    weights_dir: WeightsDir = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=10**6, help="Cohorts at a time. \\[default: what fits here]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Whose calibration prices the plan. \\[default: this machine's]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what grids need, what is finished and what the rest costs, without touching data or Ray."""
    from pld_grid import api

    loaded = load(grids, profile, seeds, max_cells)
    machines = api.machines_of(
        loaded, cpus_per_cohort=cpus_per_cohort, gpus_per_cohort=gpus_per_cohort,
        devices_per_cohort=devices_per_cohort, cohort_size=cohort_size,
    )  # fmt: skip
    planned, costs = api.price(loaded, workspace_of(store), machines=machines, slots=slots, device=device)
    summary = planned.summary()
    summary["missing_weights"] = api.missing_weights(planned, weights_dir)
    summary["costs"] = {
        name: {"seconds": cost.seconds, "gpu_hours": cost.gpu_seconds / 3600, "cpu_hours": cost.cpu_seconds / 3600}
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
    console.output.print(table)
    for number, wave in enumerate(summary["schedule"], 1):
        for cohort in wave:
            teacher = f"teacher {cohort['teacher']}" if cohort["teacher"] else "no teacher"
            place = f", on {cohort['accelerator']}" if cohort["accelerator"] else ""
            console.output.print(
                f"wave {number}: {len(cohort['cells']):>3} cells, {cohort['epochs']} epochs, {teacher}{place}"
            )
    if summary["missing_weights"]:
        missing = f"published weights that are not on this machine: {listing(summary['missing_weights'])}"
        console.output.print(missing, soft_wrap=True, highlight=False)
    if summary["pending"]:
        _print_costs(costs)


def _print_costs(costs: "dict[str, Forecast]") -> None:
    from pld_grid.progress import duration

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
        table.add_row(name, duration(cost.seconds), f"{hours:.3g}")
    console.output.print(table)


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

    loaded = load(grids, profile, seeds, max_cells)
    machines = api.machines_of(loaded, cpus_per_cohort=cpus_per_cohort, gpus_per_cohort=gpus_per_cohort)
    found = api.calibrate(
        loaded, workspace_of(store), machines=machines, address=address, data_folder=data_dir, again=again,
        begin=lambda: console.errors.print("measuring what is not known yet; up to a second or two for each part"),
    )  # fmt: skip
    for calibration, measured in found:
        console.output.print(
            f"{calibration.device}: {len(measured)} parts measured, {len(calibration.rates)} known", soft_wrap=True
        )
        for rate in measured:
            if not rate.fits:
                console.output.print(f"does not fit into a slot's memory: {rate.what}", soft_wrap=True)
