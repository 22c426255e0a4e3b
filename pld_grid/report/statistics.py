"""What a handful of seeds supports: intervals of a mean, and the validation set's own error."""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 9999


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

    @property
    def excludes_zero(self) -> bool:
        """Whether the t interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def interval(numbers: Sequence[float]) -> Interval | None:
    """The 95 % intervals of the mean of independent numbers; None below two, which say nothing about their spread.

    Equal numbers give equal bounds: the resampling has a fixed seed.
    """
    n = len(numbers)
    if n < 2:
        return None
    mean = statistics.fmean(numbers)
    if len(set(numbers)) == 1:
        return Interval(n, mean, mean, mean, mean, mean)
    from scipy import stats

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * statistics.stdev(numbers) / math.sqrt(n)
    with warnings.catch_warnings():
        # With two or three numbers many resamples are all alike, which scipy finds worth a warning.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (numbers,), _mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
            vectorized=True, rng=0,
        ).confidence_interval  # fmt: skip
    return Interval(n, mean, mean - half, mean + half, float(found.low), float(found.high))


def _mean(numbers: Sequence[float], axis: int) -> object:
    import numpy as np

    return np.mean(numbers, axis=axis)


def binomial_error(percent: float, images: int) -> float:
    """The standard error, in points, that `images` validation images give an accuracy of `percent`."""
    share = min(max(percent / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / images)
