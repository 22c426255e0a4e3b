"""Count injected faults, and types of the fixtures of these tests."""

import subprocess
from collections import Counter
from collections.abc import Callable

from cli_process import Service
from process_kills import Recorder, Run

Undisturbed = Callable[[str, str], dict[str, bytes]]
Make = Callable[..., tuple[Service, Recorder]]
Watch = Callable[["subprocess.Popen[str]"], Run]

# Kills that are not at random moments of a grid.
CHOSEN = "trial at a chosen moment"
DRIVER_WITH_ALL = "driver with all workers"
DRIVER_BESIDE = "driver beside another"
WORKER_ALONE = "worker of a loader without a grid"
NOT_RANDOM = frozenset({CHOSEN, DRIVER_WITH_ALL, DRIVER_BESIDE, WORKER_ALONE})


class Count:
    """Counts the faults that a test injects, by kind."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def __call__(self, kind: str, number: int = 1) -> None:
        """Count faults of a kind."""
        self.faults[kind] += number

    def kill(self, victim: str, number: int = 1) -> None:
        """Count killed processes of a kind."""
        self.kills[victim] += number
