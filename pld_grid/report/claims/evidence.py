"""What a few seeds say about one number of a claim."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pld_grid.report.claims.region import Region
from pld_grid.report.statistics import CONFIDENCE, SAME, t_interval

Judgement = Literal["supported", "contradicted", "not enough evidence"]


@dataclass(frozen=True)
class Evidence:
    """The mean over `n` seeds, between the bounds of a t interval that holds it at 95 %.

    `wide_low` and `wide_high` are those that hold all numbers of the claim at once (Bonferroni). What there is not is
    None. `reason` says why nothing could be decided, where it was not for the bounds alone.
    """

    judgement: Judgement
    n: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    wide_low: float | None = None
    wide_high: float | None = None
    reason: str = ""


def weigh(numbers: Sequence[float], region: Region, among: int = 1, some: bool = False, missing: str = "") -> Evidence:
    """Judges a number by its values under independent seeds.

    It is supported if its whole t interval is in the region, and contradicted if it is wholly outside. Of a claim about
    each of `among` numbers, all have to be supported, for which intervals at 95 % do (intersection-union), but one
    contradicted number is enough, so that this takes an interval at 1 - 0.05 / `among`. Of a claim about `some` of them
    it is the other way round. `missing` says which values are not there; then nothing is decided.
    """
    n = len(numbers)
    if n < 2:
        few = f"n = {n}: an interval needs two seeds" if n else "no number"
        return Evidence("not enough evidence", n, numbers[0] if n else None, reason=missing or few)
    mean = statistics.fmean(numbers)
    if max(numbers) - min(numbers) < SAME:
        same = f"all {n} seeds gave the same number, which says nothing about its spread"
        return Evidence("not enough evidence", n, mean, reason=missing or same)
    plain, wide = (t_interval(numbers, level) for level in (CONFIDENCE, 1 - (1 - CONFIDENCE) / among))
    judgement: Judgement = "not enough evidence"
    if not missing and region.holds(*(wide if some else plain)):
        judgement = "supported"
    elif not missing and region.avoids(*(plain if some else wide)):
        judgement = "contradicted"
    return Evidence(judgement, n, mean, *plain, *wide, missing)


def known(number: float, region: Region) -> Evidence:
    """Judges a number that has no spread, like a model's size."""
    return Evidence("supported" if region.accepts(number) else "contradicted", 1, number, reason="no spread")
