"""`pld-grid why` and `diff`: the cells behind a number, and what tells two cells apart."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pld_grid.cli import console
from pld_grid.cli._options import Experiment, ProfileName, Seeds, StorePath, TrackingUri, workspace_of
from pld_grid.errors import InputError

if TYPE_CHECKING:
    from pld_grid.explain import Difference, Explanation

What = Annotated[str, typer.Argument(metavar="GRID|CELL", help="A grid's file or name; or a cell's id.")]
RowName = Annotated[str | None, typer.Argument(metavar="ROW", help="A row of its table: texts that only it has.")]
ColumnName = Annotated[str | None, typer.Argument(metavar="COLUMN", help="A column's header.")]
CellId = Annotated[str, typer.Argument(help="A cell's id, or its first six digits or more.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def why(
    what: What,
    row: RowName = None,
    column: ColumnName = None,
    profile: ProfileName = "digits",
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    as_json: AsJson = False,
) -> None:
    """Show what is behind a number of a table, or all about a cell: specification, results, run, files, rerun."""
    from pld_grid import explain

    workspace = workspace_of(store, tracking_uri, experiment)
    if row is None:
        found = explain.why_cell(what, profile=profile, workspace=workspace, seeds=seeds)
    elif column is None:
        raise InputError("a number has a row and a column: pld-grid why GRID ROW COLUMN")
    else:
        found = explain.why(what, row, column, profile=profile, workspace=workspace, seeds=seeds)
    if as_json:
        _write_json(found)
    else:
        explain.print_explanation(found, console.output)


def diff(
    a: CellId,
    b: CellId,
    profile: ProfileName = "digits",
    store: StorePath = None,
    tracking_uri: TrackingUri = None,
    experiment: Experiment = None,
    seeds: Seeds = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two cells, and in their results."""
    from pld_grid import explain

    workspace = workspace_of(store, tracking_uri, experiment)
    found = explain.diff(a, b, profile=profile, workspace=workspace, seeds=seeds)
    if as_json:
        _write_json(found)
    else:
        explain.print_difference(found, console.output)


def _write_json(found: "Explanation | Difference") -> None:
    from pld_grid import explain

    sys.stdout.write(json.dumps(explain.plain(found), indent=2) + "\n")
