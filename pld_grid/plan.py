"""Cells -> waves of cohorts: what is still to train, side by side where batches and teacher are the same."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pld_grid.cost import Costs
from pld_grid.grid import Grid
from pld_grid.packing import Group, Job, Part, pack
from pld_grid.spec import Cell


@dataclass(frozen=True)
class Cohort:
    """Cells that see the same batches and the same teacher; one Ray trial trains them side by side."""

    cells: tuple[Cell, ...]

    @property
    def teacher(self) -> Cell | None:
        """The one teacher of the cohort; students that need none may be part of any cohort."""
        return next((cell.teacher for cell in self.cells if cell.teacher is not None), None)

    @property
    def epochs(self) -> int:
        """Epochs that the longest-running cell needs."""
        return max(cell.epochs for cell in self.cells)

    def halves(self) -> "tuple[Cohort, Cohort]":
        """Two cohorts of every other cell, for when this one does not fit into memory."""
        return Cohort(self.cells[::2]), Cohort(self.cells[1::2])


@dataclass(frozen=True)
class Forecast:
    """What a calibration says beforehand: seconds on the clock, and seconds that slots are busy, summed."""

    device: str
    slots: int
    seconds: float
    busy_seconds: float

    def __add__(self, other: "Forecast") -> "Forecast":
        """One after the other."""
        return Forecast(self.device, self.slots, self.seconds + other.seconds, self.busy_seconds + other.busy_seconds)


@dataclass(frozen=True)
class Plan:
    """What a set of grids needs, what is finished, and in which order the rest runs.

    `forecast` is None where the device has not been calibrated for these cells.
    """

    entries: int
    cells: dict[str, Cell]
    students: frozenset[str]
    finished: frozenset[str]
    waves: tuple[tuple[Cohort, ...], ...]
    grids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forecast: Forecast | None = None

    @property
    def teachers(self) -> frozenset[str]:
        """Ids of cells that are needed as somebody's teacher and are trained here."""
        return frozenset(
            c.teacher.cell_id for c in self.cells.values() if c.teacher is not None and not c.teacher.is_measurement
        ) | frozenset(i for i, c in self.cells.items() if i not in self.students and not c.is_measurement)

    @property
    def measurements(self) -> frozenset[str]:
        """Ids of cells that only measure published weights."""
        return frozenset(i for i, c in self.cells.items() if c.is_measurement)

    @property
    def pending(self) -> list[Cell]:
        """Cells still to run, in the order of the plan."""
        return [cell for wave in self.waves for cohort in wave for cell in cohort.cells]

    def summary(self) -> dict[str, Any]:
        """The counts, as `pld-grid plan --json` prints them."""
        return {
            "entries": self.entries,
            "student_cells": len(self.students),
            "teacher_cells": len(self.teachers),
            "teacher_measurements": len(self.measurements),
            "finished": len(self.finished),
            "pending": len(self.pending),
            "cohorts": sum(len(wave) for wave in self.waves),
            "waves": len(self.waves),
            "student_epochs": sum(cell.epochs for cell in self.pending),
            "grids": {
                name: sum(name in names for cell_id, names in self.grids.items() if cell_id in self.students)
                for name in sorted({n for names in self.grids.values() for n in names})
            },
            "schedule": [
                [
                    {
                        "teacher": cohort.teacher.student.architecture if cohort.teacher else None,
                        "epochs": cohort.epochs,
                        "cells": [cell.cell_id for cell in cohort.cells],
                    }
                    for cohort in wave
                ]
                for wave in self.waves
            ],
        }


def make_plan(
    grids: Sequence[Grid],
    finished: Collection[str] = (),
    *,
    slots: int = 1,
    cohort_size: int | None = None,
    costs: Costs | None = None,
) -> Plan:
    """Plans grids together, so that a cell which several of them need runs once.

    `finished` are ids of cells with a receipt; `slots` is how many cohorts can run at a time; `cohort_size` limits
    the students of a cohort. `costs` decides which students train side by side: as many as finish the wave early and
    fit into memory. Where a part of it is missing, the number of epochs stands for the cost.
    """
    cells: dict[str, Cell] = {}
    names: dict[str, list[str]] = defaultdict(list)
    students: set[str] = set()
    for grid in grids:
        for cell in grid.cells():
            cells.setdefault(cell.cell_id, cell)
            if grid.name not in names[cell.cell_id]:
                names[cell.cell_id].append(grid.name)
        students |= {entry.cell.cell_id for entry in grid.entries if entry.role != "teacher"}
    done = frozenset(cell_id for cell_id in cells if cell_id in finished)
    pending = [cell for cell_id, cell in cells.items() if cell_id not in done]
    if costs is None or costs.missing(pending):
        costs = Costs()
    groups = _groups(pending, done)
    packed = {level: _pack(groups[level], slots, cohort_size, costs) for level in sorted(groups)}
    return Plan(
        entries=sum(entry.role != "teacher" for grid in grids for entry in grid.entries),
        cells=cells,
        students=frozenset(students),
        finished=done,
        waves=tuple(
            tuple(_cohort(groups[level][part.group], part) for part in parts) for level, parts in packed.items()
        ),
        grids={cell_id: tuple(found) for cell_id, found in names.items()},
        forecast=_forecast(list(packed.values()), slots, costs, pending),
    )


def compare(
    planned: Plan, grids: Sequence[Grid], finished: Collection[str], *, slots: int, cohort_size: int | None,
    costs: Costs,
) -> dict[str, Forecast]:  # fmt: skip
    """What planned grids would cost otherwise: each by itself, and with every student alone; empty if unknown."""
    if planned.forecast is None:
        return {}
    found = {"as planned": planned.forecast}
    for name, together, size in (
        ("without sharing between grids", False, cohort_size),
        ("without cohorts", True, 1),
        ("without either", False, 1),
    ):
        for part in [grids] if together else [[grid] for grid in grids]:
            forecast = make_plan(part, finished, slots=slots, cohort_size=size, costs=costs).forecast
            if forecast is None:
                return {}
            found[name] = found[name] + forecast if name in found else forecast
    return found


def _level(cell: Cell, finished: Collection[str]) -> int:
    """The wave of a cell: 0 unless it waits for a teacher that has yet to be trained."""
    teacher = cell.teacher
    if teacher is None or teacher.is_measurement or teacher.cell_id in finished:
        return 0
    return 1 + _level(teacher, finished)


def _groups(cells: Iterable[Cell], finished: Collection[str]) -> dict[int, list[list[Cell]]]:
    """By wave: lists of cells with the same batches, number of epochs and teacher.

    A student without a teacher sees the same batches as those of any teacher, so it joins one of them: loading then
    costs it nothing. It joins the smallest group, which keeps cohorts even.
    """
    taught: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    alone: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    levels: dict[tuple[Any, ...], int] = {}
    for cell in cells:
        batches = (cell.stream(), cell.epochs)
        if cell.teacher is None:
            alone[batches].append(cell)
            continue
        key = (batches, cell.teacher.cell_id)
        taught[key].append(cell)
        levels[key] = _level(cell, finished)
    needed = {c.teacher.cell_id for group in taught.values() for c in group if c.teacher is not None}
    by_level: dict[int, list[list[Cell]]] = defaultdict(list)
    for batches, members in alone.items():
        # A teacher in the making cannot wait for a cohort that waits for it.
        teachers = [c for c in members if c.cell_id in needed]
        others = [c for c in members if c.cell_id not in needed]
        hosts = [key for key in taught if key[0] == batches]
        if hosts and others:
            taught[min(hosts, key=lambda key: len(taught[key]))].extend(others)
            others = []
        if teachers or others:
            by_level[0].append(teachers + others)
    for key, members in taught.items():
        by_level[levels[key]].append(members)
    return by_level


def _pack(groups: list[list[Cell]], slots: int, cohort_size: int | None, costs: Costs) -> list[Part]:
    """Splits groups into the parts that train side by side, in the order in which they should start."""
    priced = []
    for group in groups:
        shared = costs.shared(group)
        work = [costs.student(cell) for cell in group]
        jobs = tuple(Job(place, w.seconds, w.held_bytes) for place, w in enumerate(work))
        priced.append(Group(shared.seconds, jobs, shared.held_bytes))
    return pack(priced, slots, largest=cohort_size, memory=costs.memory)


def _cohort(group: list[Cell], part: Part) -> Cohort:
    return Cohort(tuple(group[place] for place in sorted(job.name for job in part.jobs)))


def _forecast(waves: list[list[Part]], slots: int, costs: Costs, pending: list[Cell]) -> Forecast | None:
    calibration = costs.calibration
    if calibration is None or not costs.fit(pending):
        return None
    return Forecast(
        device=calibration.device,
        slots=slots,
        seconds=calibration.start_seconds * bool(waves)
        + sum(calibration.wave_seconds + max(part.end for part in parts) for parts in waves),
        busy_seconds=sum(part.end - part.start for parts in waves for part in parts),
    )
