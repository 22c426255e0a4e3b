"""Test numbers per seed: differences, means, spreads, and the state of a missing one."""

import math
import statistics

import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st
from paper_records import make_record

from pld_grid.report.statistics import estimate_interval
from pld_grid.report.value_text import (
    BOUNDS,
    count_decimals,
    describe_state,
    describe_value,
    format_fields,
    format_number,
    format_paper_figure,
)
from pld_grid.report.values import Sample, Term, Value, make_absent_samples, make_term, subtract

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
def test_value_mean_and_std_over_seeds(values):
    ours = value(dict(values))
    assert ours.n == ours.planned == len(values)
    assert ours.mean == pytest.approx(statistics.fmean(values.values()))
    if len(values) > 1:
        mean = sum(values.values()) / len(values)
        variance = sum((v - mean) ** 2 for v in values.values()) / (len(values) - 1)
        assert ours.std == pytest.approx(math.sqrt(variance), abs=1e-9)
    else:
        assert ours.std is None and format_fields(ours)["std"] == "-"


@given(series, series)
def test_subtract_pairs_equal_seeds(left, right):
    pairs = Value(subtract(samples(dict(left)), samples(dict(right))), ".2f")
    assert [s.seed for s in pairs.samples] == sorted({*left, *right})
    assert pairs.numbers == [left[seed] - right[seed] for seed in sorted({*left} & {*right})]


def test_subtract_unpaired_seed_is_missing():
    pairs = Value(subtract(samples({0: 1.0, 1: 2.0}), samples({1: 0.5})), ".2f")
    assert (pairs.numbers, pairs.n, pairs.planned) == ([1.5], 1, 2)
    assert describe_state(pairs) == "n = 1 of 2; seed 0: not in the grid"


def test_subtract_teacher_serves_every_seed():
    teacher = (Sample(None, (Term(1, "top1", "teacher", 7, 80.0, "finished"),)),)
    pairs = subtract(samples({0: 70.0, 3: 71.0}), teacher)
    assert [(s.seed, s.number) for s in pairs] == [(0, -10.0), (3, -9.0)]
    assert [(s.seed, s.number) for s in subtract(teacher, teacher)] == [(None, 0.0)]


def test_subtract_precedes_rounding():
    # 71.164 - 71.116 prints as 71.16 - 71.12, whose difference is 0.04.
    assert format_fields(Value(subtract(samples({0: 71.164}), samples({0: 71.116})), ".2f"))["ours"] == "0.05"


def test_interval_of_difference_uses_complete_pairs():
    left, right = {0: 71.0, 1: 72.0, 2: 74.5, 3: 9.0}, {0: 70.5, 1: 70.0, 2: 73.0, 3: None}
    assert not value(dict(left)).is_difference and value(dict(left)).interval is None
    pairs = Value(subtract(samples(dict(left)), samples(dict(right))), ".2f")
    bounds = estimate_interval([0.5, 2.0, 1.5])
    assert pairs.is_difference and pairs.interval == bounds and bounds is not None
    assert describe_value(pairs).interval == f"[{bounds.low:.2f}, {bounds.high:.2f}]"
    expected = format_fields(pairs)
    assert (expected["ours"], expected["std"], expected["n"]) == ("1.33", "0.76", "3")
    assert (expected["low"], expected["high"]) == ("-0.56", "3.23")
    # Of three numbers a bootstrap's interval spans exactly these.
    assert (expected["bootstrap low"], expected["bootstrap high"]) == ("0.50", "2.00")
    assert describe_value(pairs).spread == "± 0.76 (3)"


def test_interval_of_one_seed_is_missing():
    pair = Value(subtract(samples({0: 71.0}), samples({0: 70.0})), ".2f")
    assert pair.is_difference and pair.interval is None and describe_value(pair).interval == "[-]"
    assert [format_fields(pair)[name] for name in BOUNDS] == ["-"] * 4 and describe_value(pair).spread == ""
    assert describe_value(value({0: 1.0, 1: 2.0})).interval == ""
    assert describe_value(Value(subtract(samples({0: None}), samples({0: 70.0})), ".2f")).interval == ""
    one_left = Value(subtract(samples({0: 71.0, 1: 72.0}), samples({0: 70.0})), ".2f")
    assert describe_value(one_left).interval == "[-]" and describe_value(one_left).spread == "± - (1)"


@pytest.mark.parametrize(
    ("paper", "std", "expected"),
    [("72.44", "0.36", "72.44 ± 0.36"), ("72.44", "", "72.44"), ("", "", "-"), (None, "", "-")],
)
def test_format_paper_figure_includes_printed_std(paper, std, expected):
    assert format_paper_figure(Value(samples({0: 70.0}), ".2f", paper, std)) == expected


def test_versions_are_those_of_cell_and_teacher():
    cell = make_cell()
    dirty = make_record(cell, commit="f" * 40 + "-dirty")
    teacher = make_record(cell, commit="0123456789abcdef")
    assert make_term(cell, "top1", dirty).versions == ("ffffffffff-dirty",)
    assert make_term(cell, "top1", dirty, teacher).versions == ("ffffffffff-dirty", "0123456789")
    assert make_term(cell, "top1", dirty, make_record(cell, "unfinished")).versions == ("ffffffffff-dirty",)
    assert make_term(cell, "top1", make_record(cell, commit="")).versions == ("unknown",)
    # No version has a part in a number that there is not.
    lost = Sample(1, (Term(1, "top1", "a", 1, None, "not run"), make_term(cell, "top1", teacher)))
    assert Value((Sample(0, (make_term(cell, "top1", dirty),)), lost), ".2f").versions == ["ffffffffff-dirty"]


@given(st.floats(-1e6, 1e6))
def test_format_number_never_prints_negative_zero(number):
    assert format_number(number, ".2f") != "-0.00"
    assert float(format_number(number, ".2f", sign=True)) == float(f"{number:.2f}")
    assert format_number(-1e-9, ".2f", sign=True) == "+0.00"


@pytest.mark.parametrize(
    ("paper", "difference"), [("71.30", "+0.16"), ("71.3", "+0.2"), ("71", "+0"), ("", "-"), ("71.4600", "-0.0040")]
)
def test_difference_has_decimals_of_paper_figure(paper, difference):
    expected = format_fields(value({0: 71.456}, paper))
    assert (expected["paper"], expected["difference"]) == (paper or "-", difference)
    assert count_decimals("71.30") == 2


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        ("unfinished", {"epoch": 2}, "unfinished (epoch 2 of 3)"),
        ("cancelled", {"epoch": 1}, "cancelled (epoch 1 of 3)"),
        ("failed", {"reason": "RuntimeError: out\nof memory"}, "failed: RuntimeError: out of memory"),
        (
            "diverged",
            {"reason": "the loss was not finite in epoch 2, step 5"},
            "diverged: the loss was not finite in epoch 2, step 5",
        ),
        ("finished", {"metrics": {}}, "finished without top1"),
        ("finished", {"metrics": {"top1": math.nan}}, "finished without top1"),
    ],
)
def test_missing_number_is_dash_with_state(state, changes, expected):
    cell = make_cell()
    missing = Value((Sample(0, (make_term(cell, "top1", make_record(cell, state, **changes)),)),), ".2f", "71.30")
    assert format_fields(missing) == dict.fromkeys(format_fields(missing), "-") | {"n": "0", "paper": "71.30"}
    assert describe_state(missing) == expected


def test_make_term_without_result_states_why():
    cell = make_cell()
    assert make_term(cell, "top1", None).status == "not run"
    assert describe_state(Value(make_absent_samples("top1"), ".2f")) == "not in the grid"
    for state in ("unfinished", "diverged", "failed", "cancelled"):
        assert make_term(cell, "top1", make_record(cell, state)).value is None
    # A model's size is known even if its cell failed.
    assert make_term(cell, "parameters", make_record(cell, "diverged", parameters=25_557_032)).value == 25.557032
    assert (
        make_term(cell, "parameters", make_record(cell, "failed", parameters=None, reason="no")).status == "failed: no"
    )


def test_describe_state_of_several_seeds_counts_and_names_them():
    partial = value({0: 1.0, 1: None, 2: 3.0})
    assert (partial.mean, partial.n, partial.planned) == (2.0, 2, 3)
    assert describe_state(partial) == "n = 2 of 3; seed 1: not run"
    assert describe_state(partial, brief=True) == "n = 2 of 3"
    assert describe_state(value({0: None, 1: None})) == "not run"
