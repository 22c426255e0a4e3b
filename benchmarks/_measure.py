"""Side by side: every contender once per round, in turn, so that a drift of the machine's speed hits all alike."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

ROUNDS = 7


@dataclass(frozen=True)
class Goal:
    """What was to be reached: a figure and the limit that it is held against.

    `least` says that the figure should be at least the limit instead of at most.
    """

    text: str
    figure: float
    limit: float
    least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure, as measured and not as printed, keeps to the limit."""
        return self.figure >= self.limit if self.least else self.figure <= self.limit


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, seconds: float = 0.2
) -> dict[str, float]:
    """Median seconds per call of each contender over alternating rounds; each round repeats short calls."""
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
    """The one JSON object that a benchmark ends with, from which `make bench` makes its summary."""
    judged = [asdict(goal) | {"figure": round(goal.figure, 4), "reached": goal.reached} for goal in goals]
    print(json.dumps({"benchmark": benchmark, "goals": judged, **results}))
