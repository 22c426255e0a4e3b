"""The candidates for a teacher: every matching published tag with each crop, normalisation and resolution.

A candidate is a cell without epochs, like any measured teacher; the profile's own candidate is the cell of the tables.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

import pld_grid.train.models  # noqa: F401 - its files register architectures with timm
from pld_grid.experiment.cell import Cell, Dataset, Pretrained, Recipe, Scalar
from pld_grid.experiment.grid import Entry
from pld_grid.experiment.profile import Profile


def list_candidates(profile: Profile, name: str) -> list[Entry]:
    """List the cells of a teacher's candidates, each once, labelled by what varies; the profile's own is among them.

    Crop, resolution and normalisation are the recipe's or those published with the tag; if the profile's normalisation
    is neither, its label is "profile". Raise ValueError if the profile has no such published teacher.
    """
    used = profile.teacher(name)
    if used.student.pretrained is None:
        raise ValueError(f"profile {profile.name} trains its teachers: there are no published weights to compare")
    entries: dict[str, Entry] = {}
    for cell, normalisation in [*_vary(used), (used, "profile")]:
        assert cell.student.pretrained is not None
        labels: dict[str, Scalar] = {
            "teacher": name,
            "tag": cell.student.pretrained.tag,
            "crop": cell.recipe.evaluation_crop,
            "resolution": cell.dataset.image_size,
            "normalisation": normalisation,
        }
        entries.setdefault(cell.cell_id, Entry(labels, cell, "teacher", 0))
    return list(entries.values())


def _vary(used: Cell) -> Iterator[tuple[Cell, str]]:
    """Yield the cells of all tags, sizes, crops and normalisations, each with the name of its normalisation."""
    for tag, published in _find_published(used.student.architecture, used.dataset).items():
        sizes = _list_sizes(used.dataset, published)
        crops = dict.fromkeys((used.recipe.evaluation_crop, float(published.crop_pct)))
        normalisations = _list_normalisations(tag, used.recipe, published).items()
        for size, crop, (normalisation, pretrained) in itertools.product(sizes, crops, normalisations):
            dataset = used.dataset.model_copy(update={"image_size": size})
            recipe = used.recipe.model_copy(update={"evaluation_crop": crop})
            options = _set_image_size(used.student.options, published, size)
            student = used.student.model_copy(update={"options": options, "pretrained": pretrained})
            yield used.model_copy(update={"dataset": dataset, "recipe": recipe, "student": student}), normalisation


def _find_published(architecture: str, dataset: Dataset) -> dict[str, PretrainedCfg]:
    """Return an architecture's published weights with as many classes as the dataset, by tag."""
    configurations = get_arch_pretrained_cfgs(architecture)
    by_tag = {name.partition(".")[2]: published for name, published in configurations.items()}
    return {
        tag: published
        for tag, published in by_tag.items()
        if tag and published.has_weights and published.num_classes == dataset.num_classes
    }


def _list_sizes(dataset: Dataset, published: PretrainedCfg) -> list[int]:
    """Return the dataset's size in pixels, and the published one if it is square."""
    height, width = published.input_size[-2:]
    return list(dict.fromkeys([dataset.image_size, *([height] if height == width else [])]))


def _list_normalisations(tag: str, recipe: Recipe, published: PretrainedCfg) -> dict[str, Pretrained]:
    mean, std = tuple(published.mean), tuple(published.std)
    normalisations = {"recipe": Pretrained(tag=tag)}
    if (mean, std) != (recipe.mean, recipe.std) and len(mean) == len(recipe.mean):
        normalisations["own"] = Pretrained(tag=tag, mean=mean, std=std)
    return normalisations


def _set_image_size(options: Mapping[str, Any], published: PretrainedCfg, size: int) -> dict[str, Any]:
    """Return a model's options for images of a size; timm builds some models for one size, by default the published."""
    built_for = options.get("img_size", published.input_size[-1])
    resized = published.fixed_input_size and built_for != size
    return {**options, "img_size": size} if resized else dict(options)
