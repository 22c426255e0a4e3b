"""Experiment grids for knowledge distillation on Ray: load, plan, run, report.

    import pld_grid

    grids = pld_grid.load_grids(["grids/table07.yaml"], profile="digits")
    print(pld_grid.plan(grids).summary())
    pld_grid.run(grids)
    pld_grid.write_report(grids, "reports/digits")

Importing this loads nothing else: each name loads its module when it is first used, and functions load torch, Ray and
MLflow when they need them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pld_grid.experiment.cell import Cell
    from pld_grid.service.job_submission import SubmittedJob, submit
    from pld_grid.service.loading import load_grid, load_grids
    from pld_grid.service.mirroring import sync
    from pld_grid.service.planner import plan
    from pld_grid.service.report_writer import write_report
    from pld_grid.service.runner import RunSummary, run
    from pld_grid.service.workspace import Workspace
    from pld_grid.util.errors import InputError, PldGridError

__all__ = [
    "Cell",
    "InputError",
    "PldGridError",
    "RunSummary",
    "SubmittedJob",
    "Workspace",
    "load_grid",
    "load_grids",
    "plan",
    "run",
    "submit",
    "sync",
    "write_report",
]

# The command line imports this package too, so nothing is imported before it is used.
_HOMES = {
    "Cell": "experiment.cell",
    "InputError": "util.errors",
    "PldGridError": "util.errors",
    "RunSummary": "service.runner",
    "SubmittedJob": "service.job_submission",
    "Workspace": "service.workspace",
    "load_grid": "service.loading",
    "load_grids": "service.loading",
    "plan": "service.planner",
    "run": "service.runner",
    "submit": "service.job_submission",
    "sync": "service.mirroring",
    "write_report": "service.report_writer",
}

# For type checkers, a name that is not imported above is an error.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
