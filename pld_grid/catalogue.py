"""What the torch side offers, as plain data, so that a grid can be checked without importing torch.

`pld_grid.train.catalogue.load` fills it from what it discovers: loss files, dataset files, timm's registries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pld_grid.spec import Dataset, Model, Optimizer


@dataclass(frozen=True)
class LossInfo:
    """One loss: its hyperparameters with defaults, and what else applies to it.

    `resolve` returns all hyperparameters, defaults included, or raises ValueError naming the bad one.
    """

    name: str
    defaults: Mapping[str, Any]
    uses_teacher: bool
    standardizations: tuple[str, ...]
    resolve: Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset module: what it fixes.

    `revision` is raised when the module is changed so that a cell would see other images, labels or splits: it is part
    of every cell, so old results are not mistaken for new ones. Sizes are numbers of images, where they are known.
    `largest_image` is the most pixels that a side may have: fewer where all images are held in memory.
    """

    name: str
    num_classes: int
    channels: Literal[1, 3]
    needs_folder: bool
    revision: int = 1
    train_size: int | None = None
    validation_size: int | None = None
    validation_per_class: int | None = None
    largest_image: int = 4096


@dataclass(frozen=True)
class Catalogue:
    """Everything that a grid or profile may name.

    `models` are timm's architectures. `factory_options` are the keywords of timm's own factory: they load files, or
    name or wrap a model, and so are no options of one. `pretrained_classes(architecture, tag)` gives the class count of
    published weights, or None if timm has no such tag; `tags(architecture)` lists the valid ones. `optimizers` maps a
    name to the keywords that its class takes, with their defaults (timm itself drops unknown ones silently).
    `model_error` and `optimizer_error` say why timm cannot make one, by trying; nothing if it can.
    """

    losses: Mapping[str, LossInfo]
    datasets: Mapping[str, DatasetInfo]
    optimizers: Mapping[str, Mapping[str, Any]]
    models: frozenset[str]
    factory_options: frozenset[str]
    tags: Callable[[str], tuple[str, ...]]
    pretrained_classes: Callable[[str, str], int | None]
    model_error: Callable[[Model, Dataset], str]
    optimizer_error: Callable[[Optimizer], str]
