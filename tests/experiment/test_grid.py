import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from pld_grid.experiment.grid import AXES, load_grid, matches
from pld_grid.util.errors import InputError

BASE = "teacher: ResNet-152, student: ResNet-50"


def some(*values: Any) -> st.SearchStrategy[Any]:
    """Draw a list of distinct values, or one value: YAML allows both."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True) | st.sampled_from(values)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


numbers = some(0.0, 0.1, 0.25, 1)
sweeps = st.fixed_dictionaries(
    {},
    optional={
        "kd": st.fixed_dictionaries({}, optional={"alpha": numbers, "tau": some(1, 2.5, 4)}),
        "dist": st.fixed_dictionaries({}, optional={"alpha": numbers, "beta": numbers, "gamma": numbers}),
        "pld": st.fixed_dictionaries({}, optional={"tau": some(1, 2), "weights": some("teacher", "uniform")}),
        "ls": st.fixed_dictionaries({}, optional={"eps": some(0, 0.1)}),
    },
)
axes = st.fixed_dictionaries(
    {
        "teacher": some("ResNet-152", "ViT-Base/16", "ViT-Large/16"),
        "student": some("ResNet-50", "MobileNetV4 Conv Small", "resnet10t"),
        "loss": some("ce", "ls", "kd", "dist", "pld"),
    },
    optional={
        "optimizer": some("lamb", "adamw", "adan"),
        "standardization": some("none", "both", "teacher"),
        "divergence": some("forward", "reverse", "js"),
        "seed": some(0, 1, 7),
        "epochs": some(2, 100, "paper-300"),
    },
)
DISTILLING = ("kd", "dist", "pld")


def points(block: dict[str, Any], loss: str) -> int:
    """Return how many losses of that name a block has, by the rules of the documentation."""
    given = block.get("hyperparameters", {}).get(loss, {})
    count = math.prod(len(as_list(values)) for values in given.values())
    if loss == "kd":
        count *= len(as_list(block.get("divergence", "forward")))
    if loss in DISTILLING:
        count *= len(as_list(block.get("standardization", "none")))
    return count


def products(block: dict[str, Any], *names: str) -> int:
    return math.prod(len(as_list(block.get(name, 0))) for name in names)


@given(axes, sweeps)
def test_expand_makes_the_product_of_the_axes(grid, block, given):
    block = {**block, "hyperparameters": {k: v for k, v in given.items() if k in as_list(block["loss"])}}
    made = grid(json.dumps({"cells": block}))
    each = products(block, "student", "optimizer", "epochs", "seed")
    entries = each * products(block, "teacher") * sum(points(block, loss) for loss in as_list(block["loss"]))
    assert len(made.entries) == entries
    # Rows that differ only in a teacher that the loss does not use show the same cell.
    distinct = each * sum(
        points(block, loss) * (products(block, "teacher") if loss in DISTILLING else 1)
        for loss in as_list(block["loss"])
    )
    assert len({entry.cell.cell_id for entry in made.entries}) == distinct
    assert len({(e.cell.cell_id, str(e.labels)) for e in made.entries}) == entries
    for entry in made.entries:
        cell, labels = entry.cell, entry.labels
        assert cell.loss.name == labels["loss"]
        assert cell.loss.standardization == labels["standardization"]
        assert cell.optimizer.name == labels["optimizer"]
        assert cell.seed == labels["seed"]
        assert cell.epochs == {2: 2, 100: 100, "paper-100": 10, "paper-300": 30}[labels["epochs"]]
        assert cell.student == made.profile.student(str(labels["student"]))
        assert cell.loss.hyperparameters.items() <= labels.items()
        assert (cell.teacher is not None) == (cell.loss.name in DISTILLING)
        if cell.teacher is not None:
            assert cell.teacher == made.profile.teacher(str(labels["teacher"]))


@given(axes, st.randoms())
def test_expand_does_not_depend_on_the_order_of_keys(grid, block, random):
    items = list(block.items())
    random.shuffle(items)
    one, two = (grid(json.dumps({"cells": dict(b)})) for b in (block, items))
    assert [e.cell.cell_id for e in one.entries] == [e.cell.cell_id for e in two.entries]
    assert [dict(e.labels) for e in one.entries] == [dict(e.labels) for e in two.entries]


@given(axes, axes)
def test_blocks_take_missing_axes_from_the_defaults(grid, defaults, block):
    shared = grid(json.dumps({"defaults": defaults, "cells": [{"role": "student"}, block]}))
    alone = grid(json.dumps({"cells": [defaults, {**defaults, **block}]}))
    assert [e.cell.cell_id for e in shared.entries] == [e.cell.cell_id for e in alone.entries]


@pytest.mark.parametrize(
    ("axis", "text", "count"),
    [
        ("teacher", "teacher: [ResNet-152, ViT-Base/16]", 2),
        ("student", "student: [ResNet-50, ViT-Small/16, resnet10t]", 3),
        ("loss", "loss: [ce, ls, kd, dist, pld]", 5),
        ("hyperparameters", "hyperparameters: {kd: {alpha: [0, 0.1, 0.5]}}", 3),
        ("optimizer", "optimizer: [adabelief, adamw, adan, lamb]", 4),
        ("standardization", "standardization: [none, both, teacher]", 3),
        ("divergence", "divergence: [forward, reverse, js]", 3),
        ("seed", "seed: [0, 1, 2]", 3),
        ("epochs", "epochs: [100, 300]", 2),
    ],
)
def test_expand_of_one_axis_makes_one_cell_per_value(grid, axis, text, count):
    assert axis in AXES
    rest = {"teacher": "ResNet-152", "student": "ResNet-50", "loss": "kd", "epochs": 100, "seed": 0}
    lines = [*(f"{k}: {v}" for k, v in rest.items() if k != axis), text]
    block = "\n".join(f"  {line}" for line in lines)
    made = grid(f"cells:\n{block}\n")
    assert len(made.entries) == count
    assert len({e.cell.cell_id for e in made.entries}) == count
    # The same through the grid's defaults.
    assert len(grid(f"defaults:\n{block}\ncells:\n  - {{}}\n").entries) == count


def test_hyperparameters_apply_to_their_loss_only(grid):
    plain = grid(f"cells: {{{BASE}, loss: [kd, pld]}}")
    swept = grid(f"cells: {{{BASE}, loss: [kd, pld], hyperparameters: {{kd: {{alpha: [0, 0.1, 0.5]}}}}}}")
    ids = {
        loss: {e.cell.cell_id for e in g.entries if e.cell.loss.name == loss}
        for g in (plain, swept)
        for loss in DISTILLING
    }
    assert len(ids["kd"]) == 3
    assert {e.cell.cell_id for e in plain.entries if e.cell.loss.name == "pld"} == ids["pld"]
    assert {e.cell.cell_id for e in plain.entries} <= {e.cell.cell_id for e in swept.entries}


def test_list_of_sweeps_varies_several_hyperparameters_together(grid):
    made = grid(
        f"cells: {{{BASE}, loss: dist, hyperparameters:"
        " {dist: [{alpha: 0, beta: 0.5, gamma: 0.5}, {alpha: 0.1}]}}"
    )
    values = [tuple(e.cell.loss.hyperparameters[k] for k in ("alpha", "beta", "gamma")) for e in made.entries]
    assert values == [(0, 0.5, 0.5), (0.1, 0.45, 0.45)]


def test_divergence_applies_to_losses_that_have_it_only(grid):
    made = grid(f"cells: {{{BASE}, loss: [ce, kd, dist, pld], divergence: [reverse, js]}}")
    assert [(e.cell.loss.name, e.labels.get("divergence")) for e in made.entries] == [
        ("ce", None),
        ("kd", "reverse"),
        ("kd", "js"),
        ("dist", None),
        ("pld", None),
    ]
    plain = {e.cell.cell_id for e in grid(f"cells: {{{BASE}, loss: [ce, dist, pld]}}").entries}
    assert plain <= {e.cell.cell_id for e in made.entries}


@pytest.mark.parametrize("loss", ["ce", "ls"])
def test_losses_without_teacher_give_one_cell_under_all_teachers(grid, loss):
    texts = [
        f"cells: {{student: ResNet-50, loss: {loss}}}",
        f"cells: {{{BASE}, loss: {loss}}}",
        f"cells: {{teacher: ViT-Large/16, student: ResNet-50, loss: {loss}, standardization: both, divergence: js}}",
    ]
    ids = {e.cell.cell_id for text in texts for e in grid(text).entries}
    assert len(ids) == 1


def test_equal_numbers_give_one_cell(grid):
    made = grid(f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{tau: [2, 2.0, 2e0, 20e-1]}}}}}}")
    assert len(made.entries) == 1
    default = grid(f"cells: {{{BASE}, loss: kd}}")
    assert made.entries[0].cell.cell_id == default.entries[0].cell.cell_id
    zeros = grid(f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{alpha: [0, -0.0, 0.0]}}}}}}")
    assert len(zeros.entries) == 1
    small = grid(f"cells: {{{BASE}, loss: kd, hyperparameters: {{kd: {{alpha: 5e-3}}}}}}")
    assert small.entries[0].cell.loss.hyperparameters["alpha"] == 0.005


def test_repeated_values_give_one_entry(grid):
    made = grid(
        "cells: {teacher: [ResNet-152, ResNet-152], student: [ResNet-50, ResNet-50], loss: [kd, kd], seed: [1, 1]}"
    )
    assert len(made.entries) == 1


def test_entries_are_in_the_order_of_blocks_and_values(grid):
    made = grid(
        f"cells:\n - {{{BASE}, loss: pld}}\n - {{{BASE}, loss: [kd, ce]}}\n - {{role: teacher, teacher: ResNet-152}}"
    )
    assert [(e.block, e.role, e.labels["loss"]) for e in made.entries] == [
        (0, "student", "pld"),
        (1, "student", "kd"),
        (1, "student", "ce"),
        (2, "teacher", "teacher"),
    ]
    assert made.entries[3].cell == made.entries[0].cell.teacher


def test_exclude_removes_matching_entries(grid):
    text = f"cells: {{{BASE}, loss: [ce, kd, pld], seed: [0, 1, 2]}}\nexclude:\n"
    made = grid(text + "  - {loss: kd, seed: [1, 2]}\n  - {loss: ce}\n")
    assert [(e.labels["loss"], e.labels["seed"]) for e in made.entries] == [
        ("kd", 0),
        ("pld", 0),
        ("pld", 1),
        ("pld", 2),
    ]


@given(axes, st.data())
def test_exclude_of_any_rule_keeps_other_entries(grid, block, data):
    whole = grid(json.dumps({"cells": block}))
    entry = data.draw(st.sampled_from(whole.entries))
    names = data.draw(st.sets(st.sampled_from(sorted(entry.labels)), min_size=1, max_size=3))
    rule = {name: entry.labels[name] for name in names}
    left = [e for e in whole.entries if not matches(e.labels, rule)]
    text = json.dumps({"cells": block, "exclude": [rule]})
    if left:
        assert list(grid(text).entries) == left
    else:
        with pytest.raises(InputError, match="the grid expands to no cells"):
            grid(text)


def test_labels_become_rows_and_change_no_cell(grid):
    made = grid(
        f"cells:\n - {{{BASE}, loss: kd, labels: {{setting: near}}}}\n"
        f" - {{{BASE}, loss: pld, labels: {{setting: far}}}}\n"
    )
    assert [e.labels["setting"] for e in made.entries] == ["near", "far"]
    assert "setting" in made.layout.rows
    assert made.entries[0].cell.cell_id == grid(f"cells: {{{BASE}, loss: kd}}").entries[0].cell.cell_id


def test_seeds_option_replaces_the_grids_seeds(grid):
    text = f"cells: {{{BASE}, loss: [kd, pld], seed: [5]}}"
    made = grid(text, seeds=3)
    assert [(e.labels["loss"], e.cell.seed) for e in made.entries] == [(n, s) for n in ("kd", "pld") for s in range(3)]
    assert {e.cell.teacher.seed for e in made.entries if e.cell.teacher} == {0}
    for bad in (0, -1):
        with pytest.raises(InputError, match=f"^--seeds: must be at least 1, not {bad}$"):
            grid(text, seeds=bad)
    with pytest.raises(InputError, match="expands to 2000000000000 cells"):
        grid(text, seeds=10**12)
    assert len(grid(f"{text}\nexclude: [{{seed: 5}}, {{loss: kd}}]", seeds=2).entries) == 2


def test_max_cells_is_checked_before_expanding(grid):
    values = ", ".join(map(str, range(1, 1001)))
    text = (
        f"cells: {{{BASE}, loss: dist, seed: [{values}], epochs: [{values}], "
        f"hyperparameters: {{dist: {{alpha: [{values}], beta: [{values}], tau: [{values}]}}}}}}"
    )
    with pytest.raises(
        InputError, match=rf"^grid.yaml:1: cells: expands to {10**15} cells, more than the limit of 2000"
    ):
        grid(text)
    small = f"cells: {{{BASE}, loss: kd, seed: [0, 1, 2]}}"
    assert len(grid(small, max_cells=3).entries) == 3
    with pytest.raises(InputError, match=r"expands to 3 cells, more than the limit of 2 \(--max-cells raises it\)"):
        grid(small, max_cells=2)


def test_cells_include_teachers(grid):
    made = grid(f"cells: {{{BASE}, loss: [ce, kd]}}")
    ids = [cell.cell_id for cell in made.cells()]
    teacher = made.profile.teacher("ResNet-152").cell_id
    assert ids == [made.entries[0].cell.cell_id, made.entries[1].cell.cell_id, teacher]


def test_grid_without_table_gets_a_default_layout(grid):
    made = grid("cells: {teacher: ResNet-152, student: [ResNet-50, resnet10t], loss: [kd, pld], seed: [0, 1]}")
    assert {"student", "loss"} <= set(made.layout.rows)
    assert "seed" not in made.layout.rows
    assert [c.header for c in made.layout.columns if c.is_value] == ["Top-1", "Top-5"]
    assert grid(f"cells: {{{BASE}, loss: kd}}").layout.rows == ["student"]


@pytest.mark.parametrize("path", sorted((ROOT / "grids").glob("table*.yaml")), ids=lambda p: p.stem)
def test_the_ten_tables_expand_to_equal_counts_under_every_profile(path, profile):
    counts = set()
    for name in ("cifar100", "digits", "imagenet"):
        made = load_grid(path, profile(name))
        counts.add((len(made.entries), len({e.cell.cell_id for e in made.entries})))
    assert len(counts) == 1
