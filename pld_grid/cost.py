"""What cohorts cost on one kind of device: seconds and bytes, put together from parts that were measured there.

A cohort's time is what all share (loading, the teacher's pass) plus each student's own, so a handful of parts prices
any cohort. Keys name a part by what decides its speed; hyperparameters that are mere numbers are not in it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell, Count, Frozen, Model, NonNegative
from pld_grid.store import Store
from pld_grid.store.content import Whole

FOLDER = "calibration"
# Of a slot's memory: the allocator needs room, and the parts were measured one at a time.
HEADROOM = 0.85
# Without a calibration: loading and the teacher's pass, in units of a student's work on the same images.
_GUESSED_SHARE = 0.5
# Settings of the machine that decide how fast a part runs.
_SPEED = ("cpus_per_cohort", "gpus_per_cohort", "loader_workers", "prefetch_batches", "channels_last", "compile")

Kind = Literal["loading", "teacher", "student"]


# Far beyond any device, and still what can be multiplied, added and printed.
Seconds = Annotated[NonNegative, Field(le=1e9)]


class Rate(Frozen):
    """One measured part. Seconds are per image, but for those of a checkpoint and of the start (`setup`).

    `held_bytes` stay for the whole training; `peak_bytes` come on top while the part works. `loading` also knows how
    many images the splits have. A part that does not fit into a slot's memory has no figures.
    """

    what: str
    fits: bool = True
    train_seconds: Seconds = 0.0
    validation_seconds: Seconds = 0.0
    setup_seconds: Seconds = 0.0
    checkpoint_seconds: Seconds = 0.0
    held_bytes: Whole = 0
    peak_bytes: Whole = 0
    train_images: Whole = 0
    validation_images: Whole = 0


class Calibration(Frozen):
    """Parts measured on one kind of device, as many at a time as it has slots, under one set of machine settings.

    `measured` is the day of the last measurement, `commit` the code's.
    `memory_bytes` is a slot's share of the device, `base_bytes` what a trial holds before it has a model;
    `start_seconds` go by once per run, `wave_seconds` before a wave's first student trains.
    """

    device: str
    measured: str
    commit: str
    machine: MachineSettings
    slots: Annotated[Count, Field(le=2**53)]
    memory_bytes: Whole
    base_bytes: Whole
    start_seconds: Seconds
    wave_seconds: Seconds
    rates: dict[str, Rate]


class Request(NamedTuple):
    """A part to measure: of which model, and a cell that has it."""

    kind: Kind
    key: str
    cell: Cell
    model: Model


class Work(NamedTuple):
    """Seconds, and bytes that are held all the time."""

    seconds: float
    held_bytes: int


def _key(kind: Kind, **content: Any) -> str:
    text = json.dumps({"kind": kind, **content}, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loading_key(cell: Cell) -> str:
    """Names loading and augmentation: the batches that a cell sees, whatever the seed."""
    *batches, _seed = cell.stream()
    return _key("loading", batches=batches)


def teacher_key(model: Model, cell: Cell) -> str:
    """Names a frozen model's forward pass over the images of a cell; whose weights it has does not matter."""
    return _key(
        "teacher",
        dataset=cell.dataset,
        model=[model.architecture, model.options],
        micro_batch=cell.recipe.micro_batch_size,
        precision=cell.recipe.precision,
    )


def student_key(cell: Cell) -> str:
    """Names a training step: model, optimizer and loss by name, batch, precision."""
    recipe, loss = cell.recipe, cell.loss
    choices = {k: v for k, v in loss.hyperparameters.items() if isinstance(v, str)}
    return _key(
        "student",
        dataset=cell.dataset,
        model=cell.student,
        optimizer=cell.optimizer.name,
        loss=[loss.name, choices, loss.standardization],
        taught=cell.teacher is not None,
        batch=[recipe.batch_size, recipe.micro_batch_size],
        precision=recipe.precision,
    )


def requests(cells: Iterable[Cell]) -> list[Request]:
    """All parts that price these cells, each once."""
    found: dict[str, Request] = {}

    def want(kind: Kind, key: str, cell: Cell, model: Model) -> None:
        found.setdefault(key, Request(kind, key, cell, model))

    for cell in cells:
        want("loading", loading_key(cell), cell, cell.student)
        if cell.is_measurement:
            want("teacher", teacher_key(cell.student, cell), cell, cell.student)
        else:
            want("student", student_key(cell), cell, cell.student)
        if cell.teacher is not None:
            want("teacher", teacher_key(cell.teacher.student, cell), cell, cell.teacher.student)
    return list(found.values())


class Costs:
    """Prices cohorts by a calibration; without one, in student-epochs and without bytes.

    Parts are measured on one device. Several that train a cohort together share the images of loading, teacher and
    students; what they tell each other is not in the price.
    """

    def __init__(self, calibration: Calibration | None = None, machine: MachineSettings | None = None) -> None:
        self.calibration, self.machine = calibration, machine or MachineSettings()
        self.rates = calibration.rates if calibration else {}
        self.devices = self.machine.devices_per_cohort

    def fit(self, cells: Iterable[Cell]) -> bool:
        """Whether every part of these cells fits into a slot's memory by itself."""
        return all(self.rates[request.key].fits for request in requests(cells))

    def missing(self, cells: Iterable[Cell]) -> list[Request]:
        """The parts that would have to be measured first."""
        return [request for request in requests(cells) if request.key not in self.rates]

    def student(self, cell: Cell) -> Work:
        """What one student adds to a cohort."""
        if self.calibration is None:
            return Work(max(cell.epochs, 0.1), 0)
        loading = self.rates[loading_key(cell)]
        if cell.is_measurement:
            part = self.rates[teacher_key(cell.student, cell)]
            seconds = loading.validation_images * part.train_seconds / self.devices
            return Work(part.setup_seconds + seconds, part.held_bytes)
        part = self.rates[student_key(cell)]
        images = _images(loading, cell) * part.train_seconds + loading.validation_images * part.validation_seconds
        epoch = images / self.devices + part.checkpoint_seconds / self.machine.checkpoint_every
        # What did not fit when it was measured alone is planned alone: the trainer tries, and says so.
        held = part.held_bytes if part.fits else self.calibration.memory_bytes
        return Work(part.setup_seconds + cell.epochs * epoch, held)

    def shared(self, cells: Sequence[Cell]) -> Work:
        """What a cohort of any of these cells has to do once: they share batches and teacher.

        Loader processes work beside the training: only what they are slower than the teacher and one student costs
        time, which is a little too much for cohorts of several.
        """
        epochs = max(cell.epochs for cell in cells)
        if self.calibration is None:
            return Work(_GUESSED_SHARE * epochs, 0)
        first = cells[0]
        loading = self.rates[loading_key(first)]
        models = (cell.teacher.student for cell in cells if cell.teacher is not None)
        taught = next(models, None)
        teacher = self.rates[teacher_key(taught, first)] if taught is not None else Rate(what="no teacher")
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
        published = [self.rates[teacher_key(cell.student, cell)] for cell in cells if cell.is_measurement]
        peak = max(part.peak_bytes for part in (teacher, *students, *published))
        return Work(seconds, self.calibration.base_bytes + teacher.held_bytes + peak)

    @property
    def memory(self) -> int | None:
        """Bytes that a cohort may use, or None where that is not known."""
        return int(HEADROOM * self.calibration.memory_bytes) if self.calibration else None


def _images(loading: Rate, cell: Cell) -> int:
    """Training images of an epoch; those that do not fill a batch are left out."""
    return loading.train_images // cell.recipe.batch_size * cell.recipe.batch_size


# -- what is known of devices --------------------------------------------------------------------------------------


def _file(device: str, machine: MachineSettings) -> str:
    slug = "-".join("".join(c if c.isalnum() else " " for c in device).lower().split())
    digest = hashlib.sha256(json.dumps([device, *_speed(machine)]).encode()).hexdigest()[:8]
    return f"{slug}-{digest}.json"


def _speed(machine: MachineSettings) -> list[Any]:
    return [getattr(machine, name) for name in _SPEED]


def keep(store: Store, calibration: Calibration) -> None:
    """Writes a calibration into the store, in place of an older one of the same device and settings."""
    store.write_model(calibration, FOLDER, _file(calibration.device, calibration.machine))


def known(store: Store, machine: MachineSettings) -> Iterator[Calibration]:
    """The calibrations of a store that were made under the same settings, by device."""
    for name in sorted(store.names(FOLDER)):
        if name.endswith(".json"):
            calibration = store.read_model(Calibration, FOLDER, name)
            if calibration is not None and _speed(calibration.machine) == _speed(machine):
                yield calibration


def find(store: Store, machine: MachineSettings, device: str | None = None) -> Calibration | None:
    """The calibration of a device; with no device named, the only one that the store has."""
    found = [c for c in known(store, machine) if device is None or c.device == device]
    return found[0] if len(found) == 1 else None
