"""An optimizer's name means what `timm.optim.create_optimizer_v2` makes of that name alone."""

import copy
import random

import pytest
import timm.optim
import torch
from torch import nn

from pld_grid.experiment.cell import Optimizer
from pld_grid.experiment.registry import Registry
from pld_grid.train.optim import build_optimizer

pytestmark = pytest.mark.slow

STEPS, LEARNING_RATE, WEIGHT_DECAY = 30, 1e-3, 0.02
# These need a closure, or gradients that are themselves differentiable, which the trainer does not offer.
NOT_TRAINED = {"lbfgs", "adahessian"}
NAMES = sorted(set(timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*"])) - NOT_TRAINED)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 6), nn.Linear(6, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Take steps on a small problem; return the parameters."""
    generator = torch.Generator().manual_seed(1)
    # Kron draws random numbers.
    random.seed(2)
    torch.manual_seed(2)
    images, labels = torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 3
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_optimizer_name_means_the_call_of_timm(registry: Registry, name: str) -> None:
    ours, theirs = make_model(), make_model()
    options = dict(registry.optimizers[name])
    settings = Optimizer(name=name, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, options=options)
    initial = copy.deepcopy(list(ours.parameters()))
    reached = train(ours, build_optimizer(ours, settings))
    own = timm.optim.create_optimizer_v2(theirs, opt=name, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    # Only the order of sums may differ, as the trainer updates several parameters at once.
    torch.testing.assert_close(reached, train(theirs, own), rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(before, after) for before, after in zip(initial, reached, strict=True))


def test_adabelief_is_not_rectified_and_sgd_has_momentum(registry: Registry) -> None:
    """Numbers from timm's documentation of these names."""
    assert registry.optimizers["adabelief"]["rectify"] is False
    assert registry.optimizers["radabelief"]["rectify"] is True
    assert registry.optimizers["sgd"]["momentum"] == 0.9
    assert registry.optimizers["sgd"]["nesterov"] is True
    assert registry.optimizers["momentum"]["nesterov"] is False
    assert "eps" not in registry.optimizers["sgdw"]
