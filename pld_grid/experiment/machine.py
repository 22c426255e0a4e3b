"""Settings of machines: resources per cohort, loader, checkpoints. They are no part of a cell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, Field

from pld_grid.experiment.cell import Cell, Count, Flag, Model, NonNegative, Positive, StrictModel

MIN_SHARE = 0.001  # of a CPU or GPU; smaller shares only make more slots than a plan can use
T = TypeVar("T")
S = TypeVar("S")


def _check_share(value: float) -> float:
    if 0 < value < MIN_SHARE:
        raise ValueError(f"must be 0 or at least {MIN_SHARE}, not {value:g}")
    return value


class MachineSettings(StrictModel):
    """How cohorts run.

    `gpus_per_cohort` may be a fraction. `devices_per_cohort` is the number of processes that train a cohort together,
    each with `gpus_per_cohort`. `accelerator` is the kind of device that they need, as Ray names it (`H100`).
    `cohort_size` limits how many students share one trial. A trial without a batch for `hung_after` seconds is ended
    and tried again. `channels_last`, `compile`, `devices_per_cohort` and the kind of device change the order in which
    numbers are added up, and hence their last digits; the other settings change no number.
    """

    cpus_per_cohort: Annotated[Positive, Field(ge=MIN_SHARE)] = 1
    gpus_per_cohort: Annotated[NonNegative, AfterValidator(_check_share)] = 0
    devices_per_cohort: Count = 1
    accelerator: str | None = None
    cohort_size: Count | None = None
    loader_workers: Annotated[int, Field(ge=0, strict=True)] = 0
    prefetch_batches: Count = 2
    checkpoint_every: Count = 1
    hung_after: Positive = 1800
    channels_last: Flag = False
    compile: Flag = False


class MachineClass(MachineSettings):
    """Settings for some students, by their names in the profile; the others' settings apply where it has none."""

    students: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class ByStudent(Generic[T]):
    """A default value for all cells, and special ones for cells whose student is one of some models."""

    default: T
    special: tuple[tuple[frozenset[str], T], ...] = ()

    def for_cell(self, cell: Cell) -> T:
        """Return the value for this cell."""
        model = model_key(cell.student)
        return next((value for models, value in self.special if model in models), self.default)

    def values(self) -> list[T]:
        """Return all values, the default first."""
        return [self.default, *(value for _, value in self.special)]

    def map(self, change: Callable[[T], S]) -> "ByStudent[S]":
        """Return the same students with changed values."""
        return ByStudent(change(self.default), tuple((models, change(value)) for models, value in self.special))


Machines = ByStudent[MachineSettings]


def model_key(model: Model) -> str:
    """Return a text that is the same for models of equal architecture and options, whatever their weights."""
    return model.model_dump_json(include={"architecture", "options"})
