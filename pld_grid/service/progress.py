"""Show the progress of a run: a live display in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pld_grid.experiment import events
from pld_grid.experiment.cell import Cell
from pld_grid.experiment.describe import describe_cell
from pld_grid.experiment.metrics import TOP1
from pld_grid.util.text import format_duration

_MAX_ROWS = 12


class ProgressDisplay:
    """Display the events of a run; use as a context manager.

    Args:
        cells: the cells that the run will train.
        finished_before: the number of further cells that were finished before.
        console: where to print.
    """

    def __init__(self, cells: Iterable[Cell], finished_before: int, console: Console) -> None:
        self.cells = {cell.cell_id: cell for cell in cells}
        self.total = len(self.cells)
        self.finished_before = finished_before
        self.console = console
        self.weights = {cell_id: float(max(cell.epochs, 1)) for cell_id, cell in self.cells.items()}
        self.total_work = sum(self.weights.values())
        self.epochs: dict[str, int] = {}
        self.done = self.skipped = 0.0
        self.running: dict[str, events.EpochCompleted] = {}
        self.ended: dict[str, str] = {}
        self.shared = 0  # finished by other runs meanwhile
        self.started = time.monotonic()
        self.live: Live | None = None
        self._printed_claims: set[str] = set()

    def __enter__(self) -> "ProgressDisplay":
        # FORCE_COLOR makes a console claim to be a terminal; only a real one can be redrawn.
        if self.console.is_terminal and self.console.file.isatty():
            self.live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def set_durations(self, seconds: Mapping[str, float]) -> None:
        """Weight cells by their expected seconds instead of their epochs; call before the first event."""
        self.weights |= seconds
        self.total_work = sum(self.weights.values())

    def count(self, state: str) -> int:
        """Return how many cells ended in a state."""
        return sum(ended == state for ended in self.ended.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the display was created."""
        return time.monotonic() - self.started

    def on_event(self, event: events.Event) -> None:
        """Show an event of one of the cells; events of other cells are ignored."""
        cell = self.cells.get(event.cell_id)
        if cell is None:
            return
        match event:
            case events.CohortSplit(cell_id, reason):
                self._print(f"cohort of {cell_id} split in two: {reason}")
            case events.ClaimedElsewhere(cell_id, reason):
                self.running.pop(cell_id, None)
                if reason not in self._printed_claims:
                    self._printed_claims.add(reason)
                    claim = reason or "another run trains some cells"
                    self._print(f"{claim}, and maybe others: its results will be shared")
            case events.CellStarted(cell_id, epoch):
                # Epochs of an earlier run are no work of this one: counting them would shorten the estimate.
                self.skipped += self._work(cell_id, max(0, epoch - self.epochs.get(cell_id, 0)))
                self._advance(cell_id, epoch)
                self.running[cell_id] = events.EpochCompleted(cell_id, epoch)
            case events.EpochCompleted(cell_id, epoch):
                self._advance(cell_id, epoch)
                self.running[cell_id] = event
            case events.CellEnded():
                self._end(cell, event)

    def _end(self, cell: Cell, event: events.CellEnded) -> None:
        """Count a cell that ended and print its line."""
        finished = isinstance(event, events.CellFinished)
        self.running.pop(event.cell_id, None)
        self.ended[event.cell_id] = event.state
        self._advance(event.cell_id, max(cell.epochs, 1))
        self.shared += event.shared and finished
        result = TOP1.describe(event.metrics[TOP1.name]) if finished else event.reason
        if event.shared:
            result += ", by another run"
        line = Text(f"[{len(self.ended):>{len(str(self.total))}}/{self.total}] ")
        line.append(event.state, style="green" if finished else "bold red")
        line.append(f" {event.cell_id}  {describe_cell(cell)}  {result}")
        if self.live is None:
            line.append(f"  ({self._timing()})")
        if self.live is None or not finished:
            self._print(line)

    def _print(self, line: Text | str) -> None:
        self.console.print(Text(line) if isinstance(line, str) else line, soft_wrap=True)

    def _work(self, cell_id: str, epochs: int) -> float:
        """Return the work in some epochs of a cell, in the unit of `weights`."""
        return self.weights[cell_id] * epochs / max(self.cells[cell_id].epochs, 1)

    def _advance(self, cell_id: str, epoch: int) -> None:
        before = self.epochs.get(cell_id, 0)
        self.epochs[cell_id] = max(epoch, before)
        self.done += self._work(cell_id, self.epochs[cell_id] - before)

    def _timing(self) -> str:
        elapsed, trained = self.elapsed, self.done - self.skipped
        eta = f", eta {format_duration(elapsed / trained * (self.total_work - self.done))}" if trained > 0 else ""
        return f"{format_duration(elapsed)}{eta}"

    def __rich__(self) -> RenderableType:
        failed = self.count("failed") + self.count("lost") + self.count("diverged")
        summary = Text.assemble(
            (f"{self.count('finished')}", "bold green"),
            f"/{self.total} cells finished, ",
            (f"{len(self.running)}", "bold cyan"),
            " running, ",
            (f"{failed}", "bold red" if failed else "dim"),
            " failed or diverged",
            (f", {self.finished_before} finished before" if self.finished_before else "", "dim"),
            f"   {self._timing()}",
        )
        bar = ProgressBar(total=self.total_work, completed=self.done, width=60)
        table = Table("running", box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("epoch", justify="right")
        table.add_column(TOP1.short_label, justify="right")
        for cell_id, event in list(self.running.items())[:_MAX_ROWS]:
            cell = self.cells[cell_id]
            top1 = f"{event.metrics[TOP1.name]:{TOP1.spec}}" if TOP1.name in event.metrics else "-"
            table.add_row(describe_cell(cell), f"{event.epoch}/{cell.epochs}", top1)
        hidden = len(self.running) - _MAX_ROWS
        return Group(summary, bar, table, Text(f"... and {hidden} more" if hidden > 0 else "", style="dim"))
