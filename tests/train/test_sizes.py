"""Sizes that are known beforehand, against those of real weights and checkpoints."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cells import make_cell, make_measured
from trainable import RESNET, VIT, train, trainable

from pld_grid.catalogue import Catalogue
from pld_grid.machine import MachineSettings
from pld_grid.profile import Profile
from pld_grid.spec import Cell, Model, Optimizer
from pld_grid.train import sizes
from pld_grid.train.models import dump_weights
from pld_grid.train.sizes import Sizes, model_error, sizes_of
from pld_grid.train.student import Student

OPTIMIZERS = ["lamb", "adamw", "adan", "adabelief"]
MODELS = ["ResNet-50", "MobileNetV4 Conv Small", "MobileNetV4 Hybrid Large", "ViT-Base/16"]


def _real(cell: Cell) -> Sizes:
    """What a student that has made one step writes."""
    student = Student(cell, torch.device("cpu"), MachineSettings(), updates_per_epoch=1, accumulation=1)
    for parameter in student.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    student.optimizer.step()
    return Sizes(len(dump_weights(student.model)), len(student.state()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_sizes_are_those_of_real_files(
    profile: Callable[[str], Profile], catalogue: Catalogue, model: str, optimizer: str
) -> None:
    digits = profile("digits")
    chosen = Optimizer(name=optimizer, learning_rate=1e-2, options=dict(catalogue.optimizers[optimizer]))
    cell = make_cell(student=digits.student(model), dataset=digits.dataset, optimizer=chosen)
    found = sizes_of(cell)
    assert found is not None
    assert found == pytest.approx(_real(cell), rel=0.01)


@pytest.mark.parametrize("options", [{"amsgrad": True}, {}])
def test_what_an_optimizer_keeps_is_found_by_trying_it(options: dict[str, bool]) -> None:
    cell = trainable(student=RESNET, optimizer=Optimizer(name="adamw", learning_rate=1e-3, options=options))
    assert sizes_of(cell) == pytest.approx(_real(cell), rel=0.01)


def test_a_training_writes_what_was_said(tmp_path: Path) -> None:
    cell = trainable(student=VIT, epochs=1)
    seen: list[int] = []

    def look(_: object) -> None:
        seen.extend(path.stat().st_size for path in tmp_path.glob("*/checkpoints/*.pt"))

    train(tmp_path, cell, listener=look)
    found = sizes_of(cell)
    assert found is not None
    assert seen
    assert found.checkpoint == pytest.approx(seen[0], rel=0.01)
    assert found.weights == pytest.approx((tmp_path / cell.cell_id / "weights.safetensors").stat().st_size, rel=0.01)


def test_a_measurement_keeps_the_published_model_alone() -> None:
    measured = sizes_of(make_measured())
    trained = sizes_of(make_cell(student=Model(architecture="resnet152")))
    assert measured is not None
    assert trained is not None
    assert measured.weights == 0
    # Lamb keeps two numbers for each of the model's.
    assert trained.checkpoint == pytest.approx(3 * measured.checkpoint, rel=0.01)


def test_large_models_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # A billion parameters: 4 GB of weights, and twice as much of the optimizer's.
    found = sizes_of(make_cell(student=Model(architecture="vit_giant_patch14_224", options={"img_size": 28})))
    assert found is not None
    assert 3.5 * 2**30 < found.weights < 4 * 2**30
    assert found.checkpoint > 3 * found.weights
    # In KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


@pytest.mark.parametrize("options", [{"no_such": 1}, {"depth": "deep"}])
def test_a_model_that_cannot_be_made_has_no_size(options: dict[str, object]) -> None:
    assert sizes_of(trainable(student=Model(architecture="test_vit", options=options))) is None


def _raising(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A cell whose model is made by code that raises."""

    def build(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sizes, "build_model", build)
    sizes._shapes.cache_clear()
    sizes._sizes.cache_clear()
    return trainable(student=RESNET)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("Cannot copy out of meta tensor; no data!"),
        RuntimeError("Tensor.item() cannot be called on meta tensors"),
        TypeError("can't convert meta device type tensor to numpy"),
    ],
)
def test_what_takes_memory_to_say_is_not_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = _raising(error, monkeypatch)
    assert sizes_of(cell) is None
    assert model_error(cell.student, cell.dataset) == ""


def test_a_lack_of_memory_is_no_fault_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = _raising(MemoryError(), monkeypatch)
    with pytest.raises(MemoryError):
        sizes_of(cell)
    with pytest.raises(MemoryError):
        model_error(cell.student, cell.dataset)
