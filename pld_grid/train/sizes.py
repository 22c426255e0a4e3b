"""Estimate how many bytes a training writes, and check that its model can be built, before anything is trained."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from pld_grid.experiment.cell import Cell, Dataset, Model
from pld_grid.train.models import build_model

# Ten times as many as in timm's largest networks, which already take seconds to build.
MAX_MODULES = 20_000
# Of a file, for each tensor besides its values: names, alignment and headers.
OVERHEAD_PER_TENSOR_BYTES = 384
# A training checkpoint holds the model and at most four tensors of its size: timm's Adan keeps that many per parameter.
CHECKPOINT_FACTOR = 5


class Sizes(NamedTuple):
    """Bytes of a finished model's weights (0 for a measurement, which writes none) and of one checkpoint."""

    weights: int
    checkpoint: int


def estimate_sizes(cell: Cell) -> Sizes | None:
    """Return upper bounds for the files of a cell; None if its model cannot be built."""
    model = _build_without_memory(cell.student, cell.dataset)
    if isinstance(model, Exception):
        return None
    weights = sum(tensor.nbytes + OVERHEAD_PER_TENSOR_BYTES for tensor in model.state_dict().values())
    if cell.is_measurement:
        return Sizes(weights=0, checkpoint=weights)
    return Sizes(weights=weights, checkpoint=CHECKPOINT_FACTOR * weights)


def model_error(model: Model, dataset: Dataset) -> str:
    """Return why timm cannot build a model for a dataset, or an empty string."""
    result = _build_without_memory(model, dataset)
    # Some models cannot be built on torch's meta device; their training will tell.
    if isinstance(result, nn.Module | NotImplementedError) or "meta" in str(result):
        return ""
    message = str(result).partition("\n")[0]
    return f"timm makes no {model.architecture} of these options" + (f": {message}" if message else "")


def _build_without_memory(model: Model, dataset: Dataset) -> nn.Module | Exception:
    """Build an untrained model on torch's meta device, or return why that fails."""
    return _build(model.model_copy(update={"pretrained": None}).canonical, dataset.canonical)


@cache
def _build(model: str, dataset: str) -> nn.Module | Exception:
    try:
        with torch.device("meta"), _limit_modules():
            return build_model(Model.model_validate_json(model), Dataset.model_validate_json(dataset), seed=0)
    except MemoryError:
        raise
    # Model code may raise anything; the training would raise it too.
    except Exception as error:
        return error.with_traceback(None)


@contextmanager
def _limit_modules() -> Iterator[None]:
    """Raise ValueError as soon as the models built in this block have more than MAX_MODULES modules."""
    count = itertools.count(1)

    def check(*_: object) -> None:
        if next(count) > MAX_MODULES:
            raise ValueError(f"it has more than {MAX_MODULES:,} modules")

    hook = register_module_module_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()
