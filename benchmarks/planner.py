"""10,000 cells on 8, 64 and 1,000 slots: how long planning takes, and how near the plan is to what none can beat.

.venv/bin/python benchmarks/planner.py

Nothing is trained: seconds are drawn, in three shapes, and slots are simulated as a queue. In units of a job's length:

- ordinary: 40 teachers, students up to ten times as slow as others, sharing worth 0.3 to 10 jobs, some trained longer.
- few: 12 large groups whose sharing is worth 5 to 10 jobs, so that every split is dear.
- coarse: 80 groups of 125 equal jobs, sharing worth 4. With ten jobs in a slot 1,000 slots are too few, and nothing
  lies between ten and eleven: no plan comes within 5 % of what the work alone asks for. The lower bound counts jobs
  and knows that; the column `by work` shows the ratio to a bound that does not.
"""

import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import Goal, last_line
from _scale_parts import grid_text

from pld_grid import api
from pld_grid.cost import Calibration, Costs, Rate, requests
from pld_grid.machine import ByStudent, MachineSettings
from pld_grid.packing import Group, Job, Part, lower_bound, makespan, pack
from pld_grid.plan import Room, make_plan

CELLS = 10_000
SLOTS = (8, 64, 1000)
ROUNDS = 5
SECONDS = 5.0
RATIO = 1.05


@dataclass(frozen=True)
class Outcome:
    """One shape on one number of slots."""

    slots: int
    parts: int
    planning: float
    end: float
    bound: float
    work: float

    @property
    def ratio(self) -> float:
        """How far the end is from what no plan can beat."""
        return self.end / self.bound


def sized(sizes: list[int]) -> list[int]:
    """The sizes scaled to CELLS in all."""
    scaled = [max(3, size * CELLS // sum(sizes)) for size in sizes]
    scaled[scaled.index(max(scaled))] += CELLS - sum(scaled)
    return scaled


def ordinary() -> list[Group]:
    draw = random.Random(0)
    groups = []
    for size in sized([draw.randint(3, 600) for _ in range(40)]):
        seconds = 10 ** draw.uniform(0, 1) * (3 if draw.random() < 0.1 else 1)
        # A quarter of the groups mixes students of several sizes; elsewhere only the loss differs.
        spread = 0.5 if draw.random() < 0.25 else 0.01
        jobs = tuple(Job(i, seconds * 10 ** draw.uniform(-spread, spread)) for i in range(size))
        groups.append(Group(seconds * 10 ** draw.uniform(-0.5, 1), jobs))
    return groups


def few() -> list[Group]:
    draw = random.Random(1)
    groups = []
    for size in sized([draw.randint(300, 1500) for _ in range(12)]):
        seconds = 10 ** draw.uniform(0, 1)
        jobs = tuple(Job(i, seconds * draw.uniform(0.97, 1.03)) for i in range(size))
        groups.append(Group(seconds * draw.uniform(5, 10), jobs))
    return groups


def coarse() -> list[Group]:
    return [Group(4.0, tuple(Job(i, 1.0) for i in range(125))) for _ in range(CELLS // 125)]


SHAPES: dict[str, Callable[[], list[Group]]] = {"ordinary": ordinary, "few": few, "coarse": coarse}


def plan(groups: Sequence[Group], slots: int) -> list[Part]:
    """What is measured."""
    return pack(groups, slots)


def equal_share(groups: Sequence[Group], slots: int) -> list[Part]:
    """The planner before this one: groups split down to a slot's share of the jobs, the costliest first."""
    share = sum(job.seconds for group in groups for job in group.jobs) / slots
    parts = []
    for place, group in enumerate(groups):
        count = max(1, math.ceil(sum(job.seconds for job in group.jobs) / share - 1e-9)) if slots > 1 else 1
        count = min(count, len(group.jobs))
        for jobs in (group.jobs[i::count] for i in range(count)):
            parts.append(Part(place, jobs, 0.0, group.shared_seconds + sum(job.seconds for job in jobs)))
    return sorted(parts, key=lambda part: part.start - part.end)


def by_work(groups: Sequence[Group], slots: int) -> float:
    """The least end if jobs could be cut anywhere: what they and the least sharing need, spread over all slots."""
    own = [sum(job.seconds for job in group.jobs) for group in groups]

    def enough(end: float) -> bool:
        sharing = (
            group.shared_seconds * math.ceil(seconds / (end - group.shared_seconds) - 1e-9)
            for group, seconds in zip(groups, own, strict=True)
        )
        return sum(own) + sum(sharing) <= slots * end

    low = max(group.shared_seconds + max(job.seconds for job in group.jobs) for group in groups)
    if enough(low):
        return low
    high = low + sum(own) + sum(group.shared_seconds for group in groups)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low


def work(parts: Sequence[Part]) -> float:
    return sum(part.end - part.start for part in parts)


def measure(groups: Sequence[Group], slots: int) -> Outcome:
    """The plan, and the median of the seconds that it took."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        parts = plan(groups, slots)
        times.append(time.perf_counter() - started)
    assert sum(len(part.jobs) for part in parts) == CELLS
    return Outcome(
        slots, len(parts), statistics.median(times), makespan(parts, slots), lower_bound(groups, slots), work(parts)
    )


def real_plans() -> dict[int, float]:
    """Median seconds of a whole plan of as many real cells under `digits`: prices, waves and cohorts; by slots."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "many.yaml"
        grid.write_text(grid_text(CELLS))
        loaded = api.load_grids([grid], "digits", max_cells=CELLS)
    draw = random.Random(2)
    rates = {
        request.key: Rate(what=request.kind, train_seconds=10 ** draw.uniform(-4, -3), train_images=1442)
        for request in requests(loaded[0].cells())
    }
    costs = Costs(
        Calibration(
            device="imagined", measured="", commit="", machine=MachineSettings(), slots=1, memory_bytes=2**34,
            base_bytes=0, start_seconds=10, wave_seconds=5, rates=rates,
        )
    )  # fmt: skip
    found = {}
    for slots in SLOTS:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            planned = make_plan(loaded, rooms=ByStudent(Room(slots=slots, costs=costs)))
            times.append(time.perf_counter() - started)
        assert planned.forecast is not None
        found[slots] = statistics.median(times)
    return found


def main() -> None:
    """Prints a line for each shape and number of slots; the goals are held against the worst shape."""
    outcomes: dict[str, list[Outcome]] = {}
    print("planning seconds: median; end and bound: simulated seconds; ratio: end / bound; by work: end / work alone;")
    print("cost: work / work of cohorts of one; naive: the same for equal shares, the costliest first\n")
    print(
        f"{'shape':>9} {'cells':>6} {'slots':>5} {'parts':>5} {'plan s':>6} {'end':>9} {'bound':>9} {'ratio':>6} "
        f"{'by work':>7} {'idle %':>6} {'cost':>6} {'naive: ratio':>12} {'cost':>6}"
    )
    for shape, make in SHAPES.items():
        groups = make()
        alone = sum(group.shared_seconds + job.seconds for group in groups for job in group.jobs)
        for slots in SLOTS:
            found = measure(groups, slots)
            naive = equal_share(groups, slots)
            outcomes.setdefault(shape, []).append(found)
            print(
                f"{shape:>9} {CELLS:>6} {slots:>5} {found.parts:>5} {found.planning:>6.2f} {found.end:>9.1f} "
                f"{found.bound:>9.1f} {found.ratio:>6.3f} {found.end / by_work(groups, slots):>7.3f} "
                f"{100 * (1 - found.work / slots / found.end):>6.1f} {found.work / alone:>6.3f} "
                f"{makespan(naive, slots) / found.bound:>12.3f} {work(naive) / alone:>6.3f}"
            )
    whole = real_plans()
    print("\na whole plan of real cells: " + ", ".join(f"{whole[slots]:.2f} s for {slots} slots" for slots in SLOTS))
    goals = []
    for slots in SLOTS:
        here = [found for row in outcomes.values() for found in row if found.slots == slots]
        slowest = max(whole[slots], *(found.planning for found in here))
        goals.append(Goal(f"seconds to plan for {slots} slots", slowest, SECONDS))
        goals.append(Goal(f"end / lower bound on {slots} slots", max(found.ratio for found in here), RATIO))
    ratios = {shape: {str(found.slots): round(found.ratio, 4) for found in row} for shape, row in outcomes.items()}
    last_line("planner", goals, ratios=ratios)


if __name__ == "__main__":
    main()
