import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cells import make_cell, make_distilled, make_measured
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pld_grid.spec import (
    SPEC_VERSION,
    Augmentation,
    Cell,
    Loss,
    Model,
    Optimizer,
    Pretrained,
    Recipe,
    canonical_json,
    ledger,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-9, max_value=1e9)
words = st.text(min_size=1, max_size=8)
scalars = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), finite, words)
hyperparameters = st.dictionaries(words, st.one_of(finite, st.integers(-(2**40), 2**40), words), max_size=3)
models = st.builds(
    Model,
    architecture=words,
    options=st.dictionaries(words, st.one_of(scalars, st.none(), st.lists(scalars, max_size=3)), max_size=3),
    pretrained=st.none() | st.builds(Pretrained, tag=words, mean=st.none() | st.tuples(finite)),
)
optimizers = st.builds(
    Optimizer,
    name=words,
    learning_rate=positive,
    weight_decay=st.floats(0, 1),
    options=st.dictionaries(words, st.one_of(scalars, st.none(), st.lists(finite, max_size=2)), max_size=3),
)
recipes = st.builds(
    Recipe,
    batch_size=st.just(64),
    micro_batch_size=st.sampled_from([16, 32, 64]),
    warmup_epochs=st.floats(0, 10) | st.integers(0, 10),
    mean=st.tuples(finite),
    std=st.tuples(positive),
)
plain_cells = st.builds(
    make_cell,
    recipe=recipes,
    student=models,
    loss=st.builds(Loss, name=words, hyperparameters=hyperparameters),
    optimizer=optimizers,
    epochs=st.integers(1, 100_000),
    seed=st.integers(0, 2**31 - 1),
)
cells = plain_cells | st.builds(
    lambda student, teacher: student.model_copy(update={"teacher": teacher}), *[plain_cells] * 2
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None or not value:
        yield path, value
        return
    for key, child in inner:
        yield from leaves(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    if isinstance(value, dict):
        return {k: replaced(v, path[1:], leaf) if k == path[0] else v for k, v in value.items()}
    return [replaced(v, path[1:], leaf) if i == path[0] else v for i, v in enumerate(value)]


def others(leaf: Any) -> list[Any]:
    """Values that may stand where `leaf` stands, and are not it."""
    if leaf is None:
        measured = make_measured().model_dump(mode="json")
        return ["x", [0.5], measured, measured["student"]["pretrained"]]
    if isinstance(leaf, bool):
        return [not leaf]
    if isinstance(leaf, int | float):
        numbers = (leaf + 1, leaf * 2, math.nextafter(leaf, math.inf), math.nextafter(leaf, -math.inf))
        return [number for number in numbers if number != leaf]
    if isinstance(leaf, str):
        return [f"{leaf}x", "padded", "both", "floor", "float16"]
    return [{"x": 1.0}]


@given(cells)
def test_id_is_sha256_over_the_whole_cell(cell: Cell) -> None:
    text = json.dumps(cell.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    assert cell.cell_id == hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
    assert json.loads(canonical_json(cell))["spec_version"] == SPEC_VERSION


@given(cells)
def test_round_trip_keeps_content_and_id(cell: Cell) -> None:
    for copy in (
        Cell.model_validate_json(cell.model_dump_json()),
        Cell.model_validate_json(canonical_json(cell)),
        Cell.model_validate(cell.model_dump()),
        cell.model_copy(),
    ):
        assert copy == cell
        assert copy.cell_id == cell.cell_id
        assert canonical_json(copy) == canonical_json(cell)


@given(cells, cells)
def test_equal_content_and_equal_id_are_the_same(one: Cell, two: Cell) -> None:
    assert (one.cell_id == two.cell_id) == (canonical_json(one) == canonical_json(two))


@given(cells, st.data())
def test_another_leaf_is_another_cell(cell: Cell, data: st.DataObject) -> None:
    dumped = cell.model_dump(mode="json")
    path, leaf = data.draw(st.sampled_from(list(leaves(dumped))))
    for other in others(leaf):
        try:
            changed = Cell.model_validate(replaced(dumped, path, other))
        except ValidationError:
            continue
        assert changed.cell_id != cell.cell_id


@pytest.mark.parametrize("cell", [make_distilled(), make_measured()], ids=["distilled", "measured"])
def test_every_leaf_is_part_of_the_id(cell: Cell) -> None:
    dumped = cell.model_dump(mode="json")
    fixed = set()
    for path, leaf in leaves(dumped):
        ids = set()
        for other in others(leaf):
            try:
                ids.add(Cell.model_validate(replaced(dumped, path, other)).cell_id)
            except ValidationError:
                continue
        assert cell.cell_id not in ids, path
        if not ids:
            fixed.add(path)
    # Only fields with one implemented value, or that must agree with another one, cannot be changed alone.
    for path in fixed:
        alone = {
            "schedule",
            "revision",
            "num_classes",
            "channels",
            "image_size",
            "name",
            "batch_size",
            "micro_batch_size",
            "epochs",
        }
        assert "conventions" in path or path[-1] in alone, path


def test_numbers_have_one_name() -> None:
    def named(value: Any) -> str:
        return make_cell(loss=Loss(name="kd", hyperparameters={"alpha": value})).cell_id

    assert named(1) == named(1.0) != named("1")
    assert named(0) == named(0.0) == named(-0.0)
    recipe = make_cell().recipe.model_dump()
    assert (
        make_cell(recipe={**recipe, "warmup_epochs": 5}).cell_id
        == make_cell(recipe={k: v for k, v in recipe.items() if k != "warmup_epochs"}).cell_id
    )
    assert make_cell(recipe={**recipe, "mean": [-0.0]}).cell_id == make_cell(recipe={**recipe, "mean": [0]}).cell_id
    options = [{"a": [zero, {"b": zero}]} for zero in (0.0, -0.0)]
    assert len({make_cell(student=Model(architecture="x", options=o)).cell_id for o in options}) == 1
    decays = [Optimizer(name="x", learning_rate=1, weight_decay=zero, options={"a": zero}) for zero in (0.0, -0.0)]
    assert len({make_cell(optimizer=o).cell_id for o in decays}) == 1


def test_order_of_keys_does_not_matter() -> None:
    def backwards(value: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    cell = make_distilled()
    assert Cell.model_validate(backwards(cell.model_dump())).cell_id == cell.cell_id


def test_id_is_the_same_in_other_processes() -> None:
    cell = make_distilled()
    code = "import sys; from pld_grid.spec import Cell; print(Cell.model_validate_json(sys.stdin.read()).cell_id)"
    for seed in ("0", "4711"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            input=cell.model_dump_json(),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == cell.cell_id


def test_a_changed_copy_is_checked_and_has_its_own_id() -> None:
    cell = make_cell()
    before = cell.cell_id
    assert cell.model_copy(update={"seed": 1}).cell_id == make_cell(seed=1).cell_id != before
    with pytest.raises(ValidationError):
        cell.model_copy(update={"seed": -1})


def test_replicates_know_each_others_ids() -> None:
    cell = make_distilled(seed=3)
    assert cell.id_under(3) == cell.cell_id
    assert cell.id_under(0) == make_distilled(seed=0).cell_id != cell.cell_id


def test_a_changed_part_does_not_keep_the_text_of_the_original() -> None:
    loss = make_distilled().loss
    assert loss.canonical == canonical_json(loss)
    changed = loss.model_copy(update={"standardization": "none"})
    assert changed.canonical == canonical_json(changed) != loss.canonical
    assert make_cell(loss=changed).cell_id == make_cell(loss=Loss.model_validate(changed.model_dump())).cell_id


def test_cells_are_frozen_and_know_no_other_keys() -> None:
    cell = make_cell()
    with pytest.raises(ValidationError, match="frozen"):
        cell.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        cell.recipe.batch_size = 3
    for path in ((), ("recipe",), ("recipe", "augmentation"), ("optimizer",), ("student",), ("conventions",)):
        dumped = cell.model_dump()
        inner = dumped
        for key in path:
            inner = inner[key]
        inner["workers"] = 3
        with pytest.raises(ValidationError, match="Extra inputs"):
            Cell.model_validate(dumped)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"epochs": "3"},
        {"epochs": True},
        {"epochs": 3.0},
        {"seed": -1},
        {"seed": 2**31},
        {"recipe": {"batch_size": 64, "micro_batch_size": 48, "mean": [0], "std": [1]}},
        {"recipe": {"batch_size": 64, "micro_batch_size": 64, "mean": [0, 0], "std": [1]}},
        {"recipe": {"batch_size": 64, "micro_batch_size": 64, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"recipe": {"batch_size": 64, "micro_batch_size": 64, "mean": ["0"], "std": [1]}},
        {"recipe": {"batch_size": 64, "micro_batch_size": 64, "mean": [math.nan], "std": [1]}},
        {"recipe": {"batch_size": 64, "micro_batch_size": 64, "mean": [0], "std": [0]}},
        {"optimizer": {"name": "lamb", "learning_rate": math.inf}},
        {"optimizer": {"name": "lamb", "learning_rate": 1, "options": {"eps": math.nan}}},
        {"student": {"architecture": "x", "options": {"a": [math.inf]}}},
        {"student": {"architecture": "x", "options": {"a": {1: 2}}}},
        {"student": {"architecture": "x", "options": {"a": {2}}}},
        {"loss": {"name": "kd", "hyperparameters": {"alpha": math.nan}}},
        {"loss": {"name": "kd", "standardization": "both!"}},
        {"teacher": make_cell(dataset={"name": "digits", "num_classes": 11, "channels": 1, "image_size": 16})},
        {"teacher": make_cell(dataset={"name": "digits", "num_classes": 10, "channels": 1, "image_size": 32})},
    ],
    ids=str,
)
def test_impossible_cells_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_cell(**changes)


@pytest.mark.parametrize(
    "changes", [{"scale": (0.5, 0.1)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}, {"scale": (0, 1)}]
)
def test_impossible_crops_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(crop="random_resized", **changes)


def test_stream_is_what_the_batches_depend_on() -> None:
    cell = make_distilled()
    same = {"teacher": None, "loss": Loss(name="ce"), "student": Model(architecture="y"), "epochs": 9}
    assert {make_distilled(**{k: v}).stream() == cell.stream() for k, v in same.items()} == {True}
    assert make_distilled(seed=1).stream() != cell.stream()
    recipe = cell.recipe.model_dump()
    for change in ({"mean": [0.1]}, {"micro_batch_size": 64}, {"precision": "bfloat16"}, {"evaluation_crop": 0.9}):
        assert make_distilled(recipe={**recipe, **change}).stream() != cell.stream()
    assert make_distilled(recipe={**recipe, "warmup_epochs": 3}).stream() == cell.stream()


def test_ledger_names_fields_that_exist() -> None:
    entries = list(ledger())
    assert len(entries) > 10
    dumped = make_measured().model_dump()
    for entry in entries:
        node: Any = dumped
        for key in entry.field.split("."):
            node = node[key]
        if entry.default != "set by the profile":
            assert json.loads(entry.default) == node or entry.field.startswith("recipe")
        assert entry.question.endswith(".")
