"""Measure the parts of cohorts on this device, with the trainer's own classes, for `pld_grid.planning.cost_model`.

Run it in as many processes at a time as there will be cohorts, as these share memory bandwidth and clock speed.
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

from pld_grid.experiment.cell import Cell, Loss
from pld_grid.planning.calibration_file import FOLDER, Rate
from pld_grid.planning.cost_model import PartRequest
from pld_grid.store import Store
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.loader import Loader, build_loader, on_device
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.run_context import RunContext
from pld_grid.train.student import Student

MIN_MEASURED_SECONDS = 0.2
MIN_MEASURED_CALLS = 5
WARM_UP_CALLS = 2


def process_resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_parts(requests: Sequence[PartRequest], context: RunContext, device: torch.device) -> dict[str, Rate]:
    """Measure parts one after another.

    Args:
        requests: the parts.
        context: store, data and machine.
        device: to measure on.

    Returns:
        Rates by the key of their request.

    Raises:
        DataError: the dataset is missing or too small for a batch.
    """
    profiler = PartProfiler(context, device)
    rates = {}
    for request in requests:
        try:
            rates[request.key] = getattr(profiler, f"measure_{request.kind}")(request)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rates[request.key] = Rate(what=f"{request.kind} {request.model.architecture}", fits=False)
        gc.collect()
    return rates


class PartProfiler:
    """Measure single parts; batches are loaded once per stream."""

    def __init__(self, context: RunContext, device: torch.device) -> None:
        self.context, self.device = context, device
        self.batches: dict[Any, tuple[Tensor, Tensor]] = {}

    def measure_loading(self, request: PartRequest) -> Rate:
        """Measure the seconds of loading an image of either split."""
        cell = request.cell
        started = time.perf_counter()
        loader = self._build_loader(cell)
        setup = time.perf_counter() - started
        size = cell.recipe.micro_batch_size
        train = itertools.chain.from_iterable(loader.train_batches(epoch) for epoch in itertools.count(1))
        validation = itertools.chain.from_iterable(loader.validation_batches() for _ in itertools.count())
        return Rate(
            what=f"loading {cell.dataset.name} at {cell.dataset.image_size} pixels",
            train_seconds=self._mean(lambda: next(train)) / size,
            validation_seconds=self._mean(lambda: next(validation)) / size,
            setup_seconds=setup,
            train_images=loader.train_size,
            validation_images=loader.validation_size,
        )

    def measure_teacher(self, request: PartRequest) -> Rate:
        """Measure a teacher's forward pass."""
        cell = request.cell
        size = cell.recipe.micro_batch_size
        without_teacher = cell.model_copy(
            update={
                "student": request.model.model_copy(update={"pretrained": None}),
                "teacher": None,
                "loss": Loss(name="ce"),
                "epochs": 100,
            }
        )
        pixels_NCHW, _ = self._batch(cell)
        started = time.perf_counter()
        student = self._build_student(without_teacher)
        setup = time.perf_counter() - started
        student.begin_validation()

        @torch.no_grad()
        def forward() -> None:
            student.compute_logits(pixels_NCHW)

        forward()
        return Rate(
            what=f"teacher {request.model.architecture}",
            train_seconds=self._median(forward) / size,
            setup_seconds=setup,
            resident_bytes=sum(tensor.nbytes for tensor in student.model.state_dict().values()),
            peak_bytes=_peak_bytes(forward, self.device),
        )

    def measure_student(self, request: PartRequest) -> Rate:
        """Measure a student's updates, validation and checkpoints."""
        cell = request.cell
        recipe = cell.recipe
        accumulation = recipe.batch_size // recipe.micro_batch_size
        pixels_NCHW, target_N = self._batch(cell)
        # Random, as the values do not change the speed.
        teacher_NC = torch.randn(len(target_N), cell.dataset.num_classes, device=self.device)
        started = time.perf_counter()
        student = self._build_student(cell, accumulation)
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
            resident_bytes=student.resident_bytes(),
            peak_bytes=peak,
        )

    def _checkpoint_seconds(self, student: Student) -> float:
        """Return the median seconds of writing a checkpoint to the store."""
        store, name = Store(self.context.store), f"probe-{uuid.uuid4().hex[:8]}"
        try:
            return self._median(lambda: store.write(student.dump_state(), FOLDER, name, durable=False))
        finally:
            store.remove(FOLDER, name)

    def _build_loader(self, cell: Cell) -> Loader:
        loader = build_loader(cell, self.context, self.device)
        loader.check_fills_a_batch(cell.dataset.name)
        return loader

    def _batch(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Return a micro-batch of the cell's own stream on the device, as the trainer prepares it."""
        key = str(cell.stream())
        if key not in self.batches:
            batches = self._build_loader(cell).train_batches(1)
            channels_last = self.context.machine.channels_last
            self.batches[key] = next(on_device(batches, self.device, channels_last=channels_last))
        return self.batches[key]

    def _build_student(self, cell: Cell, accumulation: int = 1) -> Student:
        return Student(cell, self.device, self.context.machine, updates_per_epoch=1000, accumulation=accumulation)

    def _mean(self, load: Callable[[], object]) -> float:
        """Return the mean seconds of loading a batch: loader processes have most batches ready, but not all."""
        machine = self.context.machine
        ahead = machine.loader_workers * machine.prefetch_batches
        for _ in range(ahead):
            load()
        started = time.perf_counter()
        calls = 0
        while calls < max(MIN_MEASURED_CALLS, 4 * ahead) or time.perf_counter() - started < MIN_MEASURED_SECONDS:
            load()
            calls += 1
        return (time.perf_counter() - started) / calls

    def _median(self, call: Callable[[], object]) -> float:
        """Return the median seconds of a call, after a warm-up."""
        for _ in range(WARM_UP_CALLS):
            call()
        times: list[float] = []
        while len(times) < MIN_MEASURED_CALLS or sum(times) < MIN_MEASURED_SECONDS:
            self._synchronize()
            started = time.perf_counter()
            call()
            self._synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the peak of the bytes that a call allocates, on top of what was allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)
    with _AllocationCounter() as counter:
        call()
    return int(counter.peak)


class _AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of tensors that operations create and have not freed; torch has no such counter for the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allocated = self.peak = 0
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
                self.allocated += storage.nbytes()
                self.peak = max(self.peak, self.allocated)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.allocated -= size
