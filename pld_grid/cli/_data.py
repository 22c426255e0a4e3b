"""`pld-grid check-data`: is a profile's dataset what it should be?"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pld_grid.cli import console
from pld_grid.cli._options import DataDir, ProfileName


def check_data(
    profile: ProfileName = "digits",
    data_dir: DataDir = None,
    sample: Annotated[int, typer.Option(min=1, help="Images of each split to decode, spread over the classes.")] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="Decode every image, with all cores.")] = False,
) -> None:
    """Check a profile's dataset: classes, split sizes, and whether its images can be decoded."""
    from pld_grid import api
    from pld_grid.train import data

    loaded = api.load_profile(profile)
    folder = Path(data_dir) if data_dir else None
    workers = len(os.sched_getaffinity(0)) if everything else 0
    findings = data.inspect(loaded.dataset, loaded.recipe, folder, None if everything else sample, workers)
    problems = [finding.problem for finding in findings if finding.problem]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in (loaded.dataset.name, "found", "expected"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.expected, style="red" if finding.problem else None)
    console.output.print(table)
    for problem in problems:
        console.output.print(problem, soft_wrap=True, markup=False, highlight=False)
    if problems:
        raise data.DataError(problems[0])
