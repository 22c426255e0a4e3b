"""`pld-grid submit`, `status`, `logs`, `stop` and `list`: grids as jobs on a Ray cluster."""

import functools
import re
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pld_grid.cli import console, options
from pld_grid.util.errors import CellsFailed, InputError
from pld_grid.util.redact import public_uri

if TYPE_CHECKING:
    from pld_grid.orchestrate.ray_jobs import Job, JobClient

Dashboard = Annotated[str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")]
JobId = Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id. \\[default: your latest]")]
LOCAL_DASHBOARD = "http://127.0.0.1:8265"
# A line of the driver's progress, such as "[ 3/13] finished ...".
_PROGRESS = re.compile(r"^(\[ *\d+/\d+\])", re.MULTILINE)


def submit(
    grid_options: options.GridOptions,
    workspace_options: options.WorkspaceOptions,
    training: options.TrainingOptions,
    machine: options.MachineOptions,
    address: Dashboard = LOCAL_DASHBOARD,
    data_dir: options.DataDirOnNodes = None,
    weights_dir: options.WeightsDirOnNodes = None,
) -> None:
    """Run grids as a job on a cluster, with the files of this folder. Takes the options of `run`."""
    from pld_grid.service import job_submission

    report = training.report_to
    if report and not report.startswith("/"):
        raise InputError(f"--report: {report} would end with the job; give a folder from /, or use `pld-grid report`")
    job = job_submission.submit(
        grid_options.grids,
        grid_options.profile,
        workspace_options.resolve(),
        address=address,
        seeds=grid_options.seeds,
        max_cells=grid_options.max_cells,
        cell_ids=training.parse_cell_ids(),
        machine=asdict(machine),
        options={
            "data_dir": data_dir,
            "weights_dir": weights_dir,
            "again": training.again,
            "report": report,
            "show": training.show,
        },
        grace_seconds=job_submission.GRACE_SECONDS if training.grace is None else training.grace,
    )
    outcome = "is running these grids already" if job.attached else f"submitted: {job.cells} cells"
    console.output.print(f"{job.job_id} {outcome}", soft_wrap=True, highlight=False)
    follow = f"pld-grid logs -f {job.job_id} --address {public_uri(address)}"
    console.errors.print(follow, soft_wrap=True, style="dim")


def status(job: JobId = None, address: Dashboard = LOCAL_DASHBOARD) -> None:
    """Show the state and progress of a job."""
    client, selected = _find_job(job, address)
    progress = _PROGRESS.findall(client.logs(selected.job_id))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("job", selected.job_id),
        ("state", _state(selected)),
        *selected.metadata.items(),
        ("started", _format_time(selected.started)),
        ("ended", _format_time(selected.ended)),
        ("progress", progress[-1] if progress else "-"),
    ):
        table.add_row(name, value)
    console.output.print(table)


def logs(
    job: JobId = None,
    address: Dashboard = LOCAL_DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job ends.")] = False,
) -> None:
    """Print the output of a job's driver; with -f until the job ends, with exit code 1 if it fails."""
    client, selected = _find_job(job, address)
    if not follow:
        sys.stdout.write(client.logs(selected.job_id))
        return
    ended = client.follow(selected.job_id, functools.partial(print, end="", flush=True))
    if ended.state == "FAILED":
        raise CellsFailed(f"{ended.job_id} failed: {ended.message.partition(chr(10))[0] or 'see its logs'}")


def stop(job: JobId = None, address: Dashboard = LOCAL_DASHBOARD) -> None:
    """Stop a job after its running cohorts have saved a checkpoint; a later submit continues from there."""
    client, selected = _find_job(job, address, own=True)
    if not selected.running:
        console.output.print(f"{selected.job_id} has ended before: {_state(selected)}", soft_wrap=True, highlight=False)
        return
    console.errors.print("stopping: running cohorts finish their epoch first", style="dim")
    ended = client.stop(selected.job_id)
    console.output.print(f"{ended.job_id} {_state(ended)}", soft_wrap=True, highlight=False)


def list_jobs(address: Dashboard = LOCAL_DASHBOARD) -> None:
    """List the jobs of grids on a cluster, oldest first."""
    from pld_grid.orchestrate.ray_jobs import JobClient
    from pld_grid.service import job_submission

    jobs = JobClient(address).list(job_submission.JOB_PREFIX)
    if not jobs:
        console.output.print("no jobs")
        return
    columns = ("job", "state", "owner", "grids", "profile", "started")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for job in jobs:
        grids, profile = job.metadata.get("grids", ""), job.metadata.get("profile", "")
        table.add_row(job.job_id, _state(job), job.owner, grids, profile, _format_time(job.started))
    console.output.print(table)


def _find_job(job_id: str | None, address: str, *, own: bool = False) -> "tuple[JobClient, Job]":
    """Return the client and a job by its id, or the latest; see `job_submission.find_latest_job`."""
    from pld_grid.orchestrate.ray_jobs import JobClient
    from pld_grid.service import job_submission

    client = JobClient(address)
    return client, job_submission.find_latest_job(client, own=own) if job_id is None else client.get(job_id)


def _state(job: "Job") -> str:
    return job.state.lower()


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


COMMANDS = (submit, status, logs, stop, list_jobs)
