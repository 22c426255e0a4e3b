"""Estimated sizes are upper bounds of the files that a training writes, and not far above them."""

import resource

import pytest
import torch
from cells import make_cell, make_measured
from trainable_cells import RESNET, VIT, train, trainable

from pld_grid.experiment.cell import Cell, Model, Optimizer
from pld_grid.experiment.machine import MachineSettings
from pld_grid.train import sizes
from pld_grid.train.models import dump_weights
from pld_grid.train.sizes import Sizes, estimate_sizes, model_error
from pld_grid.train.student import Student

pytestmark = pytest.mark.slow

OPTIMIZERS = ["lamb", "adamw", "adan", "adabelief"]
MODELS = ["ResNet-50", "MobileNetV4 Conv Small", "MobileNetV4 Hybrid Large", "ViT-Base/16"]


def assert_bounds(cell: Cell, weights: int, checkpoint: int) -> None:
    """Assert that the estimate is never below the real sizes, and at most 1.6 and 2.5 times above."""
    estimate = estimate_sizes(cell)
    assert weights <= estimate.weights <= 1.6 * weights
    assert checkpoint <= estimate.checkpoint <= 2.5 * checkpoint


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_estimate_sizes_of_shipped_profile_bounds_real_files(profile, registry, model, optimizer):
    digits = profile("digits")
    settings = Optimizer(name=optimizer, learning_rate=1e-2, options=dict(registry.optimizers[optimizer]))
    cell = make_cell(student=digits.student(model), dataset=digits.dataset, optimizer=settings)
    student = Student(cell, torch.device("cpu"), MachineSettings(), updates_per_epoch=1, accumulation=1)
    for parameter in student.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    student.optimizer.step()
    assert_bounds(cell, len(dump_weights(student.model)), len(student.dump_state()))


def test_estimate_sizes_bounds_files_of_a_training(tmp_path):
    cell = trainable(student=VIT, epochs=1)
    checkpoints: list[int] = []

    def on_event(_: object) -> None:
        checkpoints.extend(path.stat().st_size for path in tmp_path.glob("*/checkpoints/*.pt"))

    train(tmp_path, cell, on_event=on_event)
    assert checkpoints
    assert_bounds(cell, (tmp_path / cell.cell_id / "weights.safetensors").stat().st_size, max(checkpoints))


def test_estimate_sizes_of_measurement_has_no_weights_and_no_optimizer():
    trained = estimate_sizes(make_cell(student=Model(architecture="resnet152")))
    assert estimate_sizes(make_measured()) == Sizes(weights=0, checkpoint=trained.weights)


def test_estimate_sizes_of_large_model_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # A billion parameters.
    estimate = estimate_sizes(make_cell(student=Model(architecture="vit_giant_patch14_224", options={"img_size": 28})))
    assert 3.5 * 2**30 < estimate.weights < 4 * 2**30
    # ru_maxrss is in KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


@pytest.mark.parametrize("options", [{"no_such": 1}, {"depth": "deep"}])
def test_estimate_sizes_of_impossible_model_is_none(options):
    assert estimate_sizes(trainable(student=Model(architecture="test_vit", options=options))) is None


def make_raising_cell(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """Return a cell whose model code raises an error."""

    def build(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sizes, "build_model", build)
    monkeypatch.setattr(sizes, "_build", sizes._build.__wrapped__)
    return trainable(student=RESNET)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("Cannot copy out of meta tensor; no data!"),
        RuntimeError("Tensor.item() cannot be called on meta tensors"),
        TypeError("can't convert meta device type tensor to numpy"),
    ],
)
def test_model_error_of_model_that_needs_memory_is_empty(error, monkeypatch):
    cell = make_raising_cell(error, monkeypatch)
    assert estimate_sizes(cell) is None
    assert model_error(cell.student, cell.dataset) == ""


def test_model_error_without_memory_raises(monkeypatch):
    cell = make_raising_cell(MemoryError(), monkeypatch)
    for check in (lambda: estimate_sizes(cell), lambda: model_error(cell.student, cell.dataset)):
        with pytest.raises(MemoryError):
            check()
