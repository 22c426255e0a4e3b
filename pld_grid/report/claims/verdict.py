"""Judge claims by the paper's own printed tables, and by the cells of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pld_grid.report.claims.claims_file import Claim, ClaimsFile
from pld_grid.report.claims.evidence import UNDECIDED, Evidence, Judgement, assess, assess_exact
from pld_grid.report.claims.lookup import PaperTables, RunTables
from pld_grid.report.claims.quantity import evaluate
from pld_grid.report.table import Table
from pld_grid.report.value_text import describe_state, format_number

MAX_LISTED = 4  # numbers in a detail; the items have all


@dataclass(frozen=True)
class ItemVerdict:
    """One number of a claim: the paper's, computed exactly from printed figures, and this run's evidence on it."""

    name: str
    paper: Fraction
    consistent: bool
    run: Evidence


@dataclass(frozen=True)
class Verdict:
    """The judgement on a claim, by the paper's tables and by this run. The details are plain text with numbers."""

    claim: Claim
    paper: Literal["consistent", "inconsistent"]
    paper_detail: str
    run: Judgement
    run_detail: str
    items: tuple[ItemVerdict, ...]


def judge_claims(claims: ClaimsFile, tables: Sequence[Table], paper_folder: str | Path) -> tuple[Verdict, ...]:
    """Judge claims by the paper's printed figures and by this run's tables.

    Args:
        claims: The claims, with the key columns of the tables that they name, as `read_claims` has checked them.
        tables: This run's tables.
        paper_folder: The folder of the printed tables, beside the claims' file.
    """
    paper, run = PaperTables(paper_folder, claims.tables), RunTables(tables, claims.tables)
    return tuple(_judge(claim, paper, run) for claim in claims.claims)


def _judge(claim: Claim, paper: PaperTables, run_tables: RunTables) -> Verdict:
    printed = {item.name: item.number for item in evaluate(claim.subject, paper.lookup) if item.number is not None}
    evidence, missing = _gather_evidence(claim, run_tables, list(printed))
    items = tuple(
        ItemVerdict(name, number, claim.region.contains(number, number), evidence[name])
        for name, number in printed.items()
    )
    some = claim.quantifier == "some"
    consistent = (any if some else all)(item.consistent for item in items)
    run = _combine([item.run.judgement for item in items], some)
    return Verdict(
        claim=claim,
        paper="consistent" if consistent else "inconsistent",
        paper_detail=_format_paper_detail(items),
        run=run,
        run_detail=_format_run_detail(items, run, missing),
        items=items,
    )


def _gather_evidence(claim: Claim, run: RunTables, names: Sequence[str]) -> tuple[dict[str, Evidence], str]:
    """Return this run's evidence on each of the claim's numbers, and why some are missing (or an empty text)."""
    try:
        values = run.values(claim.subject)
        known_seeds = {s.seed for value in values.values() for s in value.samples if s.seed is not None}
        seeds: list[int | None] = [*sorted(known_seeds)] or [None]
        items = {seed: evaluate(claim.subject, run.lookup(seed)) for seed in seeds}
    except ValueError as error:
        return {name: Evidence(UNDECIDED, 0, reason=str(error)) for name in names}, str(error)
    numbers = {seed: {item.name: item.number for item in under_seed} for seed, under_seed in items.items()}
    exact = all(value.is_model_size for value in values.values())
    evidence = {}
    for name in names:
        by_seed = {seed: under_seed.get(name) for seed, under_seed in numbers.items()}
        evidence[name] = _assess_number(by_seed, claim, len(names), exact)
    missing = [f"{place}: {describe_state(value)}" for place, value in values.items() if value.n < value.planned]
    return evidence, _join_first(missing)


def _assess_number(by_seed: Mapping[int | None, Fraction | None], claim: Claim, family: int, exact: bool) -> Evidence:
    numbers = [float(number) for number in by_seed.values() if number is not None]
    if exact and numbers:
        return assess_exact(numbers[0], claim.region)
    lost = [str(seed) for seed, number in by_seed.items() if number is None and seed is not None]
    missing = f"no number under seed {', '.join(lost)}" if lost else ""
    if set(by_seed) == {None} and numbers:
        missing = "one number for all seeds, so its spread is not known"
    return assess(numbers, claim.region, family=family, some=claim.quantifier == "some", missing=missing)


def _combine(judgements: Sequence[Judgement], some: bool) -> Judgement:
    """Combine the numbers' judgements: one contradicted number refutes "each", one supported number proves "some"."""
    decisive: Judgement = "supported" if some else "contradicted"
    if decisive in judgements:
        return decisive
    return judgements[0] if len(set(judgements)) == 1 else UNDECIDED


def _format_paper_detail(items: Sequence[ItemVerdict]) -> str:
    if len(items) == 1:
        return format_exact(items[0].paper)
    failing = [f"{item.name}: {format_exact(item.paper)}" for item in items if not item.consistent]
    if not failing:
        numbers = [item.paper for item in items]
        return f"all {len(items)} hold, from {format_exact(min(numbers))} to {format_exact(max(numbers))}"
    return f"{len(items) - len(failing)} of {len(items)} hold; not {'; '.join(failing)}"


def _format_run_detail(items: Sequence[ItemVerdict], run: Judgement, missing: str) -> str:
    if len(items) == 1:
        detail = format_evidence(items[0].run)
    else:
        counts = sorted(Counter(item.run.judgement for item in items).items())
        detail = f"of {len(items)}: " + ", ".join(f"{count} {judgement}" for judgement, count in counts)
        if run != UNDECIDED and len(counts) > 1:
            decisive = [f"{item.name}: {format_evidence(item.run)}" for item in items if item.run.judgement == run]
            detail = f"{detail}; {run} by {_join_first(decisive)}"
    return f"{detail}; {missing}" if missing and missing not in detail else detail


def _join_first(texts: Sequence[str]) -> str:
    """Join the first of many texts, and say how many more there are."""
    more = f"; and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return "; ".join(texts[:MAX_LISTED]) + more


def format_evidence(evidence: Evidence) -> str:
    """Return `0.310 [-0.200, 0.820], n = 3`, with the corrected bounds for one of several numbers, and the reason."""
    parts = [] if evidence.mean is None else [format_exact(evidence.mean)]
    if evidence.low is not None and evidence.high is not None:
        parts = [f"{parts[0]} {_format_interval(evidence.low, evidence.high)}, n = {evidence.n}"]
        low, high = evidence.corrected_low, evidence.corrected_high
        if low is not None and high is not None and low < evidence.low:
            parts.append(f"corrected {_format_interval(low, high)}")
    return "; ".join([*parts, *([evidence.reason] if evidence.reason else [])])


def _format_interval(low: float, high: float) -> str:
    return f"[{format_exact(low)}, {format_exact(high)}]"


def format_exact(number: Fraction | float) -> str:
    """Return a fraction in full if two to six decimals are enough, and otherwise a number with three decimals."""
    places = 3
    if isinstance(number, Fraction):
        places = next((digits for digits in range(2, 7) if (number * 10**digits).denominator == 1), places)
    return format_number(float(number), f".{places}f")
