"""The training loop: students that see the same batches and the same teacher train side by side.

Each batch is loaded, augmented and passed through the teacher once; then every student takes its own step. A cohort of
one is the ordinary case. It runs in a plain process, without Ray or MLflow, and reports progress through events.

Shape suffixes: N images, C channels or classes, H and W pixels.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.events import CellStarted
from pld_grid.train.device import is_out_of_memory, resolve_device
from pld_grid.train.discovery import check_code
from pld_grid.train.failure import TrainingError
from pld_grid.train.group import GroupBroken
from pld_grid.train.loader import Batch, build_loader, on_device
from pld_grid.train.recorder import CellRecorder
from pld_grid.train.student import Diverged, Student
from pld_grid.train.teacher import TeacherRunner
from pld_grid.util.errors import StoreFull

T = TypeVar("T")


class Training:
    """Train claimed cells as one cohort.

    Args:
        cells: share batches and teacher.
        recorder: writes checkpoints and receipts and emits events.

    Raises:
        DataError: the dataset is missing, damaged or smaller than a batch.
        StoreError: the store cannot be used, or the teacher's weights are missing.
        ValueError: the cells do not share batches and teacher.
    """

    def __init__(self, cells: list[Cell], recorder: CellRecorder) -> None:
        _check_shared(cells)
        self.recorder, self.group, self.context = recorder, recorder.group, recorder.context
        self.machine = self.context.machine
        self.device = resolve_device(self.machine)
        with self.group.collective_errors():
            self.loader = build_loader(cells[0], self.context, self.device, self.group.rank, self.group.size)
            if any(cell.epochs for cell in cells):
                self.loader.check_fills_a_batch(cells[0].dataset.name)
            self.recorder.note_progress()
            self.teacher = TeacherRunner(cells, recorder.store, self.context, self.device)
        self.students: list[Student] = []
        for cell in cells:
            self._add_student(cell)

    def _add_student(self, cell: Cell) -> None:
        self.recorder.note_progress()
        try:
            self.recorder.prepare(cell)
            check_code(cell)
            student = self._resume_student(cell)
        except Exception as error:
            if _ends_cohort(error):
                raise
            self.recorder.fail(cell, 0, error)
            return
        self.students.append(student)
        self.recorder.emit(CellStarted(cell.cell_id, student.last_epoch))

    def _resume_student(self, cell: Cell) -> Student:
        """Return the student of a cell, restored from its newest checkpoint that fits; quarantine the others."""
        store, updates, accumulation = self.recorder.store, self.loader.updates_per_epoch, self.loader.accumulation
        while True:
            checkpoint = self.group.broadcast(lambda: store.load_checkpoint(cell))
            with self.group.collective_errors():
                student = Student(
                    cell, self.device, self.machine, updates, accumulation, self.group, self.context.weights_folder
                )
                mismatch = student.restore(*checkpoint) if checkpoint is not None else None
            mismatch = self.group.allreduce_failure(mismatch)
            if checkpoint is None or mismatch is None:
                return student
            with self.group.collective_errors():
                store.quarantine_checkpoint(cell.cell_id, checkpoint[0].epoch, str(mismatch))

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until every student is done, has diverged or has failed, or until a stop is requested.

        Students may be at different epochs, as some are resumed: those furthest behind train first, until they have
        caught up with the others.
        """
        for student in self.students:
            if student.done:
                # An earlier attempt ended between the last checkpoint and the receipt.
                with self._isolate_failure(student):
                    self._finish(student)
        while self.students:
            self.recorder.flush()
            if self.recorder.stop_requested():
                for student in self.students:
                    with self._isolate_failure(student):
                        self._save_checkpoint(student)
                return
            epoch = min(student.next_epoch for student in self.students)
            self._run_epoch(epoch, [student for student in self.students if student.next_epoch == epoch])

    def _run_epoch(self, epoch: int, students: list[Student]) -> None:
        started = time.perf_counter()
        if any(student.cell.epochs for student in students):
            self._train(epoch, students)
            if self.device.type == "cuda":
                # CUDA runs steps asynchronously; this is the only synchronization of an epoch's training.
                torch.cuda.synchronize(self.device)
        elapsed = time.perf_counter() - started
        self._validate(self._remaining(students))
        images = self.loader.updates_per_epoch * self.loader.recipe.batch_size
        for student in self._remaining(students):
            self._end_epoch(student, images / elapsed if elapsed > 0 else 0.0)

    def _train(self, epoch: int, students: list[Student]) -> None:
        for student in students:
            student.begin_epoch()
        batches = self._to_device(self.loader.train_batches(epoch))
        for number in self.loader.micro_batch_numbers:
            batch = self._next_batch(batches, students, self.teacher.train_batch)
            update_ends = (number + 1) % self.loader.local_micro_batches == 0
            pending: Student | None = None
            for student in students:
                if batch is not None:
                    self.recorder.note_progress()
                    student.run_step(student.train_step, *batch, number)
                if update_ends:
                    # While the gradients of one student are added up, the next student computes its own.
                    self._finish_update(pending)
                    student.start_allreduce()
                    pending = student
            self._finish_update(pending)
            students = self._remaining(students)

    def _finish_update(self, student: Student | None) -> None:
        failure = student.finish_allreduce() if student is not None else None
        if student is not None and failure is not None:
            self._fail(student, failure)

    def _validate(self, students: list[Student]) -> None:
        for student in students:
            student.begin_validation()
        batches = self._to_device(self.loader.validation_batches())
        for number in range(self.loader.num_validation_batches):
            batch = self._next_batch(batches, students, partial(self._validation_logits, number))
            for student in students:
                if batch is not None:
                    student.run_step(student.validate, *batch)
        for student in students:
            failure = student.reduce_metrics(self.loader.micro_batch_numbers)
            if failure is not None:
                self._fail(student, failure)

    def _validation_logits(self, number: int, pixels_NCHW: Tensor, _: Tensor) -> Tensor | None:
        return self.teacher.validation_logits(number, pixels_NCHW)

    def _next_batch(
        self, batches: Iterator[Batch], students: list[Student], run_teacher: Callable[[Tensor, Tensor], T]
    ) -> tuple[Tensor, Tensor, T] | None:
        """Return the next batch and the teacher's part; None if all students have failed or memory is short."""
        if all(student.failure is not None for student in students):
            return None
        self.recorder.note_progress()
        try:
            pixels_NCHW, target_N = next(batches)
            return pixels_NCHW, target_N, run_teacher(pixels_NCHW, target_N)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            for student in students:
                student.failure = student.failure or TrainingError.from_exception(error)
            return None

    def _to_device(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return on_device(batches, self.device, channels_last=self.machine.channels_last)

    def _remaining(self, students: list[Student]) -> list[Student]:
        return [student for student in students if student in self.students]

    # -- ends of students ----------------------------------------------------------------------------------------------

    def _end_epoch(self, student: Student, images_per_second: float) -> None:
        with self._isolate_failure(student):
            try:
                with self.group.collective_errors():
                    record = student.end_epoch(images_per_second)
            except Diverged as error:
                self._finish(student, str(error))
                return
            if student.done or record.epoch % self.machine.checkpoint_every == 0:
                self._save_checkpoint(student)
            if student.done and student in self.students:
                self._finish(student)

    def _save_checkpoint(self, student: Student) -> None:
        if not self.recorder.save_checkpoint(student):
            self._remove(student)

    def _finish(self, student: Student, diverged: str = "") -> None:
        self.recorder.finish(student, diverged)
        self._remove(student)

    @contextmanager
    def _isolate_failure(self, student: Student) -> Iterator[None]:
        """Let an error of this block fail this student alone, unless it concerns the whole cohort."""
        try:
            yield
        except Exception as error:
            if _ends_cohort(error):
                raise
            self._fail(student, TrainingError.from_exception(error))

    def _fail(self, student: Student, error: TrainingError) -> None:
        if is_out_of_memory(error):
            # The student that runs out of memory need not be the one that takes the most.
            raise error
        self._remove(student)
        self.recorder.fail(student.cell, student.last_epoch, error)

    def _remove(self, student: Student) -> None:
        self.students = [other for other in self.students if other is not student]


def _ends_cohort(error: Exception) -> bool:
    """Return whether an error concerns all students: no memory, a broken group or a full store."""
    return is_out_of_memory(error) or isinstance(error, GroupBroken | StoreFull)


def _check_shared(cells: list[Cell]) -> None:
    """Raise ValueError unless all cells see the same batches and no two have different teachers."""
    if len({cell.stream() for cell in cells}) > 1:
        raise ValueError("the cells of a cohort must see the same batches")
    if len({cell.teacher.cell_id for cell in cells if cell.teacher is not None}) > 1:
        raise ValueError("the cells of a cohort must share one teacher")
