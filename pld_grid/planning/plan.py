"""Plans grids: which cells still run, in which waves of cohorts, and what that costs."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import ByStudent, MachineSettings
from pld_grid.planning.cost_model import CostModel
from pld_grid.planning.packing import CostGroup, Job, pack


@dataclass(frozen=True, eq=False)
class ExecutionPool:
    """Where cohorts run: with which machine settings, how many at a time, and at what cost.

    The costs decide which students train side by side: as many as end the wave early and fit into memory. If the cost
    of any part is unknown, the number of epochs is used instead.
    """

    machine: MachineSettings = field(default_factory=MachineSettings)
    slots: int = 1
    costs: CostModel = field(default_factory=CostModel)


ExecutionPools = ByStudent[ExecutionPool]


@dataclass(frozen=True)
class Forecast:
    """Predicted wall-clock seconds, and the seconds of busy slots, GPUs and CPUs, summed over all."""

    device: str
    slots: int
    seconds: float
    busy_seconds: float = 0.0
    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: "Forecast") -> "Forecast":
        """Return the forecast of running one after the other."""
        totals = ("seconds", "busy_seconds", "gpu_seconds", "cpu_seconds")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in totals})


@dataclass(frozen=True)
class Plan:
    """The cells that a set of grids needs, those that are finished, and the order in which the others run.

    Attributes:
        entries: How many entries the grids have, with repetitions.
        cells: All cells, by id.
        students: Ids of the cells that are entries and not only teachers.
        finished: Ids of the cells that have a receipt.
        waves: The cohorts of each wave, in the order of their start.
        pools: Where the cohorts run, by their cells' student.
        grids: The names of the grids that need a cell, by its id.
        forecast: None if the device has not been calibrated for the pending cells.
    """

    entries: int
    cells: dict[str, Cell]
    students: frozenset[str]
    finished: frozenset[str]
    waves: tuple[tuple[Cohort, ...], ...]
    pools: ExecutionPools
    grids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forecast: Forecast | None = None

    @property
    def teachers(self) -> frozenset[str]:
        """Ids of the teachers that are trained here."""
        used = [cell.teacher for cell in self.cells.values() if cell.teacher is not None]
        only_teachers = [cell for cell_id, cell in self.cells.items() if cell_id not in self.students]
        return frozenset(cell.cell_id for cell in (*used, *only_teachers) if not cell.is_measurement)

    @property
    def measurements(self) -> frozenset[str]:
        """Ids of the cells that only evaluate published weights."""
        return frozenset(cell_id for cell_id, cell in self.cells.items() if cell.is_measurement)

    @property
    def pending(self) -> list[Cell]:
        """The cells that still run, in the order of the plan."""
        return [cell for wave in self.waves for cohort in wave for cell in cohort.cells]

    def summary(self) -> dict[str, Any]:
        """Return the counts and the schedule as JSON data."""
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


def make_plan(grids: Sequence[Grid], finished: Collection[str] = (), pools: ExecutionPools | None = None) -> Plan:
    """Plan grids together, so that a cell which several of them need runs once.

    Args:
        grids: The grids.
        finished: Ids of cells that have a receipt.
        pools: Where cells run, by their student. All cells of a cohort share one pool; a wave ends when it has ended in
            all pools.

    Returns:
        The plan.
    """
    pools = pools or ByStudent(ExecutionPool())
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
    costs = {
        pool: CostModel()
        if pool.costs.missing(cell for cell in pending if pools.for_cell(cell) is pool)
        else pool.costs
        for pool in pools.values()
    }
    groups = _group_cells(pending, done, pools)
    waves = [
        [PoolSchedule(pool, members, costs[pool]) for pool, members in by_pool.items()]
        for _, by_pool in sorted(groups.items(), key=lambda wave: wave[0])
    ]
    return Plan(
        entries=sum(entry.role != "teacher" for grid in grids for entry in grid.entries),
        cells=cells,
        students=frozenset(students),
        finished=done,
        waves=tuple(tuple(cohort for schedule in wave for cohort in schedule.cohorts()) for wave in waves),
        pools=pools,
        grids={cell_id: tuple(grid_names) for cell_id, grid_names in names.items()},
        forecast=_forecast(pools, waves, costs),
    )


def compare(planned: Plan, grids: Sequence[Grid]) -> dict[str, Forecast]:
    """Return the forecast of planned grids beside those of running each by itself, and every student alone.

    Args:
        planned: The plan of the grids.
        grids: The grids.

    Returns:
        Forecasts by description; empty if the plan has none.
    """
    if planned.forecast is None:
        return {}
    single = planned.pools.map(lambda pool: replace(pool, machine=pool.machine.model_copy(update={"cohort_size": 1})))
    forecasts = {"as planned": planned.forecast}
    for name, parts, chosen in (
        ("without sharing between grids", [[grid] for grid in grids], planned.pools),
        ("without cohorts", [grids], single),
        ("without either", [[grid] for grid in grids], single),
    ):
        for part in parts:
            forecast = make_plan(part, planned.finished, chosen).forecast
            if forecast is None:
                return {}
            forecasts[name] = forecasts[name] + forecast if name in forecasts else forecast
    return forecasts


def _wave_index(cell: Cell, finished: Collection[str]) -> int:
    """Return the wave of a cell: 0 unless it waits for a teacher that is to be trained first."""
    teacher = cell.teacher
    if teacher is None or teacher.is_measurement or teacher.cell_id in finished:
        return 0
    return 1 + _wave_index(teacher, finished)


def _group_cells(
    cells: Iterable[Cell], finished: Collection[str], pools: ExecutionPools
) -> dict[int, dict[ExecutionPool, list[list[Cell]]]]:
    """Return, by wave and pool, groups of cells with the same batches, number of epochs and teacher.

    A student without a teacher may train beside students of any teacher, and shares their loading. It joins the
    smallest group with its batches, which keeps cohorts of similar size.
    """
    with_teacher: dict[tuple[Any, str], list[Cell]] = defaultdict(list)
    without_teacher: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        batches = (pools.for_cell(cell), cell.stream(), cell.epochs)
        if cell.teacher is None:
            without_teacher[batches].append(cell)
        else:
            with_teacher[batches, cell.teacher.cell_id].append(cell)
    teacher_ids = {teacher_id for _, teacher_id in with_teacher}
    groups: dict[int, dict[ExecutionPool, list[list[Cell]]]] = defaultdict(lambda: defaultdict(list))
    for batches, members in without_teacher.items():
        # A teacher cannot join a cohort that waits for it.
        teachers = [cell for cell in members if cell.cell_id in teacher_ids]
        others = [cell for cell in members if cell.cell_id not in teacher_ids]
        hosts = [group for (key, _), group in with_teacher.items() if key == batches]
        if hosts:
            min(hosts, key=len).extend(others)
            others = []
        if teachers or others:
            groups[0][batches[0]].append(teachers + others)
    for ((pool, *_), _), members in with_teacher.items():
        groups[_wave_index(members[0], finished)][pool].append(members)
    return groups


class PoolSchedule:
    """The part of a wave that runs in one pool: groups of cells, packed into batches that train side by side."""

    def __init__(self, pool: ExecutionPool, groups: list[list[Cell]], costs: CostModel) -> None:
        self.pool, self.groups, self.costs = pool, groups, costs
        cost_groups = []
        for group in groups:
            shared = costs.shared_cost(group)
            jobs = tuple(Job(index, *costs.student_cost(cell)) for index, cell in enumerate(group))
            cost_groups.append(CostGroup(shared.seconds, jobs, shared.resident_bytes))
        self.batches = pack(cost_groups, pool.slots, max_jobs=pool.machine.cohort_size, memory=costs.memory_limit)

    def cohorts(self) -> list[Cohort]:
        """Return the batches as cohorts, in the order of their start."""
        return [
            Cohort(
                tuple(self.groups[batch.group][index] for index in sorted(job.name for job in batch.jobs)),
                self.pool.machine,
            )
            for batch in self.batches
        ]

    def forecast(self) -> Forecast | None:
        """Return the forecast of this part of the wave, without the run's start; None if its costs are unknown."""
        calibration, machine = self.costs.calibration, self.pool.machine
        if calibration is None or not all(self.costs.fits(group) for group in self.groups):
            return None
        busy = sum(batch.end - batch.start for batch in self.batches)
        return Forecast(
            device=calibration.device,
            slots=self.pool.slots,
            seconds=calibration.wave_seconds + max(batch.end for batch in self.batches),
            busy_seconds=busy,
            gpu_seconds=busy * machine.devices_per_cohort * machine.gpus_per_cohort,
            cpu_seconds=busy * machine.devices_per_cohort * machine.cpus_per_cohort,
        )


def _forecast(
    pools: ExecutionPools, waves: list[list[PoolSchedule]], costs: dict[ExecutionPool, CostModel]
) -> Forecast | None:
    """Return the forecast of waves that run one after the other, each side by side in its pools."""
    used = {schedule.pool for wave in waves for schedule in wave}
    needed = [pool for pool in pools.values() if pool in used or not waves]
    calibrations = [calibration for pool in needed if (calibration := costs[pool].calibration) is not None]
    if len(calibrations) < len(needed):
        return None
    total = Forecast(
        device=", ".join(dict.fromkeys(calibration.device for calibration in calibrations)),
        slots=sum(pool.slots for pool in needed),
        seconds=max(calibration.start_seconds for calibration in calibrations) if waves else 0.0,
    )
    for wave in waves:
        forecasts = [forecast for schedule in wave if (forecast := schedule.forecast()) is not None]
        if len(forecasts) < len(wave):
            return None
        longest = max(forecast.seconds for forecast in forecasts)
        total = replace(sum(forecasts, total), seconds=total.seconds + longest)
    return total
