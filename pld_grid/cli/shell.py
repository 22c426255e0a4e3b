"""Check and repair the environment of a command before a library reads it."""

import errno
import os
import re
import sys
from pathlib import Path

from pld_grid.util.errors import InputError
from pld_grid.util.text import show

# Rich and typer fail on invalid values of these.
_TERMINAL_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
# huggingface_hub converts these when it is imported.
_TIMEOUTS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare() -> None:
    """Remove invalid terminal sizes, replace closed streams, and draw figures into files only."""
    for name in _TERMINAL_SIZES:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", os.environ.get(name, "1"), re.ASCII):
            del os.environ[name]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    # A notebook's setting would need a display.
    os.environ["MPLBACKEND"] = "agg"


def check() -> None:
    """Raise InputError if no command can work in this folder or with these environment variables."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder cannot be used: {error.strerror}") from None
    for name in _TIMEOUTS:
        value = os.environ.get(name, "0")
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            raise InputError(f"{name}: expected a whole number of seconds, not {show(value)}")


def flush() -> None:
    """Flush standard output. Raises InputError if it cannot be written, unless its reader is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return
    except OSError as error:
        raise InputError(f"standard output: {error.strerror}") from None


def is_output_error(error: OSError) -> bool:
    """Return whether an error is about standard output being full: such errors name no file."""
    return error.filename is None and error.errno in _OUTPUT_ERRORS
