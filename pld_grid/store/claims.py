"""Claims: which process may train a cell.

What is written: `<cell id>/claims/000001.json, 000002.json, ...`, a log to which entries are only added. An entry says
that a process *claimed* the cell, *released* it without a result, *finished* it (with the receipt), or *replaced* a
result by moving it away so that the cell can be trained again. The last entry is the one that is valid.

How two processes are kept apart: an entry is created only if its number is still free, and never changed. If several
processes want the next number, the store lets one of them create it, and the others see that they came too late. No
lock is needed, and nothing has to be undone when a process dies.

Who may claim a cell: anybody if the last entry is no claim; otherwise only if the claim's process is of the same run,
has ended, or has an expired lease (see `pld_grid.store.leases`). The next claim simply follows the old one. Should the
first process still run, it finds the number after its own claim taken as soon as it wants to finish or release the
cell, gets `ClaimLost`, and changes nothing.

`receipt.json` is written after the entry that finishes a cell. If it is lost in between, it is restored from that
entry.
"""

import contextlib
import time
import uuid
from collections.abc import Collection
from typing import Literal

from pydantic import ValidationError

from pld_grid.experiment.cell import Cell, StrictModel
from pld_grid.store.cells import CLAIMS, Store
from pld_grid.store.file_store import add_checksum, verify_checksum
from pld_grid.store.leases import MAX_CLOCK_GAP_SECONDS, Lease, Observer, is_dead, read_heartbeat
from pld_grid.store.schema import Receipt, Time
from pld_grid.util.errors import StoreError

POLL_INTERVAL_SECONDS = 0.2

Kind = Literal["claimed", "released", "finished", "replaced"]


class Entry(StrictModel):
    """One entry of the log.

    `lease` is the lease of the process that wrote it, `run` the run that the process belongs to, `host` its machine's
    name; `time` is Unix time in seconds, for people. Only a `finished` entry has a `receipt`.
    """

    kind: Kind
    run: str
    lease: str
    host: str = ""
    time: Time
    receipt: Receipt | None = None

    @classmethod
    def create(cls, kind: Kind, run: str, lease: Lease, receipt: Receipt | None = None) -> "Entry":
        """Return an entry of this process, at the current time."""
        return cls(kind=kind, run=run, lease=lease.lease_id, host=lease.host, time=time.time(), receipt=receipt)


class ClaimLost(Exception):
    """Another process has claimed the cell after this one."""


class Claims:
    """The claims of one process.

    Args:
        store: the store of the cells.
        lease: the lease of this process.
        run: the run that this process belongs to. Two processes of a run never train the same cell at the same time, so
            one may continue where another stopped, without waiting for its lease to expire.
        expired: ids of leases that are known to have expired.
    """

    def __init__(self, store: Store, lease: Lease, run: str = "", expired: Collection[str] = ()) -> None:
        self.store, self.lease, self.run, self.expired = store, lease, run, frozenset(expired)
        self._held: set[str] = set()

    def acquire(self, cell: Cell) -> bool:
        """Claim a cell.

        Returns:
            Whether this process may train the cell; False if it is finished, or `holder` trains it.

        Raises:
            StoreError: the store cannot be used, or another version of this package finished the cell.
        """
        cell_id = cell.cell_id
        if self.holds(cell_id):
            return True
        self.store.check_receipt(cell)
        number, last = last_entry(self.store, cell_id)
        if self.store.receipt(cell) is not None or (last is not None and _restore_receipt(self.store, last)):
            return False
        if last is not None and last.kind == "claimed" and not _may_follow(self.store, last, self.run, self.expired):
            return False
        if not _append(self.store, cell_id, number + 1, Entry.create("claimed", self.run, self.lease)):
            return False
        self._held.add(cell_id)
        return True

    def holds(self, cell_id: str) -> bool:
        """Return whether this process's claim on a cell is still the valid one. Raises StoreError."""
        return self._claim_number(cell_id) is not None

    def finish(self, receipt: Receipt) -> None:
        """Finish a cell. Raises ClaimLost, and changes nothing, if the cell is no longer this process's."""
        cell_id = receipt.cell.cell_id
        number = self._claim_number(cell_id)
        entry = Entry.create("finished", self.run, self.lease, receipt)
        finished = number is not None and _append(self.store, cell_id, number + 1, entry)
        # After `_append`, which may raise: a cell that could not be finished can still be released.
        self._held.discard(cell_id)
        if not finished:
            raise ClaimLost(f"cell {cell_id} was claimed by another process")
        self.store.write_receipt(receipt)

    def release(self, cell_id: str) -> None:
        """Give up a cell, if this process still has it. Raises StoreError."""
        number = self._claim_number(cell_id)
        self._held.discard(cell_id)
        if number is not None:
            _append(self.store, cell_id, number + 1, Entry.create("released", self.run, self.lease))

    def release_all(self) -> None:
        """Give up all cells; where the store cannot be reached, their claims end when the lease expires."""
        for cell_id in list(self._held):
            with contextlib.suppress(StoreError):
                self.release(cell_id)

    def _claim_number(self, cell_id: str) -> int | None:
        """Return the number of this process's claim, or None if that is not the last entry."""
        if cell_id not in self._held:
            return None
        number, last = last_entry(self.store, cell_id)
        # Compare the lease too: the log may have been archived, and another process may have the same number in a new
        # one.
        valid = last is not None and last.kind == "claimed" and last.lease == self.lease.lease_id
        return number if valid else None


def archive(store: Store, receipt: Receipt, run: str) -> str | None:
    """Move a finished cell away, so that it can be trained again.

    If another run is already doing so, wait for it, and take over if its process dies.

    Returns:
        The folder that now has the results (see `Store.archive_cell`); None if another run moved them.
    """
    cell_id, observer = receipt.cell.cell_id, Observer(store, MAX_CLOCK_GAP_SECONDS)
    with Lease(store, f"archive-{uuid.uuid4().hex[:12]}").keep_alive() as lease:
        number, last = last_entry(store, cell_id)
        while last is not None and last.kind == "replaced" and not observer.expired(last.lease):
            time.sleep(POLL_INTERVAL_SECONDS)
            number, last = last_entry(store, cell_id)
        entry = Entry.create("replaced", run, lease)
        if store.receipt(cell_id) != receipt or not _append(store, cell_id, number + 1, entry):
            return None
        if store.receipt(cell_id) != receipt:
            # The old log was archived in between, so this entry has started a new one.
            store.remove(cell_id, CLAIMS, f"{number + 1:06d}.json")
            return None
        with contextlib.suppress(FileNotFoundError):
            return store.archive_cell(cell_id)
        return None


def end_claim(store: Store, cell_id: str, run: str, expired: Collection[str] = ()) -> bool:
    """Release a cell on behalf of a process that is gone.

    Args:
        store: the store of the cell.
        cell_id: the cell.
        run: the run whose claim to end; claims of other runs end only if their process is dead.
        expired: ids of leases that are known to have expired.

    Returns:
        Whether the cell is free now; False if a live process of another run holds it, or if it is finished.
    """
    number, last = last_entry(store, cell_id)
    if last is None or last.kind in ("released", "replaced"):
        return True
    if last.kind == "finished" or not (last.run == run or _may_follow(store, last, run, expired)):
        return False
    return _append(store, cell_id, number + 1, last.model_copy(update={"kind": "released", "time": time.time()}))


def holder(store: Store, cell_id: str) -> Entry | None:
    """Return the valid claim on a cell, be its process alive or not; None if there is none. Raises StoreError."""
    _, last = last_entry(store, cell_id)
    return last if last is not None and last.kind == "claimed" else None


def read_log(store: Store, cell_id: str) -> list[Entry]:
    """Return all entries, the oldest first. Raises StoreError."""
    entries = (_read(store, cell_id, number) for number in sorted(_list_numbers(store, cell_id)))
    return [entry for entry in entries if entry is not None]


def last_entry(store: Store, cell_id: str) -> tuple[int, Entry | None]:
    """Return the last entry with its number: 0 and None if the log is empty, None also for a damaged entry.

    Raises StoreError.
    """
    number = max(_list_numbers(store, cell_id), default=0)
    return number, _read(store, cell_id, number) if number else None


def _may_follow(store: Store, claim: Entry, run: str, expired: Collection[str]) -> bool:
    """Return whether a process of a run may take over a claim: it is the run's own, or its process is dead."""
    same_run = bool(run) and claim.run == run
    return same_run or claim.lease in expired or is_dead(read_heartbeat(store, claim.lease))


def _restore_receipt(store: Store, last: Entry) -> bool:
    """Write the receipt of a finished cell again; False if there is none, or if the weights are missing too."""
    if last.receipt is None or not store.has_weights(last.receipt):
        return False
    store.write_receipt(last.receipt)
    return True


def _append(store: Store, cell_id: str, number: int, entry: Entry) -> bool:
    """Create an entry; False if another process was first to use its number."""
    return store.create(add_checksum(entry), cell_id, CLAIMS, f"{number:06d}.json")


def _read(store: Store, cell_id: str, number: int) -> Entry | None:
    body = verify_checksum(store.read(cell_id, CLAIMS, f"{number:06d}.json") or b"")
    try:
        entry = Entry.model_validate_json(body or b"")
    except ValidationError:
        return None
    # A folder that was copied by hand has the log of another cell.
    return entry if entry.receipt is None or entry.receipt.cell.cell_id == cell_id else None


def _list_numbers(store: Store, cell_id: str) -> list[int]:
    stems = (name.removesuffix(".json") for name in store.names(cell_id, CLAIMS))
    return [int(stem) for stem in stems if stem.isdecimal()]
