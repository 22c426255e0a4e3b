"""Pack jobs that share a setup cost into batches for identical slots: first by makespan, then by total work.

Every batch of a group pays the group's shared cost, so splitting a group shortens the makespan and adds work. Nothing
here depends on cells, Ray or torch; a slot is anything that runs one batch at a time.
"""

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

# Makespans that differ by less than this fraction count as equal; the schedule with less work is then preferred.
TOLERANCE = 0.005
# Sums of the same floats in another order differ in their last digits.
_ROUNDING = 1e-9
# The relative error of the lower bound.
_PRECISION = 1e-6


@dataclass(frozen=True)
class Job:
    """One student: its own seconds, and the bytes that it holds from the start of its batch to the end."""

    name: int
    seconds: float
    bytes: int = 0


@dataclass(frozen=True)
class CostGroup:
    """Jobs that may run together; each batch of them pays `shared_seconds` and holds `shared_bytes` once."""

    shared_seconds: float
    jobs: tuple[Job, ...]
    shared_bytes: int = 0


@dataclass(frozen=True)
class JobBatch:
    """Jobs of one group (by its index) that run together, with the planned start and end in seconds."""

    group: int
    jobs: tuple[Job, ...]
    start: float
    end: float


def pack(
    groups: Sequence[CostGroup], slots: int, *, max_jobs: int | None = None, memory: int | None = None
) -> list[JobBatch]:
    """Split groups into batches and order them for slots that always start the next batch.

    Of the schedules whose makespan is within `TOLERANCE` of the shortest, the one with the least work is returned.

    Args:
        groups: The jobs to run.
        slots: How many batches can run at a time.
        max_jobs: The largest number of jobs in a batch.
        memory: The largest number of bytes that a batch may hold. A job that alone needs more gets its own batch.

    Returns:
        The batches ordered by their planned start, of equal starts the longest first.

    Raises:
        ValueError: There is no slot, `max_jobs` is below 1, or a time is negative or not finite.
    """
    prepared = _prepare(groups, slots, max_jobs, memory)
    if not prepared:
        return []
    # More slots would stay empty, and could be more than memory can represent.
    slots = min(slots, sum(len(group.jobs) for group in prepared))
    schedules = _candidates(prepared, slots)
    shortest = min(schedule.makespan for schedule in schedules)
    good = [schedule for schedule in schedules if schedule.makespan <= shortest * (1 + TOLERANCE)]
    least = min(schedule.work for schedule in good) * (1 + _ROUNDING)
    cheapest = [schedule for schedule in good if schedule.work <= least]
    best = min(cheapest, key=lambda schedule: (len(schedule.batches), schedule.makespan))
    timed = zip(best.batches, best.times, strict=True)
    return [JobBatch(batch.group.index, tuple(batch.jobs), start, end) for batch, (start, end) in timed]


def makespan(batches: Iterable[JobBatch], slots: int) -> float:
    """Return the seconds until all batches have ended if each free slot starts the next batch."""
    seconds = [batch.end - batch.start for batch in batches]
    return max((end for _, end in _simulate(seconds, min(slots, len(seconds)))), default=0.0)


def lower_bound(
    groups: Sequence[CostGroup], slots: int, *, max_jobs: int | None = None, memory: int | None = None
) -> float:
    """Return a lower bound of the makespan of any schedule; see `pack` for the arguments."""
    return _lower_bound(_prepare(groups, slots, max_jobs, memory), slots)


class _SortedGroup:
    """A group with its jobs in ascending order of seconds, and the limits of its batches."""

    def __init__(self, index: int, group: CostGroup, max_jobs: int | None, memory: int | None) -> None:
        self.index = index
        self.shared = group.shared_seconds
        self.jobs = sorted(group.jobs, key=lambda job: (job.seconds, job.bytes))
        self.seconds = [job.seconds for job in self.jobs]
        self.sums = list(accumulate(self.seconds, initial=0.0))
        self.longest = self.shared + self.seconds[-1]
        self.min_bytes = min(job.bytes for job in self.jobs)
        self.memory = math.inf if memory is None else memory - group.shared_bytes
        sizes = sorted(job.bytes for job in self.jobs)
        fitting = sizes[: bisect_right(sizes, self.memory)]
        sums = list(accumulate(fitting, initial=0))
        limits = (bisect_right(sums, self.memory) - 1, len(self.jobs) if max_jobs is None else max_jobs)
        self.max_jobs = max(1, min(limits))
        self.min_batches = max(
            math.ceil(len(self.jobs) / limits[1]), len(sizes) - len(fitting) + _min_bins(fitting, sums, self.memory)
        )

    def count_batches(self, capacity: float) -> int:
        """Return a lower bound of the number of batches if each is to end within `capacity` seconds."""
        return max(self.min_batches, _min_bins(self.seconds, self.sums, capacity * (1 + _ROUNDING) - self.shared))


class _Batch(NamedTuple):
    """Jobs of one group that run together, without a start."""

    group: _SortedGroup
    jobs: list[Job]
    seconds: float


class _Remaining:
    """The jobs of a group that are in no batch yet."""

    def __init__(self, group: _SortedGroup) -> None:
        self.group, self.total = group, group.sums[-1]
        self.jobs, self.seconds = list(group.jobs), list(group.seconds)

    @property
    def batch_seconds(self) -> float:
        """The seconds of the next batch if it had no time limit."""
        if len(self.jobs) > self.group.max_jobs:
            return self.group.shared + sum(self.seconds[-self.group.max_jobs :])
        return self.group.shared + self.total

    def take(self, seconds: float) -> _Batch:
        """Remove and return a batch that ends within `seconds`: the longest job that fits, again and again."""
        group, jobs, end = self.group, list[Job](), len(self.jobs)
        seconds, memory = seconds - group.shared, group.memory
        while not jobs or (len(jobs) < group.max_jobs and group.min_bytes <= memory):
            end = bisect_right(self.seconds, seconds, 0, end) - 1
            if end < 0:
                break
            job = self.jobs[end]
            if not jobs or job.bytes <= memory:
                jobs.append(job)
                memory -= job.bytes
                seconds -= job.seconds
                del self.jobs[end], self.seconds[end]
        own = sum(job.seconds for job in jobs)
        self.total -= own
        return _Batch(group, jobs, group.shared + own)


class _Schedule:
    """Batches in the order in which they start, and their starts and ends."""

    def __init__(self, filled: list[list[_Batch]], slots: int) -> None:
        self.batches: list[_Batch] = []
        starts: list[float] = []
        for assigned in filled:
            longest_first = sorted(assigned, key=lambda batch: -batch.seconds)
            self.batches += longest_first
            starts += accumulate((batch.seconds for batch in longest_first[:-1]), initial=0.0)
        # A slot that is free early starts a batch of another slot, after which two starts may be equal; so twice.
        for _ in range(2):
            keys = [(start, -batch.seconds) for start, batch in zip(starts, self.batches, strict=True)]
            self.batches = [self.batches[index] for index in sorted(range(len(keys)), key=keys.__getitem__)]
            self.times = _simulate([batch.seconds for batch in self.batches], slots)
            starts = [start for start, _ in self.times]
        self.makespan = max(end for _, end in self.times)
        self.work = sum(batch.seconds for batch in self.batches)


def _prepare(groups: Sequence[CostGroup], slots: int, max_jobs: int | None, memory: int | None) -> list[_SortedGroup]:
    if slots < 1 or (max_jobs is not None and max_jobs < 1):
        raise ValueError("slots and max_jobs must be at least 1")
    for group in groups:
        for seconds in (group.shared_seconds, *(job.seconds for job in group.jobs)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"seconds must be a finite number from 0, not {seconds}")
    return [_SortedGroup(index, group, max_jobs, memory) for index, group in enumerate(groups) if group.jobs]


def _simulate(seconds: Iterable[float], slots: int) -> list[tuple[float, float]]:
    """Return the start and end of each batch if the slot that is free first starts the next one."""
    free = [0.0] * slots
    times = []
    for duration in seconds:
        start = free[0]
        heapq.heapreplace(free, start + duration)
        times.append((start, start + duration))
    return times


def _candidates(groups: list[_SortedGroup], slots: int) -> list[_Schedule]:
    """Return schedules for ever better capacities of a slot, and some that use the tolerance to save work."""
    # Groups with a large shared cost go first and so are split least; cheap groups fill the gaps.
    by_shared = sorted(groups, key=lambda group: (-group.shared, -group.longest, group.index))
    by_longest = sorted(groups, key=lambda group: (-group.longest, -group.shared, group.index))
    bound = _lower_bound(groups, slots)
    schedules: list[_Schedule] = []

    def is_feasible(capacity: float) -> bool:
        filled = [_fill(order, slots, capacity) for order in (by_shared, by_longest)]
        schedules.extend(schedule for schedule in filled if schedule is not None)
        return any(filled)

    low, high = 0.0, 0.0
    while not is_feasible(bound * (1 + high)):
        low, high = high, max(TOLERANCE, 2 * high)
    while high - low > TOLERANCE / 5:
        middle = (low + high) / 2
        low, high = (low, middle) if is_feasible(bound * (1 + middle)) else (middle, high)
    shortest = min(schedule.makespan for schedule in schedules)
    for fraction_of_tolerance in (0, 0.5, 1):
        is_feasible(shortest * (1 + fraction_of_tolerance * TOLERANCE))
    return schedules


def _fill(groups: list[_SortedGroup], slots: int, capacity: float) -> _Schedule | None:
    """Fill slots up to `capacity` seconds group by group; return None if that takes too many slots.

    The rest of a group goes as a whole into the smallest gap that holds it; else into an empty slot; else as far as it
    fits into the largest gap.
    """
    capacity *= 1 + _ROUNDING
    filled: list[list[_Batch]] = []
    gaps: list[tuple[float, int]] = []
    for group in groups:
        remaining = _Remaining(group)
        while remaining.jobs:
            smallest = bisect_left(gaps, (remaining.batch_seconds, -1))
            if smallest < len(gaps):
                gap, slot = gaps.pop(smallest)
            elif len(filled) < slots:
                gap, slot = capacity, len(filled)
                filled.append([])
            elif gaps:
                gap, slot = gaps.pop()
            else:
                return None
            batch = remaining.take(gap)
            if not batch.jobs:
                return None
            filled[slot].append(batch)
            insort(gaps, (gap - batch.seconds, slot))
    return _Schedule(filled, slots)


def _min_bins(sizes: Sequence[float], sums: Sequence[float], capacity: float) -> int:
    """Return a lower bound of the number of bins for items of ascending sizes, none above `capacity`.

    Args:
        sizes: The items.
        sums: Their cumulative sums, beginning with 0.
        capacity: The size of a bin.
    """
    if not sizes or sums[-1] <= capacity:
        return min(len(sizes), 1)
    bins = max(math.ceil(sums[-1] / capacity), math.ceil(len(sizes) / (bisect_right(sums, capacity) - 1)))
    for divisions in (1, 2, 3):
        # An item counts i if it is longer than i of divisions + 1 equal divisions; no bin holds more than `divisions`.
        longer = (len(sizes) - bisect_right(sizes, i * capacity / (divisions + 1)) for i in range(1, divisions + 1))
        bins = max(bins, math.ceil(sum(longer) / divisions))
    return bins


def _lower_bound(groups: list[_SortedGroup], slots: int) -> float:
    """Return a lower bound of the makespan: the longest job, or all work divided by the slots."""
    longest = max((group.longest for group in groups), default=0.0)

    def is_possible(capacity: float) -> bool:
        work = sum(group.count_batches(capacity) * group.shared + group.sums[-1] for group in groups)
        return work <= slots * capacity * (1 + _ROUNDING)

    return max(longest, _bisect(is_possible, longest) / (1 + _PRECISION))


def _bisect(holds: Callable[[float], bool], start: float) -> float:
    """Return about the least number from `start` on for which a monotonic condition holds, never less."""
    if holds(start):
        return start
    low, high = start, 2 * start
    while not holds(high):
        low, high = high, 2 * high
    while high > low * (1 + _PRECISION):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
