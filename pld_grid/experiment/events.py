"""Events that a trial sends to the driver while it trains.

They cross process boundaries as dictionaries: see `Event.to_dict`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Something that happened to a cell."""

    cell_id: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` turns back into the event."""
        return {"event": type(self).__name__, **asdict(self)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Event":
        """Return the event that `to_dict` was called on."""
        fields = dict(data)
        event_type: type[Event] = _TYPES[fields.pop("event")]
        return event_type(**fields)


@dataclass(frozen=True)
class CellStarted(Event):
    """Training begins, or continues from the checkpoint after `epoch`."""

    epoch: int = 0


@dataclass(frozen=True)
class EpochCompleted(Event):
    """An epoch ended and its checkpoint is durable. `metrics` are that epoch's."""

    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CellEnded(Event):
    """The run is done with a cell. `shared` means that another run brought it to its end."""

    state: ClassVar[str]
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    shared: bool = False

    @staticmethod
    def in_state(state: str, cell_id: str, **fields: Any) -> "CellEnded":
        """Return the event of a cell that ended in a state: finished, diverged, failed or lost."""
        return _ENDS[state](cell_id, **fields)


class CellFinished(CellEnded):
    """The cell has a receipt; `metrics` are the last epoch's."""

    state = "finished"


class CellDiverged(CellEnded):
    """The cell has a receipt that says where the loss or the weights stopped being finite."""

    state = "diverged"


class CellFailed(CellEnded):
    """The cell raised an error, which `reason` describes."""

    state = "failed"


class CellLost(CellEnded):
    """The cell's worker died repeatedly."""

    state = "lost"


@dataclass(frozen=True)
class ClaimedElsewhere(Event):
    """Another run trains the cell; `reason` names it."""

    reason: str = ""


@dataclass(frozen=True)
class CohortSplit(Event):
    """The cohort of a cell continues as two halves."""

    reason: str


@dataclass(frozen=True)
class OutOfSpace(Event):
    """The store has no space left for the cell."""

    reason: str


EventCallback = Callable[[Event], None]
_ENDS = {ended.state: ended for ended in (CellFinished, CellDiverged, CellFailed, CellLost)}
_TYPES = {
    each.__name__: each
    for each in (CellStarted, EpochCompleted, ClaimedElsewhere, CohortSplit, OutOfSpace, *_ENDS.values())
}
