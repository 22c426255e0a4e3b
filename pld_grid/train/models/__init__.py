"""Models from timm: students with weights of their seed, teachers frozen with theirs.

A new architecture is one new file here, which registers it with timm; importing this package imports them all.

Shape suffixes: N images, H and W pixels (channels come second: NCHW), C classes.
"""

import importlib
import json
import pkgutil
from collections.abc import Sequence

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pld_grid.reading import one_line
from pld_grid.spec import Cell, Dataset, Model
from pld_grid.store import Store
from pld_grid.train.device import out_of_memory
from pld_grid.train.randomness import derive
from pld_grid.train.weights import WeightsError, required_weights, weights_name

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


class Normalize(nn.Module):
    """Pixels in 0 .. 255 to zero mean and unit deviation per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale_C11", 1 / (255 * torch.tensor(std)).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("shift_C11", (torch.tensor(mean) / torch.tensor(std)).reshape(-1, 1, 1), persistent=False)
        self.scale_C11: Tensor
        self.shift_C11: Tensor

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of the same shape."""
        return pixels_NCHW * self.scale_C11 - self.shift_C11


def build_model(model: Model, dataset: Dataset, seed: int, weights_folder: str | None = None) -> nn.Module:
    """A model for a dataset; its initial weights depend on (seed, architecture) alone, or are the published ones.

    Args:
        weights_folder: where published weights lie; without one, they come from the hub's cache, or are fetched.

    Raises:
        WeightsError: published weights are missing and must not be fetched, or are damaged or another model's.
    """
    name, file, options = model.architecture, None, dict(model.options)
    if model.pretrained is not None:
        name, file = weights_name(model), required_weights(model, weights_folder)
        # Safetensors, whatever the format of the hub's own file, which `custom_load` describes.
        options["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": False}
    with torch.random.fork_rng():
        torch.manual_seed(derive("weights", seed, model.architecture, json.dumps(model.options, sort_keys=True)))
        try:
            built: nn.Module = timm.create_model(
                name,
                pretrained=model.pretrained is not None,
                num_classes=dataset.num_classes,
                in_chans=dataset.channels,
                **options,
            )
        except (RuntimeError, KeyError) as error:
            if file is None or out_of_memory(error):
                raise
            raise WeightsError(one_line(f"weights {file}: not those of {name}: {error}", 400)) from error
    return built


def count_parameters(model: nn.Module) -> int:
    """The number of trained values; running statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def normalize_for(cell: Cell) -> Normalize:
    """The input normalisation of a cell's student: its published weights' own, or the recipe's."""
    own = cell.student.pretrained
    mean = own.mean if own is not None and own.mean is not None else cell.recipe.mean
    std = own.std if own is not None and own.std is not None else cell.recipe.std
    return Normalize(mean, std)


def load_weights(model: nn.Module, data: bytes) -> None:
    """Loads safetensors bytes into a model of the same shape."""
    model.load_state_dict(safetensors.torch.load(data))


def dump_weights(model: nn.Module) -> bytes:
    """A model's weights and running statistics as safetensors bytes."""
    # Cloned and contiguous: safetensors refuses shared and channels-last memory.
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
    return bytes(safetensors.torch.save(state))


class Teacher(nn.Module):
    """A frozen model with its own input normalisation.

    Raises:
        StoreError: it was to be trained first, and the store has no whole weights of it.
        WeightsError: its published weights cannot be used, see `build_model`, or the store's are not this model's.
    """

    def __init__(self, cell: Cell, store: Store, weights_folder: str | None = None) -> None:
        super().__init__()
        self.normalize = normalize_for(cell)
        self.model = build_model(cell.student, cell.dataset, cell.seed, weights_folder)
        if not cell.is_measurement:
            try:
                load_weights(self.model, store.weights_of(cell))
            except (SafetensorError, RuntimeError) as error:
                if out_of_memory(error):
                    raise
                name = f"{cell.student.architecture} in cell {cell.cell_id}"
                raise WeightsError(one_line(f"weights of {name}: not those of such a model: {error}", 300)) from None
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images."""
        logits: Tensor = self.model(self.normalize(pixels_NCHW))
        return logits
