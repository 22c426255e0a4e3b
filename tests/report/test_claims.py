"""Claims judged by synthetic records that support, contradict or do not decide them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from paper_records import make_record, own_grid
from scipy.stats import t as student_t

from pld_grid.experiment.profile import Profile
from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.evidence import UNDECIDED
from pld_grid.report.claims.verdict import Verdict, judge_claims
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.store.records import CellRecord

Profiles = Callable[[str], Profile]

GRID = """
cells:
  teacher: ResNet-152
  student: [ResNet-50, ViT-Small/16]
  loss: [kd, pld]
  seed: [0, 1, 2, 3]
table:
  rows: [student]
  columns:
    - {header: Student, axis: student}
    - {header: KD, metric: top1, where: {loss: kd}}
    - {header: PLD, metric: top1, where: {loss: pld}}
    - {header: Gain, minus: [PLD, KD]}
    - {header: Teacher, metric: top1, of: teacher}
    - {header: Size, parameters: student}
  paper: mine
"""
# The paper lists the rows in the other order.
PAPER = """\
Student,KD,PLD,Gain,Teacher,Size
ViT-Small/16,60.00,60.40,0.40,80.00,22.05
ResNet-50,70.00,70.30,0.30,80.00,25.56
"""
RESNET, VIT = "ResNet-50", "ViT-Small/16"
GAINS = (0.9, 1.0, 1.1, 1.2)  # far from zero, relative to their spread
LOSSES = [-gain for gain in GAINS]


class Harness:
    """A paper of one table, claims about it, and records whose gains a test chooses."""

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.folder, self.profile = folder, profile
        self.grid = own_grid(GRID, profile, "mine")
        (folder / "mine.csv").write_text(PAPER)

    def records(
        self, resnet: Sequence[float] = GAINS, vit: Sequence[float] = GAINS, size: int = 1
    ) -> dict[str, CellRecord]:
        """Return finished records: KD has 70 + seed / 8, PLD that and its gain, the teacher 80."""
        records = {cell.cell_id: make_record(cell, metrics={"top1": 80.0}) for cell in self.grid.cells()}
        gains = {RESNET: resnet, VIT: vit}
        for entry in self.grid.entries:
            seed = entry.cell.seed
            gain = gains[str(entry.labels["student"])][seed] if entry.labels["loss"] == "pld" else 0.0
            metrics = {"top1": 70 + seed / 8 + gain}
            records[entry.cell.cell_id] = make_record(entry.cell, metrics=metrics, parameters=size)
        return records

    def judge(self, claim: str, tables: Sequence[Table] = ()) -> Verdict:
        """Judge one claim, given as the YAML that follows its text."""
        body = "\n".join(f"    {line}" for line in claim.strip().splitlines())
        text = f"tables: {{mine: [Student]}}\nclaims:\n  - id: one\n    place: here\n    text: so it is\n{body}\n"
        (self.folder / "claims.yaml").write_text(text)
        (verdict,) = judge_claims(read_claims(self.folder / "claims.yaml"), tables, self.folder)
        return verdict

    def run(self, claim: str, records: Mapping[str, CellRecord]) -> Verdict:
        return self.judge(claim, [build_table(self.grid, records, self.folder)])


@pytest.fixture
def harness(tmp_path: Path, profile: Profiles) -> Harness:
    return Harness(tmp_path, profile("digits"))


def half_width(numbers: Sequence[float], confidence: float = 0.95) -> float:
    """Return half the width of Student's interval, from the textbook's formula."""
    quantile = student_t.ppf((1 + confidence) / 2, len(numbers) - 1)
    return float(quantile * statistics.stdev(numbers) / math.sqrt(len(numbers)))


def column(header: str, student: str = RESNET) -> str:
    return f"{{table: mine, column: {header}, rows: {{Student: {student}}}}}"


POSITIVE = 'greater: "0"'
GAIN, EACH, SOME = (
    f"quantity: {column('Gain')}\n",
    "each: {table: mine, column: Gain}\n",
    "some: {table: mine, column: Gain}\n",
)


@pytest.mark.parametrize(
    ("gains", "relation", "run"),
    [
        (GAINS, POSITIVE, "supported"),
        (LOSSES, POSITIVE, "contradicted"),
        ((-1.0, 1.0, 2.0, -0.5), POSITIVE, UNDECIDED),
        (GAINS, 'less: "0"', "contradicted"),
        (LOSSES, 'less: "0"', "supported"),
        (GAINS, 'between: ["0.5", "1.5"]', "supported"),
        (GAINS, 'between: ["1.5", "2"]', "contradicted"),
        (GAINS, 'between: ["1.1", "2"]', UNDECIDED),
        ((1.0499, 1.0501, 1.0502, 1.0498), 'about: "1.05"', "supported"),
        (GAINS, 'about: "1.05"', UNDECIDED),
        (GAINS, 'about: "2.00"', "contradicted"),
        (GAINS, 'about: "2.00"\nmargin: "1.50"', "supported"),
    ],
)
def test_judge_claims_interval_inside_region_supports_and_outside_contradicts(harness, gains, relation, run):
    verdict = harness.run(GAIN + relation, harness.records(gains))
    (item,) = verdict.items
    mean, half = statistics.fmean(gains), half_width(gains)
    assert verdict.run == run == item.run.judgement
    assert (item.run.n, item.run.mean) == (4, pytest.approx(mean)) and "n = 4" in verdict.run_detail
    assert (item.run.low, item.run.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_judge_claims_difference_is_paired_by_seed(harness):
    # KD itself spreads over seeds by far more than the difference does.
    claim = f"quantity: {{minus: [{column('PLD')}, {column('KD')}]}}\n"
    paired, gain = (harness.run(text + POSITIVE, harness.records()) for text in (claim, GAIN))
    assert paired.items[0].run == gain.items[0].run


def test_judge_claims_each_is_supported_if_every_number_is(harness):
    verdict = harness.run(EACH + POSITIVE, harness.records(vit=[2 * gain for gain in GAINS]))
    assert (verdict.run, verdict.run_detail) == ("supported", "of 2: 2 supported")
    # The numbers of a row belong together, whatever the order of the rows in the two tables.
    assert {item.name: (float(item.paper), item.run.mean) for item in verdict.items} == {
        "Student=ViT-Small/16": (0.4, pytest.approx(2.1)),
        "Student=ResNet-50": (0.3, pytest.approx(1.05)),
    }


def test_judge_claims_each_is_contradicted_by_one_number(harness):
    verdict = harness.run(EACH + POSITIVE, harness.records(LOSSES))
    assert verdict.run == "contradicted"
    half, wide = half_width(GAINS), half_width(GAINS, 0.975)
    assert verdict.run_detail == (
        "of 2: 1 contradicted, 1 supported; contradicted by Student=ResNet-50: "
        f"-1.050 [{-1.05 - half:.3f}, {-1.05 + half:.3f}], n = 4; corrected [{-1.05 - wide:.3f}, {-1.05 + wide:.3f}]"
    )


def test_judge_claims_some_is_supported_by_one_number_and_contradicted_by_all(harness):
    verdict = harness.run(SOME + POSITIVE, harness.records(LOSSES))
    assert verdict.run == "supported"
    detail = "of 2: 1 contradicted, 1 supported; supported by Student=ViT-Small/16: 1.050 ["
    assert verdict.run_detail.startswith(detail)
    verdict = harness.run(SOME + POSITIVE, harness.records(LOSSES, LOSSES))
    assert (verdict.run, verdict.run_detail) == ("contradicted", "of 2: 2 contradicted")


def test_judge_claims_several_numbers_use_the_corrected_confidence_where_one_decides(harness):
    # Above zero at 95 %, but not at the 97.5 % that two numbers require.
    gains = [1.5, 1.4, 0.5, 0.6]
    below = [-gain for gain in gains]
    assert half_width(gains) < 1 < half_width(gains, 0.975)
    assert harness.run(GAIN + POSITIVE, harness.records(gains)).run == "supported"
    assert harness.run(GAIN + POSITIVE, harness.records(below)).run == "contradicted"
    verdict = harness.run(EACH + POSITIVE, harness.records(below))
    assert verdict.run == UNDECIDED
    item = next(item for item in verdict.items if item.name == "Student=ResNet-50")
    assert item.run.high < 0
    assert item.run.corrected_high == pytest.approx(-1 + half_width(gains, 0.975))
    assert harness.run(SOME + POSITIVE, harness.records(gains, (-1.0, 1.0, 2.0, -2.0))).run == UNDECIDED
    # To contradict "some", both have to lie outside, each at 95 %.
    assert harness.run(SOME + POSITIVE, harness.records(below, below)).run == "contradicted"


@pytest.mark.parametrize(
    ("relation", "each", "some"),
    [
        ('greater: "0.30"', "inconsistent", "consistent"),
        ('greater: "0.29"', "consistent", "consistent"),
        ('greater: "0.40"', "inconsistent", "inconsistent"),
    ],
)
def test_judge_claims_quantifiers_apply_to_the_paper_too(harness, relation, each, some):
    assert (harness.judge(EACH + relation).paper, harness.judge(SOME + relation).paper) == (each, some)


def test_judge_claims_missing_cell_is_named_and_leaves_its_number_undecided(harness):
    labels = {"student": RESNET, "loss": "kd", "seed": 2}
    lost = next(entry.cell for entry in harness.grid.entries if labels.items() <= entry.labels.items())
    failed = {lost.cell_id: make_record(lost, "diverged", reason="loss is nan")}
    reason = "; mine Student=ResNet-50, Gain: n = 3 of 4; seed 2: diverged: loss is nan"
    verdict = harness.run(GAIN + POSITIVE, harness.records() | failed)
    assert (verdict.run, verdict.items[0].run.n) == (UNDECIDED, 3)
    assert verdict.run_detail.endswith(f"no number under seed 2{reason}")
    # A number with all its cells still decides.
    verdict = harness.run(EACH + POSITIVE, harness.records(vit=LOSSES) | failed)
    assert verdict.run == "contradicted"
    assert verdict.run_detail.startswith("of 2: 1 contradicted, 1 not enough evidence; contradicted by Student=ViT-")
    assert verdict.run_detail.endswith(reason)


def test_judge_claims_without_records_names_the_missing_cells(harness):
    verdict = harness.run(GAIN + POSITIVE, {})
    assert verdict.run == UNDECIDED
    assert verdict.run_detail == "no number under seed 0, 1, 2, 3; mine Student=ResNet-50, Gain: not run"
    assert (verdict.items[0].run.n, verdict.items[0].run.mean) == (0, None)


def test_judge_claims_without_a_spread_decides_nothing(harness):
    # Differences of floats that are equal but for rounding.
    same = harness.run(GAIN + POSITIVE, harness.records((0.1, 0.1, 0.1, 0.1)))
    detail = "0.100; all 4 seeds gave the same number, which says nothing about its spread"
    assert (same.run, same.run_detail) == (UNDECIDED, detail)
    teacher = harness.run(f'quantity: {column("Teacher")}\nabout: "80.00"', harness.records())
    detail = "80.000; one number for all seeds, so its spread is not known"
    assert (teacher.run, teacher.run_detail) == (UNDECIDED, detail)
    records = harness.records()
    harness.grid = own_grid(GRID.replace("[0, 1, 2, 3]", "0"), harness.profile, "mine")
    single = harness.run(GAIN + POSITIVE, records)
    assert (single.run, single.run_detail) == (UNDECIDED, "0.900; n = 1: an interval needs two seeds")


def test_judge_claims_teachers_number_pairs_with_every_seed(harness):
    claim = f"quantity: {{minus: [{column('Teacher')}, {column('PLD')}]}}\n"
    verdict = harness.run(claim + POSITIVE, harness.records())
    differences = [10 - seed / 8 - gain for seed, gain in enumerate(GAINS)]
    assert (verdict.run, verdict.items[0].run.n) == ("supported", 4)
    assert verdict.items[0].run.low == pytest.approx(statistics.fmean(differences) - half_width(differences))


@pytest.mark.parametrize(("size", "run"), [(25_557_032, "supported"), (25_400_000, "contradicted")])
def test_judge_claims_model_size_is_exact(harness, size, run):
    claim = f'quantity: {column("Size")}\nabout: "25.56"'
    assert harness.run(claim, harness.records(size=size)).run == run


def test_judge_claims_mean_over_rows_is_taken_within_each_seed(harness):
    vit = (2.0, 1.1, 1.4, 0.9)
    claim = "quantity: {mean: {table: mine, column: Gain}}\n"
    (item,) = harness.run(claim + POSITIVE, harness.records(vit=vit)).items
    means = [statistics.fmean(pair) for pair in zip(GAINS, vit, strict=True)]
    assert item.run.mean == pytest.approx(statistics.fmean(means))
    assert item.run.low == pytest.approx(statistics.fmean(means) - half_width(means))


def test_judge_claims_trend_is_the_rank_correlation_with_another_column(harness):
    claim = "quantity: {trend: [{table: mine, column: Gain}, {table: mine, column: PLD}]}\n"
    verdict = harness.run(claim + POSITIVE, harness.records(vit=[gain / 2 for gain in GAINS]))
    assert (float(verdict.items[0].paper), verdict.paper, verdict.items[0].run.mean) == (-1, "inconsistent", 1)


def test_judge_claims_ratio_by_zero_is_a_missing_number(harness):
    claim = f"quantity: {{ratio: [{column('Gain', VIT)}, {column('Gain')}]}}\n"
    verdict = harness.run(claim + 'greater: "1"', harness.records((0.0, 1.0, 2.0, 3.0)))
    assert (verdict.paper_detail, verdict.run) == ("1.333", UNDECIDED)
    assert "no number under seed 0" in verdict.run_detail


def test_judge_claims_report_without_the_table_or_a_part_of_it_says_so(harness):
    assert harness.judge(GAIN + POSITIVE).run_detail == "mine is not in this report"
    table = build_table(harness.grid, harness.records(), harness.folder)
    other = replace(table, headers=tuple("Lead" if header == "Gain" else header for header in table.headers))
    assert harness.judge(GAIN + POSITIVE, [other]).run_detail == 'mine of this report has no column "Gain"'
    short = replace(table, rows=table.rows[1:])
    assert "mine has no row with Student" in harness.judge(GAIN + POSITIVE, [short]).run_detail
    assert harness.judge(EACH + POSITIVE, [short]).run == UNDECIDED


@pytest.mark.parametrize(
    ("relation", "paper"),
    [
        ('about: "0.3"', "consistent"),
        ('about: "0.29"', "inconsistent"),
        # Bounds that a float would hit by luck only: 0.30 = 0.295 + 0.005 = 0.305 - 0.005.
        ('about: "0.295"\nmargin: "0.005"', "consistent"),
        ('about: "0.305"\nmargin: "0.005"', "consistent"),
        ('about: "0.305"\nmargin: "0.0049"', "inconsistent"),
        ('between: ["0.3", "0.3"]', "consistent"),
        ('greater: "0.3"', "inconsistent"),
        ('less: "0.30"', "inconsistent"),
        ('less: "0.301"', "consistent"),
        ('greater: "-1"', "consistent"),
    ],
)
@pytest.mark.parametrize("quantity", [column("Gain"), f"{{minus: [{column('PLD')}, {column('KD')}]}}"])
def test_judge_claims_papers_figures_are_exact_at_every_bound(harness, relation, paper, quantity):
    verdict = harness.judge(f"quantity: {quantity}\n{relation}")
    assert (verdict.paper, verdict.paper_detail) == (paper, "0.30")
