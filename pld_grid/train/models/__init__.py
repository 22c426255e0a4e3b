"""Models from timm: students with initial weights from their seed, frozen teachers with trained weights.

To add an architecture, add one file here that registers it with timm; importing this package imports all its files.

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

from pld_grid.experiment.cell import Cell, Dataset, Model
from pld_grid.store import Store
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.randomness import derive
from pld_grid.train.weights import WeightsError, required_weights, weights_name
from pld_grid.util.text import one_line

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


class Normalize(nn.Module):
    """Normalizes pixels from 0 .. 255 to zero mean and unit standard deviation per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale_C11", 1 / (255 * torch.tensor(std)).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("shift_C11", (torch.tensor(mean) / torch.tensor(std)).reshape(-1, 1, 1), persistent=False)
        self.scale_C11: Tensor
        self.shift_C11: Tensor

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Convert uint8 (N, C, H, W) to normalized float32 of the same shape."""
        return pixels_NCHW * self.scale_C11 - self.shift_C11


def build_model(model: Model, dataset: Dataset, seed: int, weights_folder: str | None = None) -> nn.Module:
    """Build a model for a dataset.

    Args:
        model: The architecture, its options, and which published weights to load, if any.
        dataset: Sets the number of classes and channels.
        seed: Without published weights, the initial weights depend only on the seed and the architecture.
        weights_folder: Folder of published weights; without one, they come from the hub's cache or are downloaded.

    Raises:
        WeightsError: Published weights are missing and may not be downloaded, are damaged, or fit another model.
    """
    name, file, options = model.architecture, None, dict(model.options)
    if model.pretrained is not None:
        name, file = weights_name(model), required_weights(model, weights_folder)
        # Always safetensors; `custom_load` describes the format of the hub's own file.
        options["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": False}
    with torch.random.fork_rng():
        torch.manual_seed(derive("weights", seed, model.architecture, json.dumps(model.options, sort_keys=True)))
        try:
            return timm.create_model(
                name,
                pretrained=model.pretrained is not None,
                num_classes=dataset.num_classes,
                in_chans=dataset.channels,
                **options,
            )
        except (RuntimeError, KeyError) as error:
            if file is None or is_out_of_memory(error):
                raise
            raise WeightsError(one_line(f"weights {file}: not those of {name}: {error}", 400)) from error


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values, which excludes running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


def normalize_for(cell: Cell) -> Normalize:
    """Return the input normalization of a cell's student: that of its published weights, or the recipe's."""
    own = cell.student.pretrained
    mean = own.mean if own is not None and own.mean is not None else cell.recipe.mean
    std = own.std if own is not None and own.std is not None else cell.recipe.std
    return Normalize(mean, std)


def load_weights(model: nn.Module, data: bytes) -> None:
    """Load safetensors bytes into a model of the same architecture."""
    model.load_state_dict(safetensors.torch.load(data))


def dump_weights(model: nn.Module) -> bytes:
    """Return a model's weights and running statistics as safetensors bytes."""
    # Cloned and contiguous, because safetensors accepts neither shared nor channels-last memory.
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
    return bytes(safetensors.torch.save(state))


class Teacher(nn.Module):
    """A frozen model with its own input normalization.

    Args:
        cell: The teacher's cell; a measurement (no epochs) has published weights, any other has trained ones.
        store: Holds the trained weights.
        weights_folder: As for `build_model`.

    Raises:
        StoreError: The store has no valid weights of the cell.
        WeightsError: Published weights cannot be used (see `build_model`), or stored weights fit another model.
    """

    def __init__(self, cell: Cell, store: Store, weights_folder: str | None = None) -> None:
        super().__init__()
        self.normalize = normalize_for(cell)
        self.model = build_model(cell.student, cell.dataset, cell.seed, weights_folder)
        if not cell.is_measurement:
            try:
                load_weights(self.model, store.read_weights(cell))
            except (SafetensorError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                name = f"{cell.student.architecture} in cell {cell.cell_id}"
                raise WeightsError(one_line(f"weights of {name}: not those of such a model: {error}", 300)) from None
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the logits (N, C) of uint8 images."""
        logits: Tensor = self.model(self.normalize(pixels_NCHW))
        return logits
