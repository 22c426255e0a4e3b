"""Time contenders side by side: each runs once per round, so that a drift of the machine affects all equally."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

ROUNDS = 7


@dataclass(frozen=True)
class Goal:
    """A measured figure and its limit.

    Attributes:
        text: what the figure is.
        figure: the measured value.
        limit: the figure should be at most this value.
        least: whether the figure should be at least the limit instead.
    """

    text: str
    figure: float
    limit: float
    least: bool = False

    @property
    def reached(self) -> bool:
        """Return whether the unrounded figure is within the limit."""
        return self.figure >= self.limit if self.least else self.figure <= self.limit


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, seconds: float = 0.2
) -> dict[str, float]:
    """Return the median seconds per call of each contender over alternating rounds; a round repeats short calls."""
    repeats = {}
    for name, call in contenders.items():
        call()
        started = time.perf_counter()
        call()
        repeats[name] = max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - started) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def last_line(benchmark: str, goals: Iterable[Goal] = (), **results: Any) -> None:
    """Print the JSON object that ends a benchmark; `make bench` summarizes it."""
    rows = [asdict(goal) | {"figure": round(goal.figure, 4), "reached": goal.reached} for goal in goals]
    print(json.dumps({"benchmark": benchmark, "goals": rows, **results}))
