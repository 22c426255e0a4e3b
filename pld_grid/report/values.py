"""The numbers of a table before they are formatted: each is a signed sum of cells' numbers, per seed.

An accuracy is a sum of one term, a difference of two, the difference of two differences of four. So every number can be
traced to the cells behind it, and differences are taken seed by seed from unrounded numbers.
"""

import math
import statistics
from dataclasses import dataclass, replace
from functools import cached_property

from pld_grid.experiment.cell import Cell
from pld_grid.report.code_versions import shorten_commit
from pld_grid.report.statistics import Interval, estimate_interval
from pld_grid.store.records import CellRecord
from pld_grid.util.csv_text import MISSING

ABSENT = "not in the grid"
PARAMETERS = "parameters"


@dataclass(frozen=True)
class Term:
    """One cell's contribution to a number. `value` is None if the cell has no such result; `state` says why.

    `versions` are those of the code behind the value: the cell's, and its teacher's if it was distilled from one.
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
    def status(self) -> str:
        """The state with its reason, on one line."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


@dataclass(frozen=True)
class Sample:
    """A number under one seed. `seed` is None if the number does not depend on the students' seed (a teacher's)."""

    seed: int | None
    terms: tuple[Term, ...]

    @property
    def number(self) -> float | None:
        """The signed sum, or None if a term is missing."""
        parts = [term.sign * term.value for term in self.terms if term.value is not None]
        return math.fsum(parts) if len(parts) == len(self.terms) else None


@dataclass(frozen=True)
class Value:
    """A number of the table: its samples, its format, and the paper's figure exactly as printed.

    `paper` is None if there is no paper to compare with, and empty if the paper leaves the place blank; `paper_std` is
    the standard deviation that the paper prints, or empty. `is_model_size` marks a parameter count, which has no
    spread; `from_other_version` a number that a version other than the table's main version computed, at least in part.
    """

    samples: tuple[Sample, ...]
    format: str
    paper: str | None = None
    paper_std: str = ""
    is_model_size: bool = False
    from_other_version: bool = False

    @cached_property
    def numbers(self) -> list[float]:
        """The unrounded numbers of the complete samples, in the order of the seeds."""
        return [sample.number for sample in self.samples if sample.number is not None]

    @property
    def planned(self) -> int:
        """The count of numbers once every cell has finished."""
        return len(self.samples)

    @property
    def n(self) -> int:
        """The count of numbers so far."""
        return len(self.numbers)

    @property
    def is_complete(self) -> bool:
        """Whether every planned number is known."""
        return self.n == self.planned

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return statistics.fmean(self.numbers) if self.numbers else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1) over seeds; None for fewer than two."""
        return statistics.stdev(self.numbers) if self.n > 1 else None

    @property
    def is_difference(self) -> bool:
        """Whether the number of one seed has several terms."""
        return any(len(sample.terms) > 1 for sample in self.samples)

    @cached_property
    def interval(self) -> Interval | None:
        """The 95 % intervals of a mean difference over paired seeds; None for other numbers and for fewer than two."""
        return estimate_interval(self.numbers) if self.is_difference else None

    @property
    def versions(self) -> list[str]:
        """The code versions behind the numbers so far, sorted."""
        known = [term for sample in self.samples if sample.number is not None for term in sample.terms]
        return sorted({version for term in known for version in term.versions})

    @property
    def difference(self) -> float | None:
        """Our unrounded mean minus the paper's figure."""
        return self.mean - float(self.paper) if self.paper and self.mean is not None else None

    @property
    def missing(self) -> list[Term]:
        """The terms without a result, each cell once."""
        terms = [term for sample in self.samples for term in sample.terms if term.value is None]
        return list({(term.cell_id, term.status): term for term in terms}.values())


def make_absent_samples(metric: str, seed: int | None = None) -> tuple[Sample, ...]:
    """Return the sample of a number that no cell of the grid computes."""
    return (Sample(seed, (Term(1, metric, MISSING, seed, None, ABSENT),)),)


def make_term(cell: Cell, metric: str, record: CellRecord | None, teacher: CellRecord | None = None) -> Term:
    """Return the term of one cell.

    Args:
        cell: The cell.
        metric: A metric's name, or `PARAMETERS` for the model's size in millions.
        record: The cell's record; None if it was never run.
        teacher: The record of the cell's teacher, if it has one.
    """
    if record is None:
        return Term(1, metric, cell.cell_id, cell.seed, None, "not run")
    state, reason = str(record.state), " ".join(record.reason.split())
    value = _read_value(record, metric)
    if value is not None or state == "finished":
        reason = ""
    if value is None and state == "finished":
        state = f"finished without {metric}"
    elif value is None and state in ("unfinished", "cancelled"):
        state = f"{state} (epoch {record.epoch} of {cell.epochs})"
    commits = [done.commit for done in (record, teacher) if done is not None and done.state == "finished"]
    versions = tuple(dict.fromkeys(map(shorten_commit, commits))) if value is not None else ()
    return Term(1, metric, cell.cell_id, cell.seed, value, state, reason, record.run_id, record.commit, versions)


def subtract(left: tuple[Sample, ...], right: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return the differences paired by seed; a seed that one side lacks gives a missing number."""
    sides = [{sample.seed: sample.terms for sample in side} for side in (left, right)]
    seeds: list[int | None] = [*sorted({seed for side in sides for seed in side if seed is not None})]
    return tuple(
        Sample(seed, (*_terms_under(seed, sides[0], sign=1), *_terms_under(seed, sides[1], sign=-1)))
        for seed in seeds or [None]
    )


def _read_value(record: CellRecord, metric: str) -> float | None:
    if metric == PARAMETERS:
        # Known from the first epoch on, even if the cell fails later.
        return record.parameters / 1e6 if record.parameters is not None else None
    value = record.metrics.get(metric) if record.state == "finished" else None
    return float(value) if value is not None and math.isfinite(value) else None


def _terms_under(seed: int | None, side: dict[int | None, tuple[Term, ...]], sign: int) -> list[Term]:
    """Return one side's terms under a seed; a number without a seed serves every seed."""
    terms = side.get(seed, side.get(None))
    if terms is None:
        metric = next(iter(side.values()))[0].metric
        terms = make_absent_samples(metric, seed)[0].terms
    return [replace(term, sign=sign * term.sign) for term in terms]
