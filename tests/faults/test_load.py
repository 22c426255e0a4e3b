"""A driver with many cohorts, on a small scale; benchmarks/load.py measures 5,000 cells and 8 drivers."""

import sys
from pathlib import Path

from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import load

COHORTS, SIZE = 25, 8


def test_driver_with_many_cohorts_uses_bounded_resources(tmp_path, count):
    figures, goals = load.alone(tmp_path, COHORTS, SIZE, Console(quiet=True))
    assert figures["exit"] == 0
    assert figures["once"]
    # With so few cells, the memory per cell is lost in fluctuations.
    bounded = [goal for goal in goals if "KiB" not in goal.text]
    assert [goal.text for goal in bounded if not goal.reached] == []
    assert len(bounded) >= 4
    count("cohort in one driver's queue", COHORTS)
