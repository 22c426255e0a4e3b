"""Where a run happens: its store and MLflow, this machine's resources, and the code that runs."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pld_grid import track
from pld_grid.errors import InputError
from pld_grid.grid import Grid
from pld_grid.reading import one_line

if TYPE_CHECKING:
    from pld_grid.train.surroundings import Surroundings

FOLDER = Path(".pld_grid")


@dataclass(frozen=True)
class Workspace:
    """Where results go: a store of receipts and weights, and the MLflow that mirrors it."""

    store: str
    tracking_uri: str
    experiment: str = track.EXPERIMENT

    @classmethod
    def default(cls, store: str | None = None, tracking_uri: str | None = None) -> "Workspace":
        """Flags first, then PLD_GRID_STORE and MLFLOW_TRACKING_URI, then `.pld_grid/` in this folder."""
        return cls(
            store=store or os.environ.get("PLD_GRID_STORE") or str(FOLDER / "store"),
            tracking_uri=tracking_uri or track.default_tracking_uri(FOLDER),
        )


def local_resources() -> dict[str, float]:
    """This machine's CPUs and GPUs."""
    import torch

    from pld_grid import schedule

    return {"CPU": float(schedule.local_cpus()), "GPU": float(torch.cuda.device_count())}


def surroundings(
    grids: Sequence[Grid], workspace: Workspace, data_folder: str | None, weights_folder: str | None = None
) -> "Surroundings":  # fmt: skip
    """What workers are told, in paths that hold elsewhere. Raises InputError if the data folder is missing."""
    from pld_grid.train import data
    from pld_grid.train.surroundings import Surroundings

    try:
        data.check(grids[0].profile.dataset, Path(data_folder) if data_folder else None)
    except data.DataError as error:
        raise InputError(str(error)) from None
    return Surroundings(
        store=workspace.store if "://" in workspace.store else _resolved("--store", workspace.store),
        data_folder=_resolved("--data-dir", data_folder) if data_folder else None,
        weights_folder=_resolved("--weights-dir", weights_folder) if weights_folder else None,
        commit=code_version(),
    )


def _resolved(flag: str, path: str) -> str:
    try:
        return str(Path(path).resolve())
    except (OSError, RuntimeError) as error:
        raise InputError(one_line(f"{flag}: {path}: {getattr(error, 'strerror', None) or error}")) from None


def code_version() -> str:
    """The commit that runs, with `-dirty` if files differ from it; empty if unknown."""
    given = os.environ.get("PLD_GRID_COMMIT")
    if given is not None:
        # It goes into receipts.
        return one_line(given)
    answers = []
    for command in (
        # Installed into somebody else's repository, this file is not part of it.
        ["git", "ls-files", "--error-unmatch", __file__],
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    ):
        try:
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode != 0:
            return ""
        answers.append(done.stdout.strip())
    return answers[-1]
