"""Claims against the paper's own printed tables, and against the cells of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pld_grid.errors import InputError
from pld_grid.report.claims.evidence import Evidence, Judgement, known, weigh
from pld_grid.report.claims.lookup import RunTables, paper_lookup
from pld_grid.report.claims.quantity import Lookup, items_of
from pld_grid.report.claims.reading import Claim
from pld_grid.report.paper import read_paper
from pld_grid.report.table import Table
from pld_grid.report.values import fixed, states

LISTED = 4  # How many missing numbers a verdict names; the tables' own pages name all.


@dataclass(frozen=True)
class ItemVerdict:
    """One number of a claim: the paper's, worked out exactly from what it prints, and what this run says about it."""

    name: str
    paper: Fraction
    consistent: bool
    run: Evidence


@dataclass(frozen=True)
class Verdict:
    """What becomes of a claim. The details are plain text with numbers; `items` are the claim's numbers, mostly one."""

    claim: Claim
    paper: Literal["consistent", "inconsistent"]
    paper_detail: str
    run: Judgement
    run_detail: str
    items: tuple[ItemVerdict, ...]


def judge(claims: Sequence[Claim], tables: Sequence[Table], paper_folder: str | Path) -> tuple[Verdict, ...]:
    """Judges claims by the printed figures in `paper_folder` and by this run's tables.

    Raises InputError if the paper's tables there lack something that a claim names.
    """
    keys = {name: columns for claim in claims for name, columns in claim.keys.items()}
    paper = paper_lookup({name: read_paper(paper_folder, name, columns) for name, columns in keys.items()})
    ours = RunTables({table.name: table for table in tables}, keys)
    return tuple(_verdict(claim, paper, ours) for claim in claims)


def _verdict(claim: Claim, paper: Lookup, ours: RunTables) -> Verdict:
    printed = _printed(claim, paper)
    evidence, why = _evidence(claim, ours, list(printed))
    items = tuple(
        ItemVerdict(name, number, claim.region.accepts(number), evidence[name]) for name, number in printed.items()
    )
    run = _together([item.run.judgement for item in items])
    return Verdict(
        claim=claim,
        paper="consistent" if all(item.consistent for item in items) else "inconsistent",
        paper_detail=_paper_detail(items),
        run=run,
        run_detail=_run_detail(items, why),
        items=items,
    )


def _printed(claim: Claim, paper: Lookup) -> dict[str, Fraction]:
    """The paper's numbers by their names."""
    try:
        items = items_of(claim.quantity, paper)
    except ValueError as error:
        raise InputError(f'claim "{claim.id}": {error}') from None
    numbers = {item.name: item.number for item in items if item.number is not None}
    if len(numbers) < len(items):
        raise InputError(f'claim "{claim.id}": divides by zero in the paper\'s own tables')
    return numbers


def _evidence(claim: Claim, ours: RunTables, names: Sequence[str]) -> tuple[dict[str, Evidence], str]:
    """What this run says about each of the claim's numbers, and why some are missing (or an empty text)."""
    try:
        values = ours.values(claim.quantity)
        known_seeds = {s.seed for value in values.values() for s in value.samples if s.seed is not None}
        seeds: list[int | None] = [*sorted(known_seeds)] or [None]
        under = {seed: items_of(claim.quantity, ours.lookup(seed)) for seed in seeds}
    except ValueError as error:
        return {name: Evidence("not enough evidence", 0, reason=str(error)) for name in names}, str(error)
    numbers = {seed: {item.name: item.number for item in items} for seed, items in under.items()}
    facts = all(value.fact for value in values.values())
    evidence = {}
    for name in names:
        by_seed = {seed: found.get(name) for seed, found in numbers.items()}
        evidence[name] = _weigh(by_seed, claim, len(names), facts)
    lacking = [f"{place}: {states(value)}" for place, value in values.items() if value.n < value.wanted]
    more = f"; and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
    return evidence, "; ".join(lacking[:LISTED]) + more


def _weigh(by_seed: Mapping[int | None, Fraction | None], claim: Claim, among: int, facts: bool) -> Evidence:
    numbers = [float(number) for number in by_seed.values() if number is not None]
    if facts and numbers:
        return known(numbers[0], claim.region)
    lacking = [str(seed) for seed, number in by_seed.items() if number is None and seed is not None]
    missing = f"no number under seed {', '.join(lacking)}" if lacking else ""
    if set(by_seed) == {None} and numbers:
        missing = "one number for all seeds, so its spread is not known"
    return weigh(numbers, claim.region, among, missing)


def _together(judgements: Sequence[Judgement]) -> Judgement:
    if "contradicted" in judgements:
        return "contradicted"
    return "supported" if set(judgements) == {"supported"} else "not enough evidence"


def _paper_detail(items: Sequence[ItemVerdict]) -> str:
    if len(items) == 1:
        return shown(items[0].paper)
    failing = [f"{item.name}: {shown(item.paper)}" for item in items if not item.consistent]
    if failing:
        return f"{len(items) - len(failing)} of {len(items)} hold; not {'; '.join(failing)}"
    numbers = [item.paper for item in items]
    return f"all {len(items)} hold, from {shown(min(numbers))} to {shown(max(numbers))}"


def _run_detail(items: Sequence[ItemVerdict], why: str) -> str:
    if len(items) == 1:
        said = evidence_text(items[0].run)
    else:
        count = Counter(item.run.judgement for item in items)
        said = ", ".join(f"{number} {judgement}" for judgement, number in sorted(count.items()))
        said = f"of {len(items)}: {said}"
    return f"{said}; {why}" if why and why not in said else said


def evidence_text(evidence: Evidence) -> str:
    """`0.31 [-0.20, 0.82], n = 3`, with the reason where nothing was decided."""
    parts = [] if evidence.mean is None else [shown(evidence.mean)]
    if evidence.low is not None and evidence.high is not None:
        parts = [f"{parts[0]} [{shown(evidence.low)}, {shown(evidence.high)}], n = {evidence.n}"]
    return "; ".join([*parts, *([evidence.reason] if evidence.reason else [])])


def shown(number: Fraction | float) -> str:
    """A number for people: a fraction in full if two to six decimals are enough, otherwise four decimals."""
    places = 4
    if isinstance(number, Fraction):
        places = next((digits for digits in range(2, 7) if (number * 10**digits).denominator == 1), places)
    return fixed(float(number), f".{places}f")
