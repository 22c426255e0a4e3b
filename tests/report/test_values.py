"""Numbers per seed: differences, means, spreads, and what a missing one says."""

import math
import statistics

import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_record

from pld_grid.report.statistics import interval
from pld_grid.report.values import (
    BOUNDS,
    Sample,
    Term,
    Value,
    absent,
    decimals,
    fixed,
    interval_text,
    printed,
    spread_text,
    states,
    subtract,
    term,
    texts,
)

numbers = st.floats(min_value=0, max_value=100)
series = st.dictionaries(st.integers(0, 9), numbers, min_size=1, max_size=5)


def samples(values: dict[int, float | None]) -> tuple[Sample, ...]:
    return tuple(
        Sample(seed, (Term(1, "top1", f"cell{seed}", seed, value, "finished" if value is not None else "not run"),))
        for seed, value in values.items()
    )


def value(values: dict[int, float | None], paper: str | None = None) -> Value:
    return Value(samples(values), ".2f", paper)


@given(series)
def test_mean_and_sample_deviation_over_seeds(values: dict[int, float]) -> None:
    ours = value(dict(values))
    assert ours.n == ours.wanted == len(values)
    assert ours.mean == pytest.approx(statistics.fmean(values.values()))
    if len(values) > 1:
        mean = sum(values.values()) / len(values)
        variance = sum((v - mean) ** 2 for v in values.values()) / (len(values) - 1)
        assert ours.std == pytest.approx(math.sqrt(variance), abs=1e-9)
    else:
        assert ours.std is None and texts(ours)["std"] == "-"


@given(series, series)
def test_differences_pair_equal_seeds(left: dict[int, float], right: dict[int, float]) -> None:
    pairs = Value(subtract(samples(dict(left)), samples(dict(right))), ".2f")
    assert [s.seed for s in pairs.samples] == sorted({*left, *right})
    assert pairs.numbers == [left[seed] - right[seed] for seed in sorted({*left} & {*right})]


def test_a_seed_without_partner_is_missing_and_says_so() -> None:
    pairs = Value(subtract(samples({0: 1.0, 1: 2.0}), samples({1: 0.5})), ".2f")
    assert (pairs.numbers, pairs.n, pairs.wanted) == ([1.5], 1, 2)
    assert states(pairs) == "n = 1 of 2; seed 0: not in the grid"


def test_a_teachers_number_serves_every_seed() -> None:
    teacher = (Sample(None, (Term(1, "top1", "teacher", 7, 80.0, "finished"),)),)
    pairs = subtract(samples({0: 70.0, 3: 71.0}), teacher)
    assert [(s.seed, s.number) for s in pairs] == [(0, -10.0), (3, -9.0)]
    assert [(s.seed, s.number) for s in subtract(teacher, teacher)] == [(None, 0.0)]


def test_differences_are_taken_before_rounding() -> None:
    # 71.164 - 71.116 prints as 71.16 - 71.12, whose difference is 0.04.
    assert texts(Value(subtract(samples({0: 71.164}), samples({0: 71.116})), ".2f"))["ours"] == "0.05"


def test_only_differences_have_an_interval_and_only_of_whole_pairs() -> None:
    left, right = {0: 71.0, 1: 72.0, 2: 74.5, 3: 9.0}, {0: 70.5, 1: 70.0, 2: 73.0, 3: None}
    assert not value(dict(left)).is_difference and value(dict(left)).interval is None
    pairs = Value(subtract(samples(dict(left)), samples(dict(right))), ".2f")
    bounds = interval([0.5, 2.0, 1.5])
    assert pairs.is_difference and pairs.interval == bounds and bounds is not None
    assert interval_text(pairs) == f"[{bounds.low:.2f}, {bounds.high:.2f}]"
    said = texts(pairs)
    assert (said["ours"], said["std"], said["n"]) == ("1.33", "0.76", "3")
    assert (said["low"], said["high"]) == ("-0.56", "3.23")
    # Of three numbers a bootstrap's interval spans exactly these.
    assert (said["bootstrap low"], said["bootstrap high"]) == ("0.50", "2.00")
    assert spread_text(pairs) == " ± 0.76 (3)"


def test_the_difference_of_one_seed_has_no_interval() -> None:
    pair = Value(subtract(samples({0: 71.0}), samples({0: 70.0})), ".2f")
    assert pair.is_difference and pair.interval is None and interval_text(pair) == "[-]"
    assert [texts(pair)[name] for name in BOUNDS] == ["-"] * 4 and spread_text(pair) == ""
    assert interval_text(value({0: 1.0, 1: 2.0})) == ""
    assert interval_text(Value(subtract(samples({0: None}), samples({0: 70.0})), ".2f")) == ""
    one_left = Value(subtract(samples({0: 71.0, 1: 72.0}), samples({0: 70.0})), ".2f")
    assert interval_text(one_left) == "[-]" and spread_text(one_left) == " ± - (1)"


@pytest.mark.parametrize(
    ("paper", "std", "said"),
    [("72.44", "0.36", "72.44 ± 0.36"), ("72.44", "", "72.44"), ("", "", "-"), (None, "", "-")],
)
def test_the_papers_figure_comes_with_the_deviation_that_it_prints(paper: str | None, std: str, said: str) -> None:
    assert printed(Value(samples({0: 70.0}), ".2f", paper, std)) == said


def test_versions_are_those_of_a_cell_and_of_its_teacher() -> None:
    cell = make_cell()
    dirty = make_record(cell, commit="f" * 40 + "-dirty")
    teacher = make_record(cell, commit="0123456789abcdef")
    assert term(cell, "top1", dirty).versions == ("ffffffffff-dirty",)
    assert term(cell, "top1", dirty, teacher).versions == ("ffffffffff-dirty", "0123456789")
    assert term(cell, "top1", dirty, make_record(cell, "unfinished")).versions == ("ffffffffff-dirty",)
    assert term(cell, "top1", make_record(cell, commit="")).versions == ("unknown",)
    # No version has a part in a number that there is not.
    lost = Sample(1, (Term(1, "top1", "a", 1, None, "not run"), term(cell, "top1", teacher)))
    assert Value((Sample(0, (term(cell, "top1", dirty),)), lost), ".2f").versions == ["ffffffffff-dirty"]


@given(st.floats(-1e6, 1e6))
def test_no_negative_zero_is_printed(number: float) -> None:
    assert fixed(number, ".2f") != "-0.00"
    assert float(fixed(number, ".2f", sign=True)) == float(f"{number:.2f}")
    assert fixed(-1e-9, ".2f", sign=True) == "+0.00"


@pytest.mark.parametrize(
    ("paper", "difference"), [("71.30", "+0.16"), ("71.3", "+0.2"), ("71", "+0"), ("", "-"), ("71.4600", "-0.0040")]
)
def test_a_difference_has_as_many_decimals_as_the_paper_prints(paper: str, difference: str) -> None:
    said = texts(value({0: 71.456}, paper))
    assert (said["paper"], said["difference"]) == (paper or "-", difference)
    assert decimals("71.30") == 2


@pytest.mark.parametrize(
    ("state", "changes", "said"),
    [
        ("unfinished", {"epoch": 2}, "unfinished (epoch 2 of 3)"),
        ("cancelled", {"epoch": 1}, "cancelled (epoch 1 of 3)"),
        ("failed", {"reason": "RuntimeError: out\nof memory"}, "failed: RuntimeError: out of memory"),
        ("diverged", {"reason": "the loss was not finite in epoch 2, step 5"},
         "diverged: the loss was not finite in epoch 2, step 5"),
        ("stale", {"reason": "finished under spec version 1"}, "stale: finished under spec version 1"),
        ("finished", {"metrics": {}}, "finished without top1"),
        ("finished", {"metrics": {"top1": math.nan}}, "finished without top1"),
    ],
)  # fmt: skip
def test_a_missing_number_is_a_dash_with_its_state(state: str, changes: dict[str, object], said: str) -> None:
    cell = make_cell()
    missing = Value((Sample(0, (term(cell, "top1", make_record(cell, state, **changes)),)),), ".2f", "71.30")
    assert texts(missing) == dict.fromkeys(texts(missing), "-") | {"n": "0", "paper": "71.30"}
    assert states(missing) == said


def test_a_cell_without_record_was_not_run() -> None:
    cell = make_cell()
    assert states(Value((Sample(0, (term(cell, "top1", None),)),), ".2f")) == "not run"
    assert states(Value(absent("top1"), ".2f")) == "not in the grid"


def test_numbers_of_an_unfinished_cell_are_no_results() -> None:
    cell = make_cell()
    for state in ("unfinished", "diverged", "failed", "cancelled", "stale"):
        assert term(cell, "top1", make_record(cell, state)).value is None


def test_a_models_size_is_known_whatever_became_of_the_cell() -> None:
    cell = make_cell()
    assert term(cell, "parameters", make_record(cell, "diverged", parameters=25_557_032)).value == 25.557032
    assert term(cell, "parameters", make_record(cell, "failed", parameters=None, reason="no")).why == "failed: no"
    # What was built under another specification may have been another model.
    assert term(cell, "parameters", make_record(cell, "stale", reason="old")).why == "stale: old"
    assert term(cell, "parameters", make_record(cell, "stale", reason="old")).value is None


def test_several_seeds_say_how_many_and_which_are_missing() -> None:
    partial = value({0: 1.0, 1: None, 2: 3.0})
    assert (partial.mean, partial.n, partial.wanted) == (2.0, 2, 3)
    assert states(partial) == "n = 2 of 3; seed 1: not run"
    assert states(partial, brief=True) == "n = 2 of 3"
    assert states(value({0: None, 1: None})) == "not run"
