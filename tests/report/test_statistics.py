"""Test intervals and errors against textbooks, enumeration, other routines and their nominal coverage."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_grid.report.statistics import Interval, binomial_error, estimate_interval
from pld_grid.report.values import Sample, Term, Value, subtract

# Hours of sleep gained by ten patients under one drug rather than the other: the data of Student's paper of 1908.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
series = st.lists(st.floats(-100, 100), min_size=2, max_size=8).filter(lambda each: max(each) - min(each) > 1e-6)


def estimate(numbers: list[float]) -> Interval:
    return estimate_interval(numbers)


def test_interval_of_students_sleep_data_matches_r():
    """The bounds are those that R's manual prints for these data (`t.test(..., paired = TRUE)`)."""
    sleep = estimate(SLEEP)
    assert (sleep.n, sleep.mean) == (10, pytest.approx(1.58))
    assert (sleep.low, sleep.high) == (pytest.approx(0.7001142, abs=1e-7), pytest.approx(2.4598858, abs=1e-7))


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (4, 3.182), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_interval_half_width_matches_printed_quantiles(n, quantile):
    numbers = [math.sin(i) for i in range(n)]
    result = estimate(numbers)
    half = quantile * statistics.stdev(numbers) / math.sqrt(n)
    assert result.high - result.mean == pytest.approx(half, rel=3e-4)
    assert result.mean - result.low == pytest.approx(half, rel=3e-4)


@given(series)
def test_t_interval_agrees_with_t_test(numbers):
    """A mean is inside the interval exactly if the paired t test does not refuse it at 5 %."""
    from scipy import stats

    result = estimate(numbers)
    if result.high - result.low < 1e-6:
        return
    margin = 0.01 * (result.high - result.low)
    for bound, inwards in ((result.low, margin), (result.high, -margin)):
        assert stats.ttest_1samp(numbers, bound + inwards).pvalue > 0.05
        assert stats.ttest_1samp(numbers, bound - inwards).pvalue < 0.05


@pytest.mark.parametrize("numbers", [[3.0, 1.0], [0.3, -0.1, 0.7], [1.0, 2.0, 4.0, 8.0], [0.2, 0.9, -0.4, 1.7, 0.5]])
def test_bootstrap_agrees_with_all_resamples(numbers):
    """Of few numbers every resample can be listed; 9,999 of them place the percentiles within half a percent."""
    n = len(numbers)
    means = np.array([statistics.fmean(resample) for resample in itertools.product(numbers, repeat=n)])
    result = estimate(numbers)
    for bound, percent in ((result.bootstrap_low, 2.5), (result.bootstrap_high, 97.5)):
        below, above = np.percentile(means, [percent - 0.5, percent + 0.5], method="inverted_cdf")
        assert below - 1e-9 <= bound <= above + 1e-9


@given(series, st.floats(-50, 50))
def test_interval_shifts_with_the_numbers(numbers, shift):
    before, after = estimate(numbers), estimate([number + shift for number in numbers])
    for name in ("mean", "low", "high", "bootstrap_low", "bootstrap_high"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) + shift, abs=1e-6)


@given(series)
def test_interval_contains_mean_and_is_deterministic(numbers):
    result = estimate(numbers)
    assert result == estimate(list(numbers))
    assert result.low <= result.mean <= result.high
    assert min(numbers) - 1e-9 <= result.bootstrap_low <= result.bootstrap_high <= max(numbers) + 1e-9


def test_t_interval_covers_95_percent_and_bootstrap_less():
    """Of 95 % intervals 95 % hold the true mean; with three numbers a bootstrap's hold it far less often."""
    draws = np.random.default_rng(7).normal(0.4, 1.3, (1500, 3))
    results = [estimate(row) for row in draws.tolist()]
    by_t = np.mean([result.low <= 0.4 <= result.high for result in results])
    by_bootstrap = np.mean([result.bootstrap_low <= 0.4 <= result.bootstrap_high for result in results])
    # Three standard errors of a share of 95 % among 1,500.
    assert abs(by_t - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1500)
    # All three on one side of the mean happens in a quarter of the draws.
    assert abs(by_bootstrap - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 1500)


def test_pairing_removes_common_variation():
    """Where a seed moves both losses alike, the paired interval is that of their difference alone."""
    draw = np.random.default_rng(3)
    common, own = draw.normal(0, 5, 5), draw.normal(1, 0.1, 5)

    def side(numbers: list[float], name: str) -> tuple[Sample, ...]:
        return tuple(
            Sample(seed, (Term(1, "top1", f"{name}{seed}", seed, number, "finished"),))
            for seed, number in enumerate(numbers)
        )

    value = Value(subtract(side((common + own).tolist(), "a"), side(common.tolist(), "b")), ".2f")
    direct = estimate(own.tolist())
    assert (value.interval.low, value.interval.high) == (pytest.approx(direct.low), pytest.approx(direct.high))


@pytest.mark.parametrize("numbers", [[], [1.0]])
def test_interval_of_fewer_than_two_numbers_is_none(numbers):
    assert estimate_interval(numbers) is None


def test_interval_of_equal_numbers_is_none():
    assert estimate_interval([0.28, 0.28, 0.28]) is None
    # 95.21126760563379 - 96.05633802816901 and the like: the same -3 of 355 images, but for rounding.
    assert estimate_interval([-0.8450704225352013, -0.8450704225352297, -0.8450704225352155]) is None
    assert estimate_interval([-0.8450704225352013, -0.5633802816901436]) is not None


def test_binomial_error_of_a_proportion():
    assert binomial_error(50, 100) == pytest.approx(5)
    assert binomial_error(96.1, 355) == pytest.approx(1.0275, abs=1e-4)
    assert binomial_error(0, 10) == binomial_error(100, 10) == 0
    # Rounding may leave a mean a hair above 100 %.
    assert binomial_error(100.00000000000001, 10) == 0


@pytest.mark.parametrize(("percent", "images"), [(70.0, 50_000), (96.1, 355), (12.5, 1000)])
def test_binomial_error_matches_simulated_draws(percent, images):
    counted = np.random.default_rng(11).binomial(images, percent / 100, 20_000) / images * 100
    assert counted.std(ddof=1) == pytest.approx(binomial_error(percent, images), rel=0.03)
