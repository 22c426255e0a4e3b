"""Optimizer and learning-rate schedule of a cell, from timm."""

from typing import Any

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from pld_grid.spec import Optimizer, Recipe


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """timm's optimizer of that name; norm and bias parameters are exempt from decay unless the cell says otherwise."""
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items()}
    built: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model,
        opt=settings.name,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        filter_bias_and_bn=not settings.decay_norm_and_bias,
        **options,
    )
    return built


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
