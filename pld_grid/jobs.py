"""Submitting grids to a Ray cluster: the working directory goes there, and `pld-grid run` runs in it as a job."""

import getpass
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pld_grid import api, track
from pld_grid.errors import InputError
from pld_grid.files import temporary_folder
from pld_grid.grid import Grid
from pld_grid.reading import one_line
from pld_grid.uris import public_store_uri
from pld_grid.workspace import FOLDER, Workspace, code_version

if TYPE_CHECKING:
    from pld_grid.schedule import Job, Jobs

PREFIX = "pld-grid-"
GRACE = 300.0
# Between the end of the grace and SIGKILL: for the states of cells and what MLflow still lacks.
_CLOSING_SECONDS = 60
_LARGEST_NAMED = 3
_NEVER = {".git", ".venv", "venv", "__pycache__", "mlruns", "mlartifacts", FOLDER.name}


@dataclass(frozen=True)
class Submission:
    """A job on the cluster; `attached` if it is an earlier one of the same owner's that runs the same grids."""

    job_id: str
    attached: bool
    cells: int


def connect(address: str) -> "Jobs":
    """The jobs of a cluster. Raises ResourceError if it cannot be reached or wants another token."""
    from pld_grid.schedule import Jobs

    return Jobs(address)


def submitter() -> str:
    """Whose the jobs are that are submitted from here: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"  # in a container, whose users need no names
    return one_line(f"{user}@{platform.node()}")


def latest(known: "Jobs", *, own: bool) -> "Job":
    """The latest job of one's own; anybody's if one has none, unless it has to be `own`.

    Raises InputError if there is none.
    """
    found = known.list(PREFIX)
    if not found:
        raise InputError(f"no grid was submitted to {known.address} yet")
    ours = [job for job in found if job.owner == submitter()]
    if own and not ours:
        raise InputError(f"no job at {known.address} is of {submitter()}; name one (`pld-grid list` has all)")
    return (ours or found)[-1]


def submit(
    paths: Sequence[str | Path],
    profile: str = "digits",
    workspace: Workspace | None = None,
    *,
    address: str,
    seeds: int | None = None,
    max_cells: int | None = None,
    only: Sequence[str] = (),
    machine: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    grace: float = GRACE,
) -> Submission:
    """Has a cluster run grids, from this folder's files, which are sent there.

    The job's name comes from the cells and the workspace. While it runs, its owner gets it again by submitting the same
    grids; once it has ended, another one goes on from its results. Others get a job of their own, which they can stop
    without harm to anybody: all that run share the work by the store, and each cell is trained once.

    Args:
        paths: grids inside the current folder.
        workspace: a store and an MLflow that every node reaches; passwords belong to the cluster's environment.
        address: the dashboard, http://HEAD:8265.
        only: ids of the cells to train, with the teachers that they need; all by default.
        machine: machine settings that `arguments` change, to be checked before anything is sent.
        arguments: more options of `pld-grid run`, as it takes them.
        grace: seconds that running cohorts have to end their epoch when the job is stopped.

    Raises:
        InputError: a grid is wrong or outside the folder, the workspace would not outlive the job, too much to send.
        ResourceError: the cluster cannot be reached, or wants another token.
    """
    workspace = workspace or Workspace.default()
    grids = api.load_grids(paths, profile, seeds=seeds, max_cells=max_cells)
    api.machines_of(grids, **machine or {})
    if only:
        grids = api.only(grids, only)
    _check_workspace(workspace)
    here = Path.cwd()
    inside = [_inside(path, here) for path in paths]
    if Path(profile).suffix:
        profile = _inside(profile, here)
    jobs = connect(address)
    name, owner = job_name(grids, workspace), submitter()
    running, number = _standing(jobs, name, owner)
    cells = len({cell.cell_id for grid in grids for cell in grid.cells()})
    if running is not None:
        return Submission(running.job_id, attached=True, cells=cells)
    command = ["python", "-m", "pld_grid", "run", *inside, "--profile", profile]
    command += ["--seeds", str(seeds)] if seeds else []
    command += ["--only", ",".join(only)] if only else []
    command += [*arguments, "--address", "auto", "--grace", f"{grace:g}", "--store", workspace.store]
    command += ["--tracking-uri", workspace.tracking_uri, "--experiment", workspace.experiment]
    environment = {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(grace) + _CLOSING_SECONDS),
        "PLD_GRID_COMMIT": code_version(),
        "PYTHONUNBUFFERED": "1",
    }
    metadata = {
        "owner": owner,
        "grids": ", ".join(grid.name for grid in grids),
        "profile": grids[0].profile.name,
        "cells": str(cells),
        "store": workspace.store,
        "mlflow": track.public_uri(workspace.tracking_uri),
    }
    from pld_grid.schedule import size_limit

    with temporary_folder("pld_grid-submit-") as folder:
        _stage(here, Path(folder), size_limit())
        while not jobs.submit(f"{name}-{number}", command, Path(folder), environment, metadata):
            # Somebody was faster: the owner elsewhere, or another one.
            running, number = _standing(jobs, name, owner)
            if running is not None:
                return Submission(running.job_id, attached=True, cells=cells)
    return Submission(f"{name}-{number}", attached=False, cells=cells)


def _standing(jobs: "Jobs", name: str, owner: str) -> "tuple[Job | None, int]":
    """The owner's running job of that name, if there is one; and the number that the next one gets."""
    found = jobs.list(name)
    running = [job for job in found if job.running and job.owner == owner]
    # Ray takes each name once, even after its job is over; those of some may have been deleted.
    number = max((_number(job.job_id, name) for job in found), default=0) + 1
    return (running[-1] if running else None), number


def _number(job_id: str, name: str) -> int:
    """Which of the jobs of one name it is."""
    number = job_id.removeprefix(f"{name}-")
    return int(number) if number.isdecimal() else 0


def job_name(grids: Sequence[Grid], workspace: Workspace) -> str:
    """The name that all jobs of these cells in this workspace begin with."""
    content = {
        "grids": {grid.name: sorted(cell.cell_id for cell in grid.cells()) for grid in grids},
        "store": workspace.store,
        "mlflow": track.public_uri(workspace.tracking_uri),
        "experiment": workspace.experiment,
    }
    return PREFIX + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _check_workspace(workspace: Workspace) -> None:
    """Raises InputError for places that end with the job or show a password in its command."""
    store, uri = workspace.store, workspace.tracking_uri
    if "://" not in store and not Path(store).is_absolute():
        raise InputError(
            f"--store: {store} would end with the job; give a folder (from /) or URI that every node reaches"
        )
    if uri == f"sqlite:///{(FOLDER / 'mlflow.db').absolute()}":
        raise InputError("--tracking-uri: give an MLflow that the cluster reaches, such as http://HOST:5000")
    public = track.public_uri(uri)
    if public != uri:
        raise InputError(
            f"--tracking-uri: a job's command can be read by all; leave user and password out of {public} and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster"
        )
    public = public_store_uri(store)
    if public != store:
        raise InputError(
            f"--store: a job's command can be read by all; leave the password out of {public} and set on the cluster "
            "what its file system reads from there (AWS_SECRET_ACCESS_KEY, or fsspec's own settings)"
        )


def _inside(path: str | Path, folder: Path) -> str:
    """A file's name inside a folder, which no program takes for an option."""
    try:
        name = str(Path(path).resolve().relative_to(folder.resolve()))
    except ValueError:
        raise InputError(f"{path}: outside this folder, whose files are what the cluster gets") from None
    return f"./{name}" if name.startswith("-") else name


def shipped_files(folder: Path) -> list[Path]:
    """What goes to the cluster, relative to a folder: what git would take, or all but environments and results."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=folder, capture_output=True
    )
    if listed.returncode == 0:
        found = {Path(name) for name in os.fsdecode(listed.stdout).split("\0") if name}
    else:
        found = set()
        for at, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name not in _NEVER]
            found |= {(Path(at) / name).relative_to(folder) for name in files}
    kept = (path for path in found if not _NEVER.intersection(path.parts))
    # A link may lead anywhere; git's list has files that are gone, and other repositories as folders.
    return sorted(path for path in kept if (folder / path).is_file() and not (folder / path).is_symlink())


def _stage(folder: Path, stage: Path, limit: int) -> None:
    """Copies what is shipped. Raises InputError before anything is sent if it is too much."""
    files = shipped_files(folder)
    sizes = {path: (folder / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_LARGEST_NAMED]
        named = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise InputError(
            f"this folder has {total / 2**20:.0f} MiB to send, Ray takes {limit / 2**20:.0f}; the largest: {named}; "
            "data belongs on the nodes (--data-dir), other files into .gitignore"
        )
    for path in files:
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / path, stage / path)
