"""What a store holds, as data."""

from typing import Literal

from pld_grid.spec import Cell, Frozen

State = Literal["finished", "diverged", "failed", "lost", "cancelled", "unfinished"]


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
    """Why a cell stopped without a receipt; `lost`: its worker died again and again."""

    state: Literal["failed", "lost", "cancelled"]
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


class Note(Frozen):
    """Something that happened to a cell and is worth knowing later. `time` is Unix time in seconds."""

    time: float
    text: str
