"""`pld-grid sync`, `ui` and `db`: MLflow, its UI, and the database behind an MLflow server."""

import os
import subprocess
from typing import Annotated

import typer

from pld_grid.cli import console, options
from pld_grid.util.redact import public_uri

database = typer.Typer(help="Prepare the database behind an MLflow server.", no_args_is_help=True)


def sync(workspace_options: options.WorkspaceOptions) -> None:
    """Log to MLflow everything that it lacks of the store, each epoch once."""
    from pld_grid.service import mirroring

    count = mirroring.sync(workspace_options.resolve())
    console.output.print(f"{count} runs brought up to date" if count else "MLflow is up to date")


def ui(
    tracking_uri: options.TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's UI on the runs."""
    from pld_grid.track.database import prepare_database
    from pld_grid.track.tracking_uri import ui_command

    uri = options.WorkspaceOptions(tracking_uri=tracking_uri).resolve().tracking_uri
    served = ui_command(uri, port)
    if served is None:
        console.output.print(f"MLflow's UI is at {public_uri(uri)}", soft_wrap=True)
        return
    prepare_database(uri)
    console.output.print(f"MLflow's UI: http://127.0.0.1:{port}  (Ctrl-C stops it)")
    command, environment = served
    raise typer.Exit(subprocess.run(command, env=os.environ | environment).returncode)


@database.callback()
def _group() -> None:
    """Keep `upgrade` a subcommand: typer makes an app with one command that command."""


@database.command()
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
    """Create or upgrade MLflow's schema in a database; several processes may do so at the same time."""
    from pld_grid.track.database import upgrade_database

    uri = options.WorkspaceOptions(tracking_uri=tracking_uri).resolve().tracking_uri
    before, after = upgrade_database(uri)
    outcome = "made" if before is None else "up to date" if before == after else f"upgraded from {before}"
    line = f"{public_uri(uri)}: schema {outcome} (revision {after})"
    console.output.print(line, soft_wrap=True, markup=False, highlight=False)


COMMANDS = (sync, ui)
