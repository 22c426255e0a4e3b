"""`pld-grid submit`, `status`, `logs`, `stop` and `list`: grids as jobs on a Ray cluster."""

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from pld_grid.cli import console
from pld_grid.cli._options import cell_ids, check_again, workspace_of
from pld_grid.errors import CellsFailed, InputError
from pld_grid.uris import public_uri

if TYPE_CHECKING:
    from pld_grid.schedule import Job, Jobs

Dashboard = Annotated[str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")]
JobId = Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id. \\[default: your latest]")]
HERE = "http://127.0.0.1:8265"
# A line of the driver's progress, as in "[ 3/13] finished ...".
_PROGRESS = re.compile(r"^\[ *\d+/\d+\]", re.MULTILINE)
# Options of `run` that change the profile's machine settings.
_OF_MACHINE = ("cpus_per_cohort", "gpus_per_cohort", "devices_per_cohort", "cohort_size", "checkpoint_every")
# What the job is told anyway, and what would be lost with the job's folder.
_OURS = {"address", "store", "tracking_uri", "experiment", "grace"}


def submit(ctx: typer.Context, address: Dashboard = HERE) -> None:
    """Have a cluster run grids, with this folder's files: takes what `run` takes."""
    from pld_grid import jobs

    given, rest = _as_for_run(ctx)
    check_again(given["again"], given["only"])
    workspace = workspace_of(given["store"], given["tracking_uri"], given["experiment"])
    submission = jobs.submit(
        given["grids"],
        given["profile"],
        workspace,
        address=address,
        seeds=given["seeds"],
        max_cells=given["max_cells"],
        machine={name: given[name] for name in _OF_MACHINE},
        only=cell_ids(given["only"]),
        arguments=rest,
        grace=jobs.GRACE if given["grace"] is None else given["grace"],
    )
    said = "is running these grids already" if submission.attached else f"submitted: {submission.cells} cells"
    console.output.print(f"{submission.job_id} {said}", soft_wrap=True, highlight=False)
    follow = f"pld-grid logs -f {submission.job_id} --address {public_uri(address)}"
    console.errors.print(follow, soft_wrap=True, style="dim")


def _as_for_run(ctx: typer.Context) -> tuple[dict[str, Any], list[str]]:
    """What `run` understands of the arguments, and those that are passed on to it as they are."""
    assert ctx.parent is not None
    assert isinstance(ctx.parent.command, TyperGroup)
    command = ctx.parent.command.commands["run"]
    run = command.make_context("run", list(ctx.args), parent=ctx.parent)
    report = run.params["report_to"]
    if report and not report.startswith("/"):
        raise InputError(f"--report: {report} would end with the job; give a folder from /, or use `pld-grid report`")
    passed: list[str] = []
    for option in command.params:
        value = run.params[option.name or ""]
        told = option.name in _OURS or option.name in ("grids", "profile", "seeds", "only")
        # What an environment variable or a default says here, the cluster's own may say otherwise.
        source = run.get_parameter_source(option.name or "")
        if not told and source is not None and source.name == "COMMANDLINE":
            passed += [option.opts[-1]] if value is True else [option.opts[-1], str(value)]
    return run.params, passed


def status(job: JobId = None, address: Dashboard = HERE) -> None:
    """Tell how a job is doing."""
    known, found = _job(job, address)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("job", found.job_id),
        ("state", _state(found)),
        *found.metadata.items(),
        ("started", _when(found.started)),
        ("ended", _when(found.ended)),
        ("progress", _progress(known.logs(found.job_id))),
    ):
        table.add_row(name, value)
    console.output.print(table)


def logs(
    job: JobId = None,
    address: Dashboard = HERE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a job's driver printed; with -f also what it prints until it ends, and 1 if it fails."""
    known, found = _job(job, address)
    if not follow:
        sys.stdout.write(known.logs(found.job_id))
        return

    def tell(lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()

    ended = known.follow(found.job_id, tell)
    if ended.state == "FAILED":
        raise CellsFailed(
            f"{ended.job_id} failed: {ended.message.splitlines()[0] if ended.message else 'see its logs'}"
        )


def stop(job: JobId = None, address: Dashboard = HERE) -> None:
    """Stop a job once its running cohorts have kept a checkpoint; a later submit goes on from there."""
    known, found = _job(job, address, own=True)
    if not found.running:
        console.output.print(f"{found.job_id} has ended before: {_state(found)}", soft_wrap=True, highlight=False)
        return
    console.errors.print("stopping: running cohorts end their epoch first", style="dim")
    ended = known.stop(found.job_id)
    console.output.print(f"{ended.job_id} {_state(ended)}", soft_wrap=True, highlight=False)


def list_jobs(address: Dashboard = HERE) -> None:
    """List the grids' jobs on a cluster, the oldest first."""
    from pld_grid import jobs

    found = jobs.connect(address).list(jobs.PREFIX)
    if not found:
        console.output.print("no jobs")
        return
    columns = ("job", "state", "owner", "grids", "profile", "started")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for each in found:
        said = (each.metadata.get(name, "") for name in ("grids", "profile"))
        table.add_row(each.job_id, _state(each), each.owner, *said, _when(each.started))
    console.output.print(table)


def _job(job_id: str | None, address: str, *, own: bool = False) -> "tuple[Jobs, Job]":
    """A job by its id, or the latest; see `jobs.latest`."""
    from pld_grid import jobs

    known = jobs.connect(address)
    return known, jobs.latest(known, own=own) if job_id is None else known.get(job_id)


def _state(job: "Job") -> str:
    return job.state.lower()


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def _progress(text: str) -> str:
    lines = [line for line in text.splitlines() if _PROGRESS.match(line)]
    return lines[-1].split("]")[0] + "]" if lines else "-"
