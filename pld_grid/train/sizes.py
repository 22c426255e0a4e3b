"""How many bytes a training writes: found from shapes alone, before anything is trained or any memory is taken."""

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from pld_grid.spec import Cell, Dataset, Model, Optimizer
from pld_grid.train.models import build_model
from pld_grid.train.optim import build_optimizer

# Ten times those of timm's largest networks; to make them takes seconds.
MOST_MODULES = 20_000


class Sizes(NamedTuple):
    """Bytes of a finished model's weights (a measurement writes none) and of one checkpoint."""

    weights: int
    checkpoint: int


def sizes_of(cell: Cell) -> Sizes | None:
    """What a cell's files take; None if its model or optimizer cannot be made, as its training will say."""
    # Published weights are a file that exists; the shapes are those of a new model.
    model = cell.student.model_copy(update={"pretrained": None})
    return _sizes(model.canonical, cell.dataset.canonical, cell.optimizer.canonical, cell.is_measurement)


@cache
def _sizes(model: str, dataset: str, optimizer: str, measured: bool) -> Sizes | None:
    shapes = _shapes(model, dataset)
    if isinstance(shapes, Exception):
        return None
    weights, state = shapes.state_dict(), dict[int, Any]()
    try:
        groups = build_optimizer(shapes, Optimizer.model_validate_json(optimizer)).state_dict()["param_groups"]
        if not measured:
            state = _optimizer_state(optimizer, shapes)
    except (TypeError, ValueError, RuntimeError):
        return None
    checkpoint = _saved_bytes(weights, {"state": state, "param_groups": groups})
    return Sizes(0 if measured else _safetensors_bytes(weights), checkpoint)


def model_error(model: Model, dataset: Dataset) -> str:
    """Why timm cannot make a model for a dataset, in its words; empty if it can, or if that takes memory to say."""
    found = _shapes(model.model_copy(update={"pretrained": None}).canonical, dataset.canonical)
    # What torch says of what cannot be done without memory.
    if isinstance(found, nn.Module | NotImplementedError) or "meta" in str(found):
        return ""
    said = str(found).partition("\n")[0]
    return f"timm makes no {model.architecture} of these options" + (f": {said}" if said else "")


@cache
def _shapes(model: str, dataset: str) -> nn.Module | Exception:
    """A model without memory, or why there is none."""
    try:
        with torch.device("meta"), _at_most(MOST_MODULES):
            return build_model(Model.model_validate_json(model), Dataset.model_validate_json(dataset), seed=0)
    except MemoryError:
        raise
    # Anybody's code: whatever it raises, training will raise it too, or can do what cannot be done without memory.
    except Exception as error:
        return error.with_traceback(None)


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Raises ValueError from a module's making as soon as it has more parts than that, whatever is still to come."""
    made = itertools.count(1)

    def count(*_: object) -> None:
        if next(made) > most:
            raise ValueError(f"it has more than {most:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _optimizer_state(optimizer: str, shapes: nn.Module) -> dict[int, dict[str, Any]]:
    """What an optimizer keeps of each parameter, without memory: what has the shape of a tiny one's grows with it."""
    state: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(shapes.parameters()):
        kept = _kept(optimizer, parameter.ndim)
        state[number] = {
            name: torch.empty(parameter.shape, dtype=value.dtype, device="meta")
            if isinstance(value, Tensor) and value.ndim == parameter.ndim > 0
            else value
            for name, value in kept.items()
        }
    return state


@cache
def _kept(optimizer: str, dimensions: int) -> dict[str, Any]:
    """What an optimizer keeps of a tiny parameter, by trying."""
    tiny = nn.Module()
    tiny.weight = nn.Parameter(torch.ones([2] * dimensions))
    made = build_optimizer(tiny, Optimizer.model_validate_json(optimizer))
    tiny.weight.grad = torch.ones_like(tiny.weight)
    made.step()
    kept: dict[str, Any] = made.state_dict()["state"].get(0, {})
    return kept


def _safetensors_bytes(state: Mapping[str, Tensor]) -> int:
    """The format: a length of 8 bytes, JSON with names and places that fills up 8 bytes, the numbers."""
    header, end = {}, 0
    for name, tensor in state.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + end


def _saved_bytes(weights: dict[str, Tensor], optimizer: dict[str, Any]) -> int:
    """What `torch.save` would write: measured on the same state with few numbers in each tensor, the others added.

    Of small models, names and headers take more than the numbers do.
    """
    left_out = 0

    def small(value: Any) -> Any:
        nonlocal left_out
        if isinstance(value, dict):
            # A copy: a model's state is a dictionary with more to it.
            smaller = copy(value)
            smaller.update({key: small(inner) for key, inner in value.items()})
            return smaller
        if isinstance(value, Tensor):
            # Each tensor begins at a multiple of 64 bytes, so only such are left out.
            block = 64 // value.element_size()
            numbers = min(value.numel(), block + value.numel() % block)
            left_out += (value.numel() - numbers) * value.element_size()
            return torch.zeros(numbers, dtype=value.dtype).as_strided(value.shape, [0] * value.ndim)
        return value

    buffer = io.BytesIO()
    torch.save({"model": small(weights), "optimizer": small(optimizer), "scaler": {}}, buffer)
    return buffer.tell() + left_out
