"""What tests of faults count, and the types of what they are given."""

import subprocess
from collections import Counter
from collections.abc import Callable

from chaos import Run, Witness
from service import Service

Undisturbed = Callable[[str, str], dict[str, bytes]]
Make = Callable[..., tuple[Service, Witness]]
Watch = Callable[["subprocess.Popen[str]"], Run]

# Kills at moments that a test chooses, or of what no grid has to do with: not counted among those at random moments.
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
        """Notes some faults of a kind."""
        self.faults[kind] += number

    def kill(self, victim: str, number: int = 1) -> None:
        """Notes some killed processes, by what they were."""
        self.kills[victim] += number
