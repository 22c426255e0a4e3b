"""The files of judged claims: their content, their format, and equal bytes from equal records."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from paper_records import PAPER, all_grids, make_record

from pld_grid.experiment.grid import Grid
from pld_grid.experiment.profile import Profile
from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.render import render_claims_csv, render_claims_page
from pld_grid.report.claims.verdict import Verdict, judge_claims
from pld_grid.report.report_notes import ProfileSummary
from pld_grid.report.table_builder import build_table
from pld_grid.store.records import CellRecord

Profiles = Callable[[str], Profile]
# Points of top-1 by which each loss exceeds KD; seeds and students add the same to all losses.
ADVANTAGE = {"ce": -2.0, "ls": -1.0, "kd": 0.0, "dist": 1.0, "pld": 2.0}


def make_plausible_records(grids: Sequence[Grid]) -> dict[str, CellRecord]:
    """Return records in which PLD is best everywhere, under seeds that differ by little noise."""
    records = {}
    for grid in grids:
        for cell in grid.cells():
            noise = int(cell.cell_id[:8], 16) / 2**32
            top1 = 70 + ADVANTAGE[cell.loss.name] + cell.seed + noise / 10
            metrics = {"top1": top1, "top5": top1 + 20, "kl_teacher_student": 0.5 - top1 / 1000}
            records[cell.cell_id] = make_record(cell, metrics=metrics)
    return records


@pytest.fixture(scope="module")
def grids(profile: Profiles) -> list[Grid]:
    return all_grids(profile("digits"), seeds=3)


@pytest.fixture(scope="module")
def verdicts(grids: list[Grid]) -> tuple[Verdict, ...]:
    records = make_plausible_records(grids)
    return judge_claims(read_claims(PAPER / "claims.yaml"), [build_table(g, records, PAPER) for g in grids], PAPER)


def test_judge_claims_pld_best_everywhere_supports_order_and_contradicts_sizes(verdicts):
    runs = {verdict.claim.id: verdict.run for verdict in verdicts}
    for claim in ("homogeneous-each-over-dist", "heterogeneous-each-over-kd", "optimizers-each-over-kd"):
        assert runs[claim] == "supported", claim
    # It is best by 1 and 2 points, not by the paper's figures; and no matter what the loss, KD is below DIST here.
    for claim in ("heterogeneous-average-over-kd", "vit-over-dist", "kd-sometimes-over-dist", "kl-kd-below-pld"):
        assert runs[claim] == "contradicted", claim
    # Without any effect of the temperature, noise alone cannot say which is best.
    assert runs["unsoftened-best-top1"] == "not enough evidence"


def test_render_claims_page_counts_verdicts(verdicts):
    page = render_claims_page(verdicts, [])
    count = Counter((verdict.paper, verdict.run) for verdict in verdicts)
    runs = ("supported", "contradicted", "not enough evidence")
    for paper in ("consistent", "inconsistent"):
        numbers = [count[paper, run] for run in runs]  # type: ignore[index]
        assert f"| {paper} | {' | '.join(map(str, [*numbers, sum(numbers)]))} |" in page
    assert f"| {len(verdicts)} |\n" in page


def section(page: str, title: str) -> list[str]:
    """Return the rows of the table below a heading."""
    body = page.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line for line in body.splitlines() if line.startswith("| “")]


def test_render_claims_page_lists_inconsistent_sentences_first(verdicts):
    page = render_claims_page(verdicts, [])
    inconsistent = section(page, "Sentences that do not agree with the paper's own tables")
    assert len(inconsistent) == sum(verdict.paper == "inconsistent" for verdict in verdicts) == 8
    assert inconsistent[0].endswith("| 0.488 |") and inconsistent[1].endswith("| 3.19 |")
    assert len(section(page, "All claims")) == len(verdicts)
    assert "None." in render_claims_page([v for v in verdicts if v.paper == "consistent"], [])


def test_render_claims_page_lists_each_number_with_its_interval(verdicts):
    row = next(
        line
        for line in section(render_claims_page(verdicts, []), "All claims")
        if "\\[under every optimizer, DI" in line
    )
    assert "all 4 hold, from 0.75 to 0.91" in row
    assert "of 4: 4 supported" in row
    verdict = next(verdict for verdict in verdicts if verdict.claim.id == "optimizers-each-over-dist")
    for item in verdict.items:
        run = item.run
        assert f"{item.name}: supported, {run.mean:.3f} \\[{run.low:.3f}, {run.high:.3f}\\], n = 3" in row


def test_render_claims_page_warns_of_other_data_at_the_top(verdicts):
    profile = ProfileSummary("own", "", "", {}, [("", "They ran elsewhere.")])
    top = render_claims_page(verdicts, [profile]).split("| With the paper's tables |")[0]
    assert "experiments.** They ran elsewhere." in top and "do not say whether a sentence is true of the paper's" in top
    assert "\n> " not in render_claims_page(verdicts, [])


def test_render_claims_page_escapes_markdown(verdicts):
    nasty = "a | b <script>x</script> *c* `d` $e$ [f](g)\nh"
    claim = verdicts[0].claim.model_copy(update=dict.fromkeys(("text", "place", "note"), nasty))
    page = render_claims_page([replace(verdicts[0], claim=claim, paper_detail=nasty, run_detail=nasty)], [])
    (row,) = section(page, "All claims")
    assert "<script>" not in page and row.count("a \\| b &lt;script&gt;x&lt;/script&gt; \\*c\\* ") == 5
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_render_claims_csv_has_every_number_to_twelve_digits(verdicts):
    lines = list(csv.DictReader(io.StringIO(render_claims_csv(verdicts))))
    items = [(verdict, item) for verdict in verdicts for item in verdict.items]
    assert len(lines) == len(items)

    def number(text: str) -> float | None:
        return None if text == "-" else float(text)

    for line, (verdict, item) in zip(lines, items, strict=True):
        region, run = verdict.claim.region, item.run
        assert (line["id"], line["text"], line["item"]) == (verdict.claim.id, verdict.claim.text, item.name)
        assert (line["paper"], line["run"], line["item run"]) == (verdict.paper, verdict.run, run.judgement)
        expected: list[Any] = [region.low, region.high, item.paper, run.mean, run.low, run.high, run.corrected_low]
        names = ("low", "high", "item paper number", "item mean", "item interval low", "item interval high")
        numbers = [number(line[name]) for name in (*names, "item wide interval low")]
        assert numbers == [None if value is None else pytest.approx(float(value), rel=1e-11) for value in expected]
        assert all(text for name, text in line.items() if name not in ("item",))
