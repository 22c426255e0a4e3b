"""Claims judged by records that were made to support, to contradict, or to leave them open."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student_t
from synthetic import make_record, own_grid

from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import Table, build_table
from pld_grid.report.claims import Verdict, judge, read_claims

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
# The paper's rows stand the other way round.
PAPER = """\
Student,KD,PLD,Gain,Teacher,Size
ViT-Small/16,60.00,60.40,0.40,80.00,22.05
ResNet-50,70.00,70.30,0.30,80.00,25.56
"""
RESNET, VIT = "ResNet-50", "ViT-Small/16"
FOUR = (0.9, 1.0, 1.1, 1.2)  # far from zero for what they spread


class Bench:
    """A paper of one table, claims about it, and records whose gains a test chooses."""

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.folder = folder
        self.grid = own_grid(GRID, profile, "mine")
        (folder / "mine.csv").write_text(PAPER)

    def records(self, gains: Mapping[str, Sequence[float]], sizes: Sequence[int] = (25_560_000,)) -> dict[str, Record]:
        """Finished records: KD has 70 + seed / 8, PLD that and its gain, the teacher 80."""
        found = {cell.cell_id: make_record(cell, metrics={"top1": 80.0}) for cell in self.grid.cells()}
        for entry in self.grid.entries:
            seed, student = entry.cell.seed, str(entry.labels["student"])
            extra = gains[student][seed] if entry.labels["loss"] == "pld" else 0.0
            found[entry.cell.cell_id] = make_record(
                entry.cell, metrics={"top1": 70 + seed / 8 + extra}, parameters=sizes[0]
            )
        return found

    def cell(self, student: str, loss: str, seed: int) -> Any:
        wanted = {"student": student, "loss": loss, "seed": seed}
        return next(e.cell for e in self.grid.entries if wanted.items() <= e.labels.items())

    def judge(self, claim: str, tables: Sequence[Table]) -> Verdict:
        """The verdict on one claim, given as the YAML of what follows its text."""
        body = "\n".join(f"    {line}" for line in claim.strip().splitlines())
        text = f"tables: {{mine: [Student]}}\nclaims:\n  - id: one\n    place: here\n    text: so it is\n{body}\n"
        (self.folder / "claims.yaml").write_text(text)
        (verdict,) = judge(read_claims(self.folder / "claims.yaml"), tables, self.folder)
        return verdict

    def run(self, claim: str, records: Mapping[str, Record]) -> Verdict:
        return self.judge(claim, [build_table(self.grid, records, self.folder)])


@pytest.fixture
def bench(tmp_path: Path, profile: Profiles) -> Bench:
    return Bench(tmp_path, profile("digits"))


def half_width(numbers: Sequence[float], confidence: float = 0.95) -> float:
    """Half of Student's interval, from the textbook's formula."""
    quantile = student_t.ppf((1 + confidence) / 2, len(numbers) - 1)
    return float(quantile * statistics.stdev(numbers) / math.sqrt(len(numbers)))


GAIN = "quantity: {table: mine, column: Gain, rows: {Student: ResNet-50}}\n"
EACH = "each: {table: mine, column: Gain}\n"


@pytest.mark.parametrize(
    ("gains", "relation", "run"),
    [
        (FOUR, 'greater: "0"', "supported"),
        ([-g for g in FOUR], 'greater: "0"', "contradicted"),
        ((-1.0, 1.0, 2.0, -0.5), 'greater: "0"', "not enough evidence"),
        (FOUR, 'less: "0"', "contradicted"),
        ([-g for g in FOUR], 'less: "0"', "supported"),
        (FOUR, 'between: ["0.5", "1.5"]', "supported"),
        (FOUR, 'between: ["1.5", "2"]', "contradicted"),
        (FOUR, 'between: ["1.1", "2"]', "not enough evidence"),
        ((1.0499, 1.0501, 1.0502, 1.0498), 'about: "1.05"', "supported"),
        (FOUR, 'about: "1.05"', "not enough evidence"),
        (FOUR, 'about: "2.00"', "contradicted"),
        (FOUR, 'about: "2.00"\nmargin: "1.50"', "supported"),
    ],
)
def test_an_interval_within_supports_and_one_outside_contradicts(
    bench: Bench, gains: Sequence[float], relation: str, run: str
) -> None:
    verdict = bench.run(GAIN + relation, bench.records({RESNET: gains, VIT: FOUR}))
    (item,) = verdict.items
    assert verdict.run == run == item.run.judgement
    assert item.run.n == 4
    assert item.run.mean == pytest.approx(statistics.fmean(gains))
    assert item.run.low == pytest.approx(statistics.fmean(gains) - half_width(gains))
    assert item.run.high == pytest.approx(statistics.fmean(gains) + half_width(gains))
    assert "n = 4" in verdict.run_detail


def test_differences_are_paired_by_seed(bench: Bench) -> None:
    # KD itself spreads over seeds by far more than the difference does.
    claim = "quantity: {minus: [{table: mine, column: PLD, rows: {Student: ResNet-50}}, {table: mine, column: KD, rows: {Student: ResNet-50}}]}\n"  # noqa: E501
    records = bench.records({RESNET: FOUR, VIT: FOUR})
    paired, column = bench.run(claim + 'greater: "0"', records), bench.run(GAIN + 'greater: "0"', records)
    assert paired.items[0].run == column.items[0].run


def test_each_is_supported_if_every_number_is(bench: Bench) -> None:
    verdict = bench.run(EACH + 'greater: "0"', bench.records({RESNET: FOUR, VIT: [2 * g for g in FOUR]}))
    assert verdict.run == "supported"
    assert verdict.run_detail == "of 2: 2 supported"
    # Numbers of equal rows stand together, whatever order the two tables have.
    assert {item.name: (float(item.paper), item.run.mean) for item in verdict.items} == {
        "Student=ViT-Small/16": (0.4, pytest.approx(2.1)),
        "Student=ResNet-50": (0.3, pytest.approx(1.05)),
    }


def test_one_contradicted_number_contradicts_each(bench: Bench) -> None:
    verdict = bench.run(EACH + 'greater: "0"', bench.records({RESNET: [-g for g in FOUR], VIT: FOUR}))
    assert verdict.run == "contradicted"
    half, wide = half_width(FOUR), half_width(FOUR, 0.975)
    assert verdict.run_detail == (
        "of 2: 1 contradicted, 1 supported; contradicted by Student=ResNet-50: "
        f"-1.050 [{-1.05 - half:.3f}, {-1.05 + half:.3f}], n = 4; corrected [{-1.05 - wide:.3f}, {-1.05 + wide:.3f}]"
    )


def test_one_of_several_contradicts_only_at_the_corrected_confidence(bench: Bench) -> None:
    # Below zero at 95 %, but not at the 97.5 % that two numbers ask for.
    gains = [-1.5, -1.4, -0.5, -0.6]
    assert half_width(gains) < 1 < half_width(gains, 0.975)
    records = bench.records({RESNET: gains, VIT: FOUR})
    assert bench.run(GAIN + 'greater: "0"', records).run == "contradicted"
    verdict = bench.run(EACH + 'greater: "0"', records)
    assert verdict.run == "not enough evidence"
    item = next(item for item in verdict.items if item.name == "Student=ResNet-50")
    assert item.run.high is not None and item.run.high < 0
    assert item.run.wide_high == pytest.approx(-1 + half_width(gains, 0.975))


SOME = "some: {table: mine, column: Gain}\n"


def test_some_is_supported_by_one_number_and_contradicted_by_all(bench: Bench) -> None:
    below = [-g for g in FOUR]
    verdict = bench.run(SOME + 'greater: "0"', bench.records({RESNET: below, VIT: FOUR}))
    assert verdict.run == "supported"
    assert verdict.run_detail.startswith(
        "of 2: 1 contradicted, 1 supported; supported by Student=ViT-Small/16: 1.050 ["
    )
    verdict = bench.run(SOME + 'greater: "0"', bench.records({RESNET: below, VIT: below}))
    assert (verdict.run, verdict.run_detail) == ("contradicted", "of 2: 2 contradicted")


def test_one_of_several_supports_some_only_at_the_corrected_confidence(bench: Bench) -> None:
    gains = [1.5, 1.4, 0.5, 0.6]
    records = bench.records({RESNET: gains, VIT: (-1.0, 1.0, 2.0, -2.0)})
    assert bench.run(GAIN + 'greater: "0"', records).run == "supported"
    assert bench.run(SOME + 'greater: "0"', records).run == "not enough evidence"
    # To contradict, both have to be out, each at 95 %.
    mirrored = bench.records({RESNET: [-g for g in gains], VIT: [-g for g in gains]})
    assert bench.run(SOME + 'greater: "0"', mirrored).run == "contradicted"


@pytest.mark.parametrize(
    ("relation", "each", "some"),
    [
        ('greater: "0.30"', "inconsistent", "consistent"),
        ('greater: "0.29"', "consistent", "consistent"),
        ('greater: "0.40"', "inconsistent", "inconsistent"),
    ],
)
def test_the_paper_is_read_with_each_and_some_alike(bench: Bench, relation: str, each: str, some: str) -> None:
    assert (bench.judge(EACH + relation, []).paper, bench.judge(SOME + relation, []).paper) == (each, some)


def test_a_missing_cell_leaves_its_number_open_and_is_named(bench: Bench) -> None:
    records = bench.records({RESNET: FOUR, VIT: FOUR})
    lost = bench.cell(RESNET, "kd", 2)
    records[lost.cell_id] = make_record(lost, "diverged", reason="loss is nan")
    verdict = bench.run(GAIN + 'greater: "0"', records)
    assert verdict.run == "not enough evidence"
    assert verdict.items[0].run.n == 3
    assert verdict.run_detail.endswith(
        "no number under seed 2; mine Student=ResNet-50, Gain: n = 3 of 4; seed 2: diverged: loss is nan"
    )
    # A number with all its cells still decides.
    refuted = bench.records({RESNET: FOUR, VIT: [-g for g in FOUR]}) | {lost.cell_id: records[lost.cell_id]}
    verdict = bench.run(EACH + 'greater: "0"', refuted)
    assert verdict.run == "contradicted"
    assert verdict.run_detail.startswith("of 2: 1 contradicted, 1 not enough evidence; contradicted by Student=ViT-")
    assert verdict.run_detail.endswith("; mine Student=ResNet-50, Gain: n = 3 of 4; seed 2: diverged: loss is nan")


def test_nothing_run_says_which_cells_are_missing(bench: Bench) -> None:
    verdict = bench.run(GAIN + 'greater: "0"', {})
    assert verdict.run == "not enough evidence"
    assert verdict.run_detail == "no number under seed 0, 1, 2, 3; mine Student=ResNet-50, Gain: not run"
    assert (verdict.items[0].run.n, verdict.items[0].run.mean) == (0, None)


def test_one_seed_has_no_interval(bench: Bench, profile: Profiles) -> None:
    records = bench.records({RESNET: FOUR, VIT: FOUR})
    bench.grid = own_grid(GRID.replace("[0, 1, 2, 3]", "0"), profile("digits"), "mine")
    verdict = bench.run(GAIN + 'greater: "0"', records)
    assert verdict.run == "not enough evidence"
    assert verdict.run_detail == "0.900; n = 1: an interval needs two seeds"


def test_equal_numbers_under_all_seeds_hide_their_spread(bench: Bench) -> None:
    # Differences of floats that are equal but for rounding.
    verdict = bench.run(GAIN + 'greater: "0"', bench.records({RESNET: (0.1, 0.1, 0.1, 0.1), VIT: FOUR}))
    assert verdict.run == "not enough evidence"
    assert verdict.run_detail == "0.100; all 4 seeds gave the same number, which says nothing about its spread"


def test_a_teachers_number_stands_beside_every_seed(bench: Bench) -> None:
    claim = "quantity: {minus: [{table: mine, column: Teacher, rows: {Student: ResNet-50}}, {table: mine, column: PLD, rows: {Student: ResNet-50}}]}\n"  # noqa: E501
    verdict = bench.run(claim + 'greater: "0"', bench.records({RESNET: FOUR, VIT: FOUR}))
    below = [10 - seed / 8 - gain for seed, gain in enumerate(FOUR)]
    assert verdict.run == "supported"
    assert verdict.items[0].run.n == 4
    assert verdict.items[0].run.low == pytest.approx(statistics.fmean(below) - half_width(below))


def test_a_teachers_number_alone_has_no_spread_to_judge_by(bench: Bench) -> None:
    claim = 'quantity: {table: mine, column: Teacher, rows: {Student: ResNet-50}}\nabout: "80.00"'
    verdict = bench.run(claim, bench.records({RESNET: FOUR, VIT: FOUR}))
    assert verdict.run == "not enough evidence"
    assert verdict.run_detail == "80.000; one number for all seeds, so its spread is not known"


@pytest.mark.parametrize(("size", "run"), [(25_557_032, "supported"), (25_400_000, "contradicted")])
def test_a_models_size_is_known_exactly(bench: Bench, size: int, run: str) -> None:
    claim = 'quantity: {table: mine, column: Size, rows: {Student: ResNet-50}}\nabout: "25.56"'
    assert bench.run(claim, bench.records({RESNET: FOUR, VIT: FOUR}, sizes=[size])).run == run


def test_a_mean_over_rows_is_taken_within_each_seed(bench: Bench) -> None:
    gains = {RESNET: FOUR, VIT: (2.0, 1.1, 1.4, 0.9)}
    verdict = bench.run('quantity: {mean: {table: mine, column: Gain}}\ngreater: "0"', bench.records(gains))
    means = [statistics.fmean(pair) for pair in zip(*gains.values(), strict=True)]
    (item,) = verdict.items
    assert item.run.mean == pytest.approx(statistics.fmean(means))
    assert item.run.low == pytest.approx(statistics.fmean(means) - half_width(means))


def test_trends_follow_the_labels_or_another_column(bench: Bench) -> None:
    falling = {RESNET: FOUR, VIT: [g / 2 for g in FOUR]}
    claim = "quantity: {trend: [{table: mine, column: Gain}, {table: mine, column: PLD}]}\n"
    verdict = bench.run(claim + 'greater: "0"', bench.records(falling))
    assert float(verdict.items[0].paper) == -1 and verdict.paper == "inconsistent"
    assert verdict.items[0].run.mean == 1


def test_a_ratio_by_zero_is_a_missing_number(bench: Bench) -> None:
    claim = "quantity: {ratio: [{table: mine, column: Gain, rows: {Student: ViT-Small/16}}, {table: mine, column: Gain, rows: {Student: ResNet-50}}]}\n"  # noqa: E501
    records = bench.records({RESNET: (0.0, 1.0, 2.0, 3.0), VIT: FOUR})
    verdict = bench.run(claim + 'greater: "1"', records)
    assert verdict.paper_detail == "1.333"
    assert verdict.run == "not enough evidence" and "no number under seed 0" in verdict.run_detail


def test_a_report_without_the_table_or_its_parts_says_so(bench: Bench) -> None:
    records = bench.records({RESNET: FOUR, VIT: FOUR})
    assert bench.judge(GAIN + 'greater: "0"', []).run_detail == "mine is not in this report"
    table = build_table(bench.grid, records, bench.folder)
    other = replace(table, headers=tuple("Lead" if header == "Gain" else header for header in table.headers))
    assert bench.judge(GAIN + 'greater: "0"', [other]).run_detail == 'mine of this report has no column "Gain"'
    short = replace(table, rows=table.rows[1:])
    assert "mine has no row with Student" in bench.judge(GAIN + 'greater: "0"', [short]).run_detail
    assert bench.judge(EACH + 'greater: "0"', [short]).run == "not enough evidence"


@pytest.mark.parametrize(
    ("relation", "paper"),
    [
        ('about: "0.3"', "consistent"),
        ('about: "0.29"', "inconsistent"),
        # Borders, where a float would have to be lucky: 0.30 = 0.295 + 0.005 = 0.305 - 0.005.
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
@pytest.mark.parametrize("column", ["Gain", "difference"])
def test_the_papers_figures_are_exact_at_every_border(bench: Bench, relation: str, paper: str, column: str) -> None:
    one = "{table: mine, column: %s, rows: {Student: ResNet-50}}"
    quantity = one % "Gain" if column == "Gain" else f"{{minus: [{one % 'PLD'}, {one % 'KD'}]}}"
    verdict = bench.judge(f"quantity: {quantity}\n{relation}", [])
    assert (verdict.paper, verdict.paper_detail) == (paper, "0.30")
