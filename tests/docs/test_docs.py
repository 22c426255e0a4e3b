"""The key reference against the schema, and the examples of the documentation against the code that reads them."""

import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT
from pydantic import BaseModel

from pld_grid.experiment import cell, grid_schema, machine, profile_schema, table_layout
from pld_grid.experiment.cell import Dataset, Recipe
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.grid_schema import GridFile
from pld_grid.experiment.profile import load_profile
from pld_grid.experiment.profile_schema import ProfileFile
from pld_grid.service.loading import load_grid
from pld_grid.train import data, losses

Model = type[BaseModel]
MODULES = (cell, grid_schema, machine, profile_schema, table_layout)
# A profile's recipe is parsed on its own, once the dataset is known.
ROOTS: dict[str, tuple[Model, ...]] = {"grids": (GridFile,), "profiles": (ProfileFile, Recipe)}
# Those that go without saying are left out: a text or list that must not be empty.
NUMBER_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
# A table of keys follows this mark; "beyond" leaves out the keys of another table.
MARK = re.compile(r"^<!-- keys: (\w+)(?: beyond (\w+))? -->\n\n((?:\|.*\n)+)", re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def models_in(annotation: object) -> Iterator[Model]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def reachable(*roots: Model) -> dict[str, Model]:
    known: dict[str, Model] = {}
    queue = list(roots)
    while queue:
        model = queue.pop()
        if model.__name__ not in known:
            known[model.__name__] = model
            for field in model.model_fields.values():
                queue += models_in(field.annotation)
    return known


def rows(table: str) -> dict[str, tuple[str, str, str]]:
    """Return type, default and meaning by key; a key that stands twice is an error."""
    keys: dict[str, tuple[str, str, str]] = {}
    for line in table.splitlines()[2:]:
        key, kind, default, meaning = (part.strip() for part in line.strip("|").split(" | "))
        key = key.strip("` ")
        assert key not in keys, key
        keys[key] = (kind, default, meaning)
    return keys


def documented(name: str) -> dict[str, tuple[Model, str, dict[str, tuple[str, str, str]]]]:
    models = {key: model for module in MODULES for key, model in vars(module).items() if is_model(model)}
    marks = MARK.findall(page(name))
    assert len({model for model, _, _ in marks}) == len(marks)
    return {model: (models[model], parent, rows(table)) for model, parent, table in marks}


def is_model(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseModel)


def plain(value: object) -> object:
    """Return a default as YAML gives it: a model as what was set, a tuple as a list."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return list(value) if isinstance(value, tuple) else value


def bounds(schema: object, definitions: dict[str, object]) -> Iterator[object]:
    """Yield the numbers and words that limit a field's own value, not those inside other models."""
    if isinstance(schema, list):
        for item in schema:
            yield from bounds(item, definitions)
    if not isinstance(schema, dict):
        return
    yield from (
        schema[key] for key in NUMBER_BOUNDS if key in schema and not ("maxItems" in key and "minItems" in schema)
    )
    yield from schema.get("enum", [])
    yield from [schema["const"]] if "const" in schema else []
    for key in ("anyOf", "items", "prefixItems", "additionalProperties"):
        yield from bounds(schema.get(key), definitions)


@pytest.mark.parametrize("name", ROOTS)
def test_key_reference_documents_every_model_of_the_schema(name):
    expected = set(reachable(*ROOTS[name]))
    if name == "profiles":
        assert "MachineSettings" in expected
    assert set(documented(name)) | ({"Axes"} & expected) == expected


@pytest.mark.parametrize("name", ROOTS)
def test_key_reference_has_every_key_with_its_default_and_bounds(name):
    pages = documented(name)
    for model, parent, keys in pages.values():
        inherited = set(pages[parent][0].model_fields) if parent else set()
        assert set(keys) == set(model.model_fields) - inherited, model.__name__
        schema = model.model_json_schema()
        definitions = schema.get("$defs", {})
        properties = schema.get("properties") or definitions[model.__name__]["properties"]
        for key, (kind, default, meaning) in keys.items():
            field, where = model.model_fields[key], f"{model.__name__}.{key}"
            words = f"{kind} {meaning}".replace(",", "")
            if field.is_required():
                assert default == "required", where
            elif default.startswith("`"):
                assert yaml.safe_load(default.strip("`")) == plain(field.default), where
            else:
                assert is_model(type(field.default)), where
            for bound in bounds(properties[key], definitions):
                text = f"{bound:g}" if isinstance(bound, float) else str(bound)
                assert text in words, f"{where}: {text}"


def test_key_reference_lists_every_loss_with_its_defaults():
    table = page("grids").split("<!-- losses -->\n\n")[1].split("\n\n")[0]
    lines = {line.split("`")[1]: line for line in table.splitlines()[2:]}
    assert set(lines) == set(losses.available())
    for name, line in lines.items():
        given = dict(re.findall(r"`(\w+): ([\w.]+)`", line))
        assert {key: yaml.safe_load(text) for key, text in given.items()} == losses.get_loss_class(name).defaults()
        assert line.rstrip(" |").endswith("yes" if losses.get_loss_class(name).uses_teacher else "no")


def examples(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


GRID_EXAMPLES = [text for name in ("README.md", "docs/grids.md") for text in examples(ROOT / name, "yaml")]


@pytest.mark.parametrize("text", GRID_EXAMPLES, ids=lambda text: text.splitlines()[0])
def test_grid_examples_load(text, tmp_path):
    """This builds every table and figure too, without data."""
    file = tmp_path / "example.yaml"
    file.write_text(text)
    assert isinstance(load_grid(file), Grid)


@pytest.mark.parametrize("text", examples(ROOT / "docs/profiles.md", "yaml"), ids=lambda text: text.splitlines()[0])
def test_profile_examples_load(text, tmp_path, registry):
    file = tmp_path / "example.yaml"
    file.write_text(text)
    loaded = load_profile(file, registry)
    assert loaded.student("ResNet-50").architecture in registry.models
    assert loaded.teacher("ResNet-152").dataset == loaded.dataset


@pytest.fixture
def add_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, ModuleType], str]]:
    """Return a function that adds a page's example to a package, as far as Python can tell, and returns its name."""
    added: list[str] = []

    def add(document: str, package: ModuleType) -> str:
        folder = package.__name__.replace(".", "/")
        (text,) = [each for each in examples(ROOT / document, "python") if each.startswith(f"# {folder}/")]
        name = Path(text.splitlines()[0]).stem
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        added.append(f"{package.__name__}.{name}")
        return name

    yield add
    for name in added:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_loss_example_is_a_loss_of_the_project(document, add_example):
    name = add_example(document, losses)
    assert name in losses.available()
    for standardization in losses.get_loss_class(name).standardizations:
        loss = losses.build(name, standardization=standardization)
        random = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, 4, 5, generator=random)
        student, target = student.clone().requires_grad_(), torch.tensor([0, 1, 2, 4])
        value = loss(student, teacher, target)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.shape == () and value.isfinite() and gradient.isfinite().all() and gradient.abs().sum() > 0
        assert json.loads(json.dumps(loss.settings())) == loss.settings()


def test_dataset_example_is_a_dataset_of_the_project(add_example):
    name = add_example("CONTRIBUTING.md", data)
    info = data.get_module(name).INFO
    assert name in data.available() and info.name == name
    dataset = Dataset(name=name, num_classes=info.num_classes, channels=info.channels, image_size=8)
    recipe = Recipe(batch_size=60, micro_batch_size=60, mean=(0.5,) * info.channels, std=(0.25,) * info.channels)
    splits = data.load(dataset, recipe)
    assert (len(splits.train), len(splits.validation)) == (info.train_size, info.validation_size)
    images, labels = splits.train.batch(np.arange(60), 0, 1)
    assert (images.shape, images.dtype) == ((60, info.channels, 8, 8), torch.uint8)
    assert set(labels.tolist()) == set(range(info.num_classes))
    assert [check.problem for check in data.inspect(dataset, recipe, None) if check.problem] == []


def test_reliability_names_tests_that_exist():
    named = re.findall(r"`(?:\.\./)?([\w/]+\.py)`", page("reliability"))
    assert len(named) > 20
    for name in named:
        assert (ROOT / "tests" / name).is_file() or (ROOT / name).is_file(), name
