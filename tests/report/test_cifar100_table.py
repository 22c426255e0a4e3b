"""Test grid and profile of the later edition's CIFAR-100 table against what that edition states and prints."""

import csv
from collections.abc import Callable

import pytest
from paper_records import PAPER, ROOT

from pld_grid.experiment.grid import Grid, load_grid
from pld_grid.experiment.profile import Profile
from pld_grid.planning.plan import make_plan
from pld_grid.report.table_builder import build_table
from pld_grid.util.errors import InputError

PAIRS = [
    ("WRN-40-2", "WRN-40-1"),
    ("ResNet-56", "ResNet-20"),
    ("ResNet-32x4", "ResNet-8x4"),
    ("ResNet-50", "MobileNetV2"),
]
LOSSES = {"CE": "ce", "KD": "kd", "DIST": "dist", "DKD": "dkd", "PLD": "pld"}


@pytest.fixture(scope="module")
def grid(profile: Callable[[str], Profile]) -> Grid:
    return load_grid(ROOT / "grids" / "cifar100.yaml", profile("cifar100-benchmark"))


def printed() -> list[dict[str, str]]:
    with (PAPER / "cifar100.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_recipe_matches_the_paper(grid):
    cells = {cell.cell_id: cell for cell in grid.cells()}.values()
    assert {(c.recipe.batch_size, c.recipe.micro_batch_size, c.recipe.schedule, c.epochs) for c in cells} == {
        (128, 128, "cosine", 250)
    }
    assert {(c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay) for c in cells} == {
        ("adamw", 1e-3, 0.5)
    }
    assert {(c.dataset.name, c.dataset.image_size, c.dataset.num_classes) for c in cells} == {("cifar100", 32, 100)}


def test_losses_match_the_paper(grid):
    actual = {
        (entry.cell.loss.name, *(f"{k}={v}" for k, v in entry.cell.loss.hyperparameters.items()))
        for entry in grid.entries
    }
    dkd = ("dkd", "ce_weight=1.0", "alpha=1.0")
    assert actual == {
        ("ce",),
        ("kd", "alpha=0.1", "tau=4.0", "divergence=forward"),
        ("dist", "alpha=1.0", "beta=2.0", "gamma=2.0", "tau=4.0"),
        ("pld", "tau=4.0", "weights=teacher"),
        *((*dkd, f"beta={beta}", "tau=4.0") for beta in (2.0, 6.0, 8.0)),
    }


def test_plan_counts_cells_as_by_hand(grid):
    plan = make_plan([grid])
    assert plan.entries == len(plan.students) == 4 * 5 * 3
    assert (len(plan.teachers), len(plan.measurements)) == (4, 0)
    assert {plan.cells[i].seed for i in plan.students} == {0, 1, 2}


def test_table_matches_the_printed_one(grid):
    table = build_table(grid, {}, PAPER)
    assert table.headers == ("Teacher", "Student", *LOSSES)
    assert (table.setting.matches_paper, table.setting.paper_dataset) == (True, "CIFAR-100 at 32x32")
    assert [row.cells[:2] for row in table.rows] == PAIRS == [(r["Teacher"], r["Student"]) for r in printed()]
    for row, figures in zip(table.rows, printed(), strict=True):
        for header, value in zip(LOSSES, row.cells[2:], strict=True):
            assert (value.paper, value.paper_std) == (figures[header], figures[f"{header} std"])
            assert float(figures[f"{header} std"]) > 0
            assert value.planned == 3


@pytest.mark.parametrize("scale", ["cifar100", "digits", "imagenet"])
def test_other_profiles_refuse_its_models(scale, profile):
    with pytest.raises(InputError, match=r'cells\[0\]\.teacher: .*"WRN-40-2"'):
        load_grid(ROOT / "grids" / "cifar100.yaml", profile(scale))
