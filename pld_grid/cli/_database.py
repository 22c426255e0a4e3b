"""`pld-grid db`: the database behind an MLflow server."""

from typing import Annotated

import typer

from pld_grid.cli import console
from pld_grid.cli._options import workspace_of

app = typer.Typer(help="Prepare the database behind an MLflow server.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `upgrade` a command of its own: an app of one command would be that command."""


@app.command()
def upgrade(
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_BACKEND_STORE_URI",
            show_envvar=False,
            help="Database: postgresql://... or sqlite:///... "
            r"\[default: $MLFLOW_BACKEND_STORE_URI, $MLFLOW_TRACKING_URI or .pld_grid/mlflow.db]",
        ),
    ] = None,
) -> None:
    """Make MLflow's schema in a database, or bring it up to date; any number may do so at once."""
    from pld_grid import track

    uri = workspace_of(None, tracking_uri).tracking_uri
    before, after = track.upgrade_database(uri)
    done = "made" if before is None else "up to date" if before == after else f"upgraded from {before}"
    line = f"{track.public_uri(uri)}: schema {done} (revision {after})"
    console.output.print(line, soft_wrap=True, markup=False, highlight=False)
