"""Where commands print."""

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pld_grid.cli import shell

# Of ASCII and Latin-1, without tab and line feed; and halves of characters, which no stream takes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Console(Console):
    """A console on which a text of somebody else's is text: it has no markup, moves no cursor and sets no title.

    Control characters are shown.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _CONTROL.search(segment.text):
                yield segment
            else:
                yield Segment(_CONTROL.sub(lambda found: ascii(found[0])[1:-1], segment.text), segment.style)


class _Errors(_Console):
    """Goes on in silence when nobody listens any more: a grid must not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stderr.fileno())
        os.close(silence)


shell.prepare()
errors = _Errors(stderr=True)
output = _Console()
