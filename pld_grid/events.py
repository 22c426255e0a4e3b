"""What a trial tells the driver while it trains. Plain data: it crosses process boundaries as dictionaries."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """One step in a cell's life.

    `epoch` follows a durable checkpoint, so a listener may act on it for good. `metrics` are that epoch's; `reason`
    belongs to `failed`, `diverged` and `split`, which says that the cohort of a cell goes on in two halves.
    """

    kind: Literal["started", "epoch", "finished", "diverged", "failed", "split"]
    cell_id: str
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for sending."""
        return asdict(self)


Listener = Callable[[Event], None]
