"""What a trial tells the driver while it trains. Plain data: it crosses process boundaries as dictionaries."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

Kind = Literal["started", "epoch", "finished", "diverged", "failed", "lost", "split", "held", "full"]


@dataclass(frozen=True)
class Event:
    """One step in a cell's life.

    `epoch` follows a durable checkpoint, so a listener may act on it for good. `metrics` are that epoch's; `reason`
    belongs to the others: `held` (another run trains the cell), `split` (the cohort of a cell goes on in two halves),
    `full` (the store has no room for it), `lost` (its worker died again and again). `shared` says that another run
    brought the cell to its end.
    """

    kind: Kind
    cell_id: str
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    shared: bool = False

    @classmethod
    def of(cls, kind: str, cell_id: str, **content: Any) -> "Event":
        """The event of that kind, which may be a cell's state."""
        return cls(cast(Kind, kind), cell_id, **content)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for sending."""
        return asdict(self)


Listener = Callable[[Event], None]
