"""`pld-grid`: parse arguments, call `pld_grid.service`, print. One module per family of commands."""

import contextlib
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from pld_grid.cli import _data, _explain, _jobs, _mlflow, _paper, _plan, _report, _run, console, options, shell
from pld_grid.util.errors import PldGridError
from pld_grid.util.text import one_line

_MAX_MESSAGE_CHARACTERS = 4000
app = typer.Typer(
    help="Experiment grids for knowledge distillation: plan, run on Ray, track in MLflow, rebuild the paper's tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    """Print the version and end the command."""
    if wanted:
        from importlib.metadata import version

        console.output.print(f"pld-grid {version('pld_grid')}", highlight=False)
        raise typer.Exit


@app.callback()
def _top_level(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that go before a command."""


# In the order of the help page.
for _family in (_plan, _run, _report, _explain, _mlflow, _jobs, _data, _paper):
    for _command in _family.COMMANDS:
        app.command("list" if _command is _jobs.list_jobs else None)(options.expand_groups(_command))
app.add_typer(_mlflow.database, name="db")


def main() -> None:
    """Run a command; print a known error as one line on standard error. Raises SystemExit with the exit code."""
    try:
        shell.check()
        code = app(prog_name="pld-grid", standalone_mode=False)
        shell.flush()
    except PldGridError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("this needs more memory than there is", 2)
    except OSError as error:
        if not shell.is_output_error(error):
            raise
        _fail(f"standard output: {error.strerror}", 2)
    except typer.TyperException as error:
        message = _describe_usage_error(error)
        if not message:
            sys.exit(2)
        _fail(message, 2)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    """Print an error, on one line whatever it quotes, and exit."""
    line = one_line(f"error: {message}", _MAX_MESSAGE_CHARACTERS)
    console.errors.print(line, style="red", soft_wrap=True, highlight=False)
    sys.exit(code)


def _describe_usage_error(error: typer.TyperException) -> str:
    """Return what is wrong with the arguments and which --help explains them; empty if a help page was printed."""
    from pydantic import ValidationError

    from pld_grid.util.validation import explain_error

    # typer raises subclasses with these attributes, but does not export them.
    context, message = getattr(error, "ctx", None), getattr(error, "format_message", error.__str__)()
    if isinstance(error, typer.BadParameter) and isinstance(error.__cause__, ValidationError):
        error.message = explain_error(error.__cause__.errors()[0])
        message = error.format_message()
    return message and f"{message.removesuffix('.')} ({context.command_path if context else 'pld-grid'} --help)"


def script() -> None:
    """Run `main` as the console script, and exit without interpreter shutdown."""
    try:
        main()
        code: object = 0
    except SystemExit as exited:
        code = exited.code or 0
    if not isinstance(code, int):
        sys.exit(str(code))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # The reader of a pipe may have closed it.
        with contextlib.suppress(OSError):
            stream.flush()
    # Unloading torch and timm takes one or two seconds; our own files are closed by now.
    os._exit(code)
