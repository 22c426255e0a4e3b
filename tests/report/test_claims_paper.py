"""Every shipped claim against the paper's printed tables: numbers worked out here, verdicts written out."""

import csv
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from statistics import mean

import pytest
from scipy.stats import kendalltau
from synthetic import PAPER, TABLES, all_grids, records_of

from pld_grid.profile import Profile
from pld_grid.report import build_table
from pld_grid.report.claims import Verdict, claims_csv, judge, read_claims

Profiles = Callable[[str], Profile]
Row = dict[str, str]


def rows(number: int, **keys: str) -> list[Row]:
    """The rows of a printed table with these texts."""
    with (PAPER / f"table{number:02}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == text for key, text in keys.items())]


def column(number: int, header: str, **keys: str) -> list[Decimal]:
    return [Decimal(row[header]) for row in rows(number, **keys) if row[header]]


def cell(number: int, header: str, **keys: str) -> Decimal:
    (found,) = column(number, header, **keys)
    return found


def above(one: Decimal, others: list[Decimal]) -> list[Decimal]:
    return [one - other for other in others]


def less(left: list[Decimal], right: list[Decimal]) -> list[Decimal]:
    return [a - b for a, b in zip(left, right, strict=True)]


def tau(y: list[Decimal], x: list[Decimal]) -> float:
    return float(kendalltau([float(value) for value in x], [float(value) for value in y]).statistic)


ALPHAS = [f"0.{tenth}0" for tenth in range(1, 10)]
RESNET, SMALL = {"Teacher": "ResNet-152"}, {"Student": "ViT-Small"}
SHORT, LONG, CHANGE = {"Epochs": "100"}, {"Epochs": "300"}, {"Epochs": "Delta (300-100)"}
LAMB = {"Optimizer": "Lamb (base)"}
KD, DIST, PLD = column(3, "KD"), column(3, "DIST"), column(3, "PLD")
SIZES = column(4, "Teacher Params(M)")
KD10, DIST10, PLD10 = column(10, "KD"), column(10, "DIST"), column(10, "PLD")


def by_alpha(method: str, wanted: list[str]) -> list[Decimal]:
    return [cell(6, "Top-1", Method=method, alpha=alpha) for alpha in wanted]


def other_teachers(header: str, but: str) -> list[Decimal]:
    return [Decimal(row[header]) for row in rows(4) if row["Teacher"] != but]


def variants_below(header: str) -> list[Decimal]:
    best = cell(2, header, Variant="PLD", tau="1.00")
    return [best - Decimal(row[header]) for row in rows(2) if row["tau"] != "1.00"]


def forward(divergence: str) -> Decimal:
    return cell(9, "KD Top-1", Divergence=divergence) - cell(9, "KD Top-1", Divergence="Forward KL")


# What each claim's numbers are; a claim about one number has a list of one.
NUMBERS: dict[str, list[Decimal] | list[float]] = {
    "homogeneous-average-over-dist": [mean(less(PLD, DIST))],
    "homogeneous-average-over-kd": [mean(less(PLD, KD))],
    "heterogeneous-average-over-dist": [mean(column(4, "PLD")) - mean(column(4, "DIST"))],
    "heterogeneous-average-over-kd": [mean(column(4, "PLD")) - mean(column(4, "KD"))],
    "homogeneous-each-over-dist": less(PLD, DIST),
    "homogeneous-each-over-kd": less(PLD, KD),
    "heterogeneous-each-over-dist": less(column(4, "PLD"), column(4, "DIST")),
    "heterogeneous-each-over-kd": less(column(4, "PLD"), column(4, "KD")),
    "epochs-each-over-dist": less(column(5, "PLD")[:2], column(5, "DIST")[:2]),
    "epochs-each-over-kd": less(column(5, "PLD")[:2], column(5, "KD")[:2]),
    "ce-weight-best-kd": above(*by_alpha("KD", ["0.10"]), by_alpha("KD", ["0.00", *ALPHAS[1:]])),
    "ce-weight-best-dist": above(*by_alpha("DIST", ["0.10"]), by_alpha("DIST", ["0.00", *ALPHAS[1:], "1.00"])),
    "ce-weight-trend-kd": [tau(by_alpha("KD", ALPHAS), [Decimal(alpha) for alpha in ALPHAS])],
    "ce-weight-trend-dist": [tau(by_alpha("DIST", ALPHAS), [Decimal(alpha) for alpha in ALPHAS])],
    "no-ce-worse-kd": less(by_alpha("KD", ["0.00"]), by_alpha("KD", ["0.10"])),
    "no-ce-worse-dist": less(by_alpha("DIST", ["0.00"]), by_alpha("DIST", ["0.10"])),
    "teacher-top1-table01": [cell(1, "Top-1", Method="Teacher (ResNet-152)")],
    "teacher-top1-table06": [cell(6, "Top-1", Method="Teacher (ResNet-152)")],
    "unsoftened-best-top1": variants_below("Top-1"),
    "unsoftened-best-top5": variants_below("Top-5"),
    "listmle-behind-top1": [cell(2, "Top-1", tau="1.00") - cell(2, "Top-1", Variant="PLD-ListMLE")],
    "listmle-behind-top5": [cell(2, "Top-5", tau="1.00") - cell(2, "Top-5", Variant="PLD-ListMLE")],
    "weighting-matters": [cell(2, "Top-1", tau="1.00") - cell(2, "Top-1", Variant="PLD-ListMLE")],
    "slight-softening-second": above(
        cell(2, "Top-1", tau="1.50"), [cell(2, "Top-1", tau=text) for text in ("0.50", "2.00", "4.00")]
    ),
    "larger-teachers": less(column(3, "Teacher Params(M)"), column(3, "Student Params(M)")),
    "convolutional-over-kd": less(PLD, KD)[1:],
    "convolutional-over-dist": less(PLD, DIST)[1:],
    "vit-over-dist": [cell(3, "PLD", **SMALL) - cell(3, "DIST", **SMALL)],
    "vit-over-kd": [cell(3, "PLD", **SMALL) - cell(3, "KD", **SMALL)],
    "student-size": [cell(3, "Student Params(M)", Student="ResNet-50")],
    "over-dist-for-hybrid": [cell(4, "Delta_DIST", Teacher="MobileNet-v4 Hybrid Medium")],
    "over-dist-for-resnet": [cell(4, "Delta_DIST", **RESNET)],
    "over-dist-smallest-for-hybrid": above(
        cell(4, "Delta_DIST", Teacher="MobileNet-v4 Hybrid Medium"),
        other_teachers("Delta_DIST", "MobileNet-v4 Hybrid Medium"),
    ),
    "over-dist-largest-for-resnet": above(cell(4, "Delta_DIST", **RESNET), other_teachers("Delta_DIST", "ResNet-152")),
    "over-kd-span": column(4, "Delta_KD"),
    "over-kd-span-low": column(4, "Delta_KD"),
    "over-kd-span-high": column(4, "Delta_KD"),
    "capacity-trend-kd": [tau(column(4, "KD"), SIZES)],
    "capacity-trend-dist": [tau(column(4, "DIST"), SIZES)],
    "capacity-trend-pld": [tau(column(4, "PLD"), SIZES)],
    "capacity-trend-margin": [tau(column(4, "Delta_DIST"), SIZES)],
    "kd-sometimes-over-dist": less(KD, DIST),
    "dist-sometimes-over-kd": less(DIST, KD),
    "epochs-100-pld": [cell(5, "PLD", **SHORT)],
    "epochs-100-over-dist": [cell(5, "PLD", **SHORT) - cell(5, "DIST", **SHORT)],
    "epochs-100-over-kd": [cell(5, "PLD", **SHORT) - cell(5, "KD", **SHORT)],
    "epochs-300-pld": [cell(5, "PLD", **LONG)],
    "epochs-300-over-dist": [cell(5, "PLD", **LONG) - cell(5, "DIST", **LONG)],
    "epochs-300-over-kd": [cell(5, "PLD", **LONG) - cell(5, "KD", **LONG)],
    "epochs-gain-pld": [cell(5, "PLD", **LONG) - cell(5, "PLD", **SHORT)],
    "epochs-gain-ce": [cell(5, "CE", **LONG) - cell(5, "CE", **SHORT)],
    "epochs-gain-nearly-twice": [float(cell(5, "PLD", **CHANGE)) / float(cell(5, "CE", **CHANGE))],
    "epochs-gain-kd": [cell(5, "KD", **LONG) - cell(5, "KD", **SHORT)],
    "epochs-gain-dist": [cell(5, "DIST", **LONG) - cell(5, "DIST", **SHORT)],
    "epochs-gain-comparable-kd": [cell(5, "KD", **CHANGE) - cell(5, "PLD", **CHANGE)],
    "epochs-gain-comparable-dist": [cell(5, "DIST", **CHANGE) - cell(5, "PLD", **CHANGE)],
    "epochs-advantage-over-dist": [cell(5, "PLD", **CHANGE) - cell(5, "DIST", **CHANGE)],
    "epochs-advantage-over-kd": [cell(5, "PLD", **CHANGE) - cell(5, "KD", **CHANGE)],
    "epochs-advantage-over-ce": [cell(5, "PLD", **CHANGE) - cell(5, "CE", **CHANGE)],
    "optimizers-each-over-dist": less(column(7, "PLD"), column(7, "DIST")),
    "optimizers-each-over-kd": less(column(7, "PLD"), column(7, "KD")),
    "optimizers-average-over-dist": [mean(less(column(7, "PLD"), column(7, "DIST")))],
    "optimizers-average-over-kd": [mean(less(column(7, "PLD"), column(7, "KD")))],
    "optimizers-largest-over-dist": less(column(7, "PLD"), column(7, "DIST")),
    "optimizers-none-larger-over-dist": less(column(7, "PLD"), column(7, "DIST")),
    "optimizers-largest-over-kd": less(column(7, "PLD"), column(7, "KD")),
    "optimizers-none-larger-over-kd": less(column(7, "PLD"), column(7, "KD")),
    "pld-baseline": [cell(7, "PLD", **LAMB)],
    "standardization-helps-dist": [cell(8, "Top-1", Method="DIST + std. logits") - cell(7, "DIST", **LAMB)],
    "standardization-helps-kd": [cell(8, "Top-1", Method="KD + std. logits") - cell(7, "KD", **LAMB)],
    "standardization-does-not-help-pld": above(cell(7, "PLD", **LAMB), column(8, "Top-1")[2:]),
    "js-over-forward": [forward("Jensen-Shannon")],
    "reverse-comparable-to-forward": [forward("Reverse KL")],
    "kl-pld-below-dist-homogeneous": less(PLD10, DIST10)[:5],
    "kl-kd-below-dist": less(KD10, DIST10),
    "kl-kd-below-pld": less(KD10, PLD10),
    "kl-kd-below-dist-overall": [float(sum(KD10) - sum(DIST10)) / 9],
    "kl-kd-below-pld-overall": [float(sum(KD10) - sum(PLD10)) / 9],
}

# The sentences that the printed tables do not bear out, each with the number that says so.
INCONSISTENT = {
    "heterogeneous-average-over-dist": "0.488",
    "listmle-behind-top1": "3.19",
    "convolutional-over-dist": (
        "3 of 4 hold; not Student=MobileNet-v4 Small (conv), Teacher=MobileNet-v4 Large (conv): 0.02"
    ),
    "capacity-trend-dist": "0.00",
    "epochs-advantage-over-kd": "-0.06",
    "reverse-comparable-to-forward": "-1.02",
    "kl-pld-below-dist-homogeneous": (
        "3 of 5 hold; not Teacher=ViT-Large/16, Student=ViT-Base/16: 0.25; "
        "Teacher=ViT-Large/16, Student=ViT-Small/16: 0.14"
    ),
    "kl-kd-below-pld": (
        "8 of 9 hold; not Setting=Homogeneous, Teacher=MobileNetV4-Large, Student=MobileNetV4-Small: 0.02"
    ),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    return {verdict.claim.id: verdict for verdict in judge(read_claims(PAPER / "claims.yaml"), [], PAPER)}


def test_no_claim_goes_unchecked(verdicts: dict[str, Verdict]) -> None:
    assert list(verdicts) == list(NUMBERS)


@pytest.mark.parametrize("claim", NUMBERS)
def test_a_claims_numbers_are_those_worked_out_here(claim: str, verdicts: dict[str, Verdict]) -> None:
    found = [item.paper for item in verdicts[claim].items]
    wanted = NUMBERS[claim]
    if all(isinstance(number, Decimal) for number in wanted):
        assert sorted(found) == sorted(Fraction(number) for number in wanted)
    else:
        assert [float(number) for number in found] == pytest.approx([float(number) for number in wanted], abs=1e-12)


def test_the_sentences_that_contradict_the_tables(verdicts: dict[str, Verdict]) -> None:
    found = {name: v.paper_detail for name, v in verdicts.items() if v.paper == "inconsistent"}
    assert found == INCONSISTENT


def test_without_tables_a_run_says_nothing(verdicts: dict[str, Verdict]) -> None:
    assert {verdict.run for verdict in verdicts.values()} == {"not enough evidence"}
    assert verdicts["pld-baseline"].run_detail == "table07 is not in this report"


def test_every_claim_finds_its_cells_in_the_ten_built_tables(profile: Profiles) -> None:
    grids = all_grids(profile("digits"), seeds=2)
    tables = [build_table(grid, records_of(grids), PAPER) for grid in grids]
    claims = read_claims(PAPER / "claims.yaml")
    found = judge(claims, tables, PAPER)
    # Sizes have no spread, and a teacher has one number for both seeds.
    without_interval = {"larger-teachers", "student-size", "teacher-top1-table01", "teacher-top1-table06"}
    for verdict in found:
        for item in verdict.items:
            assert item.run.mean is not None, verdict.claim.id
            assert item.run.n == (1 if verdict.claim.id in without_interval else 2), verdict.claim.id
    assert {leaf.table for claim in claims for leaf in claim.quantity.leaves} == set(TABLES)
    shuffled = judge(claims, tables[::-1], PAPER)
    assert claims_csv(found) == claims_csv(shuffled)
