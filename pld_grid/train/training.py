"""The training loop: students that see the same batches and the same teacher, side by side.

Each batch is loaded, augmented and passed through the teacher once; then every student takes its own step. A cohort of
one is the ordinary case. Runs in a plain process; whoever calls it hears of progress through a listener.

Shape suffixes: N images, C channels or classes, H and W pixels.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pld_grid import stop
from pld_grid.errors import StoreFull
from pld_grid.events import Event, Listener
from pld_grid.plan import Cohort
from pld_grid.spec import Cell
from pld_grid.store import Provenance, Receipt, Store
from pld_grid.store.claims import ClaimLost, Claims, holder
from pld_grid.train import data
from pld_grid.train.device import device_of, out_of_memory
from pld_grid.train.failure import Failed, fail_cell
from pld_grid.train.group import Group, GroupBroken
from pld_grid.train.loader import Batch, Loader, on_device
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.models import Teacher, dump_weights
from pld_grid.train.student import DTYPES, Diverged, Student
from pld_grid.train.surroundings import Surroundings

# Packages that can change a number.
_VERSIONED = ("pld_grid", "torch", "torchvision", "timm", "numpy")
T = TypeVar("T")


class Training:
    """Trains cells that are claimed.

    Args:
        cells: which share batches and teacher.
        listener: hears of each step in a cell's life.
        flush: called when nothing more comes for a while.
    """

    def __init__(
        self,
        cells: list[Cell],
        store: Store,
        surroundings: Surroundings,
        claims: Claims,
        listener: Listener,
        flush: Callable[[], None],
        group: Group,
    ) -> None:
        _check_shared(cells)
        self.store, self.surroundings, self.claims = store, surroundings, claims
        self.listener, self.flush, self.group = listener, flush, group
        self.machine = surroundings.machine
        self.device = device_of(self.machine)
        with self.group.together():
            self._prepare(cells)
        self.teacher_validation: list[Tensor] = []
        self.students: list[Student] = []
        for cell in cells:
            self._add(cell)

    def _prepare(self, cells: list[Cell]) -> None:
        surroundings = self.surroundings
        first, folder = cells[0], surroundings.data_folder
        splits = data.load(first.dataset, first.recipe, Path(folder) if folder else None)
        self.claims.lease.progress()
        self.loader = Loader(
            splits,
            first.recipe,
            first.seed,
            workers=self.machine.loader_workers,
            prefetch=self.machine.prefetch_batches,
            pin=self.device.type == "cuda",
            rank=self.group.rank,
            size=self.group.size,
        )
        if any(cell.epochs for cell in cells):
            self.loader.check_fills_a_batch(first.dataset.name)
        self.dtype = DTYPES[first.recipe.precision]
        self.teacher = self._teacher(cells)

    def _teacher(self, cells: list[Cell]) -> Teacher | None:
        cell = Cohort(tuple(cells)).teacher
        if cell is None:
            return None
        teacher = Teacher(cell, self.store, self.surroundings.weights_folder).to(self.device)
        if self.machine.channels_last:
            teacher = teacher.to(memory_format=torch.channels_last)
        if self.machine.compile:
            teacher.model = torch.compile(teacher.model)  # type: ignore[assignment]
        return teacher

    def _add(self, cell: Cell) -> None:
        self.claims.lease.progress()
        try:
            with self.group.together():
                # Before the cell can be seen: what its driver says of it from then on must stand.
                self.store.clear_status(cell.cell_id)
                self.store.write_cell(cell)
            student = self._student(cell)
        except Exception as error:
            if out_of_memory(error) or isinstance(error, GroupBroken | StoreFull):
                raise
            self._fail(cell, 0, error)
            return
        self.students.append(student)
        epoch = student.records[-1].epoch if student.records else 0
        self.listener(Event("started", cell.cell_id, epoch))

    def _student(self, cell: Cell) -> Student:
        """The student of a cell as its newest checkpoint that can be used has it; what cannot be is set aside."""
        updates, accumulation = self.loader.updates_per_epoch, self.loader.accumulation
        while True:
            saved = self.group.decide(lambda: self.store.load_checkpoint(cell))
            with self.group.together():
                student = Student(
                    cell, self.device, self.machine, updates, accumulation, self.group,
                    self.surroundings.weights_folder,
                )  # fmt: skip
                unfit = student.restore(*saved) if saved is not None else None
            unfit = self.group.agree(unfit)
            if saved is None or unfit is None:
                return student
            with self.group.together():
                self.store.set_checkpoint_aside(saved[0], str(unfit))

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Trains until every student is done, diverged or failed.

        Students may stand at different epochs (some resumed, some new): the ones furthest behind go first, and meet
        the others on the way.
        """
        for student in self.students:
            if student.done:
                # Killed between the last checkpoint and the receipt.
                with self._alone(student):
                    self._finish(student)
        while self.students:
            self.flush()
            if self.group.decide(lambda: stop.requested(self.store, self.surroundings.run)):
                for student in self.students:
                    with self._alone(student):
                        self._keep(student)
                return
            epoch = min(student.next_epoch for student in self.students)
            self._epoch(epoch, [student for student in self.students if student.next_epoch == epoch])

    def _epoch(self, epoch: int, active: list[Student]) -> None:
        started = time.perf_counter()
        if any(student.cell.epochs for student in active):
            self._train(epoch, active)
            if self.device.type == "cuda":
                # The steps were queued, not finished; this is the one wait of an epoch's training.
                torch.cuda.synchronize(self.device)
        elapsed = time.perf_counter() - started
        active = [student for student in active if student in self.students]
        self._validate(active)
        images = self.loader.updates_per_epoch * self.loader.recipe.batch_size
        for student in active:
            if student in self.students:
                self._end_epoch(student, images / elapsed if elapsed > 0 else 0.0)

    def _train(self, epoch: int, active: list[Student]) -> None:
        for student in active:
            student.begin_epoch()
        batches = self._placed(self.loader.train(epoch))
        for number in self.loader.numbers:
            lesson = self._lesson(batches, active, self._teacher_batch)
            adding_up: list[Student] = []
            for student in active:
                if lesson is not None:
                    self.claims.lease.progress()
                    student.attempt(student.train_step, *lesson, number)
                if (number + 1) % self.loader.share == 0:
                    # While processes add up what one student has learnt, the next one learns.
                    self._end_update(adding_up)
                    student.send()
                    adding_up = [student]
            self._end_update(adding_up)
            active = [student for student in active if student in self.students]

    def _end_update(self, students: list[Student]) -> None:
        for student in students:
            failure = student.receive()
            if failure is not None:
                self._leave(student, failure)

    def _validate(self, active: list[Student]) -> None:
        for student in active:
            student.begin_validation()
        batches = self._placed(self.loader.validation())
        for number in range(self.loader.validation_batches):
            lesson = self._lesson(batches, active, partial(self._validation_logits, number))
            for student in active:
                if lesson is not None:
                    student.attempt(student.validate, *lesson)
        for student in active:
            failure = student.gather(self.loader.numbers)
            if failure is not None:
                self._leave(student, failure)

    def _lesson(
        self, batches: Iterator[Batch], students: list[Student], teach: Callable[[Tensor, Tensor], T]
    ) -> tuple[Tensor, Tensor, T] | None:
        """The next batch with what the teacher says of it; None if no student is left that could use it."""
        if all(student.failure is not None for student in students):
            return None
        self.claims.lease.progress()
        try:
            pixels_NCHW, target_N = next(batches)
            return pixels_NCHW, target_N, teach(pixels_NCHW, target_N)
        except Exception as error:
            if not out_of_memory(error):
                raise
            for student in students:
                student.failure = student.failure or Failed.of(error)
            return None

    def _teacher_batch(self, pixels_NCHW: Tensor, target_N: Tensor) -> TeacherBatch | None:
        return TeacherBatch(self._teach(pixels_NCHW), target_N) if self.teacher is not None else None

    def _validation_logits(self, number: int, pixels_NCHW: Tensor, _: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        if number == len(self.teacher_validation):
            # The teacher never changes: its validation logits are computed once per cohort.
            self.teacher_validation.append(self._teach(pixels_NCHW).float())
        return self.teacher_validation[number]

    def _placed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return on_device(batches, self.device, channels_last=self.machine.channels_last)

    def _teach(self, pixels_NCHW: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits_NC: Tensor = self.teacher(pixels_NCHW)
        return logits_NC

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _end_epoch(self, student: Student, images_per_second: float) -> None:
        try:
            with self.group.together():
                record = student.end_epoch(images_per_second)
        except Diverged as error:
            with self._alone(student):
                self._finish(student, str(error))
            return
        except GroupBroken:
            raise
        except Exception as error:
            self._leave(student, Failed.of(error))
            return
        with self._alone(student):
            if student.done or record.epoch % self.machine.checkpoint_every == 0:
                self._keep(student)
            if student.done and student in self.students:
                self._finish(student)

    @contextmanager
    def _alone(self, student: Student) -> Iterator[None]:
        """What goes wrong in this block is this student's failure, and no other's."""
        try:
            yield
        except Exception as error:
            if out_of_memory(error) or isinstance(error, GroupBroken | StoreFull):
                raise
            self._leave(student, Failed.of(error))

    def _keep(self, student: Student) -> None:
        """Writes a checkpoint, unless it stands already or the cell is another's by now."""
        if not student.records or student.kept_epoch >= student.records[-1].epoch or not self._claimed(student):
            return
        record = student.records[-1]
        self.claims.lease.progress()
        with self.group.together():
            if self.group.first:
                self.store.save_checkpoint(*student.save())
        student.kept_epoch = record.epoch
        self.listener(Event("epoch", student.cell.cell_id, record.epoch, dict(record.metrics)))

    def _claimed(self, student: Student) -> bool:
        """Whether the cell is still this process's to train; if not, the student leaves."""
        cell_id = student.cell.cell_id
        if self.group.decide(lambda: self.claims.holds(cell_id)):
            return True
        self._give_up(student)
        return False

    def _give_up(self, student: Student) -> None:
        self.students = [s for s in self.students if s is not student]
        self.listener(held(self.store, student.cell))

    def _finish(self, student: Student, diverged: str = "") -> None:
        if not self._claimed(student):
            return
        receipt = self.group.decide(lambda: self._receipt(student, diverged))
        if receipt is None:
            self._give_up(student)
            return
        self.students = [s for s in self.students if s is not student]
        epoch = student.records[-1].epoch if student.records else 0
        self.listener(Event(receipt.state, student.cell.cell_id, epoch, dict(receipt.metrics), diverged))

    def _receipt(self, student: Student, diverged: str) -> Receipt | None:
        """Writes weights and receipt; None if the cell was given to another process meanwhile."""
        cell = student.cell
        weights = None
        # Published weights stay where they are published.
        if not diverged and not cell.is_measurement:
            weights = self.store.write_weights(cell.cell_id, dump_weights(student.model))
        receipt = Receipt(
            cell=cell,
            state="diverged" if diverged else "finished",
            reason=diverged,
            parameters=student.parameters,
            metrics=student.records[-1].metrics if student.records else {},
            epochs=tuple(student.records),
            weights_sha256=weights,
            provenance=Provenance(
                commit=self.surroundings.commit,
                versions={name: version(name) for name in _VERSIONED},
                device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
                threads=torch.get_num_threads(),
                channels_last=self.machine.channels_last,
                compile=self.machine.compile,
                devices=self.group.size,
                started=student.started,
                ended=max(student.started, time.time()),
            ),
        )
        try:
            self.claims.finish(receipt)
        except ClaimLost:
            return None
        return receipt

    def _leave(self, student: Student, error: Failed) -> None:
        if out_of_memory(error):
            # Its own step may be the smallest of all: it only came last.
            raise error
        self.students = [s for s in self.students if s is not student]
        self._fail(student.cell, student.records[-1].epoch if student.records else 0, error)

    def _fail(self, cell: Cell, epoch: int, error: Exception) -> None:
        if self.group.decide(lambda: self.claims.holds(cell.cell_id)):
            fail_cell(self.store, cell, epoch, error, self.listener)
        else:
            self.listener(held(self.store, cell))


def held(store: Store, cell: Cell) -> Event:
    """Says that a cell is another run's."""
    by = holder(store, cell.cell_id)
    return Event("held", cell.cell_id, reason=f"run {by.run[:8] or by.lease} on {by.host} trains it" if by else "")


def _check_shared(cells: list[Cell]) -> None:
    """Raises ValueError unless all cells see the same batches and no two have different teachers."""
    if len({cell.stream() for cell in cells}) > 1:
        raise ValueError("the cells of a cohort must see the same batches")
    if len({cell.teacher.cell_id for cell in cells if cell.teacher is not None}) > 1:
        raise ValueError("the cells of a cohort must share one teacher")
