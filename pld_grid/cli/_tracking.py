"""`pld-grid sync` and `ui`: the MLflow that mirrors the store."""

import os
import subprocess
from typing import Annotated

import typer

from pld_grid.cli import console
from pld_grid.cli._options import Experiment, StorePath, TrackingUri, workspace_of


def sync(store: StorePath = None, tracking_uri: TrackingUri = None, experiment: Experiment = None) -> None:
    """Log to MLflow what it lacks of the store, exactly once."""
    from pld_grid import api

    count = api.sync(workspace_of(store, tracking_uri, experiment))
    console.output.print(f"{count} runs brought up to date" if count else "MLflow is up to date")


def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's UI on the runs."""
    from pld_grid import track

    uri = workspace_of(None, tracking_uri).tracking_uri
    found = track.ui_command(uri, port)
    if found is None:
        console.output.print(f"MLflow's UI is at {track.public_uri(uri)}", soft_wrap=True)
        return
    track.prepare_database(uri)
    console.output.print(f"MLflow's UI: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    command, environment = found
    raise typer.Exit(subprocess.run(command, env=os.environ | environment).returncode)
