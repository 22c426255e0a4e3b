"""What a table's numbers were computed with: dataset, models, epochs, seeds. Every renderer shows it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pld_grid.experiment.cell import Cell, Model, Scalar
from pld_grid.experiment.grid import Entry, Grid
from pld_grid.experiment.profile_schema import PAPER_EPOCHS


class SettingLine(NamedTuple):
    """One line of a setting; `code`, if there is any, is set in a fixed-width font."""

    text: str
    code: str = ""


@dataclass(frozen=True)
class Setting:
    """The setting of a table.

    Attributes:
        profile: The profile's name.
        description: The profile's description.
        dataset: The dataset in words.
        matches_paper: Whether dataset, image size and epochs are those of the printed table.
        paper_dataset: The dataset of the printed table, in words.
        models: The timm model that each name in the grid stands for.
        epochs: The trained epochs, by the paper's number that they stand for, or else by what the grid calls them.
        seeds: The students' seeds.
        teachers: Where the teachers' weights come from.
        recipe: Batch sizes and precision.
        validation_images: The size of the validation set; None if the dataset's module does not know it.
    """

    profile: str
    description: str
    dataset: str
    matches_paper: bool
    paper_dataset: str
    models: Mapping[str, str]
    epochs: Mapping[Scalar, int]
    seeds: tuple[int, ...]
    teachers: str
    recipe: str
    validation_images: int | None = None

    @property
    def epochs_text(self) -> str:
        """The epochs on one line: `10 (for 100)`, or `100` if the numbers agree."""
        return format_epochs(self.epochs) or "none"

    @property
    def models_text(self) -> str:
        """The models on one line: `ResNet-50: resnet50; ...`."""
        return format_models(self.models)

    @property
    def summary(self) -> str:
        """The profile, the dataset, the epochs and the seeds on one line."""
        return f"Profile {self.profile}: {self.dataset}; epochs {self.epochs_text}; seeds {self._seeds_text}"

    def list_lines(self, paper: str) -> dict[str, list[SettingLine]]:
        """Return the lines of each part, by its label; `paper` is the table's file of printed figures, or empty."""
        owner = "the paper's" if paper else "the grid's"
        epochs = [str(run) if run == named else f"{run} for {owner} {named}" for named, run in self.epochs.items()]
        return {
            "Profile": [SettingLine(f"{self.profile}: {self.description}")],
            "Dataset": [SettingLine(self.dataset)],
            "Models": [SettingLine(name, model) for name, model in self.models.items()],
            "Teachers": [SettingLine(self.teachers)],
            "Epochs": [SettingLine(text) for text in epochs],
            "Batches": [SettingLine(self.recipe)],
            "Seeds": [SettingLine(f"{self._seeds_text} (n = {len(self.seeds)})")],
        }

    @property
    def _seeds_text(self) -> str:
        return ", ".join(map(str, self.seeds)) or "none"


def describe_setting(grid: Grid) -> Setting:
    """Return the setting of a whole grid."""
    profile = grid.profile
    dataset, recipe, printed = profile.dataset, profile.recipe, grid.layout.paper_dataset
    info = profile.registry.datasets.get(dataset.name)
    size = f"{dataset.image_size}x{dataset.image_size}"
    epochs = resolve_epochs(grid.entries)
    same_data = (dataset.name, dataset.image_size) == (printed.name, printed.image_size)
    return Setting(
        profile=profile.name,
        description=profile.file.description,
        dataset=f"{dataset.name} at {size}, {dataset.num_classes} classes",
        matches_paper=same_data and all(named == run for named, run in epochs.items()),
        paper_dataset=printed.text,
        models=resolve_models(grid.entries),
        epochs=epochs,
        seeds=tuple(sorted({entry.cell.seed for entry in grid.entries if entry.role != "teacher"})),
        teachers=_describe_teachers(grid.entries),
        recipe=f"batches of {recipe.batch_size} in micro-batches of {recipe.micro_batch_size}, {recipe.precision}",
        validation_images=None if info is None else info.validation_size,
    )


def resolve_models(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the timm models that each name of the entries stands for; a name may be a student and a teacher."""
    models: dict[str, dict[str, Model]] = {}
    for entry in entries:
        cells = {"student": entry.cell if entry.role != "teacher" else None, "teacher": _teacher(entry)}
        for role, cell in cells.items():
            name = entry.labels.get(role)
            if name is not None and cell is not None:
                models.setdefault(str(name), {})[cell.student.canonical] = cell.student
    return {name: " and ".join(dict.fromkeys(map(_format_model, members.values()))) for name, members in models.items()}


def resolve_epochs(entries: Iterable[Entry]) -> dict[Scalar, int]:
    """Return the trained epochs, by the paper's number that they stand for, or else by what the grid calls them."""
    named = {entry.labels["epochs"]: entry.cell.epochs for entry in entries if "epochs" in entry.labels}
    return {PAPER_EPOCHS.get(str(name)) or name: epochs for name, epochs in named.items()}


def format_models(models: Mapping[str, str]) -> str:
    """Return models on one line: `ResNet-50: resnet50; ...`."""
    return "; ".join(f"{name}: {model}" for name, model in models.items())


def format_epochs(epochs: Mapping[Scalar, int]) -> str:
    """Return epochs on one line: `10 (for 100); 30 (for 300)`."""
    return "; ".join(str(run) if named == run else f"{run} (for {named})" for named, run in epochs.items())


def _describe_teachers(entries: Iterable[Entry]) -> str:
    epochs = dict.fromkeys(teacher.epochs for entry in entries if (teacher := _teacher(entry)) is not None)
    if not epochs:
        return "none"
    if set(epochs) == {0}:
        return "published weights, evaluated here"
    return f"trained here for {', '.join(map(str, epochs))} epochs, once for all seeds"


def _teacher(entry: Entry) -> Cell | None:
    return entry.cell if entry.role == "teacher" else entry.cell.teacher


def _format_model(model: Model) -> str:
    """Return a model on one line: architecture, tag of published weights, options."""
    text = model.architecture
    if model.pretrained is not None:
        text += f".{model.pretrained.tag}"
    if model.options:
        text += f"({', '.join(f'{k}={json.dumps(v)}' for k, v in model.options.items())})"
    return text
