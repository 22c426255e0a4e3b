"""Options that several commands have, and what they are turned into."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from pld_grid.errors import InputError

if TYPE_CHECKING:
    from pld_grid.grid import Grid


class Source(StrEnum):
    """Where a report takes its numbers from."""

    store = "store"
    mlflow = "mlflow"
    records = "records"


Grids = Annotated[list[str], typer.Argument(metavar="GRID...", help="Grid YAML files.", show_default=False)]
OptionalGrids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[GRID...]", help="Grid YAML files; a report's own, if left out where it is read."),
]
DEFAULT_PROFILE = "digits"
OwnProfile = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help="Profile: a name in grids/profiles, or a file. \\[default: digits, or a report's own]"
    ),
]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="Profile: a name in grids/profiles, or a file.")]
StorePath = Annotated[
    str | None, typer.Option("--store", help="Store: a folder or fsspec URI. \\[default: $PLD_GRID_STORE or .pld_grid]")
]
TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow. \\[default: $MLFLOW_TRACKING_URI or .pld_grid/mlflow.db]")
]
Experiment = Annotated[str | None, typer.Option(help="MLflow experiment. \\[default: pld_grid]")]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=2**31, help="Replicates per cell: seeds 0 .. N-1, instead of the grid's.")
]
MaxCells = Annotated[int | None, typer.Option(min=1, max=10**6, help="Allow a grid to expand to this many cells.")]
Cpus = Annotated[float | None, typer.Option(help="CPUs per cohort. \\[default: the profile's]")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster. \\[default: a local one]")]
DataDir = Annotated[str | None, typer.Option(envvar="PLD_GRID_DATA", help="Folder of the dataset, where it needs one.")]
WeightsDir = Annotated[
    str | None,
    typer.Option(
        envvar="PLD_GRID_WEIGHTS",
        help="Folder of published weights, ARCHITECTURE.TAG.safetensors. \\[default: the hub's cache, or a download]",
    ),
]
Devices = Annotated[int | None, typer.Option(help="Processes, each with its CPUs and GPUs, that train a cohort.")]
Gpus = Annotated[float | None, typer.Option(help="GPUs per cohort, may be a fraction. \\[default: the profile's]")]
Grace = Annotated[
    float | None,
    typer.Option(min=0, max=10**6, help="Seconds that running cohorts have to end their epoch when stopped."),
]
CohortSize = Annotated[int | None, typer.Option(help="Most students in one trial. \\[default: the profile's]")]


def cell_ids(given: str | None) -> list[str]:
    return [cell_id.strip().lower() for cell_id in given.split(",")] if given is not None else []


def load(grids: list[str], profile: str, seeds: int | None, max_cells: int | None) -> "list[Grid]":
    from pld_grid import api

    return api.load_grids(grids, profile, seeds=seeds, max_cells=max_cells)


def check_again(again: bool, only: str | None) -> None:
    """Raises InputError if everything is to be trained again, which nobody means."""
    if again and only is None:
        raise InputError("--again: name the cells with --only")


def _check_tracking_uri(uri: str) -> None:
    """Raises InputError for what can be no MLflow, which would show only when something is logged."""
    from pld_grid import track

    shown = track.public_uri(uri)
    try:
        parts = urlsplit(shown)
        kind, _ = parts.scheme.partition("+")[0], parts.port
        known: dict[str, object] = {
            "http": parts.hostname,
            "https": parts.hostname,
            "postgresql": parts.netloc + parts.path,
        }
        # MLflow tries for minutes to open a folder, and would put a file in a device's place.
        file = Path(shown.removeprefix("sqlite:///"))
        # Of another driver, or with settings, it would be a database without our lock.
        plain = shown.startswith("sqlite:///") and not parts.query
        known["sqlite"] = plain and parts.path.strip("/") and (file.is_file() or not file.exists())
        # Bytes of the command line that are no text cannot be told to any database.
        uri.encode()
    except (ValueError, OSError):
        kind, known = "", {}
    if not known.get(kind):
        raise InputError(
            f'--tracking-uri: "{shown}" is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://...'
        )


def workspace_of(store: str | None, tracking_uri: str | None = None, experiment: str | None = None) -> Any:
    from dataclasses import replace

    from pld_grid import api

    workspace = api.Workspace.default(store, tracking_uri)
    _check_tracking_uri(workspace.tracking_uri)
    return replace(workspace, experiment=experiment) if experiment else workspace
