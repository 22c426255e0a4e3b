"""`pld-grid check-data`: compare a profile's dataset with its published classes and sizes."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pld_grid.cli import console, options


def check_data(
    profile: options.ProfileName = "digits",
    data_dir: options.DataDir = None,
    sample: Annotated[int, typer.Option(min=1, help="Images of each split to decode, spread over the classes.")] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="Decode every image, with all cores.")] = False,
) -> None:
    """Check a profile's dataset: classes, split sizes, and whether its images can be decoded."""
    from pld_grid.service import loading
    from pld_grid.train import data

    loaded = loading.load_profile(profile)
    folder = Path(data_dir) if data_dir else None
    workers = len(os.sched_getaffinity(0)) if everything else 0
    checks = data.inspect(loaded.dataset, loaded.recipe, folder, None if everything else sample, workers)
    problems = [check.problem for check in checks if check.problem]
    table = Table(loaded.dataset.name, "found", "expected", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for check in checks:
        table.add_row(check.name, check.actual, check.expected, style="red" if check.problem else None)
    console.output.print(table)
    for problem in problems:
        console.output.print(problem, soft_wrap=True, markup=False, highlight=False)
    if problems:
        raise data.DataError(problems[0])


COMMANDS = (check_data,)
