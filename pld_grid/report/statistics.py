"""What a handful of seeds supports: intervals of a mean, and the validation set's own error."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 9999
SAME = 1e-9  # Differences of equal accuracies differ by rounding.


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds between two bounds, by Student's t and by a bootstrap of the mean (percentiles).

    The t interval is the one to read: with few seeds a bootstrap is too narrow, as it knows no other values than those.
    """

    n: int
    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float


def interval(numbers: Sequence[float]) -> Interval | None:
    """The 95 % intervals of the mean of independent numbers.

    None below two of them, and if all are the same, whose spread is below what the validation set resolves, not zero:
    such numbers say nothing about their spread. Equal numbers in equal order give equal bounds, as the resampling has a
    fixed seed.
    """
    n = len(numbers)
    if n < 2:
        return None
    if max(numbers) - min(numbers) < SAME:
        return None
    import numpy as np
    from scipy import stats

    found = stats.bootstrap(
        (numbers,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Interval(n, statistics.fmean(numbers), *t_interval(numbers), float(found.low), float(found.high))


def t_interval(numbers: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of two or more independent numbers."""
    from scipy import stats

    n, mean = len(numbers), statistics.fmean(numbers)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(numbers) / math.sqrt(n)
    return mean - half, mean + half


def binomial_error(percent: float, images: int) -> float:
    """The standard error, in points, that `images` validation images give an accuracy of `percent`.

    The error of a proportion, sqrt(p (1 - p) / images): what other images from the same source would change.
    """
    share = min(max(percent / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / images)
