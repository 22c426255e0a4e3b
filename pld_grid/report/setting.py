"""What a table's numbers were made with: dataset, which models stood in for which, epochs, seeds. For every header."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pld_grid.grid import Entry, Grid
from pld_grid.spec import Cell, Model


@dataclass(frozen=True)
class Setting:
    """Texts for a table's header; `models` maps the grid's names to what ran, `epochs` the grid's numbers to ours.

    `validation_images` is the size of the validation set, None where the data set's module does not know it.
    """

    profile: str
    description: str
    dataset: str
    as_in_paper: bool
    paper_dataset: str
    models: Mapping[str, str]
    epochs: Mapping[int, int]
    seeds: tuple[int, ...]
    teachers: str
    recipe: str
    validation_images: int | None = None

    @property
    def epochs_text(self) -> str:
        """`10 (for 100)`, or `100` where the numbers agree."""
        return "; ".join(epochs_text(named, run) for named, run in self.epochs.items()) or "none"

    @property
    def models_text(self) -> str:
        """`ResNet-50: resnet50; ...`."""
        return "; ".join(f"{name}: {text}" for name, text in self.models.items())


def setting_of(grid: Grid) -> Setting:
    """The setting of a whole grid."""
    profile = grid.profile
    dataset, recipe, printed = profile.dataset, profile.recipe, grid.layout.paper_dataset
    known = profile.catalogue.datasets.get(dataset.name)
    size = f"{dataset.image_size}x{dataset.image_size}"
    text = f"{dataset.name} at {size}, {dataset.num_classes} classes"
    trained = dict.fromkeys(cell.epochs for cell in _teachers(grid.entries))
    if not trained:
        teachers = "none"
    elif set(trained) == {0}:
        teachers = "published weights, measured here"
    else:
        teachers = f"trained here for {', '.join(map(str, trained))} epochs, once for all seeds"
    return Setting(
        profile=profile.name,
        description=profile.file.description,
        dataset=text,
        as_in_paper=(dataset.name, dataset.image_size) == (printed.name, printed.image_size)
        and all(named == ran for named, ran in epochs_of(grid.entries).items()),
        paper_dataset=printed.text,
        models=models_of(grid.entries),
        epochs=epochs_of(grid.entries),
        seeds=tuple(sorted({entry.cell.seed for entry in grid.entries if entry.role != "teacher"})),
        teachers=teachers,
        recipe=f"batches of {recipe.batch_size} in micro-batches of {recipe.micro_batch_size}, {recipe.precision}",
        validation_images=None if known is None else known.validation_size,
    )


def models_of(entries: Iterable[Entry]) -> dict[str, str]:
    """Which timm model each name of the entries stands for; a name that plays both parts says both."""
    found: dict[str, dict[str, Model]] = {}
    for entry in entries:
        pairs = [("student", entry.cell), ("teacher", entry.cell.teacher)]
        if entry.role == "teacher":
            pairs = [("teacher", entry.cell)]
        for role, cell in pairs:
            name = entry.labels.get(role)
            if name is not None and cell is not None:
                found.setdefault(str(name), {})[cell.student.canonical] = cell.student
    return {name: " and ".join(dict.fromkeys(map(model_text, models.values()))) for name, models in found.items()}


def model_text(model: Model) -> str:
    """A model on one line: architecture, tag of published weights, options."""
    text = model.architecture
    if model.pretrained is not None:
        text += f".{model.pretrained.tag}"
    if model.options:
        text += f"({', '.join(f'{k}={json.dumps(v)}' for k, v in model.options.items())})"
    return text


def epochs_of(entries: Iterable[Entry]) -> dict[int, int]:
    """What the grid's numbers of epochs stood for."""
    return {int(e.labels["epochs"]): e.cell.epochs for e in entries if "epochs" in e.labels}


def epochs_text(named: int, run: int) -> str:
    """`10 (for 100)`: what ran, and what the grid calls it."""
    return str(run) if named == run else f"{run} (for {named})"


def _teachers(entries: Iterable[Entry]) -> list[Cell]:
    found = [entry.cell if entry.role == "teacher" else entry.cell.teacher for entry in entries]
    return [cell for cell in found if cell is not None]
