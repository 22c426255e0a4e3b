"""Turn exceptions into text, and record the failure of a cell."""

import re
import time
import traceback
from pathlib import Path

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellFailed, ClaimedElsewhere, EventCallback
from pld_grid.store import Status, Store
from pld_grid.store.claims import holder
from pld_grid.train.device import is_out_of_memory
from pld_grid.util.errors import StoreFull
from pld_grid.util.text import one_line


class TrainingError(Exception):
    """An exception as text: its type, message and place in the code. It holds no tensors and can be pickled.

    Made from an out-of-memory error it is a MemoryError too; made from a StoreFull it is a StoreFull.
    """

    @staticmethod
    def from_exception(error: BaseException) -> "TrainingError":
        """Convert an exception, which may come from a loader process."""
        if isinstance(error, TrainingError):
            return error
        frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)[-1:]]
        message = str(error)
        if message.startswith("Caught ") and "in DataLoader worker process" in message:
            # torch passes on an error of a loader process as the text of its traceback.
            frames = re.findall(r'^ *File "(.+)", line (\d+)', message, re.MULTILINE)[-1:] or frames
            message = message.rstrip().rpartition("\n")[2].rpartition(f"{type(error).__name__}: ")[2]
        place = "".join(f" ({Path(file).name}:{line})" for file, line in frames)
        # The message may quote a file, and is printed to terminals.
        message = one_line(" ".join(message.split()), 500)
        if isinstance(error, StoreFull):
            return _StoreFullError(message)
        text = f"{type(error).__name__}: {message}{place}"
        if not is_out_of_memory(error):
            return TrainingError(text)
        # Not every out-of-memory error mentions memory.
        return _OutOfMemoryError(text if "memory" in text.lower() else f"out of memory: {text}")


class _OutOfMemoryError(TrainingError, MemoryError):
    pass


class _StoreFullError(TrainingError, StoreFull):
    pass


def fail_cell(store: Store, cell: Cell, epoch: int, error: BaseException, on_event: EventCallback) -> None:
    """Record in the store that a cell failed, and emit CellFailed.

    Args:
        store: where the cell and its status are written.
        cell: the failed cell.
        epoch: its last finished epoch.
        error: becomes the reason, with its place in the code.
        on_event: called with the event.
    """
    reason = str(TrainingError.from_exception(error))
    store.write_cell(cell)
    store.write_status(cell.cell_id, Status(state="failed", reason=reason, epoch=epoch, time=time.time()))
    on_event(CellFailed(cell.cell_id, epoch, reason=reason))


def report_claimed_elsewhere(store: Store, cell: Cell, on_event: EventCallback) -> None:
    """Emit ClaimedElsewhere for a cell, naming the run that has claimed it if that is known."""
    claim = holder(store, cell.cell_id)
    reason = f"run {claim.run[:8] or claim.lease} on {claim.host} trains it" if claim else ""
    on_event(ClaimedElsewhere(cell.cell_id, reason=reason))
