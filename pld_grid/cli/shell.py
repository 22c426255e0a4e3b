"""What a command finds around it, made sound before a library reads it."""

import errno
import os
import re
import sys
from pathlib import Path

from pld_grid.errors import InputError
from pld_grid.reading import show

# Rich and typer take these as they are.
_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
# Read by huggingface_hub when it is imported.
_NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare() -> None:
    """Sizes of a terminal that are none are forgotten, streams that were closed lead nowhere, figures into files."""
    for name in _SIZES:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", os.environ.get(name, "1"), re.ASCII):
            del os.environ[name]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    # Figures go into files, whatever a notebook draws with.
    os.environ["MPLBACKEND"] = "agg"


def check() -> None:
    """Raises InputError unless a command can work here."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder cannot be used: {error.strerror}") from None
    for name in _NUMBERS:
        value = os.environ.get(name, "0")
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            raise InputError(f"{name}: expected a whole number of seconds, not {show(value)}")


def flush() -> None:
    """Raises InputError if what was printed could not be written, except that nobody wants to read it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return
    except OSError as error:
        raise InputError(f"standard output: {error.strerror}") from None


def is_of_output(error: OSError) -> bool:
    """Whether an error says that what is printed has no room: it names no file."""
    return error.filename is None and error.errno in _NO_ROOM
