"""The later edition's CIFAR-100 table: its grid and profile against what that edition states and prints."""

import csv
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import PAPER, ROOT, make_record

from pld_grid.errors import InputError
from pld_grid.grid import Grid, load_grid
from pld_grid.plan import make_plan
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import Value, build_table

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


def test_the_recipe_is_the_stated_one(grid: Grid) -> None:
    cells = {cell.cell_id: cell for cell in grid.cells()}.values()
    assert {(c.recipe.batch_size, c.recipe.micro_batch_size, c.recipe.schedule, c.epochs) for c in cells} == {
        (128, 128, "cosine", 250)
    }
    assert {(c.optimizer.name, c.optimizer.learning_rate, c.optimizer.weight_decay) for c in cells} == {
        ("adamw", 1e-3, 0.5)
    }
    assert {(c.dataset.name, c.dataset.image_size, c.dataset.num_classes) for c in cells} == {("cifar100", 32, 100)}


def test_the_losses_are_the_stated_ones(grid: Grid) -> None:
    found = {
        (entry.cell.loss.name, *(f"{k}={v}" for k, v in entry.cell.loss.hyperparameters.items()))
        for entry in grid.entries
    }
    dkd = ("dkd", "ce_weight=1.0", "alpha=1.0")
    assert found == {
        ("ce",),
        ("kd", "alpha=0.1", "tau=4.0", "divergence=forward"),
        ("dist", "alpha=1.0", "beta=2.0", "gamma=2.0", "tau=4.0"),
        ("pld", "tau=4.0", "weights=teacher"),
        *((*dkd, f"beta={beta}", "tau=4.0") for beta in (2.0, 6.0, 8.0)),
    }


def test_cells_are_counted_as_by_hand(grid: Grid) -> None:
    plan = make_plan([grid])
    assert plan.entries == len(plan.students) == 4 * 5 * 3
    assert (len(plan.teachers), len(plan.measurements)) == (4, 0)
    assert {plan.cells[i].seed for i in plan.students} == {0, 1, 2}


def test_rows_columns_and_figures_are_the_printed_ones(grid: Grid) -> None:
    table = build_table(grid, {}, PAPER)
    assert table.headers == ("Teacher", "Student", *LOSSES)
    assert (table.setting.as_in_paper, table.setting.paper_dataset) == (True, "CIFAR-100 at 32x32")
    assert [row.cells[:2] for row in table.rows] == PAIRS == [(r["Teacher"], r["Student"]) for r in printed()]
    for row, figures in zip(table.rows, printed(), strict=True):
        for header, value in zip(LOSSES, row.cells[2:], strict=True):
            assert isinstance(value, Value)
            assert (value.paper, value.paper_std) == (figures[header], figures[f"{header} std"])
            assert float(figures[f"{header} std"]) > 0
            assert value.wanted == 3


def test_a_number_is_the_mean_over_the_seeds_of_its_pair_and_loss(grid: Grid) -> None:
    records: dict[str, Record] = {
        cell.cell_id: replace(make_record(cell), metrics={"top1": 70 + cell.seed + place / 7})
        for place, cell in enumerate(grid.cells())
    }
    table = build_table(grid, records, PAPER)
    for (teacher, student), row in zip(PAIRS, table.rows, strict=True):
        for (_, loss), value in zip(LOSSES.items(), row.cells[2:], strict=True):
            labels = {"teacher": teacher, "student": student, "loss": loss}
            own = [e.cell.cell_id for e in grid.entries if labels.items() <= e.labels.items()]
            top1 = [records[cell_id].metrics["top1"] for cell_id in own]
            assert isinstance(value, Value) and value.n == len(top1) == 3
            assert value.mean == pytest.approx(statistics.fmean(top1))
            assert value.std == pytest.approx(statistics.stdev(top1))


@pytest.mark.parametrize("scale", ["cifar100", "digits", "imagenet"])
def test_other_profiles_do_not_know_its_models(scale: str, profile: Callable[[str], Profile]) -> None:
    with pytest.raises(InputError, match=r'cells\[0\]\.teacher: .*"WRN-40-2"'):
        load_grid(ROOT / "grids" / "cifar100.yaml", profile(scale))
