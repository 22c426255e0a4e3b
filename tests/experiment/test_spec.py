import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from cells import make_cell, make_distilled, make_measured
from cli_process import run_python
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pld_grid.experiment.cell import (
    SPEC_VERSION,
    Cell,
    Loss,
    Model,
    Optimizer,
    Pretrained,
    Recipe,
    canonical_json,
    ledger,
)

RECIPE = {"batch_size": 64, "micro_batch_size": 64, "mean": [0], "std": [1]}
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


def replace_leaf(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    if isinstance(value, dict):
        return {k: replace_leaf(v, path[1:], leaf) if k == path[0] else v for k, v in value.items()}
    return [replace_leaf(v, path[1:], leaf) if i == path[0] else v for i, v in enumerate(value)]


def alternatives(leaf: Any) -> list[Any]:
    """Return values that may replace a leaf, and differ from it."""
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
def test_cell_id_is_the_sha256_of_the_whole_cell(cell):
    text = json.dumps(cell.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    assert cell.cell_id == hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
    assert json.loads(canonical_json(cell))["spec_version"] == SPEC_VERSION


@given(cells)
def test_cell_round_trip_keeps_content_and_id(cell):
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
def test_cell_ids_are_equal_if_and_only_if_cells_are(one, two):
    assert (one.cell_id == two.cell_id) == (canonical_json(one) == canonical_json(two))


@given(cells, st.data())
def test_cell_with_another_leaf_has_another_id(cell, data):
    dumped = cell.model_dump(mode="json")
    path, leaf = data.draw(st.sampled_from(list(leaves(dumped))))
    for other in alternatives(leaf):
        try:
            changed = Cell.model_validate(replace_leaf(dumped, path, other))
        except ValidationError:
            continue
        assert changed.cell_id != cell.cell_id


@pytest.mark.parametrize("cell", [make_distilled(), make_measured()], ids=["distilled", "measured"])
def test_cell_id_depends_on_every_leaf(cell):
    dumped = cell.model_dump(mode="json")
    fixed = set()
    for path, leaf in leaves(dumped):
        ids = set()
        for other in alternatives(leaf):
            try:
                ids.add(Cell.model_validate(replace_leaf(dumped, path, other)).cell_id)
            except ValidationError:
                continue
        assert cell.cell_id not in ids, path
        if not ids:
            fixed.add(path)
    # These have one implemented value, or must agree with another field, so they cannot be changed alone.
    alone = {"schedule", "code", "num_classes", "channels", "image_size", "name", "epochs"}
    alone |= {"batch_size", "micro_batch_size"}
    assert [path for path in fixed if "conventions" not in path and path[-1] not in alone] == []


def test_cell_id_is_the_same_for_equal_numbers():
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


def test_cell_id_does_not_depend_on_the_order_of_keys():
    def backwards(value: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    cell = make_distilled()
    assert Cell.model_validate(backwards(cell.model_dump())).cell_id == cell.cell_id


def test_cell_id_is_the_same_in_other_processes():
    cell = make_distilled()
    code = "import sys; from pld_grid.experiment.cell import Cell; print(Cell.model_validate_json(sys.argv[1]).cell_id)"
    for seed in ("0", "4711"):
        assert run_python(code, cell.model_dump_json(), PYTHONHASHSEED=seed).strip() == cell.cell_id


def test_model_copy_is_validated_and_has_its_own_id():
    cell = make_cell()
    before = cell.cell_id
    assert cell.model_copy(update={"seed": 1}).cell_id == make_cell(seed=1).cell_id != before
    with pytest.raises(ValidationError):
        cell.model_copy(update={"seed": -1})


def test_id_under_another_seed_is_that_cells_id():
    cell = make_distilled(seed=3)
    assert cell.id_under(3) == cell.cell_id
    assert cell.id_under(0) == make_distilled(seed=0).cell_id != cell.cell_id


def test_model_copy_does_not_keep_the_cached_json():
    loss = make_distilled().loss
    assert loss.canonical == canonical_json(loss)
    changed = loss.model_copy(update={"standardization": "none"})
    assert changed.canonical == canonical_json(changed) != loss.canonical
    assert make_cell(loss=changed).cell_id == make_cell(loss=Loss.model_validate(changed.model_dump())).cell_id


def test_cells_are_frozen_and_refuse_unknown_keys():
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
        {"recipe": {**RECIPE, "micro_batch_size": 48}},
        {"recipe": {**RECIPE, "mean": [0, 0]}},
        {"recipe": {**RECIPE, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"recipe": {**RECIPE, "mean": ["0"]}},
        {"recipe": {**RECIPE, "mean": [math.nan]}},
        {"recipe": {**RECIPE, "std": [0]}},
        {"optimizer": {"name": "lamb", "learning_rate": math.inf}},
        {"optimizer": {"name": "lamb", "learning_rate": 1, "options": {"eps": math.nan}}},
        *(
            {"recipe": {**RECIPE, "augmentation": {"crop": "random_resized", **crop}}}
            for crop in ({"scale": (0.5, 0.1)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}, {"scale": (0, 1)})
        ),
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
def test_inconsistent_cells_are_refused(changes):
    with pytest.raises(ValidationError):
        make_cell(**changes)


def test_stream_depends_on_what_changes_the_batches():
    cell = make_distilled()
    same = {"teacher": None, "loss": Loss(name="ce"), "student": Model(architecture="y"), "epochs": 9}
    assert {make_distilled(**{k: v}).stream() == cell.stream() for k, v in same.items()} == {True}
    assert make_distilled(seed=1).stream() != cell.stream()
    recipe = cell.recipe.model_dump()
    for change in ({"mean": [0.1]}, {"micro_batch_size": 64}, {"precision": "bfloat16"}, {"evaluation_crop": 0.9}):
        assert make_distilled(recipe={**recipe, **change}).stream() != cell.stream()
    assert make_distilled(recipe={**recipe, "warmup_epochs": 3}).stream() == cell.stream()


def test_ledger_names_existing_fields_and_defaults():
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
