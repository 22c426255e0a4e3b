"""Experiment grids for knowledge distillation on Ray: load, plan, run, report.

    import pld_grid

    grids = pld_grid.load_grids(["grids/table07.yaml"], profile="digits")
    print(pld_grid.plan(grids).summary())
    pld_grid.run(grids)
    pld_grid.report(grids, "reports/digits")

Importing this loads no torch, Ray or MLflow; the functions do when they need them.
"""

from pld_grid.api import RunSummary, Workspace, load_grid, load_grids, plan, report, run, sync
from pld_grid.errors import InputError, PldGridError
from pld_grid.jobs import Submission, submit
from pld_grid.spec import Cell

__all__ = [
    "Cell",
    "InputError",
    "PldGridError",
    "RunSummary",
    "Submission",
    "Workspace",
    "load_grid",
    "load_grids",
    "plan",
    "report",
    "run",
    "submit",
    "sync",
]
