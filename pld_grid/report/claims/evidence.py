"""What a few seeds say about one number of a claim."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pld_grid.report.claims.region import Region
from pld_grid.report.statistics import CONFIDENCE

Judgement = Literal["supported", "contradicted", "not enough evidence"]
SAME = 1e-9  # Differences of equal accuracies differ by rounding.


@dataclass(frozen=True)
class Evidence:
    """The mean over `n` seeds, between the bounds of a t interval that holds it at 95 %.

    `wide_low` and `wide_high` are those that hold all numbers of the claim at once (Bonferroni). What there is not is
    None, and `reason` says why, or why the bounds decide nothing.
    """

    judgement: Judgement
    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    wide_low: float | None = None
    wide_high: float | None = None
    reason: str = ""


def weigh(numbers: Sequence[float], region: Region, among: int = 1, missing: str = "") -> Evidence:
    """Judges a number by its values under independent seeds.

    It is supported if its whole 95 % t interval is in the region: to support a claim about `among` numbers each of them
    has to be, which needs no correction (intersection-union). It is contradicted if its interval at 1 - 0.05 / `among`
    is wholly outside, as one such number contradicts the claim. `missing` says which values are not there; then nothing
    is decided.
    """
    n = len(numbers)
    if n < 2:
        few = f"n = {n}: an interval needs two seeds" if n else "no number"
        return Evidence("not enough evidence", n, numbers[0] if n else None, reason=missing or few)
    mean = statistics.fmean(numbers)
    if max(numbers) - min(numbers) < SAME:
        same = f"all {n} seeds gave the same number, which says nothing about its spread"
        return Evidence("not enough evidence", n, mean, reason=missing or same)
    low, high = _t_interval(numbers, CONFIDENCE)
    wide_low, wide_high = _t_interval(numbers, 1 - (1 - CONFIDENCE) / among)
    judgement: Judgement = "not enough evidence"
    reason = missing
    if not missing:
        if region.holds(low, high):
            judgement = "supported"
        elif region.avoids(wide_low, wide_high):
            judgement = "contradicted"
        else:
            reason = "the interval is neither within nor outside what the claim says"
    return Evidence(judgement, n, mean, low, high, wide_low, wide_high, reason)


def known(number: float, region: Region) -> Evidence:
    """Judges a number that has no spread, like a model's size."""
    return Evidence("supported" if region.accepts(number) else "contradicted", 1, number, reason="no spread")


def _t_interval(numbers: Sequence[float], confidence: float) -> tuple[float, float]:
    from scipy import stats

    n, mean = len(numbers), statistics.fmean(numbers)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(numbers) / math.sqrt(n)
    return mean - half, mean + half
