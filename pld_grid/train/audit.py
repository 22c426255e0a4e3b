"""What an audit measures of a teacher: every published tag that fits, under each crop, normalisation and resolution.

A candidate is a cell of no epochs like any measured teacher; the one that the profile uses is the tables' own.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

import pld_grid.train.models  # noqa: F401 - its files register architectures with timm
from pld_grid.grid import Entry
from pld_grid.profile import Profile
from pld_grid.spec import Cell, Dataset, Model, Pretrained, Recipe, Scalar

AXES = ("teacher", "tag", "crop", "resolution", "normalisation")


def candidates(profile: Profile, name: str) -> list[Entry]:
    """The cells that may stand for a teacher, each once, with `AXES` as labels; the profile's own is among them.

    Crop, resolution and normalisation are the recipe's or those published with the tag; a normalisation that is neither
    is called the profile's. Raises ValueError if the profile has no such published teacher.
    """
    used = profile.teacher(name)
    if used.student.pretrained is None:
        raise ValueError(f"profile {profile.name} trains its teachers: there are no published weights to compare")
    found: dict[str, Entry] = {}

    def add(cell: Cell, normalisation: str) -> None:
        assert cell.student.pretrained is not None
        tag, crop, size = cell.student.pretrained.tag, cell.recipe.evaluation_crop, cell.dataset.image_size
        values: tuple[Scalar, ...] = (name, tag, crop, size, normalisation)
        labels = dict(zip(AXES, values, strict=True))
        found.setdefault(cell.cell_id, Entry(labels, cell, "teacher", 0))

    for tag, published in _fitting(used.student.architecture, used.dataset).items():
        axes = (
            _sizes(used.dataset, published),
            dict.fromkeys((used.recipe.evaluation_crop, float(published.crop_pct))),
            _normalisations(tag, used.recipe, published).items(),
        )
        for size, crop, (normalisation, pretrained) in itertools.product(*axes):
            update: dict[str, Any] = {
                "dataset": used.dataset.model_copy(update={"image_size": size}),
                "recipe": used.recipe.model_copy(update={"evaluation_crop": crop}),
                "student": Model(
                    architecture=used.student.architecture,
                    options=_options(used.student.options, published, size),
                    pretrained=pretrained,
                ),
            }
            add(used.model_copy(update=update), normalisation)
    add(used, "profile")
    return list(found.values())


def _fitting(architecture: str, dataset: Dataset) -> dict[str, PretrainedCfg]:
    """The published weights of an architecture that know as many classes as the dataset has, by tag."""
    found = {name.partition(".")[2]: published for name, published in get_arch_pretrained_cfgs(architecture).items()}
    return {
        tag: published
        for tag, published in found.items()
        if tag and published.has_weights and published.num_classes == dataset.num_classes
    }


def _sizes(dataset: Dataset, published: PretrainedCfg) -> list[int]:
    """The dataset's size in pixels and the published one, if that is square."""
    height, width = published.input_size[-2:]
    return list(dict.fromkeys([dataset.image_size, *([height] if height == width else [])]))


def _normalisations(tag: str, recipe: Recipe, published: PretrainedCfg) -> dict[str, Pretrained]:
    own = (tuple(published.mean), tuple(published.std))
    found = {"recipe": Pretrained(tag=tag)}
    if own != (recipe.mean, recipe.std) and len(published.mean) == len(recipe.mean):
        found["own"] = Pretrained(tag=tag, mean=own[0], std=own[1])
    return found


def _options(options: Mapping[str, Any], published: PretrainedCfg, size: int) -> dict[str, Any]:
    """A model's keywords for images of a size; timm makes some models for one size, the published one by default."""
    built_for = options.get("img_size", published.input_size[-1])
    resized = published.fixed_input_size and built_for != size
    return {**options, "img_size": size} if resized else dict(options)
