"""Test one number of a claim by its values under a few seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pld_grid.report.claims.region import Region
from pld_grid.report.statistics import CONFIDENCE, ROUNDING_TOLERANCE, t_interval

Judgement = Literal["supported", "contradicted", "not enough evidence"]
UNDECIDED: Judgement = "not enough evidence"


@dataclass(frozen=True)
class Evidence:
    """The judgement on a number, with its mean over `n` seeds and the bounds of the mean's 95 % t interval.

    `corrected_low` and `corrected_high` bound the interval at the Bonferroni-corrected confidence, which covers all
    numbers of the claim at once. Unknown values are None. `reason` explains a judgement that the bounds do not.
    """

    judgement: Judgement
    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None
    reason: str = ""


def assess(
    numbers: Sequence[float], region: Region, family: int = 1, some: bool = False, missing: str = ""
) -> Evidence:
    """Judge a number by its values under independent seeds.

    The number is supported if its whole t interval lies in the region, and contradicted if it lies wholly outside.

    A claim about each of `family` numbers needs all of them supported, for which intervals at 95 % suffice
    (intersection-union test), but a single contradicted number refutes it, so contradicting takes an interval at
    1 - 0.05 / `family` (Bonferroni). For a claim about some of the numbers, the two intervals change places.

    Args:
        numbers: One value per seed.
        region: The numbers that the claim accepts.
        family: How many numbers the claim is about.
        some: Whether one supported number suffices.
        missing: Which values are missing; if any are, nothing is decided.
    """
    n = len(numbers)
    if n < 2:
        reason = f"n = {n}: an interval needs two seeds" if n else "no number"
        return Evidence(UNDECIDED, n, numbers[0] if n else None, reason=missing or reason)
    mean = statistics.fmean(numbers)
    if max(numbers) - min(numbers) < ROUNDING_TOLERANCE:
        reason = f"all {n} seeds gave the same number, which says nothing about its spread"
        return Evidence(UNDECIDED, n, mean, reason=missing or reason)
    plain, corrected = (t_interval(numbers, level) for level in (CONFIDENCE, 1 - (1 - CONFIDENCE) / family))
    to_support, to_contradict = (corrected, plain) if some else (plain, corrected)
    judgement = UNDECIDED
    if not missing and region.contains(*to_support):
        judgement = "supported"
    elif not missing and region.excludes(*to_contradict):
        judgement = "contradicted"
    return Evidence(judgement, n, mean, *plain, *corrected, missing)


def assess_exact(number: float, region: Region) -> Evidence:
    """Judge a number that has no spread, such as a model's size."""
    judgement: Judgement = "supported" if region.contains(number, number) else "contradicted"
    return Evidence(judgement, 1, number, reason="no spread")
