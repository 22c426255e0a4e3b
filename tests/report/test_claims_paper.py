"""Every shipped claim against the paper's printed tables: its numbers computed a second time, its verdict stated."""

import csv
from decimal import Decimal
from fractions import Fraction
from statistics import mean

import pytest
from paper_records import PAPER, TABLES, all_grids, make_records
from scipy.stats import kendalltau

from pld_grid.report.claims.claims_file import read_claims
from pld_grid.report.claims.render import render_claims_csv
from pld_grid.report.claims.verdict import Verdict, judge_claims
from pld_grid.report.table_builder import build_table

Row = dict[str, str]


def rows(number: int, **keys: str) -> list[Row]:
    """Return the rows of a printed table with these texts."""
    with (PAPER / f"table{number:02}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == text for key, text in keys.items())]


def column(number: int, header: str, **keys: str) -> list[Decimal]:
    return [Decimal(row[header]) for row in rows(number, **keys) if row[header]]


def cell(number: int, header: str, **keys: str) -> Decimal:
    (figure,) = column(number, header, **keys)
    return figure


def above(one: Decimal, others: list[Decimal]) -> list[Decimal]:
    return [one - other for other in others]


def subtract(left: list[Decimal], right: list[Decimal]) -> list[Decimal]:
    return [a - b for a, b in zip(left, right, strict=True)]


def tau(y: list[Decimal], x: list[Decimal]) -> float:
    return float(kendalltau([float(value) for value in x], [float(value) for value in y]).statistic)


ALPHAS = [f"0.{tenth}0" for tenth in range(1, 10)]
RESNET, HYBRID = {"Teacher": "ResNet-152"}, {"Teacher": "MobileNet-v4 Hybrid Medium"}
SHORT, LONG, CHANGE = {"Epochs": "100"}, {"Epochs": "300"}, {"Epochs": "Delta (300-100)"}
LAMB = {"Optimizer": "Lamb (base)"}
KD, DIST, PLD = column(3, "KD"), column(3, "DIST"), column(3, "PLD")
SIZES = column(4, "Teacher Params(M)")
KD10, DIST10, PLD10 = column(10, "KD"), column(10, "DIST"), column(10, "PLD")


def by_alpha(method: str, alphas: list[str]) -> list[Decimal]:
    return [cell(6, "Top-1", Method=method, alpha=alpha) for alpha in alphas]


def other_teachers(Teacher: str) -> list[Decimal]:
    return [Decimal(row["Delta_DIST"]) for row in rows(4) if row["Teacher"] != Teacher]


def variants_below(header: str) -> list[Decimal]:
    best = cell(2, header, Variant="PLD", tau="1.00")
    return [best - Decimal(row[header]) for row in rows(2) if row["tau"] != "1.00"]


def above_forward(divergence: str) -> Decimal:
    return cell(9, "KD Top-1", Divergence=divergence) - cell(9, "KD Top-1", Divergence="Forward KL")


# The numbers of each claim; a claim about one number has a list of one.
NUMBERS: dict[str, list[Decimal] | list[float]] = {
    "ce-weight-best-kd": above(*by_alpha("KD", ["0.10"]), by_alpha("KD", ["0.00", *ALPHAS[1:]])),
    "ce-weight-best-dist": above(*by_alpha("DIST", ["0.10"]), by_alpha("DIST", ["0.00", *ALPHAS[1:], "1.00"])),
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
    "larger-teachers": subtract(column(3, "Teacher Params(M)"), column(3, "Student Params(M)")),
    "student-size": [cell(3, "Student Params(M)", Student="ResNet-50")],
    "over-dist-for-hybrid": [cell(4, "Delta_DIST", **HYBRID)],
    "over-dist-for-resnet": [cell(4, "Delta_DIST", **RESNET)],
    "over-dist-smallest-for-hybrid": above(cell(4, "Delta_DIST", **HYBRID), other_teachers(**HYBRID)),
    "over-dist-largest-for-resnet": above(cell(4, "Delta_DIST", **RESNET), other_teachers(**RESNET)),
    "over-kd-span": column(4, "Delta_KD"),
    "over-kd-span-low": column(4, "Delta_KD"),
    "over-kd-span-high": column(4, "Delta_KD"),
    "capacity-trend-pld": [tau(column(4, "PLD"), SIZES)],
    "capacity-trend-margin": [tau(column(4, "Delta_DIST"), SIZES)],
    "kd-sometimes-over-dist": subtract(KD, DIST),
    "dist-sometimes-over-kd": subtract(DIST, KD),
    "epochs-100-pld": [cell(5, "PLD", **SHORT)],
    "epochs-300-pld": [cell(5, "PLD", **LONG)],
    "epochs-gain-pld": [cell(5, "PLD", **LONG) - cell(5, "PLD", **SHORT)],
    "epochs-gain-ce": [cell(5, "CE", **LONG) - cell(5, "CE", **SHORT)],
    "epochs-gain-nearly-twice": [float(cell(5, "PLD", **CHANGE)) / float(cell(5, "CE", **CHANGE))],
    "epochs-advantage-over-ce": [cell(5, "PLD", **CHANGE) - cell(5, "CE", **CHANGE)],
    "pld-baseline": [cell(7, "PLD", **LAMB)],
    "standardization-does-not-help-pld": above(cell(7, "PLD", **LAMB), column(8, "Top-1")[2:]),
    "js-over-forward": [above_forward("Jensen-Shannon")],
    "reverse-comparable-to-forward": [above_forward("Reverse KL")],
    "kl-pld-below-dist-homogeneous": subtract(PLD10, DIST10)[:5],
    "kl-kd-below-dist": subtract(KD10, DIST10),
    "kl-kd-below-pld": subtract(KD10, PLD10),
    "kl-kd-below-dist-overall": [float(sum(KD10) - sum(DIST10)) / 9],
    "kl-kd-below-pld-overall": [float(sum(KD10) - sum(PLD10)) / 9],
}
for name in ("KD", "DIST"):
    loss = name.lower()
    homogeneous, heterogeneous, optimizers = (
        subtract(column(table, "PLD"), column(table, name)) for table in (3, 4, 7)
    )
    short, long = (cell(5, name, **row) for row in (SHORT, LONG))
    vs_short, vs_long, vs_change = (cell(5, "PLD", **row) - cell(5, name, **row) for row in (SHORT, LONG, CHANGE))
    NUMBERS |= {
        f"homogeneous-average-over-{loss}": [mean(homogeneous)],
        f"heterogeneous-average-over-{loss}": [mean(column(4, "PLD")) - mean(column(4, name))],
        f"homogeneous-each-over-{loss}": homogeneous,
        f"heterogeneous-each-over-{loss}": heterogeneous,
        f"convolutional-over-{loss}": homogeneous[1:],
        f"vit-over-{loss}": [cell(3, "PLD", Student="ViT-Small") - cell(3, name, Student="ViT-Small")],
        f"capacity-trend-{loss}": [tau(column(4, name), SIZES)],
        f"ce-weight-trend-{loss}": [tau(by_alpha(name, ALPHAS), [Decimal(alpha) for alpha in ALPHAS])],
        f"no-ce-worse-{loss}": subtract(by_alpha(name, ["0.00"]), by_alpha(name, ["0.10"])),
        f"epochs-each-over-{loss}": [vs_short, vs_long],
        f"epochs-100-over-{loss}": [vs_short],
        f"epochs-300-over-{loss}": [vs_long],
        f"epochs-gain-{loss}": [long - short],
        f"epochs-gain-comparable-{loss}": [-vs_change],
        f"epochs-advantage-over-{loss}": [vs_change],
        f"optimizers-each-over-{loss}": optimizers,
        f"optimizers-average-over-{loss}": [mean(optimizers)],
        f"optimizers-largest-over-{loss}": optimizers,
        f"optimizers-none-larger-over-{loss}": optimizers,
        f"standardization-helps-{loss}": [cell(8, "Top-1", Method=f"{name} + std. logits") - cell(7, name, **LAMB)],
    }

# The sentences that disagree with the printed tables, each with the number that shows it.
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
    return {verdict.claim.id: verdict for verdict in judge_claims(read_claims(PAPER / "claims.yaml"), [], PAPER)}


def test_claims_all_have_numbers_here(verdicts):
    assert set(verdicts) == set(NUMBERS)


@pytest.mark.parametrize("claim", NUMBERS)
def test_claim_numbers_equal_those_computed_here(claim, verdicts):
    numbers, expected = [item.paper for item in verdicts[claim].items], NUMBERS[claim]
    if all(isinstance(number, Decimal) for number in expected):
        assert sorted(numbers) == sorted(Fraction(number) for number in expected)
    else:
        assert [float(number) for number in numbers] == pytest.approx(list(map(float, expected)), abs=1e-12)


def test_claims_inconsistent_with_the_tables(verdicts):
    details = {name: v.paper_detail for name, v in verdicts.items() if v.paper == "inconsistent"}
    assert details == INCONSISTENT


def test_claims_without_tables_are_not_decided_by_the_run(verdicts):
    assert {verdict.run for verdict in verdicts.values()} == {"not enough evidence"}
    assert verdicts["pld-baseline"].run_detail == "table07 is not in this report"


def test_claims_find_their_cells_in_the_ten_tables(profile):
    grids = all_grids(profile("digits"), seeds=2)
    tables = [build_table(grid, make_records(grids), PAPER) for grid in grids]
    claims = read_claims(PAPER / "claims.yaml")
    judged = judge_claims(claims, tables, PAPER)
    # Sizes have no spread, and a teacher has one number for both seeds.
    without_interval = {"larger-teachers", "student-size", "teacher-top1-table01", "teacher-top1-table06"}
    for verdict in judged:
        for item in verdict.items:
            assert item.run.mean is not None, verdict.claim.id
            assert item.run.n == (1 if verdict.claim.id in without_interval else 2), verdict.claim.id
    assert {leaf.table for claim in claims.claims for leaf in claim.subject.leaves} == set(TABLES)
    shuffled = judge_claims(claims, tables[::-1], PAPER)
    assert render_claims_csv(judged) == render_claims_csv(shuffled)
