"""Optimizers use the fastest implementation, which is no part of a cell, and give the same steps."""

import copy
import functools
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from pld_grid.experiment.cell import Dataset, Model, Optimizer
from pld_grid.experiment.registry import Registry
from pld_grid.train.models import build_model
from pld_grid.train.optim import build_optimizer, restore_optimizer

pytestmark = pytest.mark.slow

DIGITS = Dataset(name="digits", num_classes=10, channels=1, image_size=16)
MOBILENET = Model(architecture="mobilenetv4_conv_small_narrow")
VIT = Model(
    architecture="test_vit",
    options={
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 4,
        "class_token": False,
        "global_pool": "avg",
    },
)
NAMES = ["lamb", "adamw", "adan", "adabelief"]


def settings(registry: Registry, name: str, weight_decay: float = 0.02, **options: Any) -> Optimizer:
    return Optimizer(
        name=name, learning_rate=1e-2, weight_decay=weight_decay, options=dict(registry.optimizers[name]) | options
    )


def build_loop(model: nn.Module, chosen: Optimizer) -> torch.optim.Optimizer:
    """Return timm's optimizer that updates the parameters one by one."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.options.items()}
    return timm.optim.create_optimizer_v2(
        model,
        opt=chosen.name,
        lr=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        filter_bias_and_bn=not chosen.decay_norm_and_bias,
        foreach=False,
        **options,
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    """Take a step for each number, which seeds the gradients."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def assert_same_weights(model: nn.Module, other: nn.Module, *, exact: bool = True) -> None:
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        # Lamb's foreach sums in another order.
        close = torch.equal if exact else functools.partial(torch.allclose, rtol=1e-4, atol=1e-6)
        assert close(weight, expected), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize(
    ("architecture", "name", "options"),
    [
        *((architecture, name, {}) for architecture in (MOBILENET, VIT) for name in NAMES),
        (MOBILENET, "adamw", {"amsgrad": True}),
        (MOBILENET, "adan", {"caution": True}),
        (MOBILENET, "adan", {"no_prox": True}),
        (MOBILENET, "adabelief", {"amsgrad": True}),
        (MOBILENET, "adabelief", {"rectify": False}),
        (MOBILENET, "adabelief", {"decoupled_decay": False}),
        (MOBILENET, "adabelief", {"fixed_decay": True}),
        (MOBILENET, "adabelief", {"degenerated_to_sgd": False}),
    ],
)
def test_build_optimizer_steps_as_the_plain_loop(registry, architecture, name, options, weight_decay):
    # Channels last, so that strides matter.
    model = build_model(architecture, DIGITS, 0).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(model)
    chosen = settings(registry, name, weight_decay, **options)
    step(model, build_optimizer(model, chosen), range(15))
    step(plain, build_loop(plain, chosen), range(15))
    assert_same_weights(model, plain, exact=name != "lamb")


@pytest.mark.parametrize("name", NAMES)
def test_build_optimizer_updates_several_parameters_at_once(registry, name):
    optimizer = build_optimizer(build_model(VIT, DIGITS, 0), settings(registry, name))
    assert all(group["foreach"] is True for group in optimizer.param_groups)


@pytest.mark.parametrize("name", NAMES)
def test_restore_optimizer_keeps_the_speed_options_of_this_device(registry, name):
    model = build_model(MOBILENET, DIGITS, 0)
    chosen = settings(registry, name)
    here = build_optimizer(model, chosen)
    options = [group["foreach"] for group in here.param_groups]
    elsewhere = copy.deepcopy(model)
    before = build_loop(elsewhere, chosen)
    step(elsewhere, before, range(5))
    saved = copy.deepcopy(before.state_dict())
    if name == "adamw":
        # As saved on a GPU.
        saved = {**saved, "param_groups": [{**group, "fused": True} for group in saved["param_groups"]]}
    model.load_state_dict(elsewhere.state_dict())
    restore_optimizer(here, saved)
    assert [group["foreach"] for group in here.param_groups] == options
    assert not any(group.get("fused") for group in here.param_groups)
    step(model, here, range(5, 10))
    step(elsewhere, before, range(5, 10))
    assert_same_weights(model, elsewhere, exact=name != "lamb")


def test_registered_options_contain_no_speed_option(registry):
    for name in registry.optimizers:
        assert not {"foreach", "fused", "capturable"} & set(registry.optimizers[name]), name
