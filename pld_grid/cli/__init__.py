"""`pld-grid`: parse, call the API, print. A file per family of commands."""

import contextlib
import logging
import os
import sys
from typing import NoReturn

import typer
from pydantic import ValidationError

from pld_grid.cli import (
    _data,
    _database,
    _explain,
    _jobs,
    _landscapes,
    _plan,
    _report,
    _run,
    _teachers,
    _tracking,
    console,
    shell,
)
from pld_grid.errors import PldGridError
from pld_grid.reading import explained, one_line

_LONGEST = 4000  # characters of a message
app = typer.Typer(
    help="Experiment grids for knowledge distillation: plan, run on Ray, look in MLflow, rebuild the paper's tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# In the order of the help page.
for _command in (
    _plan.plan, _plan.calibrate, _run.run, _report.report, _explain.why, _explain.diff, _tracking.sync, _tracking.ui,
):  # fmt: skip
    app.command()(_command)
# What it does not know itself it hands on to `run`.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(_jobs.submit)
for _of_job in (_jobs.status, _jobs.logs, _jobs.stop):
    app.command()(_of_job)
app.command("list")(_jobs.list_jobs)
app.add_typer(_database.app, name="db")
app.command()(_data.check_data)
app.command()(_teachers.audit_teachers)
app.command()(_landscapes.landscapes)


def main() -> None:
    """Runs a command; known errors are one line on standard error. Raises SystemExit with the exit code."""
    try:
        shell.check()
        code = app(prog_name="pld-grid", standalone_mode=False)
        shell.flush()
    except PldGridError as error:
        _refuse(str(error), error.exit_code)
    except MemoryError:
        _refuse("this needs more memory than there is", 2)
    except OSError as error:
        if not shell.is_of_output(error):
            raise
        _refuse(f"standard output: {error.strerror}", 2)
    except typer.TyperException as error:
        message = _of_arguments(error)
        if not message:
            sys.exit(2)
        _refuse(message, 2)
    sys.exit(code)


def _refuse(message: str, code: int) -> NoReturn:
    """Says what is wrong, on one line whatever the message quotes."""
    line = one_line(f"error: {message}", _LONGEST)
    console.errors.print(line, style="red", soft_wrap=True, markup=False, highlight=False)
    sys.exit(code)


def _of_arguments(error: typer.TyperException) -> str:
    """What is wrong with a command's arguments, and where they are explained; empty if its help was printed instead."""
    # The errors of typer's own parser have these; it exports no name for them.
    context, message = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if isinstance(error, typer.BadParameter) and isinstance(error.__cause__, ValidationError):
        error.message = explained(error.__cause__.errors()[0])
        message = error.format_message()
    return message and f"{message.removesuffix('.')} ({context.command_path if context else 'pld-grid'} --help)"


def script() -> None:
    """The console script: `main`, and gone at once."""
    try:
        main()
        code: object = 0
    except SystemExit as ended:
        code = ended.code or 0
    if not isinstance(code, int):
        sys.exit(str(code))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # Whoever read it may have read enough.
        with contextlib.suppress(OSError):
            stream.flush()
    # Taking torch and timm apart module by module takes a second or two. What is ours is closed by now.
    os._exit(code)
