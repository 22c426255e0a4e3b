"""What becomes of an error: told in words, kept as a cell's end, or worth another try."""

import re
import time
import traceback
from pathlib import Path

from pld_grid.errors import StoreFull
from pld_grid.events import Event, Listener
from pld_grid.reading import one_line
from pld_grid.spec import Cell
from pld_grid.store import Status, Store
from pld_grid.train.device import out_of_memory

# torch has no error of its own for it.
_LOADER_DIED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")


class Failed(Exception):
    """An error in words (its type, text and place in the code): it holds no tensors and can be sent to others.

    That of a lack of memory is a MemoryError too, that of a full store a StoreFull.
    """

    @staticmethod
    def of(error: BaseException) -> "Failed":
        """The error in words."""
        if isinstance(error, Failed):
            return error
        frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)[-1:]]
        said = str(error)
        if said.startswith("Caught ") and "in DataLoader worker process" in said:
            # torch brings an error from a loader's process as the text of its traceback.
            frames = re.findall(r'^ *File "(.+)", line (\d+)', said, re.MULTILINE)[-1:] or frames
            said = said.rstrip().rpartition("\n")[2].rpartition(f"{type(error).__name__}: ")[2]
        place = "".join(f" ({Path(file).name}:{line})" for file, line in frames)
        # A text may come from a file, and goes to terminals.
        text = one_line(" ".join(said.split()), 500)
        if isinstance(error, StoreFull):
            return _FailedForRoom(text)
        said = f"{type(error).__name__}: {text}{place}"
        if not out_of_memory(error):
            return Failed(said)
        # Not all that lack it say so.
        return _FailedForMemory(said if "memory" in said.lower() else f"out of memory: {said}")


class _FailedForMemory(Failed, MemoryError):
    pass


class _FailedForRoom(Failed, StoreFull):
    pass


def fail_cell(store: Store, cell: Cell, epoch: int, error: BaseException, listener: Listener) -> None:
    """Notes that a cell failed, with the place in the code, and tells the listener."""
    failure = Failed.of(error)
    store.write_cell(cell)
    store.write_status(cell.cell_id, Status(state="failed", reason=str(failure), epoch=epoch, time=time.time()))
    listener(Event("failed", cell.cell_id, epoch, reason=str(failure)))


class LoaderDied(Exception):
    """Processes of a data loader died again and again."""


def loader_died(error: BaseException) -> bool:
    """Whether a data loader's process was killed: what it would have loaded is as good as ever."""
    return isinstance(error, LoaderDied) or (
        isinstance(error, RuntimeError) and _LOADER_DIED.search(str(error)) is not None
    )
