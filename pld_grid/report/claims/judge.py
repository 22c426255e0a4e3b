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

LISTED = 4  # How many numbers a detail names; the items have all, the tables' pages all that are missing.


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
    some = claim.quantifier == "some"
    consistent = (any if some else all)(item.consistent for item in items)
    run = _together([item.run.judgement for item in items], some)
    return Verdict(
        claim=claim,
        paper="consistent" if consistent else "inconsistent",
        paper_detail=_paper_detail(items),
        run=run,
        run_detail=_run_detail(items, run, why),
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
    return evidence, _some_of(lacking)


def _weigh(by_seed: Mapping[int | None, Fraction | None], claim: Claim, among: int, facts: bool) -> Evidence:
    numbers = [float(number) for number in by_seed.values() if number is not None]
    if facts and numbers:
        return known(numbers[0], claim.region)
    lacking = [str(seed) for seed, number in by_seed.items() if number is None and seed is not None]
    missing = f"no number under seed {', '.join(lacking)}" if lacking else ""
    if set(by_seed) == {None} and numbers:
        missing = "one number for all seeds, so its spread is not known"
    return weigh(numbers, claim.region, among, claim.quantifier == "some", missing)


def _together(judgements: Sequence[Judgement], some: bool) -> Judgement:
    """A claim about each is decided by one contradicted number, a claim about some by one supported number."""
    suffices: Judgement = "supported" if some else "contradicted"
    if suffices in judgements:
        return suffices
    same = len(set(judgements)) == 1
    return judgements[0] if same else "not enough evidence"


def _paper_detail(items: Sequence[ItemVerdict]) -> str:
    if len(items) == 1:
        return shown(items[0].paper)
    holding = [item for item in items if item.consistent]
    if len(holding) == len(items):
        numbers = [item.paper for item in items]
        return f"all {len(items)} hold, from {shown(min(numbers))} to {shown(max(numbers))}"
    failing = [f"{item.name}: {shown(item.paper)}" for item in items if not item.consistent]
    return f"{len(holding)} of {len(items)} hold; not {'; '.join(failing)}"


def _run_detail(items: Sequence[ItemVerdict], run: Judgement, why: str) -> str:
    if len(items) == 1:
        said = evidence_text(items[0].run)
    else:
        count = Counter(item.run.judgement for item in items)
        said = f"of {len(items)}: " + ", ".join(f"{number} {judgement}" for judgement, number in sorted(count.items()))
        if run != "not enough evidence" and len(count) > 1:
            deciding = [f"{item.name}: {evidence_text(item.run)}" for item in items if item.run.judgement == run]
            said = f"{said}; {run} by {_some_of(deciding)}"
    return f"{said}; {why}" if why and why not in said else said


def _some_of(texts: Sequence[str]) -> str:
    """The first of many texts, and how many more there are."""
    more = f"; and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return "; ".join(texts[:LISTED]) + more


def evidence_text(evidence: Evidence) -> str:
    """`0.310 [-0.200, 0.820], n = 3`, for one of several numbers with the corrected bounds; a reason if it has one."""
    parts = [] if evidence.mean is None else [shown(evidence.mean)]
    if evidence.low is not None and evidence.high is not None:
        parts = [f"{parts[0]} [{shown(evidence.low)}, {shown(evidence.high)}], n = {evidence.n}"]
        if evidence.wide_low is not None and evidence.wide_high is not None and evidence.wide_low < evidence.low:
            parts.append(f"corrected [{shown(evidence.wide_low)}, {shown(evidence.wide_high)}]")
    return "; ".join([*parts, *([evidence.reason] if evidence.reason else [])])


def shown(number: Fraction | float) -> str:
    """A number for people: a fraction in full if two to six decimals are enough, otherwise three decimals."""
    places = 3
    if isinstance(number, Fraction):
        places = next((digits for digits in range(2, 7) if (number * 10**digits).denominator == 1), places)
    return fixed(float(number), f".{places}f")
