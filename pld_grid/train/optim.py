"""Optimizer and learning-rate schedule of a cell, from timm."""

import inspect
import warnings
from typing import Any

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from pld_grid.spec import Optimizer, Recipe

# What only changes the speed, by device type, where torch's or timm's own choice is not the fastest one. Lamb's foreach
# rounds differently from a plain loop, so the choice is made once for a type of device. AdamW's fused step would be
# faster still on a CPU, but takes gradients to lie in memory as their parameters do, without a check.
_SWITCHES = {
    ("cpu", "lamb"): {"foreach": True},
    ("cpu", "adamw"): {"foreach": True},
    ("cpu", "adan"): {"foreach": True},
    ("cpu", "adabelief"): {"foreach": True},
    ("cuda", "adamw"): {"fused": True},
}


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """timm's optimizer of that name; norm and bias parameters are exempt from decay unless the cell says otherwise.

    The model must be on its device already, which decides how the optimizer goes over the parameters.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items()}
    built: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model,
        opt=settings.name,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        filter_bias_and_bn=not settings.decay_norm_and_bias,
        **_switches(model, settings.name),
        **options,
    )
    return built


def optimizer_error(settings: Optimizer) -> str:
    """Why there is no such optimizer, in timm's or torch's words; empty if there is."""
    tiny = nn.Module()
    tiny.weight = nn.Parameter(torch.ones(2, 2))
    try:
        with warnings.catch_warnings():
            # They are for those who train with it.
            warnings.simplefilter("ignore")
            build_optimizer(tiny, settings)
    except MemoryError:
        raise
    # Each optimizer has its own way of refusing what it is given.
    except Exception as error:
        return str(error) or f"{settings.name} refuses its options"
    return ""


def _switches(model: nn.Module, name: str) -> dict[str, Any]:
    device = next(model.parameters()).device.type
    # Older versions of timm lack some of them.
    accepted = inspect.signature(timm.optim.get_optimizer_class(name, bind_defaults=False)).parameters
    return {switch: on for switch, on in _SWITCHES.get((device, name), {}).items() if switch in accepted}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `state_dict` returned, maybe on another type of device; what only changes the speed stays as it is."""
    groups = [
        saved | {switch: here[switch] for switch in ("foreach", "fused") if switch in here}
        for here, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, updates_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up, then one cosine over the remaining updates (section 5); a pure function of the update number.

    A warm-up as long as the whole training would leave no cosine: it is cut to one update less.
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
