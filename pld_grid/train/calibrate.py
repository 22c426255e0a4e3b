"""Measures the parts of cohorts on this device, with the trainer's own pieces: what `pld_grid.cost` prices with.

Run it in as many processes at a time as cohorts will run: they share memory bandwidth and clock speed too.
"""

import gc
import itertools
import os
import statistics
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pld_grid.cost import FOLDER, Rate, Request
from pld_grid.spec import Cell, Loss
from pld_grid.store import Store
from pld_grid.train import data
from pld_grid.train.device import out_of_memory
from pld_grid.train.loader import Loader, to_device
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.student import Student
from pld_grid.train.surroundings import Surroundings

_SECONDS = 0.2  # that a part is measured for, at least
_CALLS = 5  # likewise
_WARM_UP = 2


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(wanted: Sequence[Request], surroundings: Surroundings, device: torch.device) -> dict[str, Rate]:
    """Measures parts one after another; by key.

    Raises DataError if the dataset is missing or too small for a batch.
    """
    bench = _Bench(surroundings, device)
    rates = {}
    for request in wanted:
        try:
            rates[request.key] = getattr(bench, request.kind)(request)
        except Exception as error:
            if not out_of_memory(error):
                raise
            rates[request.key] = Rate(what=f"{request.kind} {request.model.architecture}", fits=False)
        gc.collect()
    return rates


class _Bench:
    """Measures for one set of surroundings; batches are loaded once per stream."""

    def __init__(self, surroundings: Surroundings, device: torch.device) -> None:
        self.surroundings, self.device = surroundings, device
        self.batches: dict[Any, tuple[Tensor, Tensor]] = {}

    def loading(self, request: Request) -> Rate:
        cell = request.cell
        started = time.perf_counter()
        loader = self._loader(cell)
        setup = time.perf_counter() - started
        size = cell.recipe.micro_batch_size
        train = itertools.chain.from_iterable(loader.train(epoch) for epoch in itertools.count(1))
        validation = itertools.chain.from_iterable(loader.validation() for _ in itertools.count())
        return Rate(
            what=f"loading {cell.dataset.name} at {cell.dataset.image_size} pixels",
            train_seconds=self._mean(lambda: next(train)) / size,
            validation_seconds=self._mean(lambda: next(validation)) / size,
            setup_seconds=setup,
            train_images=loader.train_size,
            validation_images=loader.validation_size,
        )

    def teacher(self, request: Request) -> Rate:
        cell = request.cell
        size = cell.recipe.micro_batch_size
        untaught = cell.model_copy(update={
            "student": request.model.model_copy(update={"pretrained": None}), "teacher": None, "loss": Loss(name="ce"),
            "epochs": 100,
        })  # fmt: skip
        pixels_NCHW, _ = self._batch(cell)
        started = time.perf_counter()
        student = self._student(untaught)
        setup = time.perf_counter() - started
        student.begin_validation()

        @torch.no_grad()
        def forward() -> None:
            student.logits(pixels_NCHW)

        forward()
        held = sum(v.nbytes for v in student.model.state_dict().values())
        peak = _peak_bytes(forward, self.device)
        return Rate(
            what=f"teacher {request.model.architecture}",
            train_seconds=self._median(forward) / size,
            setup_seconds=setup,
            held_bytes=held,
            peak_bytes=peak,
        )

    def student(self, request: Request) -> Rate:
        cell = request.cell
        recipe = cell.recipe
        accumulation = recipe.batch_size // recipe.micro_batch_size
        pixels_NCHW, target_N = self._batch(cell)
        # Any logits do: their values decide no speed.
        teacher_NC = torch.randn(len(target_N), cell.dataset.num_classes, device=self.device)
        started = time.perf_counter()
        student = self._student(cell, accumulation)
        setup = time.perf_counter() - started
        student.begin_epoch()

        def update() -> None:
            for number in range(accumulation):
                teacher = TeacherBatch(teacher_NC, target_N) if cell.teacher is not None else None
                student.train_step(pixels_NCHW, target_N, teacher, number)

        def validate() -> None:
            student.validate(pixels_NCHW, target_N, teacher_NC if cell.teacher is not None else None)

        update()
        peak = _peak_bytes(update, self.device)
        train = self._median(update) / recipe.batch_size
        student.begin_validation()
        validation = self._median(validate) / recipe.micro_batch_size
        return Rate(
            what=f"student {cell.student.architecture}, {cell.loss.name}, {cell.optimizer.name}",
            train_seconds=train,
            validation_seconds=validation,
            setup_seconds=setup,
            checkpoint_seconds=self._checkpoint_seconds(student),
            held_bytes=student.held_bytes(),
            peak_bytes=peak,
        )

    def _checkpoint_seconds(self, student: Student) -> float:
        """What a checkpoint costs in the store that it will go to."""
        store, name = Store(self.surroundings.store), f"probe-{uuid.uuid4().hex[:8]}"
        try:
            return self._median(lambda: store.write(student.state(), FOLDER, name, durable=False))
        finally:
            store.remove(FOLDER, name)

    def _loader(self, cell: Cell) -> Loader:
        folder, machine = self.surroundings.data_folder, self.surroundings.machine
        splits = data.load(cell.dataset, cell.recipe, Path(folder) if folder else None)
        loader = Loader(
            splits,
            cell.recipe,
            cell.seed,
            workers=machine.loader_workers,
            prefetch=machine.prefetch_batches,
            pin=self.device.type == "cuda",
        )
        loader.check_fills_a_batch(cell.dataset.name)
        return loader

    def _batch(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """A micro-batch of the cell's own stream, on the device as the trainer prepares it."""
        key = str(cell.stream())
        if key not in self.batches:
            pixels, target = to_device(*next(iter(self._loader(cell).train(1))), self.device)
            if self.surroundings.machine.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            self.batches[key] = pixels, target
        return self.batches[key]

    def _student(self, cell: Cell, accumulation: int = 1) -> Student:
        return Student(cell, self.device, self.surroundings.machine, updates_per_epoch=1000, accumulation=accumulation)

    def _mean(self, load: Callable[[], object]) -> float:
        """Mean seconds of loading a batch: with loader processes, most batches are there already and a few are not."""
        machine = self.surroundings.machine
        ahead = machine.loader_workers * machine.prefetch_batches
        for _ in range(ahead):
            load()
        started = time.perf_counter()
        calls = 0
        while calls < max(_CALLS, 4 * ahead) or time.perf_counter() - started < _SECONDS:
            load()
            calls += 1
        return (time.perf_counter() - started) / calls

    def _median(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after a warm-up."""
        for _ in range(_WARM_UP):
            call()
        times: list[float] = []
        while len(times) < _CALLS or sum(times) < _SECONDS:
            self._wait()
            started = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call has allocated at its peak, on top of what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)
    with _CountBytes() as counted:
        call()
    return int(counted.peak)


class _CountBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that operations on the CPU make, while they live: torch keeps no such figure there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tree_leaves((args, kwargs))
        for value in inputs:
            if isinstance(value, Tensor):
                self.seen.add(value.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and (storage := value.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.now -= size
