"""Side by side: every contender once per round, in turn, so that a drift of the machine's speed hits all alike."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

ROUNDS = 7


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


def last_line(**results: Any) -> None:
    """The one JSON object that a benchmark ends with."""
    print(json.dumps(results))
