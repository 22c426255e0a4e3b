"""Profiles: what the paper's names mean on some scale. The same grids run under all that name their models."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pld_grid.catalogue import Catalogue
from pld_grid.errors import InputError, listing, nearest
from pld_grid.gridfile import Epochs
from pld_grid.machine import ByStudent, MachineClass, Machines, MachineSettings, model_key
from pld_grid.reading import Document, Path_, check_name, one_line, read_file, show
from pld_grid.spec import (
    Cell,
    Count,
    Dataset,
    Flag,
    Frozen,
    Loss,
    Model,
    NonNegative,
    Number,
    Optimizer,
    Positive,
    Pretrained,
    Recipe,
    Scalar,
    Seed,
)

_PLAIN = re.compile(r"[\w.+-]*")
# What the numbers of a model's option may add up to: some are of blocks, which are made one by one.
MOST_IN_OPTION = 10_000


class OptimizerSettings(Frozen):
    """An optimizer's settings under a profile; its name is the key."""

    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: Flag = False
    options: dict[str, Scalar | list[Number]] = {}


class DatasetSettings(Frozen):
    """Which dataset module, at which size in pixels."""

    name: str
    image_size: Count


class TeacherSettings(Frozen):
    """Where teachers' weights come from: published, or trained here first with these settings."""

    source: Literal["trained", "pretrained"]
    epochs: Epochs = 100
    seed: Seed = 0
    optimizer: str | None = None
    loss: Literal["ce", "ls"] = "ce"


class ProfileFile(Frozen):
    """The YAML of a profile."""

    description: str
    dataset: DatasetSettings
    recipe: dict[str, Any]
    optimizer: str
    optimizers: dict[str, OptimizerSettings]
    teachers: TeacherSettings
    models: dict[str, Model]
    epochs: dict[Count, Epochs] = {}
    machine: MachineSettings = MachineSettings()
    machines: dict[str, MachineClass] = {}


@dataclass(frozen=True)
class Profile:
    """A checked profile, ready to resolve names into parts of cells."""

    name: str
    document: Document
    file: ProfileFile
    dataset: Dataset
    recipe: Recipe
    catalogue: Catalogue

    @property
    def machine(self) -> MachineSettings:
        """Resources and loader settings of most cells."""
        return self.file.machine

    @property
    def machines(self) -> Machines:
        """Resources and loader settings of all cells."""
        others = []
        for given in self.file.machines.values():
            changes = given.model_dump(exclude={"students"}, exclude_unset=True)
            models = frozenset(model_key(self.student(name)) for name in given.students)
            others.append((models, self.machine.model_copy(update=changes)))
        return ByStudent(self.machine, tuple(others))

    def epochs(self, epochs: int) -> int:
        """What the paper's number of epochs stands for here."""
        return self.file.epochs.get(epochs, epochs)

    def optimizer(self, name: str | None) -> Optimizer:
        """An optimizer with this profile's settings. Raises ValueError for an unknown one."""
        name = name or self.file.optimizer
        settings = self.file.optimizers.get(name)
        if settings is None:
            if name in self.catalogue.optimizers:
                raise ValueError(
                    f'optimizer "{name}" has no settings in profile {self.name}; it has: '
                    f"{listing(self.file.optimizers)}"
                )
            raise ValueError(f'unknown optimizer "{name}"; valid: {_names(name, self.file.optimizers)}')
        # timm's defaults become part of the cell: if they change, so does its name.
        defaults = self.catalogue.optimizers[name]
        options = dict(defaults)
        for key, value in settings.options.items():
            # 1 and 1.0 are the same number, so they must not name two cells.
            options[key] = float(value) if isinstance(value, int) and isinstance(defaults[key], float) else value
        return Optimizer(
            name=name,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            decay_norm_and_bias=settings.decay_norm_and_bias,
            options=options,
        )

    def student(self, name: str) -> Model:
        """The model of that name, to be trained from scratch. Raises ValueError for an unknown one."""
        known = self.file.models.get(name)
        if known is not None:
            return Model(architecture=known.architecture, options=known.options)
        architecture, _, tag = name.partition(".")
        if tag and architecture in self.catalogue.models:
            raise ValueError(f'students start from scratch: write "{architecture}", without the tag "{tag}"')
        if name not in self.catalogue.models:
            raise ValueError(self._unknown_model(name))
        return Model(architecture=name)

    def check_models(self, models: Iterable[Model]) -> None:
        """Raises InputError if timm cannot make one of these as this profile describes it; others are not tried."""
        wanted = {model_key(model) for model in models}
        for name, model in self.file.models.items():
            if model.options and model_key(model) in wanted:
                said = self.catalogue.model_error(model, self.dataset)
                if said:
                    raise self.document.error(("models", name), said)

    def teacher(self, name: str) -> Cell:
        """The cell that makes, or measures, the teacher of that name. Raises ValueError for an unknown one."""
        settings = self.file.teachers
        if settings.source == "trained":
            student, epochs = self.student(name), settings.epochs
        else:
            student, epochs = self._published(name), 0
        return Cell(
            dataset=self.dataset,
            recipe=self.recipe,
            student=student,
            loss=Loss(name=settings.loss, hyperparameters=self.catalogue.losses[settings.loss].resolve({})),
            optimizer=self.optimizer(settings.optimizer),
            epochs=epochs,
            seed=settings.seed,
        )

    def _published(self, name: str) -> Model:
        known = self.file.models.get(name)
        if known is not None:
            if known.pretrained is None:
                raise ValueError(f'"{name}" has no published weights in profile {self.name}, so it cannot teach')
            model = known
        else:
            architecture, _, tag = name.partition(".")
            if architecture not in self.catalogue.models:
                raise ValueError(self._unknown_model(name))
            if not tag:
                raise ValueError(
                    f'teacher "{name}" needs a tag of published weights, as in "{name}.TAG"; timm has: '
                    f"{listing(self.catalogue.tags(architecture)) or 'none'}"
                )
            model = Model(architecture=architecture, pretrained=Pretrained(tag=tag))
        _check_model(model, self.catalogue, self.dataset.num_classes)
        return model

    def _unknown_model(self, name: str) -> str:
        return (
            f'unknown model "{name}"; valid: {listing(self.file.models)}, and any timm architecture'
            f"{nearest(name, self.file.models) or nearest(name, self.catalogue.models)}"
        )


def _kind(value: object) -> str:
    """What a value is, as far as an optimizer's keyword cares."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a list of numbers" if isinstance(value, list) else "text"


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 1


def _names(name: str, valid: Any) -> str:
    return f"{listing(valid)}{nearest(name, valid)}"


def _check_model(model: Model, catalogue: Catalogue, num_classes: int) -> None:
    """Raises ValueError if timm has no such architecture or tag, or if the class counts differ."""
    if model.architecture not in catalogue.models:
        raise ValueError(
            f'unknown model "{model.architecture}"; any timm architecture is valid'
            f"{nearest(model.architecture, catalogue.models)}"
        )
    for key, value in model.options.items():
        if key in ("num_classes", "in_chans"):
            raise ValueError(f"{key} comes from the dataset and cannot be an option of a model")
        if key in catalogue.factory_options:
            raise ValueError(f"{show(key)} is no option of a model: it tells timm which one to build, wrap or load")
        size = sum(abs(leaf) for leaf in _leaves(value) if isinstance(leaf, int | float))
        if size > MOST_IN_OPTION:
            raise ValueError(
                f"option {show(key)}: its numbers must add up to {MOST_IN_OPTION} at most, not to {show(size)}"
            )
        for text in _leaves(value):
            if isinstance(text, str) and not _PLAIN.fullmatch(text):
                raise ValueError(
                    f"option {show(key)}: {show(text)} is no plain word; options are no paths or addresses"
                )
    if model.pretrained is None:
        return
    classes = catalogue.pretrained_classes(model.architecture, model.pretrained.tag)
    if classes is None:
        tags = catalogue.tags(model.architecture)
        raise ValueError(
            f'timm has no weights "{model.pretrained.tag}" for {model.architecture}; valid: '
            f"{_names(model.pretrained.tag, tags)}"
        )
    if classes != num_classes:
        raise ValueError(
            f"{model.architecture}.{model.pretrained.tag} knows {classes} classes, the dataset has {num_classes}"
        )


def _leaves(value: object) -> Iterator[object]:
    """All texts and numbers in an option's value."""
    if isinstance(value, list | dict):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def find_profile(name: str, near: Path | None = None) -> Path:
    """The file of a profile, given by path or by name (looked up in `profiles/` beside the grids).

    Raises InputError listing the profiles that exist.
    """
    given = Path(name)
    # OSError: longer than a path can be, or in a folder that is closed to us.
    if given.suffix in (".yaml", ".yml"):
        with contextlib.suppress(OSError):
            if given.is_file():
                return given
        raise InputError(one_line(f"--profile: {name}: no such file"))
    folders = [near / "profiles"] if near else []
    folders += [Path("grids/profiles"), Path(__file__).parent.parent / "grids" / "profiles"]
    found: dict[str, Path] = {}
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            found |= {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise InputError(one_line(f'--profile: unknown profile "{name}"; valid: {_names(name, found)}'))
    return found[name]


def load_profile(path: Path, catalogue: Catalogue) -> Profile:
    """Reads and checks a profile. Raises InputError with file, line, key path and the nearest valid name."""
    document = read_file(path)
    try:
        profile_name = check_name(path.stem)
    except ValueError as error:
        raise InputError(one_line(f"{path}: a profile is called by its file's name; {error}")) from None
    file = document.parse(ProfileFile)

    def check(at: Path_, name: str, valid: Any, kind: str) -> None:
        if name not in valid:
            raise document.error(at, f'unknown {kind} "{name}"; valid: {_names(name, valid)}')

    check(("dataset", "name"), file.dataset.name, catalogue.datasets, "dataset")
    info = catalogue.datasets[file.dataset.name]
    if file.dataset.image_size > info.largest_image:
        message = f"must be at most {info.largest_image} for {info.name}, not {file.dataset.image_size}"
        raise document.error(("dataset", "image_size"), message)
    for name, settings in file.optimizers.items():
        check(("optimizers", name), name, catalogue.optimizers, "optimizer")
        defaults = catalogue.optimizers[name]
        for option, value in settings.options.items():
            at = ("optimizers", name, "options", option)
            check(at, option, defaults, f"{name} option")
            kind = _kind(defaults[option])
            if defaults[option] is not None and (kind, _length(value)) != (_kind(value), _length(defaults[option])):
                raise document.error(at, f"expected {kind}, as its default {show(defaults[option])}, not {show(value)}")
    check(("optimizer",), file.optimizer, file.optimizers, "optimizer")
    if file.teachers.optimizer is not None:
        check(("teachers", "optimizer"), file.teachers.optimizer, file.optimizers, "optimizer")
    for name, model in file.models.items():
        try:
            _check_model(model, catalogue, info.num_classes)
        except ValueError as error:
            raise document.error(("models", name), str(error)) from None
        for part in ("mean", "std"):
            values = getattr(model.pretrained, part, None)
            if values is not None and len(values) != info.channels:
                message = f"{len(values)} values for {info.channels} channel(s)"
                raise document.error(("models", name, "pretrained", part), message)
    placed: dict[str, str] = {}
    for name, machine in file.machines.items():
        for place, student in enumerate(machine.students):
            key = ("machines", name, "students", place)
            check(key, student, {*file.models, *catalogue.models}, "model")
            if student in placed:
                raise document.error(key, f'"{student}" is in machines.{placed[student]} already')
            placed[student] = name
    recipe = document.parse(Recipe, ("recipe",))
    if len(recipe.mean) != info.channels:
        raise document.error(("recipe", "mean"), f"{len(recipe.mean)} values for {info.channels} channel(s)")
    if info.train_size is not None and recipe.batch_size > info.train_size:
        message = f"{recipe.batch_size} images are more than the {info.train_size} that {info.name} has for training"
        raise document.error(("recipe", "batch_size"), message)
    padding, size = recipe.augmentation.padding, file.dataset.image_size
    if padding > size:
        message = f"must be at most the image's size, {size}, not {padding}"
        raise document.error(("recipe", "augmentation", "padding"), message)
    profile = Profile(
        name=profile_name,
        document=document,
        file=file,
        dataset=Dataset(
            name=info.name,
            revision=info.revision,
            num_classes=info.num_classes,
            channels=info.channels,
            image_size=file.dataset.image_size,
        ),
        recipe=recipe,
        catalogue=catalogue,
    )
    for name in file.optimizers:
        if said := catalogue.optimizer_error(profile.optimizer(name)):
            raise document.error(("optimizers", name), said)
    return profile
