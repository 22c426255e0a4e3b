"""Check a profile's YAML against what the registry offers; each error names file, line, key and the nearest name."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pld_grid.experiment.cell import Model, Recipe
from pld_grid.experiment.profile_schema import ModelSettings, ProfileFile
from pld_grid.experiment.registry import DatasetInfo, Registry
from pld_grid.util.strict_yaml import Document, Path_
from pld_grid.util.text import nearest, show, unknown, valid_names

# The largest sum of the numbers in one option of a model: some count blocks, which are made one by one.
MAX_OPTION_SUM = 10_000
_PLAIN_WORD = re.compile(r"[\w.+-]*")


@dataclass(frozen=True)
class ProfileChecks:
    """The checks of one profile. Each method raises InputError at the first violation."""

    document: Document
    file: ProfileFile
    registry: Registry

    def check(self) -> tuple[DatasetInfo, Recipe]:
        """Check the whole file; return its dataset and recipe."""
        info = self._check_dataset()
        self._check_optimizers()
        self._check_models(info)
        self._check_machines()
        return info, self._check_recipe(info)

    def _check_name(self, path: Path_, name: str, valid: Collection[str], kind: str) -> None:
        if name not in valid:
            raise self.document.error(path, unknown(kind, name, valid))

    def _check_dataset(self) -> DatasetInfo:
        given = self.file.dataset
        self._check_name(("dataset", "name"), given.name, self.registry.datasets, "dataset")
        info = self.registry.datasets[given.name]
        if given.image_size > info.largest_image:
            message = f"must be at most {info.largest_image} for {info.name}, not {given.image_size}"
            raise self.document.error(("dataset", "image_size"), message)
        return info

    def _check_optimizers(self) -> None:
        for name, settings in self.file.optimizers.items():
            self._check_name(("optimizers", name), name, self.registry.optimizers, "optimizer")
            defaults = self.registry.optimizers[name]
            for option, value in settings.options.items():
                path: Path_ = ("optimizers", name, "options", option)
                self._check_name(path, option, defaults, f"{name} option")
                default = defaults[option]
                if default is not None and _describe_type(default) != _describe_type(value):
                    expected = f"expected {_describe_type(default)[0]}, as its default {show(default)}"
                    raise self.document.error(path, f"{expected}, not {show(value)}")
        self._check_name(("optimizer",), self.file.optimizer, self.file.optimizers, "optimizer")
        teachers = self.file.teachers.optimizer
        if teachers is not None:
            self._check_name(("teachers", "optimizer"), teachers, self.file.optimizers, "optimizer")

    def _check_models(self, info: DatasetInfo) -> None:
        for name, model in self.file.models.items():
            try:
                check_model(model, self.registry, info.num_classes)
            except ValueError as error:
                raise self.document.error(("models", name), str(error)) from None
            for part in ("mean", "std"):
                values = getattr(model.pretrained, part, None)
                if values is not None and len(values) != info.channels:
                    message = f"{len(values)} values for {info.channels} channel(s)"
                    raise self.document.error(("models", name, "pretrained", part), message)

    def _check_machines(self) -> None:
        classes: dict[str, str] = {}
        for name, machine in self.file.machines.items():
            for number, student in enumerate(machine.students):
                path = ("machines", name, "students", number)
                self._check_name(path, student, {*self.file.models, *self.registry.models}, "model")
                if student in classes:
                    raise self.document.error(path, f'"{student}" is in machines.{classes[student]} already')
                classes[student] = name

    def _check_recipe(self, info: DatasetInfo) -> Recipe:
        recipe = self.document.parse(Recipe, ("recipe",))
        if len(recipe.mean) != info.channels:
            message = f"{len(recipe.mean)} values for {info.channels} channel(s)"
            raise self.document.error(("recipe", "mean"), message)
        if info.train_size is not None and recipe.batch_size > info.train_size:
            message = (
                f"{recipe.batch_size} images are more than the {info.train_size} that {info.name} has for training"
            )
            raise self.document.error(("recipe", "batch_size"), message)
        padding, size = recipe.augmentation.padding, self.file.dataset.image_size
        if padding > size:
            message = f"must be at most the image's size, {size}, not {padding}"
            raise self.document.error(("recipe", "augmentation", "padding"), message)
        return recipe


def check_model(model: Model | ModelSettings, registry: Registry, num_classes: int) -> None:
    """Raise ValueError if timm has no such architecture, option or tag, or if the class counts differ."""
    name = model.architecture
    if name not in registry.models:
        raise ValueError(f'unknown model "{name}"; any timm architecture is valid{nearest(name, registry.models)}')
    for key, value in model.options.items():
        _check_option(key, value, registry)
    if model.pretrained is None:
        return
    tag = model.pretrained.tag
    classes = registry.pretrained_classes(name)
    if tag not in classes:
        raise ValueError(f'timm has no weights "{tag}" for {name}; valid: {valid_names(tag, classes)}')
    if classes[tag] != num_classes:
        raise ValueError(f"{name}.{tag} knows {classes[tag]} classes, the dataset has {num_classes}")


def _check_option(key: str, value: object, registry: Registry) -> None:
    if key in ("num_classes", "in_chans"):
        raise ValueError(f"{key} comes from the dataset and cannot be an option of a model")
    if key in registry.factory_options:
        raise ValueError(f"{show(key)} is no option of a model: it tells timm which one to build, wrap or load")
    size = sum(abs(leaf) for leaf in _leaves(value) if isinstance(leaf, int | float))
    if size > MAX_OPTION_SUM:
        raise ValueError(
            f"option {show(key)}: its numbers must add up to {MAX_OPTION_SUM} at most, not to {show(size)}"
        )
    for text in _leaves(value):
        if isinstance(text, str) and not _PLAIN_WORD.fullmatch(text):
            raise ValueError(f"option {show(key)}: {show(text)} is no plain word; options are no paths or addresses")


def _describe_type(value: object) -> tuple[str, int]:
    """Return a value's type, as far as an optimizer's keyword cares, and its length."""
    if isinstance(value, bool):
        return "true or false", 1
    if isinstance(value, int | float):
        return "a number", 1
    return ("a list of numbers", len(value)) if isinstance(value, list) else ("text", 1)


def _leaves(value: object) -> Iterator[object]:
    """Yield all texts and numbers in an option's value, keys included."""
    if isinstance(value, list | dict):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value
