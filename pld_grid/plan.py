"""Cells -> waves of cohorts: what is still to train, side by side where batches and teacher are the same."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pld_grid.grid import Grid
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

    @property
    def cost(self) -> float:
        """Work in student-epochs; a measurement counts as a tenth."""
        return sum(max(cell.epochs, 0.1) for cell in self.cells)


@dataclass(frozen=True)
class Plan:
    """What a set of grids needs, what is finished, and in which order the rest runs."""

    entries: int
    cells: dict[str, Cell]
    students: frozenset[str]
    finished: frozenset[str]
    waves: tuple[tuple[Cohort, ...], ...]
    grids: dict[str, tuple[str, ...]] = field(default_factory=dict)

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
    grids: Sequence[Grid], finished: Collection[str] = (), *, slots: int = 1, cohort_size: int | None = None
) -> Plan:
    """Plans grids together, so that a cell which several of them need runs once.

    `finished` are ids of cells with a receipt; `slots` is how many cohorts can run at a time; `cohort_size` limits
    the students of a cohort.
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
    waves: dict[int, list[Cohort]] = defaultdict(list)
    pending = [cell for cell_id, cell in cells.items() if cell_id not in done]
    for level, members in _groups(pending, done).items():
        waves[level] = _cohorts(members, slots, cohort_size)
    return Plan(
        entries=sum(entry.role != "teacher" for grid in grids for entry in grid.entries),
        cells=cells,
        students=frozenset(students),
        finished=done,
        waves=tuple(tuple(waves[level]) for level in sorted(waves)),
        grids={cell_id: tuple(found) for cell_id, found in names.items()},
    )


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


def _cohorts(groups: list[list[Cell]], slots: int, cohort_size: int | None) -> list[Cohort]:
    """Splits groups until none is longer than a slot's share of the wave, the costliest first."""
    share = sum(Cohort(tuple(group)).cost for group in groups) / max(slots, 1)
    cohorts = []
    for group in groups:
        parts = max(1, math.ceil(Cohort(tuple(group)).cost / share - 1e-9)) if slots > 1 else 1
        if cohort_size is not None:
            parts = max(parts, math.ceil(len(group) / cohort_size))
        parts = min(parts, len(group))
        cohorts += [Cohort(tuple(group[i::parts])) for i in range(parts)]
    return sorted(cohorts, key=lambda cohort: -cohort.cost)
