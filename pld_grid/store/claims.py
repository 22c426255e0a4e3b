"""Who trains a cell: `<cell id>/claims/000001.json, 000002.json, ...`, a log that only grows.

Every entry is created once, by one process, and never changed: of several who want the next one, one gets it. The last
entry is what holds. Whoever claimed a cell finishes it by an entry with its receipt; who was taken for dead meanwhile
finds that entry taken by another's claim, and can finish nothing. `receipt.json` follows from the log.
"""

import contextlib
import time
import uuid
from collections.abc import Collection
from typing import Literal

from pydantic import ValidationError

from pld_grid.errors import StoreError
from pld_grid.spec import Cell, Frozen
from pld_grid.store.cells import CLAIMS, Store
from pld_grid.store.content import Receipt, Time
from pld_grid.store.files import enveloped, opened
from pld_grid.store.leases import FROZEN, Lease, Observer, gone, read

LOOK = 0.2  # seconds between two looks at who sets a cell aside


Kind = Literal["claimed", "released", "finished", "replaced"]


class Entry(Frozen):
    """What a process did about a cell: it began, stopped without a result, finished, which has the `receipt`, or set
    the result aside.

    `lease` is the process's, `run` names whose process it was, `host` where; `time` is Unix time in seconds.
    """

    kind: Kind
    run: str
    lease: str
    host: str = ""
    time: Time
    receipt: Receipt | None = None


class ClaimLost(Exception):
    """Another process was given the cell while this one seemed dead."""


class Claims:
    """The cells that one process trains.

    Args:
        lease: the process's.
        run: whose process it is. Two processes of one run never train the same cell at a time, so that one may go on
            where another stopped, without waiting for its lease to lapse.
        lapsed: leases that are known to have lapsed.
    """

    def __init__(self, store: Store, lease: Lease, run: str = "", lapsed: Collection[str] = ()) -> None:
        self.store, self.lease, self.run, self.lapsed = store, lease, run, frozenset(lapsed)
        self._held: set[str] = set()

    def take(self, cell: Cell) -> bool:
        """Claims a cell; False if it is finished, or another process trains it: see `holder`.

        Raises StoreError: the store cannot be used, or another version of this package finished the cell.
        """
        cell_id = cell.cell_id
        if self.holds(cell_id):
            return True
        self.store.check_receipt(cell)
        number, last = newest(self.store, cell_id)
        if self.store.receipt(cell) is not None or (last is not None and _restored(self.store, last)):
            return False
        if last is not None and last.kind == "claimed" and not self._may_follow(last):
            return False
        if not _add(self.store, cell_id, number + 1, self._entry("claimed")):
            return False
        self._held.add(cell_id)
        return True

    def holds(self, cell_id: str) -> bool:
        """Whether the cell is this process's, and nobody else's since. Raises StoreError."""
        return self._place(cell_id) is not None

    def finish(self, receipt: Receipt) -> None:
        """Finishes a cell. Raises ClaimLost, and changes nothing, if it is another's by now."""
        cell_id = receipt.cell.cell_id
        number = self._place(cell_id)
        ours = number is not None and _add(self.store, cell_id, number + 1, self._entry("finished", receipt))
        # Not before that could be told: a cell that cannot be finished is still this process's to give up.
        self._held.discard(cell_id)
        if not ours:
            raise ClaimLost(f"cell {cell_id} was given to another process")
        self.store.write_receipt(receipt)

    def release(self, cell_id: str) -> None:
        """Leaves a cell to others, if it is still this process's. Raises StoreError."""
        number = self._place(cell_id)
        self._held.discard(cell_id)
        if number is not None:
            _add(self.store, cell_id, number + 1, self._entry("released"))

    def release_all(self) -> None:
        """Leaves all cells that are still this process's to others: now, or when its lease has lapsed."""
        for cell_id in list(self._held):
            with contextlib.suppress(StoreError):
                self.release(cell_id)

    def _place(self, cell_id: str) -> int | None:
        """The number of this process's claim, if that is what holds."""
        if cell_id not in self._held:
            return None
        number, last = newest(self.store, cell_id)
        # Not the number alone: the whole log may have been set aside, and begun anew.
        ours = last is not None and last.kind == "claimed" and last.lease == self.lease.lease_id
        return number if ours else None

    def _may_follow(self, last: Entry) -> bool:
        same = bool(self.run) and last.run == self.run
        return same or last.lease in self.lapsed or gone(read(self.store, last.lease))

    def _entry(self, kind: Kind, receipt: Receipt | None = None) -> Entry:
        return Entry(
            kind=kind, run=self.run, lease=self.lease.lease_id, host=self.lease.host, time=time.time(), receipt=receipt
        )


def set_aside(store: Store, receipt: Receipt, run: str) -> str | None:
    """Sets a finished cell aside, as `Store.set_cell_aside` does; None if another run has done so.

    Who is doing so is waited for, and followed if it dies.
    """
    cell_id, observer = receipt.cell.cell_id, Observer(store, FROZEN)
    with Lease(store, f"aside-{uuid.uuid4().hex[:12]}").held() as lease:
        number, last = newest(store, cell_id)
        while last is not None and last.kind == "replaced" and not observer.lapsed(last.lease):
            time.sleep(LOOK)
            number, last = newest(store, cell_id)
        entry = Entry(kind="replaced", run=run, lease=lease.lease_id, host=lease.host, time=time.time())
        if store.receipt(cell_id) != receipt or not _add(store, cell_id, number + 1, entry):
            return None
        if store.receipt(cell_id) != receipt:
            # The whole log was set aside meanwhile, and this entry began another.
            store.remove(cell_id, CLAIMS, f"{number + 1:06d}.json")
            return None
        with contextlib.suppress(FileNotFoundError):
            return store.set_cell_aside(cell_id)
        return None


def leave(store: Store, cell_id: str, run: str, lapsed: Collection[str] = ()) -> bool:
    """Ends the claim on a cell of a run whose process is gone; False if the cell is a living other run's or finished.

    Args:
        lapsed: leases that are known to have lapsed, whose claims end likewise.
    """
    number, last = newest(store, cell_id)
    if last is None or last.kind in ("released", "replaced"):
        return True
    if last.kind == "finished" or not (last.run == run or last.lease in lapsed or gone(read(store, last.lease))):
        return False
    return _add(store, cell_id, number + 1, last.model_copy(update={"kind": "released", "time": time.time()}))


def holder(store: Store, cell_id: str) -> Entry | None:
    """The claim that holds, be its process alive or not; None if nobody trains the cell. Raises StoreError."""
    _, last = newest(store, cell_id)
    return last if last is not None and last.kind == "claimed" else None


def entries(store: Store, cell_id: str) -> list[Entry]:
    """The whole log, the oldest first. Raises StoreError."""
    found = (_read(store, cell_id, number) for number in sorted(_numbers(store, cell_id)))
    return [entry for entry in found if entry is not None]


def newest(store: Store, cell_id: str) -> tuple[int, Entry | None]:
    """The last entry and its number; 0 before the first. A damaged one counts as nobody's. Raises StoreError."""
    number = _last_number(store, cell_id)
    return number, _read(store, cell_id, number) if number else None


def _restored(store: Store, last: Entry) -> bool:
    """Whether a finished cell that lacks its receipt has it again: not if its weights are gone too."""
    if last.receipt is None or not store.has_weights(last.receipt):
        return False
    store.write_receipt(last.receipt)
    return True


def _add(store: Store, cell_id: str, number: int, entry: Entry) -> bool:
    return store.create(enveloped(entry), cell_id, CLAIMS, f"{number:06d}.json")


def _read(store: Store, cell_id: str, number: int) -> Entry | None:
    body = opened(store.read(cell_id, CLAIMS, f"{number:06d}.json") or b"")
    try:
        entry = Entry.model_validate_json(body or b"")
    except ValidationError:
        return None
    # A copied folder is another cell's.
    return entry if entry.receipt is None or entry.receipt.cell.cell_id == cell_id else None


def _last_number(store: Store, cell_id: str) -> int:
    return max(_numbers(store, cell_id), default=0)


def _numbers(store: Store, cell_id: str) -> list[int]:
    stems = (name.removesuffix(".json") for name in store.names(cell_id, CLAIMS))
    return [int(stem) for stem in stems if stem.isdecimal()]
