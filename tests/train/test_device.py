"""Steps suit an accelerator: batches are copied ahead, and no value is read before the epoch ends.

Most of it is tested on the meta device: its tensors have shapes but no values, so reading a value raises.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from trainable_cells import distilled, trainable

from pld_grid.experiment.cell import Cell, Optimizer
from pld_grid.experiment.machine import MachineSettings
from pld_grid.train import data
from pld_grid.train.loader import Batch, Loader, _prefetch_one, on_device
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
BY_OPTIMIZER = {
    name: trainable("ce", optimizer=Optimizer(name=name, learning_rate=1e-3, weight_decay=0.02)) for name in OPTIMIZERS
}


def batch(number: int) -> Batch:
    return torch.full((2, 1, 4, 4), number, dtype=torch.uint8), torch.tensor([number, number])


class Recorder:
    """Logs when a copy starts and finishes."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    def start(self, batch: Batch) -> Batch:
        self.log.append(("start", int(batch[1][0])))
        return batch

    def finish(self, pending: Batch) -> Batch:
        self.log.append(("finish", int(pending[1][0])))
        return pending


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prefetch_one_starts_a_copy_before_the_previous_batch_is_used(count):
    recorder = Recorder()
    for _, target in _prefetch_one(map(batch, range(count)), recorder.start, recorder.finish):
        recorder.log.append(("use", int(target[0])))
    expected = []
    for number in range(count):
        expected.append(("start", number))
        if number:
            expected += [("finish", number - 1), ("use", number - 1)]
    if count:
        expected += [("finish", count - 1), ("use", count - 1)]
    assert recorder.log == expected


def test_on_device_of_a_cpu_yields_batches_unchanged_and_lazily():
    loaded = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            loaded.append(number)
            yield batch(number)

    placed = on_device(batches(), CPU)
    pixels, target = next(placed)
    assert loaded == [0]
    assert pixels.tolist() == batch(0)[0].tolist()
    assert target.tolist() == [0, 0]
    assert len(list(placed)) == 2


def test_on_device_with_channels_last_reorders_memory_alone():
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    placed, _ = next(on_device([(pixels, torch.tensor([0, 1]))], CPU, channels_last=True))
    assert placed.is_contiguous(memory_format=torch.channels_last)
    assert not placed.is_contiguous()
    assert torch.equal(placed, pixels)


def build_meta_student(cell: Cell, patch: pytest.MonkeyPatch) -> Student:
    """Return a student without values that updates all parameters at once, as on an accelerator."""
    patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    student = Student(cell, META, MachineSettings(channels_last=True), updates_per_epoch=4, accumulation=2)
    for group in student.optimizer.param_groups:
        group["foreach"] = True
    return student


def empty_batch(cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels, labels and the teacher's logits, without values."""
    size = cell.dataset.image_size
    pixels = torch.empty((8, cell.dataset.channels, size, size), dtype=torch.uint8, device=META)
    return pixels, torch.empty(8, dtype=torch.int64, device=META), torch.empty((8, 10), device=META)


@pytest.mark.parametrize("cell", (CELLS | BY_OPTIMIZER).values(), ids=CELLS | BY_OPTIMIZER)
def test_step_of_each_loss_and_optimizer_reads_no_value(cell, monkeypatch):
    student = build_meta_student(cell, monkeypatch)
    pixels, target, teacher_NC = empty_batch(cell)
    student.begin_epoch()
    for number in range(4):
        student.train_step(pixels, target, TeacherBatch(teacher_NC, target), number)
    student.begin_validation()
    student.validate(pixels, target, teacher_NC)
    assert len(student.train_metrics.losses) == 4


def test_step_that_reads_a_value_raises_on_meta(monkeypatch):
    student = build_meta_student(CELLS["ce"], monkeypatch)
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
def test_step_does_not_synchronize_a_gpu(name, optimizer):
    cell = CELLS[name].model_copy(update={"optimizer": BY_OPTIMIZER[optimizer].optimizer})
    loader = Loader(data.load(cell.dataset, cell.recipe), cell.recipe, cell.seed, pin=True)
    student = Student(cell, CUDA, MachineSettings(), loader.updates_per_epoch, loader.accumulation)
    teacher_NC = torch.zeros((cell.recipe.micro_batch_size, 10), device=CUDA)
    student.begin_epoch()
    try:
        for number, (pixels, target) in enumerate(on_device(loader.train_batches(1), CUDA, channels_last=True)):
            student.train_step(pixels, target, TeacherBatch(teacher_NC, target), number)
            if number + 1 == loader.accumulation:
                # The first step allocates the optimizer's state and the libraries' handles.
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert student.train_metrics.first_non_finite() is None


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_on_device_of_a_gpu_yields_the_batches_of_the_loader(workers):
    cell = CELLS["ce"]
    splits = data.load(cell.dataset, cell.recipe)
    loader = Loader(splits, cell.recipe, cell.seed, workers=workers, pin=True)
    placed = on_device(loader.train_batches(1), CUDA, channels_last=True)
    # Only clones are kept, so that the memory of each batch may be reused for the next ones.
    copies = [(pixels.clone(), target.clone()) for pixels, target in placed]
    expected_batches = Loader(splits, cell.recipe, cell.seed).train_batches(1)
    for (pixels, target), (expected, labels) in zip(copies, expected_batches, strict=True):
        assert torch.equal(pixels.cpu(), expected)
        assert torch.equal(target.cpu(), labels)
