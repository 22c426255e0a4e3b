"""What `pld_grid.train` offers, as plain data, so that a grid can be checked without importing torch.

`pld_grid.train.discovery.load` fills it from the files of losses and datasets and from timm's registries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pld_grid.experiment.cell import Dataset, Loss, Model, Optimizer, Standardization


@dataclass(frozen=True)
class LossInfo:
    """One loss: its hyperparameters with their defaults, and its standardizations.

    `code` identifies its code. `resolve` returns all hyperparameters, defaults included, or raises ValueError that
    names the bad one.
    """

    name: str
    code: str
    defaults: Mapping[str, Any]
    uses_teacher: bool
    standardizations: tuple[str, ...]
    resolve: Callable[[Mapping[str, Any]], dict[str, Any]]

    def make(self, hyperparameters: Mapping[str, Any], standardization: Standardization = "none") -> Loss:
        """Return the loss of a cell. `hyperparameters` are complete, as `resolve` returns them."""
        return Loss(
            name=self.name, code=self.code, hyperparameters=dict(hyperparameters), standardization=standardization
        )


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset module.

    Sizes are numbers of images, where they are known. `largest_image` is the largest side in pixels; it is smaller
    where all images are held in memory. `code` identifies the module's code; the registry sets it.
    """

    name: str
    num_classes: int
    channels: Literal[1, 3]
    needs_folder: bool
    train_size: int | None = None
    validation_size: int | None = None
    validation_per_class: int | None = None
    largest_image: int = 4096
    code: str = ""


@dataclass(frozen=True)
class Registry:
    """Everything that a grid or profile may name.

    `models` are timm's architectures. `factory_options` are keywords of timm's own factory that load files, or name or
    wrap a model; they are refused as options of a model. `pretrained_classes(architecture)` maps the tags of published
    weights to their number of classes. `model_code` identifies the code of an architecture that this project defines,
    and is empty for timm's own. `optimizers` maps a name to the keywords of its class with their defaults (timm
    itself silently drops unknown ones). `model_error` and `optimizer_error` try to make one, and return why that fails,
    or an empty string.
    """

    losses: Mapping[str, LossInfo]
    datasets: Mapping[str, DatasetInfo]
    optimizers: Mapping[str, Mapping[str, Any]]
    models: frozenset[str]
    factory_options: frozenset[str]
    pretrained_classes: Callable[[str], Mapping[str, int]]
    model_code: Callable[[str], str]
    model_error: Callable[[Model, Dataset], str]
    optimizer_error: Callable[[Optimizer], str]
