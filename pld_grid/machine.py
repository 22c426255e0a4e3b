"""How cells run, which is no part of the experiment: resources per cohort, loader, checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, Field

from pld_grid.spec import Cell, Count, Flag, Frozen, Model, NonNegative, Positive

# Of a processor or device: far less than anything runs on, and more slots than that plans nothing.
LEAST = 0.001
T = TypeVar("T")
S = TypeVar("S")


def _nothing_or_some(value: float) -> float:
    if 0 < value < LEAST:
        raise ValueError(f"must be 0 or at least {LEAST}, not {value:g}")
    return value


class MachineSettings(Frozen):
    """How cohorts run.

    `gpus_per_cohort` may be a fraction; `devices_per_cohort` such shares, each with its own process, train a cohort
    together; `accelerator` is the kind of device that they must have, as Ray names it (`H100`); `cohort_size` limits
    how many students share one trial; after `hung_after` seconds without a batch a trial is ended and tried again.
    `channels_last`, `compile` and `devices_per_cohort` change the order in which numbers are added up, hence their last
    digits, and so may another kind of device; the others change none.
    """

    cpus_per_cohort: Annotated[Positive, Field(ge=LEAST)] = 1
    gpus_per_cohort: Annotated[NonNegative, AfterValidator(_nothing_or_some)] = 0
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
    """Settings for some students, by their names in the profile; what they leave out is as for all others."""

    students: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class ByStudent(Generic[T]):
    """A value for most cells, and others for those whose student is one of some models, whatever its weights."""

    usual: T
    others: tuple[tuple[frozenset[str], T], ...] = ()

    def of(self, cell: Cell) -> T:
        """The value for this cell."""
        model = model_key(cell.student)
        return next((value for models, value in self.others if model in models), self.usual)

    def values(self) -> list[T]:
        """All of them, the usual one first."""
        return [self.usual, *(value for _, value in self.others)]

    def map(self, change: Callable[[T], S]) -> "ByStudent[S]":
        """The same students with other values."""
        return ByStudent(change(self.usual), tuple((models, change(value)) for models, value in self.others))


Machines = ByStudent[MachineSettings]


def model_key(model: Model) -> str:
    """Names a model by what decides how much it computes: architecture and options."""
    return model.model_dump_json(include={"architecture", "options"})
