"""`pld-grid why` and `diff`: explain a number by the cells behind it, and compare two cells."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pld_grid.cli import console, options
from pld_grid.util.errors import InputError

if TYPE_CHECKING:
    from pld_grid.explain import Difference, Explanation

What = Annotated[str, typer.Argument(metavar="GRID|CELL", help="A grid's file or name, or a cell's id.")]
RowName = Annotated[str | None, typer.Argument(metavar="ROW", help="A row of its table: any labels that only it has.")]
ColumnName = Annotated[str | None, typer.Argument(metavar="COLUMN", help="A column's header.")]
CellId = Annotated[str, typer.Argument(help="A cell's id, or its first six digits or more.")]


def why(
    what: What,
    workspace_options: options.WorkspaceOptions,
    row: RowName = None,
    column: ColumnName = None,
    profile: options.ProfileName = "digits",
    seeds: options.Seeds = None,
    as_json: options.AsJson = False,
) -> None:
    """Explain a number of a table, or report on a cell: specification, results, run, files, command to train it."""
    from pld_grid import explain

    workspace = workspace_options.resolve()
    if row is None:
        result = explain.why_cell(what, profile=profile, workspace=workspace, seeds=seeds)
    elif column is None:
        raise InputError("a number has a row and a column: pld-grid why GRID ROW COLUMN")
    else:
        result = explain.why(what, row, column, profile=profile, workspace=workspace, seeds=seeds)
    _print(result, as_json)


def diff(
    a: CellId,
    b: CellId,
    workspace_options: options.WorkspaceOptions,
    profile: options.ProfileName = "digits",
    seeds: options.Seeds = None,
    as_json: options.AsJson = False,
) -> None:
    """Show which settings and which results of two cells differ."""
    from pld_grid import explain

    workspace = workspace_options.resolve()
    result = explain.diff(a, b, profile=profile, workspace=workspace, seeds=seeds)
    _print(result, as_json)


def _print(result: "Explanation | Difference", as_json: bool) -> None:
    from pld_grid import explain

    if as_json:
        sys.stdout.write(json.dumps(explain.to_dict(result), indent=2) + "\n")
    else:
        explain.print_result(result, console.output)


COMMANDS = (why, diff)
