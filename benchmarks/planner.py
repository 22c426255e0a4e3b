"""Measure how long planning 10,000 cells on 8, 64 and 1,000 slots takes, and how near plans are to a lower bound.

.venv/bin/python benchmarks/planner.py

Nothing is trained: the jobs' seconds are random, in three shapes, and slots are simulated as a queue. In units of a
job's length:

- ordinary: 40 teachers, students up to ten times as slow as others, shared costs of 0.3 to 10 jobs, some trained long.
- few: 12 large groups with shared costs of 5 to 10 jobs, so that every split is expensive.
- coarse: 80 groups of 125 equal jobs, shared costs of 4. Ten jobs per slot need more than 1,000 slots, and the next
  possible number is eleven: no plan is within 5 % of the bound by work. The lower bound takes this into account; the
  column `by work` shows the ratio to a bound that does not.
"""

import math
import random
import statistics
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import Goal, last_line
from _scale_parts import grid_text

from pld_grid.experiment.machine import ByStudent, MachineSettings
from pld_grid.planning import packing
from pld_grid.planning.calibration_file import Calibration, Rate
from pld_grid.planning.cost_model import CostModel, collect_requests
from pld_grid.planning.packing import CostGroup, Job, JobBatch, makespan, pack
from pld_grid.planning.plan import ExecutionPool, make_plan
from pld_grid.service import loading

CELLS = 10_000
SLOTS = (8, 64, 1000)
ROUNDS = 5
SECONDS = 5.0
RATIO = 1.05
# Into how many sizes the lower bound divides jobs at most, and the relative error of sums.
MAX_DIVISIONS, ROUNDING = 24, 1e-9


@dataclass(frozen=True)
class Outcome:
    """The result of one shape on one number of slots."""

    slots: int
    batches: int
    planning: float
    end: float
    bound: float
    work: float

    @property
    def ratio(self) -> float:
        """Makespan / lower bound."""
        return self.end / self.bound


def scale_sizes(sizes: list[int]) -> list[int]:
    """Return sizes in these proportions whose sum is CELLS."""
    scaled = [max(3, size * CELLS // sum(sizes)) for size in sizes]
    scaled[scaled.index(max(scaled))] += CELLS - sum(scaled)
    return scaled


def make_ordinary() -> list[CostGroup]:
    draw = random.Random(0)
    groups = []
    for size in scale_sizes([draw.randint(3, 600) for _ in range(40)]):
        seconds = 10 ** draw.uniform(0, 1) * (3 if draw.random() < 0.1 else 1)
        # A quarter of the groups mixes students of several sizes; elsewhere only the loss differs.
        spread = 0.5 if draw.random() < 0.25 else 0.01
        jobs = tuple(Job(i, seconds * 10 ** draw.uniform(-spread, spread)) for i in range(size))
        groups.append(CostGroup(seconds * 10 ** draw.uniform(-0.5, 1), jobs))
    return groups


def make_few() -> list[CostGroup]:
    draw = random.Random(1)
    groups = []
    for size in scale_sizes([draw.randint(300, 1500) for _ in range(12)]):
        seconds = 10 ** draw.uniform(0, 1)
        jobs = tuple(Job(i, seconds * draw.uniform(0.97, 1.03)) for i in range(size))
        groups.append(CostGroup(seconds * draw.uniform(5, 10), jobs))
    return groups


def make_coarse() -> list[CostGroup]:
    return [CostGroup(4.0, tuple(Job(i, 1.0) for i in range(125))) for _ in range(CELLS // 125)]


SHAPES: dict[str, Callable[[], list[CostGroup]]] = {"ordinary": make_ordinary, "few": make_few, "coarse": make_coarse}


def pack_naively(groups: Sequence[CostGroup], slots: int) -> list[JobBatch]:
    """Split groups into batches of a slot's share of all jobs, the longest first: an earlier planner."""
    share = sum(job.seconds for group in groups for job in group.jobs) / slots
    batches = []
    for place, group in enumerate(groups):
        count = max(1, math.ceil(sum(job.seconds for job in group.jobs) / share - 1e-9)) if slots > 1 else 1
        count = min(count, len(group.jobs))
        for jobs in (group.jobs[i::count] for i in range(count)):
            batches.append(JobBatch(place, jobs, 0.0, group.shared_seconds + sum(job.seconds for job in jobs)))
    return sorted(batches, key=lambda batch: batch.start - batch.end)


def bound_by_work(groups: Sequence[CostGroup], slots: int) -> float:
    """Return a lower bound that only considers work: the jobs' and the least shared costs, spread over all slots."""
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


def tight_lower_bound(groups: Sequence[CostGroup], slots: int) -> float:
    """Return the packer's lower bound, raised by counting the batches that are longer than parts of a slot."""
    prepared, bound = packing._prepare(groups, slots, None, None), packing.lower_bound(groups, slots)
    for divisions in range(1, MAX_DIVISIONS + 1):

        def is_possible(capacity: float, divisions: int = divisions) -> bool:
            return count_divisions(prepared, capacity, divisions) <= slots * divisions

        bound = packing._bisect(is_possible, bound)
    return bound / (1 + packing._PRECISION)


def count_divisions(groups: list[packing._SortedGroup], capacity: float, divisions: int) -> int:
    """Return a lower bound of the batches' count, where one longer than i of divisions + 1 parts of a slot counts i.

    This is a dual feasible function: batches that end within `capacity` in one slot count at most `divisions`.
    """
    capacity *= 1 + ROUNDING
    limits = [i * capacity / (divisions + 1) for i in range(divisions + 2)]
    total = 0
    for group in groups:
        least = bisect_left(limits, group.shared + group.seconds[0]) - 1
        if least <= 0:
            continue
        # The most jobs that a batch of each count may have; jobs are spread over batches with the best ratio.
        room = (limit - group.shared for limit in limits[least + 1 :])
        jobs = (min(group.max_jobs, bisect_right(group.sums, seconds) - 1) for seconds in room)
        ratio = min(i / count for i, count in enumerate(jobs, start=least))
        total += max(math.ceil(ratio * len(group.jobs) - ROUNDING), least * group.count_batches(capacity))
    return total


def total_work(batches: Sequence[JobBatch]) -> float:
    return sum(batch.end - batch.start for batch in batches)


def measure(groups: Sequence[CostGroup], slots: int) -> Outcome:
    """Pack groups several times and return the median of the seconds."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        batches = pack(groups, slots)
        times.append(time.perf_counter() - started)
    assert sum(len(batch.jobs) for batch in batches) == CELLS
    return Outcome(
        slots,
        len(batches),
        statistics.median(times),
        makespan(batches, slots),
        tight_lower_bound(groups, slots),
        total_work(batches),
    )


def measure_real_plans() -> dict[int, float]:
    """Return the median seconds of a complete plan of CELLS cells under `digits`, by slots."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "many.yaml"
        grid.write_text(grid_text(CELLS))
        loaded = loading.load_grids([grid], "digits", max_cells=CELLS)
    draw = random.Random(2)
    rates = {
        request.key: Rate(what=request.kind, train_seconds=10 ** draw.uniform(-4, -3), train_images=1442)
        for request in collect_requests(loaded[0].cells())
    }
    costs = CostModel(
        Calibration(
            device="imagined",
            measured="",
            commit="",
            machine=MachineSettings(),
            slots=1,
            memory_bytes=2**34,
            base_bytes=0,
            start_seconds=10,
            wave_seconds=5,
            rates=rates,
        )
    )
    medians = {}
    for slots in SLOTS:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            planned = make_plan(loaded, pools=ByStudent(ExecutionPool(slots=slots, costs=costs)))
            times.append(time.perf_counter() - started)
        assert planned.forecast is not None
        medians[slots] = statistics.median(times)
    return medians


def main() -> None:
    """Print a line for each shape and number of slots; the goals apply to the worst shape."""
    outcomes: dict[str, list[Outcome]] = {}
    print(
        "planning seconds: median; end and bound: simulated seconds; ratio: end / bound; by work: end / bound by work;"
    )
    print("cost: work / work of cohorts of one; naive: the same for equal shares, the longest first\n")
    print(
        f"{'shape':>9} {'cells':>6} {'slots':>5} {'batches':>7} {'plan s':>6} {'end':>9} {'bound':>9} {'ratio':>6} "
        f"{'by work':>7} {'idle %':>6} {'cost':>6} {'naive: ratio':>12} {'cost':>6}"
    )
    for shape, make in SHAPES.items():
        groups = make()
        alone = sum(group.shared_seconds + job.seconds for group in groups for job in group.jobs)
        for slots in SLOTS:
            outcome = measure(groups, slots)
            naive = pack_naively(groups, slots)
            outcomes.setdefault(shape, []).append(outcome)
            print(
                f"{shape:>9} {CELLS:>6} {slots:>5} {outcome.batches:>7} {outcome.planning:>6.2f} {outcome.end:>9.1f} "
                f"{outcome.bound:>9.1f} {outcome.ratio:>6.3f} {outcome.end / bound_by_work(groups, slots):>7.3f} "
                f"{100 * (1 - outcome.work / slots / outcome.end):>6.1f} {outcome.work / alone:>6.3f} "
                f"{makespan(naive, slots) / outcome.bound:>12.3f} {total_work(naive) / alone:>6.3f}"
            )
    whole = measure_real_plans()
    print("\na whole plan of real cells: " + ", ".join(f"{whole[slots]:.2f} s for {slots} slots" for slots in SLOTS))
    goals = []
    for slots in SLOTS:
        results = [outcome for row in outcomes.values() for outcome in row if outcome.slots == slots]
        slowest = max(whole[slots], *(outcome.planning for outcome in results))
        goals.append(Goal(f"seconds to plan for {slots} slots", slowest, SECONDS))
        goals.append(Goal(f"end / lower bound on {slots} slots", max(outcome.ratio for outcome in results), RATIO))
    ratios = {
        shape: {str(outcome.slots): round(outcome.ratio, 4) for outcome in row} for shape, row in outcomes.items()
    }
    last_line("planner", goals, ratios=ratios)


if __name__ == "__main__":
    main()
