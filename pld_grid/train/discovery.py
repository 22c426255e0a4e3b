"""Fill the registry from loss files, dataset files and timm's registries."""

import functools
import inspect
import sys
from dataclasses import replace
from typing import Any

import timm
import timm.optim
from timm.models import build_model_with_cfg, get_arch_pretrained_cfgs

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.registry import DatasetInfo, LossInfo, Registry
from pld_grid.train import data, losses, models
from pld_grid.train.code_identity import identify_code
from pld_grid.train.optim import optimizer_error
from pld_grid.train.sizes import model_error
from pld_grid.util.errors import PldGridError

# Arguments of optimizer classes that are not hyperparameters: they are set elsewhere or only change the speed.
_NOT_OPTIONS = {"params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable", "maximize"}

# Keywords that timm's factories take beside those of their signatures.
_MORE_FACTORY_OPTIONS = {"features_only", "feature_cls", "out_indices", "pruned", "cfg", "device", "dtype"}


class CodeMismatch(PldGridError):
    """The code of a component is not the one that a cell names."""


@functools.cache
def load() -> Registry:
    """Return everything that a grid or profile may name."""
    # Fused and 8-bit variants need packages and devices that a machine may lack.
    optimizers = map(str, timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*"]))
    return Registry(
        losses={name: _loss_info(name) for name in losses.available()},
        datasets={name: _dataset_info(name) for name in data.available()},
        optimizers={name: _optimizer_options(name) for name in optimizers},
        models=frozenset(timm.list_models()),
        factory_options=_factory_options(),
        pretrained_classes=_pretrained_classes,
        model_code=_model_code,
        model_error=model_error,
        optimizer_error=optimizer_error,
    )


def _factory_options() -> frozenset[str]:
    """Return the keywords of timm's model factories, which differ between its versions."""
    factories = timm.create_model, build_model_with_cfg
    names = {name for factory in factories for name in inspect.signature(factory).parameters}
    return frozenset(names | _MORE_FACTORY_OPTIONS) - {"kwargs"}


def _loss_info(name: str) -> LossInfo:
    cls = losses.get_loss_class(name)
    return LossInfo(
        name=name,
        code=identify_code(sys.modules[cls.__module__]),
        defaults=cls.defaults(),
        uses_teacher=cls.uses_teacher,
        standardizations=cls.standardizations,
        resolve=lambda given: dict(losses.build(name, **given).settings()),
    )


def _dataset_info(name: str) -> DatasetInfo:
    module = data.get_module(name)
    return replace(module.INFO, code=identify_code(sys.modules[f"{data.__name__}.{name}"]))


def _model_code(architecture: str) -> str:
    module = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    return identify_code(module) if module.__name__.startswith(f"{models.__name__}.") else ""


def check_code(cell: Cell) -> None:
    """Raise CodeMismatch if this process would train a cell with other code than the cell names.

    Cells that were made without the registry may name none.
    """
    registry = load()
    for part, name, named, here in (
        ("dataset", cell.dataset.name, cell.dataset.code, registry.datasets[cell.dataset.name].code),
        ("model", cell.student.architecture, cell.student.code, registry.model_code(cell.student.architecture)),
        ("loss", cell.loss.name, cell.loss.code, registry.losses[cell.loss.name].code),
    ):
        if named and named != here:
            raise CodeMismatch(f"the code of {part} {name} is {here or 'unknown'} here, and {named} in the cell")


def _optimizer_options(name: str) -> dict[str, Any]:
    """Return the keywords of an optimizer with the defaults that `timm.optim.create_optimizer_v2` gives them."""
    info = timm.optim.get_optimizer_info(name)
    parameters = inspect.signature(timm.optim.get_optimizer_class(name, bind_defaults=False)).parameters
    defaults = {parameter.name: parameter.default for parameter in parameters.values()}
    if info.has_momentum:
        # timm's factory sets it, whatever the class's own default is.
        defaults["momentum"] = inspect.signature(timm.optim.create_optimizer_v2).parameters["momentum"].default
    # Several names share a class and differ only in these: AdaBelief is RAdaBelief with `rectify=False`.
    defaults |= info.defaults or {}
    # timm's factory drops these without a message.
    dropped = {key for key, kept in (("eps", info.has_eps), ("betas", info.has_betas)) if not kept}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in defaults.items()
        if key not in _NOT_OPTIONS | dropped and isinstance(value, str | bool | int | float | tuple | list | None)
    }


def _pretrained_classes(architecture: str) -> dict[str, int]:
    configs = get_arch_pretrained_cfgs(architecture).items()
    return {tag: config.num_classes for name, config in configs if (tag := name.partition(".")[2])}
