"""Receipts and checkpoints: `<store>/<cell id>/`.

cell.json             the whole cell, for people
claims/000001.json    who trained it when: see `pld_grid.store.claims`
checkpoints/0007.pt   state after epoch 7, and
checkpoints/0007.json its manifest, written after it: checksum, identity and the epochs so far
weights.safetensors   the finished model
receipt.json          written last: the cell is finished, and with what numbers
status.json           why the cell last stopped without finishing (failed, lost, cancelled)
damaged/              files that could not be used
history/              what happened to it that is not usual: such files, deaths of workers
mirror.json           what MLflow already has of it
"""

import contextlib
import re
import time
import uuid
from collections.abc import Iterable

from pydantic import ValidationError

from pld_grid.errors import StoreError
from pld_grid.spec import Cell
from pld_grid.store.content import Manifest, Mirror, Note, Progress, Receipt, Status
from pld_grid.store.files import Files, sha256

KEPT_CHECKPOINTS = 2
WEIGHTS = "weights.safetensors"
CLAIMS = "claims"
_HEX = frozenset("0123456789abcdef")


def is_cell_id(name: str) -> bool:
    """Whether a name in a store is a cell's."""
    return len(name) == 16 and set(name) <= _HEX


class Store(Files):
    """What is known about cells."""

    def set_aside(self, reason: str, *parts: str) -> None:
        """Moves a file of a cell that cannot be used into `damaged/`, where it is kept, and notes that."""
        cell_id, *rest = parts
        if not rest or not is_cell_id(cell_id):
            super().set_aside(reason, *parts)
            return
        kept = ("damaged", f"{rest[-1]}-{uuid.uuid4().hex[:8]}")
        try:
            self.rename(parts, (cell_id, *kept))
        except FileNotFoundError:
            return
        if rest == ["receipt.json"]:
            # What MLflow has may be another's than the next one's.
            with contextlib.suppress(StoreError):
                self.remove(cell_id, "mirror.json")
        with contextlib.suppress(StoreError):
            self.note(cell_id, f"{'/'.join(rest)} cannot be used: {reason}; kept as {'/'.join(kept)}")

    def note(self, cell_id: str, text: str) -> None:
        """Adds to a cell's history."""
        note = Note(time=time.time(), text=text)
        self.write_model(note, cell_id, "history", f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json")

    def history(self, cell_id: str) -> list[Note]:
        """What happened to a cell, the oldest first."""
        names = sorted(name for name in self.names(cell_id, "history") if name.endswith(".json"))
        notes = (self.read_model(Note, cell_id, "history", name) for name in names)
        return [note for note in notes if note is not None]

    def set_cell_aside(self, cell_id: str) -> str:
        """Renames all that there is of a cell, so that it can be made again; returns the folder that now holds it.

        Its results are not changed: under its old name they are the cell's again. Raises FileNotFoundError if there is
        nothing.
        """
        aside = f"{cell_id}.replaced-{uuid.uuid4().hex[:8]}"
        # While the log of its claims stands, others see what is going on.
        self.rename((cell_id,), (aside,), last=CLAIMS)
        # What MLflow has will be the next training's.
        self.remove(aside, "mirror.json")
        return f"{self.uri.rstrip('/')}/{aside}"

    def earlier_receipts(self, cell_id: str) -> list[Receipt]:
        """The receipts that a cell had before it was set aside."""
        names = (name for name in self.names() if name.startswith(f"{cell_id}.replaced-"))
        found = (self.read_model(Receipt, name, "receipt.json") for name in names)
        return [receipt for receipt in found if receipt is not None]

    # -- receipts, status, mirror ------------------------------------------------------------------------------------

    def receipt(self, cell: Cell | str) -> Receipt | None:
        """The receipt of a cell, if it is whole and really that cell's."""
        cell_id = cell if isinstance(cell, str) else cell.cell_id
        receipt = self.read_model(Receipt, cell_id, "receipt.json")
        if receipt is not None and receipt.cell.cell_id != cell_id:
            self.set_aside(f"it is of cell {receipt.cell.cell_id}", cell_id, "receipt.json")
            return None
        return receipt

    def check_receipt(self, cell: Cell) -> None:
        """Raises StoreError if a cell has a receipt that only another version of this package can read."""
        if self.receipt(cell) is None and self.read_checked(cell.cell_id, "receipt.json") is not None:
            raise StoreError(
                f"store {self.uri}: cell {cell.cell_id} has a receipt of another version of pld_grid, which this one "
                "cannot read; it is kept, and its cell is not trained again"
            )

    def write_receipt(self, receipt: Receipt) -> None:
        """Writes the receipt, the last file of a cell; then checkpoints and status are no longer needed."""
        cell_id = receipt.cell.cell_id
        if receipt.weights_sha256 is not None:
            staged = (cell_id, _staged(receipt.weights_sha256))
            with contextlib.suppress(FileNotFoundError):
                try:
                    self.rename(staged, (cell_id, WEIGHTS))
                except StoreError:
                    # A folder, perhaps.
                    self.set_aside("weights cannot take its place", cell_id, WEIGHTS)
                    self.rename(staged, (cell_id, WEIGHTS))
        self.write_model(receipt, cell_id, "receipt.json")
        # The result stands: nothing about the tidying may fail it (a worker that outlived its driver may be writing).
        with contextlib.suppress(StoreError):
            # Weights of those who lost the cell, too.
            others = [name for name in self.names(cell_id) if _STAGED.fullmatch(name)]
            for name in ("status.json", "checkpoints", *others):
                with contextlib.suppress(StoreError):
                    self.remove(cell_id, name)

    def finished(self, cells: Iterable[Cell]) -> frozenset[str]:
        """Ids of the cells that have a receipt (finished or diverged: both are results)."""
        present = self.cell_ids()
        wanted = {cell.cell_id for cell in cells} & present
        return frozenset(cell_id for cell_id in wanted if self.receipt(cell_id) is not None)

    def cell_ids(self) -> set[str]:
        """Ids of all cells that the store has anything about."""
        return {name for name in self.names() if is_cell_id(name)}

    def write_status(self, cell_id: str, status: Status) -> None:
        """Notes why a cell stopped without finishing."""
        self.write_model(status, cell_id, "status.json")

    def clear_status(self, cell_id: str) -> None:
        """Forgets why a cell stopped: it runs again."""
        self.remove(cell_id, "status.json")

    def mirror(self, cell_id: str) -> Mirror | None:
        """What MLflow has of a cell."""
        return self.read_model(Mirror, cell_id, "mirror.json")

    def write_mirror(self, cell_id: str, mirror: Mirror) -> None:
        """Notes what MLflow has of a cell."""
        self.write_model(mirror, cell_id, "mirror.json")

    def write_cell(self, cell: Cell) -> None:
        """Writes the cell itself, indented, for people; a damaged file of that name is set aside."""
        if self.cell(cell.cell_id) is None:
            if self.read(cell.cell_id, "cell.json") is not None:
                self.set_aside("it is not this cell", cell.cell_id, "cell.json")
            self.write(cell.model_dump_json(indent=2).encode() + b"\n", cell.cell_id, "cell.json")

    def cell(self, cell_id: str) -> Cell | None:
        """The cell of that id, if its file is whole and has that name."""
        data = self.read(cell_id, "cell.json")
        if data is None:
            return None
        try:
            cell = Cell.model_validate_json(data)
        except ValidationError:
            return None
        return cell if cell.cell_id == cell_id else None

    def progress(self, cell_id: str) -> Progress | None:
        """All that is known about a cell, or None if the store has nothing of it."""
        receipt = self.receipt(cell_id)
        if receipt is not None:
            return Progress(
                cell_id=cell_id, state=receipt.state, reason=receipt.reason, epochs=receipt.epochs,
                parameters=receipt.parameters, receipt=receipt,
            )  # fmt: skip
        manifest = next(iter(self._manifests(cell_id, strangers_stay=True)), None)
        status = self.read_model(Status, cell_id, "status.json")
        if manifest is None and status is None:
            return None
        return Progress(
            cell_id=cell_id,
            state=status.state if status else "unfinished",
            reason=status.reason if status else "",
            epochs=manifest.epochs if manifest else (),
            parameters=manifest.parameters if manifest else None,
        )

    def save_checkpoint(self, manifest: Manifest, payload: bytes) -> None:
        """Writes a checkpoint, then its manifest; older ones than the last two go."""
        cell_id, stem = manifest.cell_id, f"{manifest.epoch:06d}"
        self.write(payload, cell_id, "checkpoints", f"{stem}.pt", durable=False)
        self.write_model(manifest, cell_id, "checkpoints", f"{stem}.json")
        for old in self._checkpoint_epochs(cell_id)[KEPT_CHECKPOINTS:]:
            self.remove(cell_id, "checkpoints", f"{old:06d}.json")
            self.remove(cell_id, "checkpoints", f"{old:06d}.pt")

    def load_checkpoint(self, cell: Cell) -> tuple[Manifest, bytes] | None:
        """The newest whole checkpoint of a cell; damaged ones are set aside and the one before is taken."""
        for manifest in self._manifests(cell.cell_id):
            stem = f"{manifest.epoch:06d}"
            payload = self.read(cell.cell_id, "checkpoints", f"{stem}.pt")
            if manifest.spec_version != cell.spec_version:
                reason = f"it is of spec version {manifest.spec_version}"
            elif payload is None:
                reason = f"{stem}.pt is missing"
            elif sha256(payload) != manifest.sha256:
                reason = f"{stem}.pt has another checksum than it says"
            else:
                return manifest, payload
            self.set_checkpoint_aside(manifest, reason)
        return None

    def set_checkpoint_aside(self, manifest: Manifest, reason: str) -> None:
        """Keeps both files of a checkpoint that cannot be used in `damaged/`, and notes why."""
        for ending in ("json", "pt"):
            self.set_aside(reason, manifest.cell_id, "checkpoints", f"{manifest.epoch:06d}.{ending}")

    def _checkpoint_epochs(self, cell_id: str) -> list[int]:
        stems = [name[:-5] for name in self.names(cell_id, "checkpoints") if name.endswith(".json")]
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def _manifests(self, cell_id: str, *, strangers_stay: bool = False) -> Iterable[Manifest]:
        """The newest first. What is whole but no manifest of ours is set aside; but not by who only reads."""
        for epoch in self._checkpoint_epochs(cell_id):
            manifest = self.read_model(Manifest, cell_id, "checkpoints", f"{epoch:06d}.json")
            if manifest is not None and (manifest.cell_id, manifest.epoch) == (cell_id, epoch):
                yield manifest
                continue
            if strangers_stay:
                continue
            reason = "another version of pld_grid wrote it"
            if manifest is not None:
                reason = f"it is of cell {manifest.cell_id} after epoch {manifest.epoch}"
            for name in (f"{epoch:06d}.json", f"{epoch:06d}.pt"):
                self.set_aside(reason, cell_id, "checkpoints", name)

    def write_weights(self, cell_id: str, data: bytes) -> str:
        """Writes the finished model's safetensors; returns their checksum, which the receipt then names.

        They are named by it until the receipt is written: who lost the cell meanwhile cannot replace another's.
        """
        checksum = sha256(data)
        self.write(data, cell_id, _staged(checksum))
        return checksum

    def check_weights(self, cell: Cell) -> None:
        """Sets a finished cell's receipt and weights aside if the weights are missing or damaged: it trains again."""
        receipt = self.receipt(cell)
        if receipt is not None and not self.has_weights(receipt):
            self.set_aside("they are not those of the receipt", cell.cell_id, WEIGHTS)
            self.set_aside("its weights are missing or damaged", cell.cell_id, "receipt.json")

    def has_weights(self, receipt: Receipt) -> bool:
        """Whether the weights that a receipt names are there and whole; some name none."""
        return receipt.weights_sha256 is None or self._weights(receipt) is not None

    def weights_of(self, cell: Cell) -> bytes:
        """A finished cell's weights. Raises StoreError if it is not finished, or they are missing or damaged."""
        receipt = self.receipt(cell)
        if receipt is None or receipt.state != "finished":
            state = "has no receipt" if receipt is None else f"is {receipt.state}"
            raise StoreError(f"store {self.uri}: cell {cell.cell_id} ({cell.student.architecture}) {state}")
        data = self._weights(receipt)
        if data is None:
            raise StoreError(f"store {self.uri}: the weights of cell {cell.cell_id} are missing or damaged")
        return data

    def _weights(self, receipt: Receipt) -> bytes | None:
        if receipt.weights_sha256 is None:
            return None
        # The staged ones may get their final name while this looks.
        names = (WEIGHTS, _staged(receipt.weights_sha256), WEIGHTS)
        found = (self.read(receipt.cell.cell_id, name) for name in names)
        return next((data for data in found if data is not None and sha256(data) == receipt.weights_sha256), None)


_STAGED = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def _staged(checksum: str) -> str:
    return f"weights-{checksum[:16]}.safetensors"
