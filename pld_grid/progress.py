"""Live progress of a run: one display in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pld_grid.events import Event
from pld_grid.spec import Cell

_SHOWN = 12


def describe(cell: Cell) -> str:
    """A cell in a few words: student <- teacher, loss with its hyperparameters, optimizer, seed."""
    teacher = f" <- {cell.teacher.student.architecture}" if cell.teacher else ""
    parts = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in cell.loss.hyperparameters.items()]
    if cell.loss.standardization != "none":
        parts.append(f"std={cell.loss.standardization}")
    loss = f"{cell.loss.name}({', '.join(parts)})" if parts else cell.loss.name
    return f"{cell.student.architecture}{teacher} {loss} {cell.optimizer.name} seed {cell.seed}"


def duration(seconds: float) -> str:
    """`95` as `1m35s`."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """Hears events and shows them; use as a context manager.

    Args:
        cells: what the run will train.
        finished: how many further cells were finished before.
    """

    def __init__(self, cells: Iterable[Cell], finished: int, console: Console) -> None:
        self.cells = {cell.cell_id: cell for cell in cells}
        self.total = len(self.cells)
        self.finished_before = finished
        self.console = console
        self.weights = {cell_id: float(max(cell.epochs, 1)) for cell_id, cell in self.cells.items()}
        self.total_work = sum(self.weights.values())
        self.epochs: dict[str, int] = {}
        self.done = self.skipped = 0.0
        self.running: dict[str, Event] = {}
        self.ended: dict[str, str] = {}
        self.started = time.monotonic()
        self.live: Live | None = None
        self._told: set[str] = set()
        self.shared = 0  # finished by other runs meanwhile

    def __enter__(self) -> "Progress":
        # FORCE_COLOR makes a console call itself a terminal; only a real one can be redrawn.
        if self.console.is_terminal and self.console.file.isatty():
            self.live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def weigh(self, seconds: Mapping[str, float]) -> None:
        """What each cell is expected to take, so that the estimate need not count every epoch alike.

        To be told before anything is heard.
        """
        self.weights |= seconds
        self.total_work = sum(self.weights.values())

    def _work(self, cell_id: str, epochs: int) -> float:
        """The part of all work that some epochs of a cell are; it has one at least."""
        return self.weights[cell_id] * epochs / max(self.cells[cell_id].epochs, 1)

    def count(self, state: str) -> int:
        """How many cells ended in a state."""
        return sum(ended == state for ended in self.ended.values())

    def hear(self, event: Event) -> None:
        """Takes in an event."""
        cell = self.cells.get(event.cell_id)
        if cell is None:
            return
        if event.kind == "split":
            self.console.print(Text(f"cohort of {event.cell_id} split in two: {event.reason}"), soft_wrap=True)
            return
        if event.kind == "held":
            if event.reason not in self._told:
                by = event.reason or "another run trains some cells"
                self.console.print(Text(f"{by}, and maybe others: its results will be shared"), soft_wrap=True)
            self._told.add(event.reason)
            self.running.pop(event.cell_id, None)
            return
        if event.kind == "full":
            return
        if event.kind == "started":
            # Epochs of an earlier run are no work of this one: they must not flatter the estimate.
            self.skipped += self._work(event.cell_id, max(0, event.epoch - self.epochs.get(event.cell_id, 0)))
        self._reach(event.cell_id, event.epoch)
        if event.kind in ("started", "epoch"):
            self.running[event.cell_id] = event
            return
        self.running.pop(event.cell_id, None)
        self.ended[event.cell_id] = event.kind
        self._reach(event.cell_id, max(cell.epochs, 1))
        self.shared += event.shared and event.kind == "finished"
        result = f"top-1 {event.metrics['top1']:.2f} %" if event.kind == "finished" else event.reason
        if event.shared:
            result += ", by another run"
        line = Text(f"[{len(self.ended):>{len(str(self.total))}}/{self.total}] ")
        line.append(event.kind, style="green" if event.kind == "finished" else "bold red")
        line.append(f" {event.cell_id}  {describe(cell)}  {result}")
        if self.live is None:
            line.append(f"  ({self._timing()})")
        if self.live is None or event.kind != "finished":
            self.console.print(line, soft_wrap=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def _reach(self, cell_id: str, epoch: int) -> None:
        before = self.epochs.get(cell_id, 0)
        self.epochs[cell_id] = max(epoch, before)
        self.done += self._work(cell_id, self.epochs[cell_id] - before)

    def _timing(self) -> str:
        elapsed = self.elapsed
        fresh = self.done - self.skipped
        eta = f", eta {duration(elapsed / fresh * (self.total_work - self.done))}" if fresh > 0 else ""
        return f"{duration(elapsed)}{eta}"

    def __rich__(self) -> RenderableType:
        failed = self.count("failed") + self.count("lost") + self.count("diverged")
        head = Text.assemble(
            (f"{self.count('finished')}", "bold green"), f"/{self.total} cells finished, ",
            (f"{len(self.running)}", "bold cyan"), " running, ",
            (f"{failed}", "bold red" if failed else "dim"), " failed or diverged",
            (f", {self.finished_before} finished before" if self.finished_before else "", "dim"),
            f"   {self._timing()}",
        )  # fmt: skip
        bar = ProgressBar(total=self.total_work, completed=self.done, width=60)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("running")
        table.add_column("epoch", justify="right")
        table.add_column("top-1", justify="right")
        for cell_id, event in list(self.running.items())[:_SHOWN]:
            top1 = f"{event.metrics['top1']:.2f}" if "top1" in event.metrics else "-"
            cell = self.cells[cell_id]
            table.add_row(describe(cell), f"{event.epoch}/{cell.epochs}", top1)
        more = Text(f"... and {len(self.running) - _SHOWN} more", style="dim") if len(self.running) > _SHOWN else ""
        return Group(head, bar, table, more)
