"""Build the optimizer and the learning-rate schedule of a cell with timm."""

import inspect
import warnings
from typing import Any

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from pld_grid.experiment.cell import Optimizer, Recipe

# Options that only change the speed, by device type, where the default of torch or timm is not the fastest. Lamb's
# foreach rounds differently from a plain loop, so there is one choice for all devices of a type. AdamW's fused step
# would be faster still on a CPU, but assumes without a check that gradients are strided as their parameters.
_SPEED_OPTIONS = {
    ("cpu", "lamb"): {"foreach": True},
    ("cpu", "adamw"): {"foreach": True},
    ("cpu", "adan"): {"foreach": True},
    ("cpu", "adabelief"): {"foreach": True},
    ("cuda", "adamw"): {"fused": True},
}


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Build timm's optimizer of that name, by default without weight decay on norm and bias parameters.

    The model must be on its device already, which decides how the optimizer iterates over the parameters.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items()}
    return timm.optim.create_optimizer_v2(
        model,
        opt=settings.name,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        filter_bias_and_bn=not settings.decay_norm_and_bias,
        **_speed_options(model, settings.name),
        **options,
    )


def optimizer_error(settings: Optimizer) -> str:
    """Return timm's or torch's message if the optimizer cannot be built, or an empty string."""
    tiny = nn.Module()
    tiny.weight = nn.Parameter(torch.ones(2, 2))
    try:
        with warnings.catch_warnings():
            # Warnings concern only a training with it.
            warnings.simplefilter("ignore")
            build_optimizer(tiny, settings)
    except MemoryError:
        raise
    # Optimizers raise various errors for invalid options.
    except Exception as error:
        return str(error) or f"{settings.name} refuses its options"
    return ""


def _speed_options(model: nn.Module, name: str) -> dict[str, Any]:
    device = next(model.parameters()).device.type
    # Older versions of timm lack some of them.
    accepted = inspect.signature(timm.optim.get_optimizer_class(name, bind_defaults=False)).parameters
    return {option: on for option, on in _SPEED_OPTIONS.get((device, name), {}).items() if option in accepted}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a `state_dict`, maybe of another type of device, but keep the options that only change the speed."""
    groups = [
        saved | {option: group[option] for option in ("foreach", "fused") if option in group}
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, updates_per_epoch: int
) -> CosineLRScheduler:
    """Build a linear warm-up followed by one cosine over the remaining updates (section 5).

    The learning rate is a pure function of the update number. The warm-up is shortened to leave at least one update for
    the cosine.

    Args:
        optimizer: whose learning rate is scheduled.
        recipe: has the warm-up and the final learning rate.
        epochs: length of the training.
        updates_per_epoch: optimizer steps in an epoch.
    """
    updates = epochs * updates_per_epoch
    warmup = min(round(recipe.warmup_epochs * updates_per_epoch), updates - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=updates - warmup,
        lr_min=recipe.final_learning_rate,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_learning_rate,
        warmup_prefix=True,
        t_in_epochs=False,
    )
