"""Receipts and checkpoints: `<store>/<cell id>/`, on any file system that fsspec reaches.

    cell.json             the whole cell, for people
    checkpoints/0007.pt   state after epoch 7, and
    checkpoints/0007.json its manifest, written after it: checksum, identity and the epochs so far
    weights.safetensors   the finished model
    receipt.json          written last: the cell is finished, and with what numbers
    status.json           why the cell last stopped without finishing (failed, cancelled)
    mirror.json           what MLflow already has of it

A file counts only if it is whole: small files carry their own checksum, large ones are named with theirs by a
manifest. Local writes go through a rename; object stores put whole objects.
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

import fsspec
from pydantic import BaseModel, ValidationError

from pld_grid.errors import StoreError
from pld_grid.files import write_whole
from pld_grid.reading import one_line
from pld_grid.spec import Cell, Frozen, canonical_json

State = Literal["finished", "diverged", "failed", "cancelled", "unfinished"]
KEPT_CHECKPOINTS = 2
M = TypeVar("M", bound=BaseModel)
_ENVELOPE = re.compile(rb'\{"sha256":"(?P<sha256>[0-9a-f]{64})","content":(?P<body>.*)\}\n', re.DOTALL)


class EpochRecord(Frozen):
    """One epoch of one cell. `time` is Unix time in seconds; metrics are finite."""

    epoch: int
    time: float
    metrics: dict[str, float]


class Provenance(Frozen):
    """Where and with what a cell was trained."""

    commit: str
    versions: dict[str, str]
    device: str
    threads: int
    channels_last: bool = False
    compile: bool = False
    devices: int = 1
    started: float
    ended: float


class Receipt(Frozen):
    """A cell that is done: `finished` with its numbers, or `diverged` with where it did.

    `metrics` are the last epoch's; accuracies in percent, divergences in nats. `parameters` counts the model's.
    """

    cell: Cell
    state: Literal["finished", "diverged"]
    reason: str = ""
    parameters: int
    metrics: dict[str, float]
    epochs: tuple[EpochRecord, ...]
    weights_sha256: str | None = None
    provenance: Provenance


class Manifest(Frozen):
    """Names a checkpoint: which cell's, after which epoch, with which checksum."""

    cell_id: str
    spec_version: int
    epoch: int
    sha256: str
    parameters: int
    started: float
    epochs: tuple[EpochRecord, ...]


class Status(Frozen):
    """Why a cell stopped without a receipt."""

    state: Literal["failed", "cancelled"]
    reason: str = ""
    epoch: int = 0
    time: float


class Mirror(Frozen):
    """What MLflow already has: in which run, how many epochs, and the state it was told."""

    tracking_uri: str
    run_id: str
    experiment_id: str = ""
    epochs: int
    state: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Where the run is: the MLflow's address, the experiment's id, the run's."""
        return self.tracking_uri, self.experiment_id, self.run_id


class Progress(Frozen):
    """What the store knows about a cell, whatever its state."""

    cell_id: str
    state: State
    reason: str = ""
    epochs: tuple[EpochRecord, ...] = ()
    parameters: int | None = None
    receipt: Receipt | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The last recorded epoch's metrics; empty before the first."""
        return self.epochs[-1].metrics if self.epochs else {}


def sha256(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


class Store:
    """All reads and writes of one store.

    Args:
        uri: a local path or any fsspec URI (`s3://bucket/prefix`, `memory://x`).
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(one_line(f"store {self.uri}: {error}")) from None
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, *parts: str) -> str:
        """The path of a file inside the store."""
        return "/".join((self.root.rstrip("/"), *parts))

    def write(self, data: bytes, *parts: str, durable: bool = True) -> None:
        """Writes a file so that readers see it whole or not at all.

        `durable` also survives a power cut; checkpoints do without, as a torn one is detected and costs one interval.
        """
        path = self.path(*parts)
        try:
            if self.local:
                write_whole(Path(path), data, durable)
            else:
                self.fs.pipe_file(path, data)
        except OSError as error:
            raise self._error("cannot write", parts, error) from error

    def read(self, *parts: str) -> bytes | None:
        """A file's bytes, or None if there is none."""
        try:
            data: bytes = self.fs.cat_file(self.path(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error("cannot read", parts, error) from error
        return data

    def _error(self, what: str, parts: Iterable[str], error: OSError) -> StoreError:
        reason = error.strerror or str(error) or type(error).__name__
        return StoreError(one_line(f"store {self.uri}: {what} {'/'.join(parts)}: {reason}".replace(" : ", ": ")))

    def names(self, *parts: str) -> list[str]:
        """The names in a folder of the store; none if there is no such folder."""
        path = self.path(*parts)
        try:
            # Object stores remember listings, which others may have made old.
            self.fs.invalidate_cache(path)
            names = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error("cannot list", parts, error) from error
        if [name.rstrip("/") for name in names] == [path.rstrip("/")]:
            raise StoreError(one_line(f"store {self.uri}: {'/'.join(parts) or 'it'} is a file, not a folder"))
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in names]

    def check_writable(self) -> None:
        """Raises StoreError unless a small file can be written, read back and removed."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        self.write(b"probe", name)
        if self.read(name) != b"probe":
            raise StoreError(f"store {self.uri}: what is written cannot be read back")
        self.remove(name)

    def remove(self, *parts: str) -> None:
        """Removes a file or folder; it is no error if there is none."""
        try:
            self.fs.rm(self.path(*parts), recursive=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error("cannot remove", parts, error) from error

    def write_model(self, model: BaseModel, *parts: str) -> None:
        """Writes a small file with its own checksum."""
        body = canonical_json(model)
        text = f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'
        self.write(text.encode(), *parts)

    def read_checked(self, *parts: str) -> bytes | None:
        """What `write_model` wrote, as JSON; a damaged file is set aside (kept, renamed) and counts as absent."""
        data = self.read(*parts)
        if data is None:
            return None
        match = _ENVELOPE.fullmatch(data)
        if match is None or sha256(match["body"]) != match["sha256"].decode():
            self._set_aside(*parts)
            return None
        return match["body"]

    def read_model(self, model: type[M], *parts: str) -> M | None:
        """A checked small file. A whole one that does not fit is another version's: it counts as absent and stays."""
        data = self.read_checked(*parts)
        try:
            return None if data is None else model.model_validate_json(data)
        except ValidationError:
            return None

    def _set_aside(self, *parts: str) -> None:
        path = self.path(*parts)
        try:
            self.fs.mv(path, f"{path}.damaged-{uuid.uuid4().hex[:8]}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error("cannot rename", parts, error) from error

    def set_cell_aside(self, cell_id: str) -> str:
        """Renames all that there is of a cell, so that it can be made again; returns the folder that now holds it.

        Its results are not changed: under its old name they are the cell's again.
        """
        aside = f"{cell_id}.replaced-{uuid.uuid4().hex[:8]}"
        try:
            self.fs.mv(self.path(cell_id), self.path(aside), recursive=True)
        except OSError as error:
            raise self._error("cannot rename", (cell_id,), error) from error
        # What MLflow has will be the next training's.
        self.remove(aside, "mirror.json")
        return f"{self.uri.rstrip('/')}/{aside}"

    # -- receipts, status, mirror ------------------------------------------------------------------------------------

    def receipt(self, cell: Cell | str) -> Receipt | None:
        """The receipt of a cell, if it is whole and really that cell's."""
        cell_id = cell if isinstance(cell, str) else cell.cell_id
        receipt = self.read_model(Receipt, cell_id, "receipt.json")
        if receipt is not None and receipt.cell.cell_id != cell_id:
            self._set_aside(cell_id, "receipt.json")
            return None
        return receipt

    def write_receipt(self, receipt: Receipt) -> None:
        """Writes the receipt, the last file of a cell; then checkpoints and status are no longer needed."""
        cell_id = receipt.cell.cell_id
        self.write_model(receipt, cell_id, "receipt.json")
        # The result stands: nothing about the tidying may fail it (a worker that outlived its driver may be writing).
        for name in ("status.json", "checkpoints"):
            with contextlib.suppress(StoreError):
                self.remove(cell_id, name)

    def finished(self, cells: Iterable[Cell]) -> frozenset[str]:
        """Ids of the cells that have a receipt (finished or diverged: both are results)."""
        present = self.cell_ids()
        wanted = {cell.cell_id for cell in cells} & present
        return frozenset(cell_id for cell_id in wanted if self.receipt(cell_id) is not None)

    def cell_ids(self) -> set[str]:
        """Ids of all cells that the store has anything about."""
        return {name for name in self.names() if len(name) == 16 and set(name) <= set("0123456789abcdef")}

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
        """Writes the cell itself, indented, for people."""
        if self.read(cell.cell_id, "cell.json") is None:
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
        manifest = next(iter(self._manifests(cell_id)), None)
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
            if payload is not None and sha256(payload) == manifest.sha256:
                return manifest, payload
            self._set_aside(cell.cell_id, "checkpoints", f"{stem}.json")
            self._set_aside(cell.cell_id, "checkpoints", f"{stem}.pt")
        return None

    def _checkpoint_epochs(self, cell_id: str) -> list[int]:
        stems = [name[:-5] for name in self.names(cell_id, "checkpoints") if name.endswith(".json")]
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def _manifests(self, cell_id: str) -> Iterable[Manifest]:
        for epoch in self._checkpoint_epochs(cell_id):
            manifest = self.read_model(Manifest, cell_id, "checkpoints", f"{epoch:06d}.json")
            if manifest is None:
                continue
            if (manifest.cell_id, manifest.epoch) == (cell_id, epoch):
                yield manifest
            else:
                self._set_aside(cell_id, "checkpoints", f"{epoch:06d}.json")

    def write_weights(self, cell_id: str, data: bytes) -> str:
        """Writes the finished model's safetensors; returns their checksum, which the receipt then names."""
        self.write(data, cell_id, "weights.safetensors")
        return sha256(data)

    def check_weights(self, cell: Cell) -> None:
        """Sets the receipt of a finished cell aside if its weights are missing or damaged: it trains again."""
        receipt = self.receipt(cell)
        if receipt is not None and receipt.weights_sha256 is not None and self._weights(receipt) is None:
            self._set_aside(cell.cell_id, "receipt.json")

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
        data = self.read(receipt.cell.cell_id, "weights.safetensors")
        return data if data is not None and sha256(data) == receipt.weights_sha256 else None
