"""Consoles on which commands print."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pld_grid.cli import shell

# Control characters of ASCII and Latin-1 without tab and line feed, and surrogates, which no stream can encode.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _SafeConsole(Console):
    """Print text from untrusted sources literally: without markup, with control characters escaped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROL.search(segment.text):
                yield segment
            else:
                yield Segment(_CONTROL.sub(lambda match: ascii(match[0])[1:-1], segment.text), segment.style)


class _ErrorConsole(_SafeConsole):
    """Continue silently when the reader of standard error is gone: a grid must not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stderr.fileno())
        os.close(devnull)


@contextlib.contextmanager
def exit_on_interrupt(message: str) -> Iterator[None]:
    """Print a message and exit with 130 when Ctrl-C stops the block."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(message)
        raise typer.Exit(130) from None


shell.prepare()
errors = _ErrorConsole(stderr=True)
output = _SafeConsole()
