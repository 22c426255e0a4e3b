"""What an accelerator needs of a step: batches sent ahead, and no value read back before the epoch ends.

Most of it is checked without one: a meta tensor has a shape but no values, so whatever looks at a value raises.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from trainable import distilled, trainable

from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell, Optimizer
from pld_grid.train import data
from pld_grid.train.loader import Batch, Loader, _one_ahead, on_device
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.student import Student

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
OPTIMIZERS = ["lamb", "adamw", "adan", "adabelief"]
CELLS = {
    "ce": trainable("ce"),
    "ls": trainable("ls"),
    "kd": distilled("kd"),
    "js": distilled("kd", hyperparameters={"divergence": "js"}, standardization="both"),
    "dist": distilled("dist"),
    "pld": distilled("pld", standardization="teacher"),
    "uniform": distilled("pld", hyperparameters={"weights": "uniform"}),
    "position": distilled("pld", hyperparameters={"weights": "position"}),
}


def batch(number: int) -> Batch:
    return torch.full((2, 1, 4, 4), number, dtype=torch.uint8), torch.tensor([number, number])


class Recorder:
    """A transfer that notes when it is asked for what."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    def send(self, sent: Batch) -> Batch:
        self.log.append(("send", int(sent[1][0])))
        return sent

    def receive(self, sent: Batch) -> Batch:
        self.log.append(("receive", int(sent[1][0])))
        return sent


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_batch_is_sent_while_the_one_before_is_used(count: int) -> None:
    recorder = Recorder()
    used = []
    for _, target in _one_ahead(map(batch, range(count)), recorder):
        used.append(int(target[0]))
        recorder.log.append(("use", used[-1]))
    assert used == list(range(count))
    for number in range(count):
        assert recorder.log.index(("receive", number)) + 1 == recorder.log.index(("use", number))
        if number + 1 < count:
            assert recorder.log.index(("send", number + 1)) < recorder.log.index(("use", number))
        if number + 2 < count:
            assert recorder.log.index(("send", number + 2)) > recorder.log.index(("use", number))


def test_on_a_cpu_batches_are_passed_on_as_they_are() -> None:
    asked = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            asked.append(number)
            yield batch(number)

    placed = on_device(batches(), CPU)
    pixels, target = next(placed)
    assert asked == [0]
    assert pixels.tolist() == batch(0)[0].tolist()
    assert target.tolist() == [0, 0]
    assert len(list(placed)) == 2


def test_channels_last_reorders_memory_and_no_pixel() -> None:
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    placed, _ = next(on_device([(pixels, torch.tensor([0, 1]))], CPU, channels_last=True))
    assert placed.is_contiguous(memory_format=torch.channels_last)
    assert not placed.is_contiguous()
    assert torch.equal(placed, pixels)


def on_meta(cell: Cell, patch: pytest.MonkeyPatch) -> Student:
    """A student without values that steps as on an accelerator: all parameters at once."""
    patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    student = Student(cell, META, MachineSettings(channels_last=True), updates_per_epoch=4, accumulation=2)
    for group in student.optimizer.param_groups:
        group["foreach"] = True
    return student


def empty_batch(cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, labels and the teacher's logits, without values."""
    size = cell.dataset.image_size
    pixels = torch.empty((8, cell.dataset.channels, size, size), dtype=torch.uint8, device=META)
    return pixels, torch.empty(8, dtype=torch.int64, device=META), torch.empty((8, 10), device=META)


@pytest.mark.parametrize("name", CELLS)
def test_no_step_looks_at_a_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = CELLS[name]
    student = on_meta(cell, monkeypatch)
    pixels, target, teacher_NC = empty_batch(cell)
    student.begin_epoch()
    for number in range(4):
        student.train_step(pixels, target, TeacherBatch(teacher_NC, target), number)
    student.begin_validation()
    student.validate(pixels, target, teacher_NC)
    assert len(student.train_metrics.losses) == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_looks_at_a_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = trainable("ce", optimizer=Optimizer(name=name, learning_rate=1e-3, weight_decay=0.02))
    student = on_meta(cell, monkeypatch)
    pixels, target, _ = empty_batch(cell)
    student.begin_epoch()
    for number in range(4):
        student.train_step(pixels, target, None, number)


def test_a_look_at_a_value_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    student = on_meta(CELLS["ce"], monkeypatch)
    pixels, target, _ = empty_batch(CELLS["ce"])
    monkeypatch.setattr(student.train_metrics, "update", lambda loss: loss.item())
    monkeypatch.setattr(student, "begin_epoch", lambda: student.model.train())
    student.begin_epoch()
    with pytest.raises(RuntimeError, match="meta"):
        student.train_step(pixels, target, None, 0)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", CELLS)
def test_no_step_waits_for_a_gpu(name: str, optimizer: str) -> None:
    settings = Optimizer(name=optimizer, learning_rate=1e-3, weight_decay=0.02)
    cell = CELLS[name].model_copy(update={"optimizer": settings})
    loader = Loader(data.load(cell.dataset, cell.recipe), cell.recipe, cell.seed, pin=True)
    student = Student(cell, CUDA, MachineSettings(), loader.updates_per_epoch, loader.accumulation)
    teacher_NC = torch.zeros((cell.recipe.micro_batch_size, 10), device=CUDA)
    student.begin_epoch()
    try:
        for number, (pixels, target) in enumerate(on_device(loader.train(1), CUDA, channels_last=True)):
            student.train_step(pixels, target, TeacherBatch(teacher_NC, target), number)
            if number + 1 == loader.accumulation:
                # The first step makes the optimizer's state and the libraries' handles.
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert student.train_metrics.first_bad() is None


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_of_the_loader(workers: int) -> None:
    cell = CELLS["ce"]
    splits = data.load(cell.dataset, cell.recipe)
    loader = Loader(splits, cell.recipe, cell.seed, workers=workers, pin=True)
    placed = on_device(loader.train(1), CUDA, channels_last=True)
    # A copy of each on the computing stream, and the original let go: its memory is free for the next ones.
    seen = [(pixels.clone(), target.clone()) for pixels, target in placed]
    for (pixels, target), (expected, labels) in zip(seen, Loader(splits, cell.recipe, cell.seed).train(1), strict=True):
        assert torch.equal(pixels.cpu(), expected)
        assert torch.equal(target.cpu(), labels)
