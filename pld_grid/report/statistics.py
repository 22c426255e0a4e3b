"""Confidence intervals over a few seeds, and the binomial error of a validation set."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 9999
# Differences of equal accuracies differ by rounding errors below this.
ROUNDING_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interval:
    """The mean over `n` seeds with its confidence bounds, by Student's t and by a percentile bootstrap of the mean.

    Read the t interval: with few seeds the bootstrap is too narrow, because it only resamples those few values.
    """

    n: int
    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float


def estimate_interval(numbers: Sequence[float]) -> Interval | None:
    """Return the 95 % intervals of the mean of independent numbers.

    Return None for fewer than two numbers, and if all are equal: their spread is then below the resolution of the
    validation set, not zero, and cannot be estimated. The resampling has a fixed seed, so equal numbers in equal order
    give equal bounds.
    """
    n = len(numbers)
    if n < 2 or max(numbers) - min(numbers) < ROUNDING_TOLERANCE:
        return None
    import numpy as np
    from scipy import stats

    bootstrap = stats.bootstrap(
        (numbers,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Interval(n, statistics.fmean(numbers), *t_interval(numbers), float(bootstrap.low), float(bootstrap.high))


def t_interval(numbers: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's t interval of the mean of two or more independent numbers."""
    from scipy import stats

    n, mean = len(numbers), statistics.fmean(numbers)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * statistics.stdev(numbers) / math.sqrt(n)
    return mean - half, mean + half


def binomial_error(percent: float, images: int) -> float:
    """Return the standard error, in percentage points, of an accuracy measured on `images` validation images.

    This is the standard error of a proportion, sqrt(p (1 - p) / images): how much the accuracy would vary over
    validation sets of this size drawn from the same source.
    """
    proportion = min(max(percent / 100, 0.0), 1.0)
    return 100 * math.sqrt(proportion * (1 - proportion) / images)
