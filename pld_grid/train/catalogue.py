"""Fills the catalogue from what is discovered: loss files, dataset files, timm's registries."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import timm
import timm.optim
from timm.models import build_model_with_cfg, get_arch_pretrained_cfgs

import pld_grid.train.models  # noqa: F401 - its files register architectures with timm
from pld_grid.catalogue import Catalogue, LossInfo
from pld_grid.train import data, losses
from pld_grid.train.optim import optimizer_error
from pld_grid.train.sizes import model_error

# Arguments of optimizer classes that are no hyperparameters: set elsewhere, or only about speed.
_NOT_OPTIONS = {"params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable", "maximize"}

_ALSO_FACTORY = {"features_only", "feature_cls", "out_indices", "pruned", "cfg", "device", "dtype"}


@functools.cache
def load() -> Catalogue:
    """Everything that a grid or profile may name."""
    return Catalogue(
        losses={name: _loss_info(name) for name in losses.available()},
        datasets={name: data.dataset_module(name).INFO for name in data.available()},
        optimizers=_Optimizers(),
        models=frozenset(timm.list_models()),
        factory_options=_factory_options(),
        tags=_tags,
        pretrained_classes=_pretrained_classes,
        model_error=model_error,
        optimizer_error=optimizer_error,
    )


def _factory_options() -> frozenset[str]:
    """By timm's signatures, which grow with its versions, and what it takes out of its keywords beside them."""
    named = {name for make in (timm.create_model, build_model_with_cfg) for name in inspect.signature(make).parameters}
    return frozenset(named | _ALSO_FACTORY) - {"kwargs"}


def _loss_info(name: str) -> LossInfo:
    cls = losses.loss_class(name)

    def resolve(given: Mapping[str, Any]) -> dict[str, Any]:
        return dict(losses.build(name, **given).settings())

    return LossInfo(
        name=name,
        defaults={h.name: h.default for h in cls.hyperparameters()},
        uses_teacher=cls.uses_teacher,
        standardizations=cls.standardizations,
        resolve=resolve,
    )


class _Optimizers(Mapping[str, Mapping[str, Any]]):
    """Name -> keywords with their defaults, read from the class's signature when asked for."""

    def __init__(self) -> None:
        # Fused and 8-bit variants need packages and devices that this machine may lack.
        self._names = timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*"])

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in self._names:
            raise KeyError(name)
        parameters = inspect.signature(timm.optim.get_optimizer_class(name, bind_defaults=False)).parameters
        return {
            p.name: list(p.default) if isinstance(p.default, tuple) else p.default
            for p in parameters.values()
            if p.name not in _NOT_OPTIONS and isinstance(p.default, str | bool | int | float | tuple | list | None)
        }

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tags(architecture: str) -> tuple[str, ...]:
    return tuple(tag for tag in _configurations(architecture) if tag)


def _pretrained_classes(architecture: str, tag: str) -> int | None:
    configuration = _configurations(architecture).get(tag)
    return None if configuration is None else int(configuration.num_classes)


def _configurations(architecture: str) -> dict[str, Any]:
    found = get_arch_pretrained_cfgs(architecture)
    return {name.partition(".")[2]: configuration for name, configuration in found.items()}
