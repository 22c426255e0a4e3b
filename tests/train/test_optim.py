"""Optimizers: the fastest way over the parameters, and none of it in a cell's name."""

import copy
import functools
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from pld_grid.catalogue import Catalogue
from pld_grid.spec import Dataset, Model, Optimizer
from pld_grid.train.models import build_model
from pld_grid.train.optim import build_optimizer, restore_optimizer

DIGITS = Dataset(name="digits", num_classes=10, channels=1, image_size=16)
MOBILENET = Model(architecture="mobilenetv4_conv_small_narrow")
VIT = Model(
    architecture="test_vit",
    options={"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 4, "class_token": False,
             "global_pool": "avg"},
)  # fmt: skip
NAMES = ["lamb", "adamw", "adan", "adabelief"]


def settings(catalogue: Catalogue, name: str, weight_decay: float = 0.02, **options: Any) -> Optimizer:
    return Optimizer(
        name=name, learning_rate=1e-2, weight_decay=weight_decay, options=dict(catalogue.optimizers[name]) | options
    )


def loop(model: nn.Module, chosen: Optimizer) -> torch.optim.Optimizer:
    """timm's optimizer that goes over the parameters one by one."""
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
    """A step for each number, which the gradients depend on."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def assert_same_weights(model: nn.Module, other: nn.Module, *, exact: bool = True) -> None:
    for (name, weight), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        # Lamb's foreach adds up in another order.
        close = torch.equal if exact else functools.partial(torch.allclose, rtol=1e-4, atol=1e-6)
        assert close(weight, expected), name


@pytest.mark.parametrize("architecture", [MOBILENET, VIT], ids=["mobilenetv4", "vit"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_on_a_cpu_is_that_of_the_plain_loop(catalogue: Catalogue, name: str, architecture: Model) -> None:
    model = build_model(architecture, DIGITS, 0)
    plain = copy.deepcopy(model)
    chosen = settings(catalogue, name)
    step(model, build_optimizer(model, chosen), range(20))
    step(plain, loop(plain, chosen), range(20))
    assert_same_weights(model, plain, exact=name != "lamb")


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"amsgrad": True}),
        ("adan", {"caution": True}),
        ("adan", {"no_prox": True}),
        ("adabelief", {"amsgrad": True}),
        ("adabelief", {"rectify": False}),
        ("adabelief", {"decoupled_decay": False}),
        ("adabelief", {"fixed_decay": True}),
        ("adabelief", {"degenerated_to_sgd": False}),
    ],
)
def test_that_holds_under_every_option(
    catalogue: Catalogue, name: str, options: dict[str, Any], weight_decay: float
) -> None:
    # Channels last too: its memory is in another order than its values.
    model = build_model(MOBILENET, DIGITS, 0).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(model)
    chosen = settings(catalogue, name, weight_decay, **options)
    step(model, build_optimizer(model, chosen), range(12))
    step(plain, loop(plain, chosen), range(12))
    assert_same_weights(model, plain)


@pytest.mark.parametrize("name", NAMES)
def test_several_parameters_go_at_once(catalogue: Catalogue, name: str) -> None:
    optimizer = build_optimizer(build_model(VIT, DIGITS, 0), settings(catalogue, name))
    assert all(group["foreach"] is True for group in optimizer.param_groups)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_from_another_device_goes_on_with_the_switches_of_this_one(catalogue: Catalogue, name: str) -> None:
    model = build_model(MOBILENET, DIGITS, 0)
    chosen = settings(catalogue, name)
    here = build_optimizer(model, chosen)
    switches = [group["foreach"] for group in here.param_groups]
    elsewhere = copy.deepcopy(model)
    before = loop(elsewhere, chosen)
    step(elsewhere, before, range(5))
    saved = copy.deepcopy(before.state_dict())
    if name == "adamw":
        # A GPU's steps are fused, and count on the device.
        saved = {**saved, "param_groups": [{**group, "fused": True} for group in saved["param_groups"]]}
    model.load_state_dict(elsewhere.state_dict())
    restore_optimizer(here, saved)
    assert [group["foreach"] for group in here.param_groups] == switches
    assert not any(group.get("fused") for group in here.param_groups)
    step(model, here, range(5, 10))
    step(elsewhere, before, range(5, 10))
    assert_same_weights(model, elsewhere, exact=name != "lamb")


def test_no_switch_for_speed_is_part_of_a_cell(catalogue: Catalogue) -> None:
    for name in catalogue.optimizers:
        assert not {"foreach", "fused", "capturable"} & set(catalogue.optimizers[name]), name
