"""What a store holds, as data.

Numbers have bounds far beyond what any training makes, so that whatever adds, divides or prints them never meets one
that it cannot: a file with another number is one that this version does not know.
"""

from typing import Annotated, Literal

from pydantic import Field

from pld_grid.spec import MAX_EPOCHS, Cell, Frozen

LARGEST_METRIC = 1e100
# Whoever measures a text also refuses half a surrogate pair, which JSON may hold and neither file nor terminal takes.
Text = Annotated[str, Field(max_length=10**6)]
# What a double counts exactly.
Whole = Annotated[int, Field(ge=0, le=2**53)]
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Metrics = dict[Text, Annotated[float, Field(ge=-LARGEST_METRIC, le=LARGEST_METRIC, allow_inf_nan=False)]]
# Unix time in seconds, until the year 5138.
Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
State = Literal["finished", "diverged", "failed", "lost", "cancelled", "unfinished"]


class EpochRecord(Frozen):
    """One epoch of one cell. `time` is Unix time in seconds."""

    epoch: Epoch
    time: Time
    metrics: Metrics


class Provenance(Frozen):
    """Where and with what a cell was trained."""

    commit: Text
    versions: dict[Text, Text]
    device: Text
    threads: Whole
    channels_last: bool = False
    compile: bool = False
    devices: Whole = 1
    started: Time
    ended: Time


class Receipt(Frozen):
    """A cell that is done: `finished` with its numbers, or `diverged` with where it did.

    `metrics` are the last epoch's; accuracies in percent, divergences in nats. `parameters` counts the model's.
    """

    cell: Cell
    state: Literal["finished", "diverged"]
    reason: Text = ""
    parameters: Whole
    metrics: Metrics
    epochs: tuple[EpochRecord, ...]
    weights_sha256: str | None = None
    provenance: Provenance


class Manifest(Frozen):
    """Names a checkpoint: which cell's, after which epoch, with which checksum."""

    cell_id: str
    spec_version: int
    epoch: Epoch
    sha256: str
    parameters: Whole
    started: Time
    epochs: tuple[EpochRecord, ...]


class Status(Frozen):
    """Why a cell stopped without a receipt; `lost`: its worker died again and again."""

    state: Literal["failed", "lost", "cancelled"]
    reason: str = ""
    epoch: Epoch = 0
    time: Time


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

    time: Time
    text: str
