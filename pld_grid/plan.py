"""Cells -> waves of cohorts: what is still to train, side by side where batches and teacher are the same."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pld_grid.cost import Costs
from pld_grid.grid import Grid
from pld_grid.machine import ByStudent, MachineSettings
from pld_grid.packing import Group, Job, pack
from pld_grid.spec import Cell


@dataclass(frozen=True)
class Cohort:
    """Cells that see the same batches and the same teacher; one Ray trial trains them side by side."""

    cells: tuple[Cell, ...]
    machine: MachineSettings = field(default_factory=MachineSettings)

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
        return replace(self, cells=self.cells[::2]), replace(self, cells=self.cells[1::2])


@dataclass(frozen=True, eq=False)
class Room:
    """Where cohorts run: with which settings, how many at a time, at which cost.

    `costs` decides which students train side by side: as many as finish the wave early and fit into memory. Where a
    part of it is missing, the number of epochs stands for the cost.
    """

    machine: MachineSettings = field(default_factory=MachineSettings)
    slots: int = 1
    costs: Costs = field(default_factory=Costs)


Rooms = ByStudent[Room]


@dataclass(frozen=True)
class Forecast:
    """What calibrations say beforehand: seconds on the clock, and those of busy slots, GPUs and CPUs, summed."""

    device: str
    slots: int
    seconds: float
    busy_seconds: float = 0.0
    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: "Forecast") -> "Forecast":
        """One after the other."""
        return Forecast(
            self.device,
            self.slots,
            self.seconds + other.seconds,
            self.busy_seconds + other.busy_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


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
                        "accelerator": cohort.machine.accelerator,
                        "cells": [cell.cell_id for cell in cohort.cells],
                    }
                    for cohort in wave
                ]
                for wave in self.waves
            ],
        }


def make_plan(grids: Sequence[Grid], finished: Collection[str] = (), rooms: Rooms | None = None) -> Plan:
    """Plans grids together, so that a cell which several of them need runs once.

    `finished` are ids of cells with a receipt; `rooms` where the others run: a cohort's cells have one room, and a wave
    is over when it is in all of them.
    """
    rooms = rooms or ByStudent(Room())
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
    groups = _groups(pending, done, rooms)
    costs = {
        room: Costs() if room.costs.missing(cell for cell in pending if rooms.of(cell) is room) else room.costs
        for room in rooms.values()
    }
    waves = [[_Packed(room, groups[level][room], costs[room]) for room in groups[level]] for level in sorted(groups)]
    return Plan(
        entries=sum(entry.role != "teacher" for grid in grids for entry in grid.entries),
        cells=cells,
        students=frozenset(students),
        finished=done,
        waves=tuple(tuple(cohort for packed in wave for cohort in packed.cohorts()) for wave in waves),
        grids={cell_id: tuple(found) for cell_id, found in names.items()},
        forecast=_forecast(rooms, waves, costs),
    )


def compare(planned: Plan, grids: Sequence[Grid], finished: Collection[str], rooms: Rooms) -> dict[str, Forecast]:
    """What planned grids would cost otherwise: each by itself, and with every student alone; empty if unknown."""
    if planned.forecast is None:
        return {}
    found = {"as planned": planned.forecast}
    alone = rooms.map(lambda room: replace(room, machine=room.machine.model_copy(update={"cohort_size": 1})))
    for name, together, chosen in (
        ("without sharing between grids", False, rooms),
        ("without cohorts", True, alone),
        ("without either", False, alone),
    ):
        for part in [grids] if together else [[grid] for grid in grids]:
            forecast = make_plan(part, finished, chosen).forecast
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


def _groups(cells: Iterable[Cell], finished: Collection[str], rooms: Rooms) -> dict[int, dict[Room, list[list[Cell]]]]:
    """By wave and room: lists of cells with the same batches, number of epochs and teacher.

    A student without a teacher sees the same batches as those of any teacher, so it joins one of them: loading then
    costs it nothing. It joins the smallest group, which keeps cohorts even.
    """
    taught: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    alone: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    levels: dict[tuple[Any, ...], int] = {}
    for cell in cells:
        batches = (rooms.of(cell), cell.stream(), cell.epochs)
        if cell.teacher is None:
            alone[batches].append(cell)
            continue
        key = (batches, cell.teacher.cell_id)
        taught[key].append(cell)
        levels[key] = _level(cell, finished)
    needed = {c.teacher.cell_id for group in taught.values() for c in group if c.teacher is not None}
    by_level: dict[int, dict[Room, list[list[Cell]]]] = defaultdict(lambda: defaultdict(list))
    for batches, members in alone.items():
        # A teacher in the making cannot wait for a cohort that waits for it.
        teachers = [c for c in members if c.cell_id in needed]
        others = [c for c in members if c.cell_id not in needed]
        hosts = [key for key in taught if key[0] == batches]
        if hosts and others:
            taught[min(hosts, key=lambda key: len(taught[key]))].extend(others)
            others = []
        if teachers or others:
            by_level[0][batches[0]].append(teachers + others)
    for key, members in taught.items():
        by_level[levels[key]][key[0][0]].append(members)
    return by_level


class _Packed:
    """What one room does in a wave: groups split into parts that train side by side, in the order of their start."""

    def __init__(self, room: Room, groups: list[list[Cell]], costs: Costs) -> None:
        self.room, self.groups, self.costs = room, groups, costs
        priced = []
        for group in groups:
            shared = costs.shared(group)
            work = [costs.student(cell) for cell in group]
            jobs = tuple(Job(place, w.seconds, w.held_bytes) for place, w in enumerate(work))
            priced.append(Group(shared.seconds, jobs, shared.held_bytes))
        self.parts = pack(priced, room.slots, largest=room.machine.cohort_size, memory=costs.memory)

    def cohorts(self) -> list[Cohort]:
        """The parts as cohorts."""
        return [
            Cohort(tuple(self.groups[part.group][job.name] for job in sorted(part.jobs, key=lambda job: job.name)),
                   self.room.machine)
            for part in self.parts
        ]  # fmt: skip

    def forecast(self) -> Forecast | None:
        """What the wave takes here, without the start of the run; None if the costs are not known."""
        calibration, machine = self.costs.calibration, self.room.machine
        if calibration is None or not all(self.costs.fit(group) for group in self.groups):
            return None
        busy = sum(part.end - part.start for part in self.parts)
        return Forecast(
            device=calibration.device,
            slots=self.room.slots,
            seconds=calibration.wave_seconds + max(part.end for part in self.parts),
            busy_seconds=busy,
            gpu_seconds=busy * machine.devices_per_cohort * machine.gpus_per_cohort,
            cpu_seconds=busy * machine.devices_per_cohort * machine.cpus_per_cohort,
        )


def _forecast(rooms: Rooms, waves: list[list[_Packed]], costs: dict[Room, Costs]) -> Forecast | None:
    """The waves one after the other, the rooms of each side by side."""
    used = {packed.room for wave in waves for packed in wave}
    calibrations = [costs[room].calibration for room in rooms.values() if room in used or not waves]
    known = [calibration for calibration in calibrations if calibration is not None]
    if len(known) < len(calibrations):
        return None
    total = Forecast(
        device=", ".join(dict.fromkeys(calibration.device for calibration in known)),
        slots=sum(room.slots for room in rooms.values() if room in used or not waves),
        seconds=max(calibration.start_seconds for calibration in known) if waves else 0.0,
    )
    for wave in waves:
        side_by_side = [forecast for forecast in (packed.forecast() for packed in wave) if forecast is not None]
        if len(side_by_side) < len(wave):
            return None
        longest = max(forecast.seconds for forecast in side_by_side)
        for forecast in side_by_side:
            total += replace(forecast, seconds=0.0)
        total = replace(total, seconds=total.seconds + longest)
    return total
