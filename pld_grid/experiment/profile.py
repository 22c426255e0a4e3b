"""Profiles: what the paper's names mean at some scale. A grid runs under every profile that names its models."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pld_grid.experiment.cell import Cell, Dataset, Model, Optimizer, Pretrained, Recipe
from pld_grid.experiment.machine import ByStudent, Machines, MachineSettings, model_key
from pld_grid.experiment.profile_checks import ProfileChecks, check_model
from pld_grid.experiment.profile_schema import PAPER_EPOCHS, ProfileFile
from pld_grid.experiment.registry import Registry
from pld_grid.util.errors import InputError
from pld_grid.util.shipped_files import list_yaml_files, search_path
from pld_grid.util.strict_yaml import Document, read_file
from pld_grid.util.text import check_name, join_names, nearest, one_line, unknown


@dataclass(frozen=True)
class Profile:
    """A checked profile, which resolves a grid's names into parts of cells."""

    name: str
    document: Document
    file: ProfileFile
    dataset: Dataset
    recipe: Recipe
    registry: Registry

    @property
    def machine(self) -> MachineSettings:
        """Resources and loader settings of most cells."""
        return self.file.machine

    @property
    def machines(self) -> Machines:
        """Resources and loader settings of all cells."""
        special = []
        for machine_class in self.file.machines.values():
            changes = machine_class.model_dump(exclude={"students"}, exclude_unset=True)
            models = frozenset(model_key(self.student(name)) for name in machine_class.students)
            special.append((models, self.machine.model_copy(update=changes)))
        return ByStudent(self.machine, tuple(special))

    def epochs(self, epochs: int | str) -> int:
        """Return a number as it is, and the number that a name stands for. Raises ValueError for an unknown name."""
        if isinstance(epochs, int):
            return epochs
        names = PAPER_EPOCHS | self.file.epochs
        if epochs not in names:
            raise ValueError(unknown("name of epochs", epochs, names))
        return names[epochs]

    def optimizer(self, name: str | None) -> Optimizer:
        """Return an optimizer with this profile's settings. Raises ValueError for an unknown one."""
        name = name or self.file.optimizer
        settings = self.file.optimizers.get(name)
        if settings is None:
            if name in self.registry.optimizers:
                raise ValueError(
                    f'optimizer "{name}" has no settings in profile {self.name}; it has: '
                    f"{join_names(self.file.optimizers)}"
                )
            raise ValueError(unknown("optimizer", name, self.file.optimizers))
        # timm's defaults are part of the cell, so that a changed default is another cell.
        options = dict(self.registry.optimizers[name])
        for key, value in settings.options.items():
            # 1 and 1.0 are the same number and must not make two cells.
            options[key] = float(value) if isinstance(value, int) and isinstance(options[key], float) else value
        return Optimizer(name=name, **settings.model_dump(exclude={"options"}), options=options)

    def student(self, name: str) -> Model:
        """Return the model of that name, to be trained from scratch. Raises ValueError for an unknown one."""
        known = self.file.models.get(name)
        if known is not None:
            return self._model(known.architecture, known.options)
        architecture, _, tag = name.partition(".")
        if tag and architecture in self.registry.models:
            raise ValueError(f'students start from scratch: write "{architecture}", without the tag "{tag}"')
        if name not in self.registry.models:
            raise ValueError(self._unknown_model(name))
        return self._model(name)

    def _model(
        self, architecture: str, options: Mapping[str, Any] | None = None, pretrained: Pretrained | None = None
    ) -> Model:
        code = self.registry.model_code(architecture)
        return Model(architecture=architecture, code=code, options=dict(options or {}), pretrained=pretrained)

    def check_models(self, models: Iterable[Model]) -> None:
        """Raise InputError if timm cannot make one of these models as this profile describes it."""
        wanted = {model_key(model) for model in models}
        for name, settings in self.file.models.items():
            model = self._model(settings.architecture, settings.options)
            if model.options and model_key(model) in wanted:
                message = self.registry.model_error(model, self.dataset)
                if message:
                    raise self.document.error(("models", name), message)

    def teacher(self, name: str) -> Cell:
        """Return the cell that makes, or measures, a teacher. Raises ValueError for an unknown name."""
        settings = self.file.teachers
        trained, loss = settings.source == "trained", self.registry.losses[settings.loss]
        return Cell(
            dataset=self.dataset,
            recipe=self.recipe,
            student=self.student(name) if trained else self._published_model(name),
            loss=loss.make(loss.resolve({})),
            optimizer=self.optimizer(settings.optimizer),
            epochs=settings.epochs if trained else 0,
            seed=settings.seed,
        )

    def _published_model(self, name: str) -> Model:
        known = self.file.models.get(name)
        if known is not None:
            if known.pretrained is None:
                raise ValueError(f'"{name}" has no published weights in profile {self.name}, so it cannot teach')
            model = self._model(known.architecture, known.options, known.pretrained)
        else:
            architecture, _, tag = name.partition(".")
            if architecture not in self.registry.models:
                raise ValueError(self._unknown_model(name))
            if not tag:
                raise ValueError(
                    f'teacher "{name}" needs a tag of published weights, as in "{name}.TAG"; timm has: '
                    f"{join_names(self.registry.pretrained_classes(architecture)) or 'none'}"
                )
            model = self._model(architecture, pretrained=Pretrained(tag=tag))
        check_model(model, self.registry, self.dataset.num_classes)
        return model

    def _unknown_model(self, name: str) -> str:
        return (
            f'unknown model "{name}"; valid: {join_names(self.file.models)}, and any timm architecture'
            f"{nearest(name, self.file.models) or nearest(name, self.registry.models)}"
        )


def find_profile(name: str, near: Path | None = None) -> Path:
    """Return the file of a profile.

    Args:
        name: the profile's name, or the path of its file.
        near: the folder of the grids, in whose `profiles/` to look first.

    Raises:
        InputError: there is no such profile; the message lists those that exist.
    """
    path = Path(name)
    # OSError: the path is too long, or in a folder without access.
    if path.suffix in (".yaml", ".yml"):
        with contextlib.suppress(OSError):
            if path.is_file():
                return path
        raise InputError(one_line(f"--profile: {name}: no such file"))
    files = list_yaml_files([*([near / "profiles"] if near else []), *search_path("grids/profiles")])
    if name not in files:
        raise InputError(one_line(f"--profile: {unknown('profile', name, files)}"))
    return files[name]


def load_profile(path: Path, registry: Registry) -> Profile:
    """Read and check a profile. Raises InputError with file, line, key path and the nearest valid name."""
    document = read_file(path)
    try:
        name = check_name(path.stem)
    except ValueError as error:
        raise InputError(one_line(f"{path}: a profile has the name of its file; {error}")) from None
    file = document.parse(ProfileFile)
    info, recipe = ProfileChecks(document, file, registry).check()
    dataset = Dataset(
        name=info.name,
        code=info.code,
        num_classes=info.num_classes,
        channels=info.channels,
        image_size=file.dataset.image_size,
    )
    profile = Profile(name, document, file, dataset, recipe, registry)
    for optimizer in file.optimizers:
        if message := registry.optimizer_error(profile.optimizer(optimizer)):
            raise document.error(("optimizers", optimizer), message)
    return profile
