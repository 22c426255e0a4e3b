"""A table's numbers before they are text: each is a signed sum of cells' numbers, per seed.

An accuracy is a sum of one term, a difference of two, the difference of two differences of four. So every number leads
to the cells that made it, and differences are taken seed by seed from unrounded numbers.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from pld_grid.csvtext import NOTHING
from pld_grid.records import Record
from pld_grid.report.statistics import Interval, interval
from pld_grid.report.versions import version_of
from pld_grid.spec import Cell

ABSENT = "not in the grid"
BOUNDS = ("low", "high", "bootstrap low", "bootstrap high")


@dataclass(frozen=True)
class Term:
    """One cell's part of a number. `value` is None where the cell has no such result; `state` says why.

    `versions` are those of the code that made the value: the cell's, and its teacher's where it learned from one.
    """

    sign: int
    metric: str
    cell_id: str
    cell_seed: int | None
    value: float | None
    state: str
    reason: str = ""
    run_id: str = ""
    commit: str = ""
    versions: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """The state with its reason, on one line."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


@dataclass(frozen=True)
class Sample:
    """A number under one seed. `seed` None: the number does not depend on the students' seed (a teacher's)."""

    seed: int | None
    terms: tuple[Term, ...]

    @property
    def number(self) -> float | None:
        """The signed sum, or None if a part of it is missing."""
        parts = [term.sign * term.value for term in self.terms if term.value is not None]
        return math.fsum(parts) if len(parts) == len(self.terms) else None

    @property
    def missing(self) -> list[Term]:
        """The terms without a result."""
        return [term for term in self.terms if term.value is None]


@dataclass(frozen=True)
class Value:
    """A number of the table: its samples, how it is printed, and the paper's figure exactly as printed there.

    `paper` is None where there is no paper to compare with, and empty where the paper leaves the place blank;
    `paper_std` is the standard deviation that it prints, or empty. `fact` marks a property of a model, which has no
    spread; `other_version` a number that other code had a part in than made most of the table.
    """

    samples: tuple[Sample, ...]
    format: str
    paper: str | None = None
    paper_std: str = ""
    fact: bool = False
    other_version: bool = False

    @cached_property
    def numbers(self) -> list[float]:
        """The unrounded numbers that there are, in the order of the seeds."""
        return [sample.number for sample in self.samples if sample.number is not None]

    @property
    def wanted(self) -> int:
        """How many numbers there would be if every cell had finished."""
        return len(self.samples)

    @property
    def n(self) -> int:
        """How many numbers there are."""
        return len(self.numbers)

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return statistics.fmean(self.numbers) if self.numbers else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1) over seeds; None below two."""
        return statistics.stdev(self.numbers) if self.n > 1 else None

    @property
    def is_difference(self) -> bool:
        """Whether several cells make the number of one seed."""
        return any(len(sample.terms) > 1 for sample in self.samples)

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % intervals of a difference's mean over paired seeds; None for other numbers, and below two seeds."""
        return interval(self.numbers) if self.is_difference else None

    @property
    def versions(self) -> list[str]:
        """The code versions behind the numbers that there are, by name."""
        there = [sample for sample in self.samples if sample.number is not None]
        return sorted({version for sample in there for term in sample.terms for version in term.versions})

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, ours unrounded."""
        return self.mean - float(self.paper) if self.paper and self.mean is not None else None

    @property
    def missing(self) -> list[Term]:
        """The terms without a result, each cell once."""
        return list({(t.cell_id, t.why): t for sample in self.samples for t in sample.missing}.values())


def absent(metric: str) -> tuple[Sample, ...]:
    """The sample of a number that no cell of the grid makes."""
    return (Sample(None, (Term(1, metric, NOTHING, None, None, ABSENT),)),)


def term(cell: Cell, metric: str, record: Record | None, teacher: Record | None = None) -> Term:
    """What a cell's record says about a metric (or about `parameters`, in millions); `teacher` is its teacher's."""
    blank = Term(1, metric, cell.cell_id, cell.seed, None, "not run")
    if record is None:
        return blank
    state = str(record.state)
    known = replace(blank, run_id=record.run_id, commit=record.commit, reason=_line(record.reason))
    made = [done.commit for done in (record, teacher) if done is not None and done.state == "finished"]
    versions = tuple(dict.fromkeys(map(version_of, made)))
    if metric == "parameters":
        # The count is known from a model's first epoch on, whatever becomes of it.
        if record.parameters is not None and state != "stale":
            return replace(known, value=record.parameters / 1e6, state=state, reason="", versions=versions)
    elif state == "finished":
        value = record.metrics.get(metric)
        if value is not None and math.isfinite(value):
            return replace(known, value=float(value), state=state, reason="", versions=versions)
        return replace(known, state=f"finished without {metric}", reason="")
    if state in ("unfinished", "cancelled"):
        state = f"{state} (epoch {record.epoch} of {cell.epochs})"
    return replace(known, state=state)


def subtract(left: tuple[Sample, ...], right: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Differences paired by seed; a seed that one side lacks makes a missing number, not a different mean."""
    by_seed = [{sample.seed: sample.terms for sample in side} for side in (left, right)]
    seeds: dict[int | None, None] = dict.fromkeys(
        seed for side in by_seed for seed in side if seed is not None
    )  # fmt: skip
    pairs = []
    for seed in seeds or {None: None}:
        sides = [side.get(seed, side.get(None)) for side in by_seed]
        terms: list[Term] = []
        for sign, found, fallback in zip((1, -1), sides, by_seed, strict=True):
            metric = next(iter(fallback.values()))[0].metric
            parts = found or (Term(1, metric, NOTHING, seed, None, ABSENT),)
            terms += [replace(part, sign=sign * part.sign) for part in parts]
        pairs.append(Sample(seed, tuple(terms)))
    return tuple(sorted(pairs, key=lambda pair: -1 if pair.seed is None else pair.seed))


def fixed(number: float, spec: str, sign: bool = False) -> str:
    """A number as text, without the "-0.00" that a tiny negative number would leave."""
    text = format(number, spec)
    if float(text) == 0:
        text = text.lstrip("-")
    return f"+{text}" if sign and not text.startswith("-") else text


def decimals(printed: str) -> int:
    """How many decimals a printed figure has."""
    return len(printed.partition(".")[2])


def texts(value: Value) -> dict[str, str]:
    """The texts of a number, by the names of its columns in a CSV file; what there is not is "-"."""
    ours = {"ours": value.mean, "std": value.std, **dict.fromkeys(BOUNDS)}
    if value.interval is not None:
        bounds = value.interval
        ours |= dict(zip(BOUNDS, (bounds.low, bounds.high, bounds.bootstrap_low, bounds.bootstrap_high), strict=True))
    return {
        **{name: NOTHING if number is None else fixed(number, value.format) for name, number in ours.items()},
        "n": str(value.n),
        "paper": value.paper or NOTHING,
        "paper std": value.paper_std or NOTHING,
        "difference": (
            NOTHING if value.difference is None or not value.paper
            else fixed(value.difference, f".{decimals(value.paper)}f", sign=True)
        ),
    }  # fmt: skip


def spread_text(value: Value) -> str:
    """` ± 0.71 (3)`: standard deviation and number of seeds, as they follow a mean; empty for a single number."""
    if value.wanted < 2 or value.mean is None:
        return ""
    said = texts(value)
    return f" ± {said['std']} ({said['n']})"


def interval_text(value: Value) -> str:
    """`[0.08, 1.62]`, the t interval of a difference, `[-]` where one seed makes none; empty for other numbers."""
    if not value.is_difference or value.mean is None:
        return ""
    said = texts(value)
    return f"[{NOTHING}]" if value.interval is None else f"[{said['low']}, {said['high']}]"


def printed(value: Value) -> str:
    """The paper's figure with its standard deviation, where it prints one, or "-"."""
    return f"{value.paper} ± {value.paper_std}" if value.paper and value.paper_std else value.paper or NOTHING


def states(value: Value, brief: bool = False) -> str:
    """Why numbers are missing, or "finished"; `brief` leaves the reasons out.

    With several seeds, "n = 2 of 3" comes first and each missing cell says its seed.
    """
    if value.n == value.wanted:
        return "finished"
    missing = value.missing
    said = list(dict.fromkeys(term.state if brief else term.why for term in missing))
    if value.wanted == 1 or (value.n == 0 and len(said) == 1):
        return "; ".join(said)
    count = f"n = {value.n} of {value.wanted}"
    if brief:
        return count
    each = dict.fromkeys(f"seed {t.cell_seed}: {t.why}" if t.cell_seed is not None else t.why for t in missing)
    return "; ".join([count, *each])


def finished(values: Iterable[Value]) -> tuple[int, int]:
    """How many of the values have all their numbers, and how many there are."""
    found = list(values)
    return sum(value.n == value.wanted for value in found), len(found)


def _line(text: str) -> str:
    return " ".join(text.split())
