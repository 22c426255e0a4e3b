"""The judged claims as a page in Markdown, and as CSV."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from pld_grid.csvtext import NOTHING, csv_text
from pld_grid.report.claims.evidence import Judgement
from pld_grid.report.claims.judge import ItemVerdict, Verdict, evidence_text, shown
from pld_grid.report.claims.rules import ELSEWHERE, READING, RULES
from pld_grid.report.markdown import escape, grid_lines

CSV_HEADERS = (
    "id", "place", "text", "reading", "low", "high", "paper", "run", "item", "item paper", "item paper number",
    "item run", "item n", "item mean", "item interval low", "item interval high", "item wide interval low",
    "item wide interval high", "item reason",
)  # fmt: skip
RUNS: tuple[Judgement, ...] = ("supported", "contradicted", "not enough evidence")


def claims_markdown(verdicts: Sequence[Verdict], setting_warning: str) -> str:
    """The page `claims.md`. `setting_warning` is Markdown that says where the run is not the paper's, or empty."""
    wrong = [verdict for verdict in verdicts if verdict.paper == "inconsistent"]
    models = " The models are listed in [README.md](README.md), epochs and seeds with each table."
    elsewhere = f"> {escape(ELSEWHERE)}{models}" if setting_warning else ""
    rules = "\n".join(f"- {escape(rule)}" for rule in RULES)
    parts = ["# The paper's claims", setting_warning, elsewhere, _summary(verdicts), escape(READING), rules]
    parts += ["## Sentences that do not agree with the paper's own tables", _disagreeing(wrong) if wrong else "None."]
    parts += ["## All claims", _all(verdicts), "As data, with twelve digits: [claims.csv](claims.csv)."]
    return "\n\n".join(part for part in parts if part) + "\n"


def claims_section(verdicts: Sequence[Verdict], elsewhere: bool) -> str:
    """The section on claims for the report's first page, empty if there are none; `elsewhere`: on other data."""
    if not verdicts:
        return ""
    text = "Every sentence of the paper that its tables can decide, against those tables and against this run:"
    parts = ["## The paper's claims", f"{text} [claims.md](claims.md).", f"> {escape(ELSEWHERE)}" if elsewhere else ""]
    return "\n\n".join(part for part in [*parts, _summary(verdicts)] if part)


def _summary(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for paper in ("consistent", "inconsistent"):
        mine = [verdict for verdict in verdicts if verdict.paper == paper]
        counts = [sum(verdict.run == run for verdict in mine) for run in RUNS]
        rows.append([paper, *map(str, counts), str(len(mine))])
    rows.append(["all", *(str(sum(verdict.run == run for verdict in verdicts)) for run in RUNS), str(len(verdicts))])
    return grid_lines(["With the paper's tables", *(f"{run} by this run" for run in RUNS), "All"], rows, range(1, 5))


def _disagreeing(verdicts: Iterable[Verdict]) -> str:
    rows = [[_sentence(verdict), _reading(verdict), escape(verdict.paper_detail)] for verdict in verdicts]
    return grid_lines(["Sentence", "Read as", "The paper's figures"], rows)


def _all(verdicts: Iterable[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        paper = [f"**{verdict.paper}**", escape(verdict.paper_detail)]
        run = [f"**{verdict.run}**", escape(verdict.run_detail)]
        if len(verdict.items) > 1:
            paper.append(_folded(f"{item.name}: {shown(item.paper)}" for item in verdict.items))
        if len(verdict.items) > 1 and any(item.run.mean is not None for item in verdict.items):
            run.append(_folded(f"{item.name}: {_item_text(item)}" for item in verdict.items))
        rows.append([_sentence(verdict), _reading(verdict), "<br>".join(paper), "<br>".join(run)])
    return grid_lines(["Sentence", "Read as", "The paper's tables", "This run"], rows)


def _item_text(item: ItemVerdict) -> str:
    said = evidence_text(item.run)
    return said if item.run.judgement == "not enough evidence" else f"{item.run.judgement}, {said}"


def _folded(lines: Iterable[str]) -> str:
    """Lines that a reader may unfold."""
    return f"<details><summary>numbers</summary>{'<br>'.join(map(escape, lines))}</details>"


def _sentence(verdict: Verdict) -> str:
    claim = verdict.claim
    return "<br>".join([f"“{escape(claim.text)}”", f"<sub>{escape(claim.place)}</sub>"])


def _reading(verdict: Verdict) -> str:
    claim = verdict.claim
    return "<br>".join([escape(claim.reading), *([f"<sub>{escape(claim.note)}</sub>"] if claim.note else [])])


def claims_csv(verdicts: Iterable[Verdict]) -> str:
    """One line per number of a claim; `low` and `high` bound what the claim accepts. "-" is what there is not."""
    return csv_text(CSV_HEADERS, (row for verdict in verdicts for row in _csv_rows(verdict)))


def _csv_rows(verdict: Verdict) -> Iterator[list[str]]:
    claim = verdict.claim
    bounds = [_digits(claim.region.low), _digits(claim.region.high)]
    for item in verdict.items:
        run = item.run
        paper = "consistent" if item.consistent else "inconsistent"
        numbers = (run.mean, run.low, run.high, run.wide_low, run.wide_high)
        yield [
            claim.id, claim.place, claim.text, claim.reading, *bounds, verdict.paper, verdict.run, item.name, paper,
            _digits(item.paper), run.judgement, str(run.n), *map(_digits, numbers), run.reason or NOTHING,
        ]  # fmt: skip


def _digits(number: Fraction | float | None) -> str:
    """Twelve digits: the last ones of a t quantile differ between processors."""
    return NOTHING if number is None else f"{float(number):.12g}"
