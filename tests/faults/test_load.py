"""A driver with many cohorts, on a small scale; benchmarks/load.py measures 5,000 cells and 8 drivers."""

import sys
from pathlib import Path

from counting import Count
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import load

COHORTS, SIZE = 25, 8


def test_what_a_driver_holds_is_bounded(tmp_path: Path, count: Count) -> None:
    figures, goals = load.alone(tmp_path, COHORTS, SIZE, Console(quiet=True))
    assert figures["exit"] == 0
    assert figures["once"]
    # Of so few cells, what each adds to the memory is lost in its ups and downs.
    bounded = [goal for goal in goals if "KiB" not in goal.text]
    assert [goal.text for goal in bounded if not goal.reached] == []
    assert len(bounded) >= 4
    count("cohort in one driver's queue", COHORTS)
