"""The files of a store, as pydantic models.

Numbers have bounds far beyond those of any training, so that they can always be added, divided and printed. A file with
a number out of bounds counts as one of another version.
"""

from typing import Annotated, Literal

from pydantic import Field

from pld_grid.experiment.cell import MAX_EPOCHS, Cell, StrictModel

MAX_METRIC = 1e100
# The limit also makes pydantic refuse unpaired surrogates, which JSON may contain but no file or terminal accepts.
Text = Annotated[str, Field(max_length=10**6)]
WholeNumber = Annotated[int, Field(ge=0, le=2**53)]  # the largest that a double represents exactly
Epoch = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Metrics = dict[Text, Annotated[float, Field(ge=-MAX_METRIC, le=MAX_METRIC, allow_inf_nan=False)]]
# Unix time in seconds, until the year 5138.
Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
State = Literal["finished", "diverged", "failed", "lost", "cancelled", "unfinished", "queued"]


class EpochRecord(StrictModel):
    """One epoch of one cell. `time` is Unix time in seconds."""

    epoch: Epoch
    time: Time
    metrics: Metrics


class Provenance(StrictModel):
    """Where and with what a cell was trained."""

    commit: Text
    versions: dict[Text, Text]
    device: Text
    threads: WholeNumber
    channels_last: bool = False
    compile: bool = False
    devices: WholeNumber = 1
    started: Time
    ended: Time


class Receipt(StrictModel):
    """The result of a cell: `finished` with its numbers, or `diverged`, where `reason` says in which epoch.

    `metrics` are the last epoch's; accuracies in percent, divergences in nats. `parameters` is the model's number.
    """

    cell: Cell
    state: Literal["finished", "diverged"]
    reason: Text = ""
    parameters: WholeNumber
    metrics: Metrics
    epochs: tuple[EpochRecord, ...]
    weights_sha256: str | None = None
    provenance: Provenance


class Manifest(StrictModel):
    """The description of a checkpoint: its cell, its epoch and its checksum."""

    cell_id: str
    spec_version: int
    epoch: Epoch
    sha256: str
    parameters: WholeNumber
    started: Time
    epochs: tuple[EpochRecord, ...]


class Status(StrictModel):
    """Why a cell stopped without a receipt; `lost` means that its worker died repeatedly."""

    state: Literal["failed", "lost", "cancelled"]
    reason: str = ""
    epoch: Epoch = 0
    time: Time


class Mirror(StrictModel):
    """What MLflow already has of a cell: its run, the number of epochs, and the state."""

    tracking_uri: str
    run_id: str
    experiment_id: str = ""
    epochs: int
    state: str

    @property
    def place(self) -> tuple[str, str, str]:
        """MLflow's address, the id of the experiment, and the id of the run."""
        return self.tracking_uri, self.experiment_id, self.run_id


class Note(StrictModel):
    """An event in a cell's history. `time` is Unix time in seconds."""

    time: Time
    text: str
