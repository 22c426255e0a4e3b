"""Receipts and checkpoints of cells: the folder `<store>/<cell id>/`.

cell.json             the whole cell, for people
claims/000001.json    the claim log: see `pld_grid.store.claims`
checkpoints/000007.pt training state after epoch 7
checkpoints/000007.json its manifest, written after it: checksum, identity and the epochs so far
weights.safetensors   the finished model
receipt.json          the results, written last: the cell is finished
status.json           why the cell stopped without finishing (failed, lost, cancelled)
damaged/              quarantined files
history/              notes about unusual events: quarantined files, dead workers
mirror.json           how far MLflow has the cell
"""

import contextlib
import logging
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace

from pydantic import ValidationError

from pld_grid.experiment.cell import SPEC_VERSION, Cell
from pld_grid.store.file_store import Files, sha256
from pld_grid.store.records import CellRecord
from pld_grid.store.schema import Manifest, Mirror, Note, Receipt, Status
from pld_grid.util.errors import StoreError

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
CLAIMS = "claims"
_WEIGHTS = "weights.safetensors"
_CELL_ID = re.compile(r"[0-9a-f]{16}")
_STAGED_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def _staged_weights(checksum: str) -> str:
    """Return the name of weights until the receipt that names their checksum is written."""
    return f"weights-{checksum[:16]}.safetensors"


class Store(Files):
    """The cells of one store."""

    def quarantine(self, reason: str, *parts: str) -> None:
        """Move an unusable file of a cell into the cell's `damaged/`, and add a note to its history."""
        cell_id, *rest = parts
        if not rest or not _CELL_ID.fullmatch(cell_id):
            super().quarantine(reason, *parts)
            return
        kept = ("damaged", f"{rest[-1]}-{uuid.uuid4().hex[:8]}")
        try:
            self.rename(parts, (cell_id, *kept))
        except FileNotFoundError:
            return
        with contextlib.suppress(StoreError):
            if rest == ["receipt.json"]:
                # The next training may give other numbers than those that MLflow has.
                self.remove(cell_id, "mirror.json")
        with contextlib.suppress(StoreError):
            self.note(cell_id, f"{'/'.join(rest)} cannot be used: {reason}; kept as {'/'.join(kept)}")

    def note(self, cell_id: str, text: str) -> None:
        """Add a note to a cell's history."""
        note = Note(time=time.time(), text=text)
        self.write_model(note, cell_id, "history", f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json")

    def history(self, cell_id: str) -> list[Note]:
        """Return the notes about a cell, the oldest first."""
        names = sorted(name for name in self.names(cell_id, "history") if name.endswith(".json"))
        notes = (self.read_model(Note, cell_id, "history", name) for name in names)
        return [note for note in notes if note is not None]

    def archive_cell(self, cell_id: str) -> str:
        """Rename a cell's folder so that the cell can be trained again; return the new folder.

        The results become the cell's again when the folder gets its old name back. Raises FileNotFoundError if the
        cell has no folder.
        """
        archived = f"{cell_id}.replaced-{uuid.uuid4().hex[:8]}"
        # As long as the claim log is there, other processes see that the cell is being archived.
        self.rename((cell_id,), (archived,), last=CLAIMS)
        # MLflow's run will continue with the next training.
        self.remove(archived, "mirror.json")
        return f"{self.uri.rstrip('/')}/{archived}"

    def archived_receipts(self, cell_id: str) -> list[Receipt]:
        """Return the receipts of the cell's archived results."""
        names = (name for name in self.names() if name.startswith(f"{cell_id}.replaced-"))
        receipts = (self.read_model(Receipt, name, "receipt.json") for name in names)
        return [receipt for receipt in receipts if receipt is not None]

    # -- receipts, status, mirror ------------------------------------------------------------------------------------

    def receipt(self, cell: Cell | str) -> Receipt | None:
        """Return the receipt of a cell, if it is intact, that cell's and of this spec version."""
        cell_id = cell if isinstance(cell, str) else cell.cell_id
        receipt = self.read_model(Receipt, cell_id, "receipt.json")
        if receipt is None:
            return None
        if receipt.cell.cell_id != cell_id:
            self.quarantine(f"it is of cell {receipt.cell.cell_id}", cell_id, "receipt.json")
            return None
        if receipt.cell.spec_version != SPEC_VERSION:
            message = "store %s: the receipt of cell %s has spec version %d; this version of pld_grid only reads %d"
            logger.warning(message, self.uri, cell_id, receipt.cell.spec_version, SPEC_VERSION)
            return None
        return receipt

    def check_receipt(self, cell: Cell) -> None:
        """Raise StoreError if a cell has a receipt that only another version of this package can read."""
        if self.receipt(cell) is None and self.read_checked(cell.cell_id, "receipt.json") is not None:
            raise StoreError(
                f"store {self.uri}: cell {cell.cell_id} has a receipt of another version of pld_grid, which this one "
                "cannot read; it is kept, and its cell is not trained again"
            )

    def write_receipt(self, receipt: Receipt) -> None:
        """Write the receipt, the last file of a cell; then remove checkpoints and status."""
        cell_id = receipt.cell.cell_id
        if receipt.weights_sha256 is not None:
            staged = (cell_id, _staged_weights(receipt.weights_sha256))
            with contextlib.suppress(FileNotFoundError):
                try:
                    self.rename(staged, (cell_id, _WEIGHTS))
                except StoreError:
                    # There may be a folder of that name.
                    self.quarantine("weights cannot take its place", cell_id, _WEIGHTS)
                    self.rename(staged, (cell_id, _WEIGHTS))
        self.write_model(receipt, cell_id, "receipt.json")
        # The cell is finished even if the rest fails, for example because a worker without a driver still writes.
        with contextlib.suppress(StoreError):
            lost_weights = [name for name in self.names(cell_id) if _STAGED_WEIGHTS.fullmatch(name)]
            for name in ("status.json", "checkpoints", *lost_weights):
                with contextlib.suppress(StoreError):
                    self.remove(cell_id, name)

    def finished(self, cells: Iterable[Cell]) -> frozenset[str]:
        """Return the ids of the cells that have a receipt (finished or diverged: both are results)."""
        wanted = {cell.cell_id for cell in cells} & self.cell_ids()
        return frozenset(cell_id for cell_id in wanted if self.receipt(cell_id) is not None)

    def cell_ids(self) -> set[str]:
        """Return the ids of all cells that have a folder."""
        return {name for name in self.names() if _CELL_ID.fullmatch(name)}

    def write_status(self, cell_id: str, status: Status) -> None:
        """Write why a cell stopped without finishing."""
        self.write_model(status, cell_id, "status.json")

    def clear_status(self, cell_id: str) -> None:
        """Remove the status of a cell that runs again."""
        self.remove(cell_id, "status.json")

    def mirror(self, cell_id: str) -> Mirror | None:
        """Return how far MLflow has a cell."""
        return self.read_model(Mirror, cell_id, "mirror.json")

    def write_mirror(self, cell_id: str, mirror: Mirror) -> None:
        """Write how far MLflow has a cell."""
        self.write_model(mirror, cell_id, "mirror.json")

    def write_cell(self, cell: Cell) -> None:
        """Write the cell itself, indented, for people; a damaged file of that name is quarantined."""
        if self.cell(cell.cell_id) is None:
            if self.read(cell.cell_id, "cell.json") is not None:
                self.quarantine("it is not this cell", cell.cell_id, "cell.json")
            self.write(cell.model_dump_json(indent=2).encode() + b"\n", cell.cell_id, "cell.json")

    def cell(self, cell_id: str) -> Cell | None:
        """Return the cell of that id, if its file is intact and has that name."""
        try:
            cell = Cell.model_validate_json(self.read(cell_id, "cell.json") or b"")
        except ValidationError:
            return None
        return cell if cell.cell_id == cell_id else None

    def record(self, cell_id: str) -> CellRecord | None:
        """Return all that is known about a cell, or None if the store has nothing of it."""
        receipt = self.receipt(cell_id)
        if receipt is not None:
            return CellRecord.from_epochs(
                cell_id,
                receipt.state,
                receipt.epochs,
                reason=receipt.reason,
                parameters=receipt.parameters,
                commit=receipt.provenance.commit,
                provenance=receipt.provenance,
                receipt=receipt,
            )
        manifest = next(iter(self._manifests(cell_id, quarantine=False)), None)
        status = self.read_model(Status, cell_id, "status.json")
        if manifest is None and status is None:
            return None
        return CellRecord.from_epochs(
            cell_id,
            status.state if status else "unfinished",
            manifest.epochs if manifest else (),
            reason=status.reason if status else "",
            parameters=manifest.parameters if manifest else None,
        )

    def report_record(self, cell_id: str, tracking_uri: str | None = None) -> CellRecord | None:
        """Return the record that a report shows of a cell, or None if the store has nothing of it.

        It names the cell's MLflow run if that is at `tracking_uri` (None: wherever it is), and has epochs only if the
        cell has a receipt, as a record that was read from MLflow.
        """
        record = self.record(cell_id)
        if record is None:
            return None
        mirror = self.mirror(cell_id)
        if mirror is not None and tracking_uri in (None, mirror.tracking_uri):
            record = replace(record, run_id=mirror.run_id, experiment_id=mirror.experiment_id)
        return replace(record, epochs=record.epochs if record.receipt else (), receipt=None)

    def report_records(self, cell_ids: Iterable[str], tracking_uri: str | None = None) -> dict[str, CellRecord]:
        """Return `report_record` of those cells that the store has something of."""
        present = self.cell_ids()
        records = (self.report_record(i, tracking_uri) for i in dict.fromkeys(cell_ids) if i in present)
        return {record.cell_id: record for record in records if record is not None}

    # -- checkpoints and weights -------------------------------------------------------------------------------------

    def save_checkpoint(self, manifest: Manifest, payload: bytes) -> None:
        """Write a checkpoint, then its manifest; remove all but the last `KEPT_CHECKPOINTS`."""
        cell_id, stem = manifest.cell_id, f"{manifest.epoch:06d}"
        self.write(payload, cell_id, "checkpoints", f"{stem}.pt", durable=False)
        self.write_model(manifest, cell_id, "checkpoints", f"{stem}.json")
        for old in self._checkpoint_epochs(cell_id)[KEPT_CHECKPOINTS:]:
            self.remove(cell_id, "checkpoints", f"{old:06d}.json")
            self.remove(cell_id, "checkpoints", f"{old:06d}.pt")

    def load_checkpoint(self, cell: Cell) -> tuple[Manifest, bytes] | None:
        """Return the newest intact checkpoint of a cell; damaged ones are quarantined."""
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
            self.quarantine_checkpoint(cell.cell_id, manifest.epoch, reason)
        return None

    def quarantine_checkpoint(self, cell_id: str, epoch: int, reason: str) -> None:
        """Quarantine both files of a checkpoint that cannot be used."""
        for ending in ("json", "pt"):
            self.quarantine(reason, cell_id, "checkpoints", f"{epoch:06d}.{ending}")

    def _checkpoint_epochs(self, cell_id: str) -> list[int]:
        """Return the epochs of a cell's manifests, the newest first."""
        stems = [name.removesuffix(".json") for name in self.names(cell_id, "checkpoints") if name.endswith(".json")]
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def _manifests(self, cell_id: str, *, quarantine: bool = True) -> Iterable[Manifest]:
        """Yield the manifests of a cell, the newest first; intact files that are no manifest of it are quarantined."""
        for epoch in self._checkpoint_epochs(cell_id):
            manifest = self.read_model(Manifest, cell_id, "checkpoints", f"{epoch:06d}.json")
            if manifest is not None and (manifest.cell_id, manifest.epoch) == (cell_id, epoch):
                yield manifest
            elif quarantine:
                reason = "another version of pld_grid wrote it"
                if manifest is not None:
                    reason = f"it is of cell {manifest.cell_id} after epoch {manifest.epoch}"
                self.quarantine_checkpoint(cell_id, epoch, reason)

    def write_weights(self, cell_id: str, data: bytes) -> str:
        """Write the safetensors of a finished model; return their checksum, which belongs in the receipt.

        Until the receipt is written, the file's name contains the checksum: a process that has lost its claim cannot
        replace the weights of another.
        """
        checksum = sha256(data)
        self.write(data, cell_id, _staged_weights(checksum))
        return checksum

    def check_weights(self, cell: Cell) -> None:
        """Quarantine a finished cell's receipt and weights if the weights are missing or damaged: it trains again."""
        receipt = self.receipt(cell)
        if receipt is not None and not self.has_weights(receipt):
            self.quarantine("they are not those of the receipt", cell.cell_id, _WEIGHTS)
            self.quarantine("its weights are missing or damaged", cell.cell_id, "receipt.json")

    def has_weights(self, receipt: Receipt) -> bool:
        """Return whether the weights that a receipt names are there and intact; True if it names none."""
        return receipt.weights_sha256 is None or self._read_weights(receipt) is not None

    def read_weights(self, cell: Cell) -> bytes:
        """Return a finished cell's weights. Raises StoreError if it is not finished, or they are missing or damaged."""
        receipt = self.receipt(cell)
        if receipt is None or receipt.state != "finished":
            state = "has no receipt" if receipt is None else f"is {receipt.state}"
            raise StoreError(f"store {self.uri}: cell {cell.cell_id} ({cell.student.architecture}) {state}")
        data = self._read_weights(receipt)
        if data is None:
            raise StoreError(f"store {self.uri}: the weights of cell {cell.cell_id} are missing or damaged")
        return data

    def _read_weights(self, receipt: Receipt) -> bytes | None:
        if receipt.weights_sha256 is None:
            return None
        # They may get their final name between the first two reads.
        names = (_WEIGHTS, _staged_weights(receipt.weights_sha256), _WEIGHTS)
        files = (self.read(receipt.cell.cell_id, name) for name in names)
        return next((data for data in files if data is not None and sha256(data) == receipt.weights_sha256), None)
