"""Submit grids to a Ray cluster: a job that runs `pld-grid run` in a copy of the working directory."""

import getpass
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pld_grid.experiment.grid import Grid, find_grid
from pld_grid.orchestrate.ray_jobs import MAX_PACKAGE_BYTES, Job, JobClient
from pld_grid.service import loading
from pld_grid.service.workspace import FOLDER, Workspace, code_version
from pld_grid.util.atomic_files import temporary_folder
from pld_grid.util.errors import InputError
from pld_grid.util.redact import public_store_uri, public_uri
from pld_grid.util.shipped_files import is_path
from pld_grid.util.text import one_line

JOB_PREFIX = "pld-grid-"
GRACE_SECONDS = 300.0
# Between the end of the grace period and SIGKILL, the driver writes the states of cells and finishes logging.
_CLEANUP_SECONDS = 60
_MAX_NAMED_FILES = 3
_READ_BY_ALL = "a job's command can be read by all"
_NEVER_SHIPPED = {".git", ".venv", "venv", "__pycache__", "mlruns", "mlartifacts", FOLDER.name}


@dataclass(frozen=True)
class SubmittedJob:
    """A job on a cluster; `attached` if the same owner submitted these cells before and that job still runs."""

    job_id: str
    attached: bool
    cells: int


def describe_submitter() -> str:
    """Return user@host, the owner of the jobs that this machine submits."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"  # containers may have no entry for the user
    return one_line(f"{user}@{platform.node()}")


def find_latest_job(client: JobClient, *, own: bool) -> Job:
    """Return the latest job of this user, or anybody's if the user has none and `own` is false.

    Raises InputError if there is none.
    """
    jobs = client.list(JOB_PREFIX)
    if not jobs:
        raise InputError(f"no grid was submitted to {client.address} yet")
    owner = describe_submitter()
    own_jobs = [job for job in jobs if job.owner == owner]
    if own and not own_jobs:
        raise InputError(f"no job at {client.address} is of {owner}; name one (`pld-grid list` has all)")
    return (own_jobs or jobs)[-1]


def submit(
    paths: Sequence[str | Path],
    profile: str = "digits",
    workspace: Workspace | None = None,
    *,
    address: str,
    seeds: int | None = None,
    max_cells: int | None = None,
    cell_ids: Sequence[str] = (),
    machine: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> SubmittedJob:
    """Run grids as a job on a cluster, with the files of the current folder.

    The job's name is derived from the cells and the workspace. If its owner submits the same cells again while it runs,
    this returns the running job. After it has ended, a new job continues from its results. Each owner has jobs of their
    own: jobs that run at the same time share the work through the store.

    Args:
        paths: grid files inside the current folder, or names of grids that the cluster's installation has too.
        profile: name of the profile, or its file inside the current folder.
        workspace: a store and an MLflow that every node reaches. Passwords belong in the cluster's environment.
        address: the dashboard, http://HEAD:8265.
        seeds: number of replicates per cell, instead of the grid's own seeds.
        max_cells: limit on the cells of one grid.
        cell_ids: the cells to train, with the teachers that they need; default: all.
        machine: changes to the profile's machine settings, by name.
        options: further options of `pld-grid run`, by name.
        grace_seconds: how long running cohorts have to finish their epoch when the job is stopped.

    Raises:
        InputError: a grid is wrong or outside the folder, the workspace would end with the job, or the folder is too
            large to send.
        ResourceError: the cluster cannot be reached, or authentication fails.
    """
    workspace = workspace or Workspace.default()
    machine = machine or {}
    grids = loading.load_grids(paths, profile, seeds=seeds, max_cells=max_cells)
    loading.resolve_machines(grids, machine)
    if cell_ids:
        grids = loading.select_cells(grids, cell_ids)
    _check_workspace(workspace)
    files = [_name_in_job(path) for path in paths]
    if Path(profile).suffix:
        profile = _relative_name(profile)
    selection = {"profile": profile, "seeds": seeds, "max_cells": max_cells, "only": ",".join(cell_ids) or None}
    job_options = {"address": "auto", "grace": f"{grace_seconds:g}", **asdict(workspace)}
    run_options = _format_options({**selection, **machine, **(options or {}), **job_options})
    command = ["python", "-m", "pld_grid", "run", *files, *run_options]
    return _start_or_attach(JobClient(address), grids, workspace, command, grace_seconds)


def _start_or_attach(
    client: JobClient, grids: Sequence[Grid], workspace: Workspace, command: list[str], grace_seconds: float
) -> SubmittedJob:
    """Send the current folder and start a command in it, unless the owner's job for these cells still runs."""
    name, owner = make_job_name(grids, workspace), describe_submitter()
    cells = len({cell.cell_id for grid in grids for cell in grid.cells()})
    environment = {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(grace_seconds) + _CLEANUP_SECONDS),
        "PLD_GRID_COMMIT": code_version(),
        "PYTHONUNBUFFERED": "1",
    }
    metadata = {
        "owner": owner,
        "grids": ", ".join(grid.name for grid in grids),
        "profile": grids[0].profile.name,
        "cells": str(cells),
        "store": workspace.store,
        "mlflow": public_uri(workspace.tracking_uri),
    }
    running, number = _find_running(client, name, owner)
    if running is None:
        with temporary_folder("pld_grid-submit-") as stage:
            _stage(Path.cwd(), Path(stage), MAX_PACKAGE_BYTES)
            job = (command, Path(stage), environment, metadata)
            while running is None and not client.submit(f"{name}-{number}", *job):
                # Another submission took this number: it may be the same owner's, on another machine.
                running, number = _find_running(client, name, owner)
    job_id = running.job_id if running is not None else f"{name}-{number}"
    return SubmittedJob(job_id, attached=running is not None, cells=cells)


def _format_options(values: Mapping[str, Any]) -> list[str]:
    """Return a command line's options; those that are None or False are left out."""
    arguments: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            arguments += [option] if value is True else [option, str(value)]
    return arguments


def _find_running(client: JobClient, name: str, owner: str) -> tuple[Job | None, int]:
    """Return the owner's running job of that name, if any, and the number of the next job."""
    jobs = client.list(name)
    running = [job for job in jobs if job.running and job.owner == owner]
    # Ray accepts each id once, even after its job has ended; some ended jobs may have been deleted.
    numbers = [job.job_id.removeprefix(f"{name}-") for job in jobs]
    number = max((int(number) for number in numbers if number.isdecimal()), default=0) + 1
    return (running[-1] if running else None), number


def make_job_name(grids: Sequence[Grid], workspace: Workspace) -> str:
    """Return the prefix of the ids of all jobs that train these cells in this workspace."""
    content = {
        "grids": {grid.name: sorted(cell.cell_id for cell in grid.cells()) for grid in grids},
        "store": workspace.store,
        "mlflow": public_uri(workspace.tracking_uri),
        "experiment": workspace.experiment,
    }
    return JOB_PREFIX + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _check_workspace(workspace: Workspace) -> None:
    """Raise InputError for places that would end with the job, or that show a password in its command."""
    store, uri = workspace.store, workspace.tracking_uri
    if "://" not in store and not Path(store).is_absolute():
        raise InputError(
            f"--store: {store} would end with the job; give a folder (from /) or URI that every node reaches"
        )
    if uri == f"sqlite:///{(FOLDER / 'mlflow.db').absolute()}":
        raise InputError("--tracking-uri: give an MLflow that the cluster reaches, such as http://HOST:5000")
    public, public_store = public_uri(uri), public_store_uri(store)
    if public != uri:
        raise InputError(
            f"--tracking-uri: {_READ_BY_ALL}; leave user and password out of {public} and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster"
        )
    if public_store != store:
        raise InputError(
            f"--store: {_READ_BY_ALL}; leave the password out of {public_store} and set on the cluster "
            "what its file system reads from there (AWS_SECRET_ACCESS_KEY, or fsspec's own settings)"
        )


def _name_in_job(grid: str | Path) -> str:
    """Return how a job names a grid: by its file in the current folder, or by name if it ships with the package."""
    file = find_grid(grid)
    return str(grid) if file.is_absolute() and not is_path(grid) else _relative_name(file)


def _relative_name(path: str | Path) -> str:
    """Return a file's name inside the current folder, in a form that cannot be taken for an option."""
    try:
        name = str(Path(path).resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        raise InputError(f"{path}: outside this folder, whose files are sent to the cluster") from None
    return f"./{name}" if name.startswith("-") else name


def list_shipped_files(folder: Path) -> list[Path]:
    """Return the files that are sent to the cluster, relative to a folder.

    These are the files that git would take; outside a repository, all but environments and results. Links are left out,
    since they may lead anywhere.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=folder, capture_output=True
    )
    if listed.returncode == 0:
        names = {Path(name) for name in os.fsdecode(listed.stdout).split("\0") if name}
    else:
        names = {path.relative_to(folder) for path in folder.rglob("*")}
    kept = (path for path in names if not _NEVER_SHIPPED.intersection(path.parts))
    # git also lists deleted files, and other repositories as folders.
    return sorted(path for path in kept if (folder / path).is_file() and not (folder / path).is_symlink())


def _stage(folder: Path, stage: Path, limit: int) -> None:
    """Copy the shipped files. Raises InputError before anything is sent if they exceed `limit` bytes."""
    sizes = {path: (folder / path).stat().st_size for path in list_shipped_files(folder)}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_MAX_NAMED_FILES]
        named = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise InputError(
            f"this folder has {total / 2**20:.0f} MiB to send, Ray takes {limit / 2**20:.0f}; the largest: {named}; "
            "data belongs on the nodes (--data-dir), other files in .gitignore"
        )
    for path in sizes:
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / path, stage / path)
