"""Options that several commands share, and what they are turned into."""

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from pld_grid.cli import console
from pld_grid.util.errors import InputError

if TYPE_CHECKING:
    from pld_grid.experiment.grid import Grid
    from pld_grid.service.workspace import Workspace


Source = Literal["store", "mlflow", "records"]
DEFAULT_PROFILE = "digits"
Grids = Annotated[
    list[str], typer.Argument(metavar="GRID...", help="Grids: names in grids, or YAML files.", show_default=False)
]
OptionalGrids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[GRID...]",
        help="Grids: names in grids, or YAML files; by default those that the report's records name.",
    ),
]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="Profile: a name in grids/profiles, or a file.")]
OptionalProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="Profile: a name in grids/profiles, or a file. \\[default: digits, or the one in the report's records]",
    ),
]
StorePath = Annotated[
    str | None, typer.Option("--store", help="A folder or fsspec URI. \\[default: $PLD_GRID_STORE or .pld_grid/store]")
]
TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow. \\[default: $MLFLOW_TRACKING_URI or .pld_grid/mlflow.db]")
]
Experiment = Annotated[str | None, typer.Option(help="MLflow experiment. \\[default: pld_grid]")]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=2**31, help="Replicates per cell: seeds 0 .. N-1, instead of the grid's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
MaxCells = Annotated[int | None, typer.Option(min=1, max=10**6, help="Allow a grid to expand to this many cells.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster. \\[default: a local one]")]
_DATA_DIR_HELP = "Folder of the dataset, for datasets that need one."
_WEIGHTS_DIR_HELP = (
    "Folder of published weights, ARCHITECTURE.TAG.safetensors. \\[default: the hub's cache, or a download]"
)
DataDir = Annotated[str | None, typer.Option(envvar="PLD_GRID_DATA", help=_DATA_DIR_HELP)]
WeightsDir = Annotated[str | None, typer.Option(envvar="PLD_GRID_WEIGHTS", help=_WEIGHTS_DIR_HELP)]
# For jobs: the environment variables of this machine do not apply to the cluster's nodes.
DataDirOnNodes = Annotated[str | None, typer.Option("--data-dir", help=_DATA_DIR_HELP)]
WeightsDirOnNodes = Annotated[str | None, typer.Option("--weights-dir", help=_WEIGHTS_DIR_HELP)]


@dataclass(frozen=True)
class WorkspaceOptions:
    """Where results are."""

    store: StorePath = None
    tracking_uri: TrackingUri = None
    experiment: Experiment = None

    def resolve(self, *, creates_store: bool = False) -> "Workspace":
        """Return the workspace of these options, their environment variables and defaults.

        If this folder has no store and one further up has, it says so, unless the command creates a store.

        Raises:
            InputError: no MLflow can have this URI.
        """
        from pld_grid.service.workspace import Workspace, describe_missing_store

        workspace = Workspace.default(self.store, self.tracking_uri, self.experiment)
        _check_tracking_uri(workspace.tracking_uri)
        if not creates_store and (message := describe_missing_store(workspace)):
            console.errors.print(message, soft_wrap=True, highlight=False)
        return workspace


@dataclass(frozen=True)
class GridOptions:
    """Which grids, and how they are expanded."""

    grids: Grids
    profile: ProfileName = DEFAULT_PROFILE
    seeds: Seeds = None
    max_cells: MaxCells = None

    def load(self) -> "list[Grid]":
        """Load the grids. Raises InputError."""
        from pld_grid.service import loading

        return loading.load_grids(self.grids, self.profile, seeds=self.seeds, max_cells=self.max_cells)


@dataclass(frozen=True)
class TrainingOptions:
    """Which cells of the grids to train, how to stop, and what to show."""

    only: Annotated[
        str | None,
        typer.Option(metavar="CELL[,CELL...]", help="Train only these cells, by id, and the teachers that they need."),
    ] = None
    again: Annotated[
        bool, typer.Option("--again", help="With --only: train finished cells again; earlier results are archived.")
    ] = False
    grace: Annotated[
        float | None,
        typer.Option(min=0, max=10**6, help="Seconds that running cohorts have to finish their epoch when stopped."),
    ] = None
    report_to: Annotated[str | None, typer.Option("--report", help="Keep a report in this folder up to date.")] = None
    show: Annotated[bool, typer.Option(help="Print the tables at the end.")] = False

    def parse_cell_ids(self) -> list[str]:
        """Return the ids given with --only. Raises InputError if --again is given without them."""
        if self.again and self.only is None:
            raise InputError("--again: name the cells with --only")
        return [cell_id.strip().lower() for cell_id in self.only.split(",")] if self.only is not None else []


def _machine_option(text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=f"{text} \\[default: the profile's]")
    return option


@dataclass(frozen=True)
class ResourceOptions:
    """Changes to the machine settings that `calibrate` measures with; see MachineSettings."""

    cpus_per_cohort: Annotated[float | None, _machine_option("CPUs per cohort.")] = None
    gpus_per_cohort: Annotated[float | None, _machine_option("GPUs per cohort; may be a fraction.")] = None


@dataclass(frozen=True)
class MachineOptions(ResourceOptions):
    """Changes to the profile's machine settings; see MachineSettings."""

    devices_per_cohort: Annotated[
        int | None, _machine_option("Processes that train a cohort together, each with its own CPUs and GPUs.")
    ] = None
    cohort_size: Annotated[int | None, _machine_option("Maximum number of students in one trial.")] = None
    checkpoint_every: Annotated[int | None, _machine_option("Epochs between checkpoints.")] = None


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter whose type is a dataclass of options by one parameter per field, as typer needs."""
    signature = inspect.signature(command)
    types = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    groups: dict[str, Any] = {name: each for name, each in types.items() if is_dataclass(each)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        expanded = inspect.signature(groups[name]).parameters.values() if name in groups else [parameter]
        parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in expanded]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{each: values.pop(each) for each in inspect.signature(group).parameters})
        command(**values)

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper


def _check_tracking_uri(uri: str) -> None:
    """Raise InputError for a URI that no MLflow can have, which would otherwise fail only when something is logged."""
    from pld_grid.util.redact import public_uri

    shown = public_uri(uri)
    with suppress(ValueError, OSError):
        uri.encode()
        if _is_tracking_uri(shown):
            return
    raise InputError(f'--tracking-uri: "{shown}" is no MLflow: http://HOST:PORT, sqlite:///FILE or postgresql://...')


def _is_tracking_uri(uri: str) -> bool:
    """Return whether MLflow can use a URI. Raises ValueError or OSError for some that it cannot use."""
    parts = urlsplit(uri)
    scheme, _ = parts.scheme.partition("+")[0], parts.port  # raises ValueError for an invalid port
    if scheme in ("http", "https"):
        return bool(parts.hostname)
    if scheme == "postgresql":
        return bool(parts.netloc + parts.path)
    # A query would select another driver, without the database lock. MLflow tries for minutes to open a folder.
    file = Path(uri.removeprefix("sqlite:///"))
    is_plain = uri.startswith("sqlite:///") and not parts.query and bool(parts.path.strip("/"))
    return is_plain and (file.is_file() or not file.exists())
