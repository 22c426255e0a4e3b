"""Predicts the seconds and bytes of cohorts from a calibration.

A cohort's time is the shared part (loading and the teacher's forward pass) plus each student's own, so a handful of
measured parts predicts any cohort. A part's key contains what decides its speed, but no numeric hyperparameters.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pld_grid.experiment.cell import Cell, Model
from pld_grid.experiment.machine import MachineSettings
from pld_grid.planning.calibration_file import Calibration, Rate

# The fraction of a slot's memory that is planned: the allocator needs some, and parts are measured one at a time.
MEMORY_FRACTION = 0.85
# Without a calibration: loading and the teacher's pass, as a fraction of one student's work on the same images.
_GUESSED_SHARED_FRACTION = 0.5

Kind = Literal["loading", "teacher", "student"]


class PartRequest(NamedTuple):
    """A part to measure: its model, and a cell that contains it."""

    kind: Kind
    key: str
    cell: Cell
    model: Model


class Cost(NamedTuple):
    """Seconds, and the bytes that are held all the time."""

    seconds: float
    resident_bytes: int


def loading_key(cell: Cell) -> str:
    """Return the key of loading and augmentation: the batches that a cell sees, whatever the seed."""
    dataset, _seed, *settings = cell.stream()
    return _key("loading", batches=[dataset, *settings])


def teacher_key(model: Model, cell: Cell) -> str:
    """Return the key of a frozen model's forward pass over a cell's images, whatever its weights."""
    return _key(
        "teacher",
        dataset=cell.dataset,
        model=[model.architecture, model.options],
        micro_batch=cell.recipe.micro_batch_size,
        precision=cell.recipe.precision,
    )


def student_key(cell: Cell) -> str:
    """Return the key of a training step: model, optimizer and loss by name, batch sizes, precision."""
    recipe, loss = cell.recipe, cell.loss
    choices = {k: v for k, v in loss.hyperparameters.items() if isinstance(v, str)}
    return _key(
        "student",
        dataset=cell.dataset,
        model=cell.student,
        optimizer=cell.optimizer.name,
        loss=[loss.name, choices, loss.standardization],
        with_teacher=cell.teacher is not None,
        batch=[recipe.batch_size, recipe.micro_batch_size],
        precision=recipe.precision,
    )


def _key(kind: Kind, **content: Any) -> str:
    text = json.dumps({"kind": kind, **content}, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def collect_requests(cells: Iterable[Cell]) -> list[PartRequest]:
    """Return all parts that the cost of these cells depends on, each once."""
    requests: dict[str, PartRequest] = {}

    def add(kind: Kind, key: str, cell: Cell, model: Model) -> None:
        requests.setdefault(key, PartRequest(kind, key, cell, model))

    for cell in cells:
        add("loading", loading_key(cell), cell, cell.student)
        if cell.is_measurement:
            add("teacher", teacher_key(cell.student, cell), cell, cell.student)
        else:
            add("student", student_key(cell), cell, cell.student)
        if cell.teacher is not None:
            add("teacher", teacher_key(cell.teacher.student, cell), cell, cell.teacher.student)
    return list(requests.values())


class CostModel:
    """Predicts what cohorts cost; without a calibration, in student-epochs and without bytes.

    Parts are measured on one device. Several devices of a cohort divide the images of loading, teacher and students;
    the communication between them is not counted.
    """

    def __init__(self, calibration: Calibration | None = None, machine: MachineSettings | None = None) -> None:
        self.calibration, self.machine = calibration, machine or MachineSettings()
        self.rates = calibration.rates if calibration else {}
        self.devices = self.machine.devices_per_cohort

    def fits(self, cells: Iterable[Cell]) -> bool:
        """Return whether every part of these cells, taken by itself, fits into a slot's memory."""
        return all(self.rates[request.key].fits for request in collect_requests(cells))

    def missing(self, cells: Iterable[Cell]) -> list[PartRequest]:
        """Return the parts of these cells that have not been measured."""
        return [request for request in collect_requests(cells) if request.key not in self.rates]

    def student_cost(self, cell: Cell) -> Cost:
        """Return what one student adds to a cohort."""
        if self.calibration is None:
            return Cost(max(cell.epochs, 0.1), 0)
        loading = self.rates[loading_key(cell)]
        if cell.is_measurement:
            part = self.rates[teacher_key(cell.student, cell)]
            seconds = loading.validation_images * part.train_seconds / self.devices
            return Cost(part.setup_seconds + seconds, part.resident_bytes)
        part = self.rates[student_key(cell)]
        images = _images(loading, cell) * part.train_seconds + loading.validation_images * part.validation_seconds
        epoch = images / self.devices + part.checkpoint_seconds / self.machine.checkpoint_every
        # A student that did not fit by itself gets a cohort of its own; the trainer tries it and reports the failure.
        resident_bytes = part.resident_bytes if part.fits else self.calibration.memory_bytes
        return Cost(part.setup_seconds + cell.epochs * epoch, resident_bytes)

    def shared_cost(self, cells: Sequence[Cell]) -> Cost:
        """Return what a cohort of any of these cells, which share batches and teacher, does once.

        Loader processes run beside the training, so loading costs only the time by which it is slower than the teacher
        and one student. For cohorts of several students this is slightly too much.
        """
        epochs = max(cell.epochs for cell in cells)
        if self.calibration is None:
            return Cost(_GUESSED_SHARED_FRACTION * epochs, 0)
        first = cells[0]
        loading = self.rates[loading_key(first)]
        model = next((cell.teacher.student for cell in cells if cell.teacher is not None), None)
        teacher = self.rates[teacher_key(model, first)] if model is not None else Rate(what="no teacher")
        students = [self.rates[student_key(cell)] for cell in cells if not cell.is_measurement]
        load = loading.train_seconds
        if self.calibration.machine.loader_workers:
            load = max(0.0, load - teacher.train_seconds - min((s.train_seconds for s in students), default=0.0))
        images = (
            epochs * _images(loading, first) * (load + teacher.train_seconds)
            + max(epochs, 1) * loading.validation_images * loading.validation_seconds
            + loading.validation_images * teacher.train_seconds
        )
        seconds = loading.setup_seconds + teacher.setup_seconds + images / self.devices
        measured = [self.rates[teacher_key(cell.student, cell)] for cell in cells if cell.is_measurement]
        peak = max(part.peak_bytes for part in (teacher, *students, *measured))
        return Cost(seconds, self.calibration.base_bytes + teacher.resident_bytes + peak)

    @property
    def memory_limit(self) -> int | None:
        """Bytes that a cohort may use, or None without a calibration."""
        return int(MEMORY_FRACTION * self.calibration.memory_bytes) if self.calibration else None


def _images(loading: Rate, cell: Cell) -> int:
    """Return the training images of an epoch, without those that do not fill a batch."""
    return loading.train_images // cell.recipe.batch_size * cell.recipe.batch_size
