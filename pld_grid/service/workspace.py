"""Where a run happens: its store and MLflow, this machine's resources, and the version of the code."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pld_grid.experiment.grid import Grid
from pld_grid.orchestrate.resources import local_cpus
from pld_grid.track.tracking_uri import EXPERIMENT, default_tracking_uri
from pld_grid.train.run_context import RunContext
from pld_grid.util.errors import InputError
from pld_grid.util.text import one_line

FOLDER = Path(".pld_grid")


@dataclass(frozen=True)
class Workspace:
    """Where results go: a store of receipts and weights, and the MLflow that mirrors it."""

    store: str
    tracking_uri: str
    experiment: str = EXPERIMENT

    @classmethod
    def default(
        cls, store: str | None = None, tracking_uri: str | None = None, experiment: str | None = None
    ) -> "Workspace":
        """Return these places; missing ones come from PLD_GRID_STORE and MLFLOW_TRACKING_URI, then `.pld_grid/`."""
        return cls(
            store=store or os.environ.get("PLD_GRID_STORE") or str(FOLDER / "store"),
            tracking_uri=tracking_uri or default_tracking_uri(FOLDER),
            experiment=experiment or EXPERIMENT,
        )


def describe_missing_store(workspace: Workspace, *, creates: bool = False) -> str:
    """Return a line for the user if the default store does not exist in this folder.

    Args:
        workspace: its store; the line is empty for a store that is not the default one.
        creates: whether the store is about to be created. Otherwise the line is empty unless a folder further up has a
            store, which the user may have meant.
    """
    store = FOLDER / "store"
    if workspace.store != str(store) or store.exists():
        return ""
    above = next((path for parent in Path.cwd().parents if (path := parent / store).is_dir()), None)
    hint = f"to use the one further up: --store {shlex.quote(str(above))}" if above else ""
    if creates:
        return f"new store: {store.absolute()} ({hint or 'another place: --store'})"
    return hint and f"no store in this folder ({hint})"


def local_resources() -> dict[str, float]:
    """Return this machine's CPUs and GPUs."""
    import torch

    return {"CPU": float(local_cpus()), "GPU": float(torch.cuda.device_count())}


def make_run_context(
    grids: Sequence[Grid], workspace: Workspace, data_folder: str | None, weights_folder: str | None = None
) -> RunContext:
    """Return what workers need to know, with absolute paths. Raises InputError if the data folder is missing."""
    from pld_grid.train import data

    try:
        data.check_folder(grids[0].profile.dataset, Path(data_folder) if data_folder else None)
    except data.DataError as error:
        raise InputError(str(error)) from None
    return RunContext(
        store=workspace.store if "://" in workspace.store else _resolve("--store", workspace.store),
        data_folder=_resolve("--data-dir", data_folder) if data_folder else None,
        weights_folder=_resolve("--weights-dir", weights_folder) if weights_folder else None,
        commit=code_version(),
    )


def _resolve(option: str, path: str) -> str:
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError) as error:
        raise InputError(one_line(f"{option}: {path}: {getattr(error, 'strerror', None) or error}")) from None


def code_version() -> str:
    """Return the running commit, with `-dirty` if files differ from it or the package has others; empty if unknown.

    PLD_GRID_COMMIT replaces it.
    """
    commit = os.environ.get("PLD_GRID_COMMIT")
    if commit is not None:
        return one_line(commit)
    try:
        # When installed inside another project's repository, this file is not tracked there.
        _git("ls-files", "--error-unmatch", __file__)
        commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        # `--dirty` does not count files that git does not track, such as a new loss.
        added = _git("ls-files", "--others", "--exclude-standard", str(Path(__file__).parents[1]))
        return f"{commit}-dirty" if added and not commit.endswith("-dirty") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
