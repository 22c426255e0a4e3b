"""Render judged claims as a Markdown page and as CSV."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from pld_grid.report.claims.verdict import Verdict, format_evidence, format_exact
from pld_grid.report.report_notes import ProfileSummary
from pld_grid.report.templating import render_markdown_page
from pld_grid.util.csv_text import MISSING, csv_text

CLAIM_HEADERS = ("id", "place", "text", "reading", "low", "high", "paper", "run", "item")
INTERVAL_HEADERS = ("interval low", "interval high", "wide interval low", "wide interval high")
ITEM_HEADERS = ("paper", "paper number", "run", "n", "mean", *INTERVAL_HEADERS, "reason")


def render_claims_page(verdicts: Sequence[Verdict], profiles: Sequence[ProfileSummary]) -> str:
    """Return the page `claims.md`; `profiles` warn where the run differs from the paper's experiment."""
    return render_markdown_page(
        "claims.md.jinja",
        verdicts=verdicts,
        profiles=profiles,
        format_exact=format_exact,
        format_evidence=format_evidence,
    )


def render_claims_csv(verdicts: Iterable[Verdict]) -> str:
    """Return one line per number of a claim; `low` and `high` bound what the claim accepts. "-" is a missing value."""
    headers = (*CLAIM_HEADERS, *(f"item {header}" for header in ITEM_HEADERS))
    return csv_text(headers, (row for verdict in verdicts for row in _csv_rows(verdict)))


def _csv_rows(verdict: Verdict) -> Iterator[list[str]]:
    claim = verdict.claim
    shared = [claim.id, claim.place, claim.text, claim.reading]
    shared += [_digits(claim.region.low), _digits(claim.region.high), verdict.paper, verdict.run]
    for item in verdict.items:
        run = item.run
        paper = "consistent" if item.consistent else "inconsistent"
        bounds = map(_digits, (run.mean, run.low, run.high, run.corrected_low, run.corrected_high))
        reason = run.reason or MISSING
        yield [*shared, item.name, paper, _digits(item.paper), run.judgement, str(run.n), *bounds, reason]


def _digits(number: Fraction | float | None) -> str:
    """Return twelve digits: the last ones of a t quantile differ between processors."""
    return MISSING if number is None else f"{float(number):.12g}"
