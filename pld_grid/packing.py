"""Jobs that share a cost -> parts for equal slots: short in time first, cheap in work second.

A group's shared seconds are paid once by every part of it, so that each further part shortens the wait and adds work.
Nothing here knows of cells, Ray or torch; a slot is whatever runs one part at a time.
"""

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

# Ends that differ by less than this fraction count as equal; the plan with less work is then the better one.
TOLERANCE = 0.005
# Sums of the same seconds in another order differ in their last digits.
_ROUNDING = 1e-9
# Which fraction of a gap must be left for jobs to split a group for it while another slot stands empty; both are tried.
_WORTHWHILE = (0.5, math.inf)
# How far the lower bound may lie below what it proves, as a fraction.
_PRECISION = 1e-6
# Into how many pieces a slot is cut, at most, to count what fits into it.
_PIECES = 24


@dataclass(frozen=True)
class Job:
    """One student: its own seconds, and the bytes that it holds from its part's beginning to its end."""

    name: int
    seconds: float
    bytes: int = 0


@dataclass(frozen=True)
class Group:
    """Jobs that may train together: whatever subset does pays `shared_seconds` and holds `shared_bytes` once."""

    shared_seconds: float
    jobs: tuple[Job, ...]
    shared_bytes: int = 0


@dataclass(frozen=True)
class Part:
    """Jobs of one group (its place in the list of groups) that run together; `start` and `end` are planned seconds."""

    group: int
    jobs: tuple[Job, ...]
    start: float
    end: float


def pack(groups: Sequence[Group], slots: int, *, largest: int | None = None, memory: int | None = None) -> list[Part]:
    """Splits groups into parts and orders them, so that slots which always start the next part end early.

    A part has at most `largest` jobs and holds at most `memory` bytes, unless one job alone holds more: that one gets
    a part of its own. Among plans that end within 0.5 % of the earliest found, the one with the least work is taken.
    The parts come in the order of their planned start, of equal starts the longest first. Raises ValueError if there is
    no slot, a limit below one job, or a time that is no number.
    """
    prepared = _prepare(groups, slots, largest, memory)
    if not prepared:
        return []
    # More would only stand empty, and may be more than memory holds.
    slots = min(slots, sum(len(group.jobs) for group in prepared))
    plans = _candidates(prepared, slots)
    best = min(plan.end for plan in plans)
    good = [plan for plan in plans if plan.end <= best * (1 + TOLERANCE)]
    least = min(plan.work for plan in good) * (1 + _ROUNDING)
    return min((plan for plan in good if plan.work <= least), key=lambda plan: (len(plan.pieces), plan.end)).parts()


def makespan(parts: Iterable[Part], slots: int) -> float:
    """Seconds until all parts have ended, if whichever of the slots falls free first starts the next part."""
    seconds = [part.end - part.start for part in parts]
    return max((end for _, end in _run(seconds, min(slots, len(seconds)))), default=0.0)


def lower_bound(groups: Sequence[Group], slots: int, *, largest: int | None = None, memory: int | None = None) -> float:
    """Seconds below which no plan can end, however it splits and orders the groups; arguments as for `pack`."""
    return _lower_bound(_prepare(groups, slots, largest, memory), slots)


class _Prepared:
    """A group with its jobs in ascending order, and what its limits say."""

    def __init__(self, index: int, group: Group, largest: int | None, memory: int | None) -> None:
        self.index = index
        self.shared = group.shared_seconds
        self.jobs = sorted(group.jobs, key=lambda job: (job.seconds, job.bytes))
        self.seconds = [job.seconds for job in self.jobs]
        self.sums = list(accumulate(self.seconds, initial=0.0))
        self.smallest = self.shared + self.seconds[0]
        self.longest = self.shared + self.seconds[-1]
        self.largest = len(self.jobs) if largest is None else largest
        self.bytes: int | None = None
        self.lightest = min(job.bytes for job in self.jobs)
        self.parts = math.ceil(len(self.jobs) / self.largest)
        if memory is not None:
            self.bytes = memory - group.shared_bytes
            sizes = sorted(job.bytes for job in self.jobs)
            fitting = sizes[: bisect_right(sizes, self.bytes)]
            alone = len(sizes) - len(fitting)
            self.parts = max(self.parts, alone + _fewest(fitting, list(accumulate(fitting, initial=0)), self.bytes))
            self.largest = max(1, min(self.largest, bisect_right(list(accumulate(fitting)), self.bytes)))

    def fewest(self, capacity: float) -> int:
        """No fewer parts will do if each is to end within `capacity` seconds."""
        return max(self.parts, _fewest(self.seconds, self.sums, capacity * (1 + _ROUNDING) - self.shared))

    def fits(self, count: int, held: int, more: int) -> bool:
        """Whether the limits let a part of `count` jobs that hold `held` bytes take a job of `more` bytes."""
        return count == 0 or (count < self.largest and (self.bytes is None or held + more <= self.bytes))

    def balanced(self, count: int) -> list["_Piece"]:
        """About `count` parts of about equal length: the longest job first, to the shortest part that may take it."""
        pieces = [_Piece(self, [], self.shared) for _ in range(count)]
        held = [0] * count
        queue = [(self.shared, place) for place in range(count)]
        for job in reversed(self.jobs):
            passed = []
            while queue and not self.fits(len(pieces[queue[0][1]].jobs), held[queue[0][1]], job.bytes):
                entry = heapq.heappop(queue)
                # What cannot even take the lightest job is full and need not be asked again.
                if self.fits(len(pieces[entry[1]].jobs), held[entry[1]], self.lightest):
                    passed.append(entry)
            if not queue:
                queue.append((self.shared, len(pieces)))
                pieces.append(_Piece(self, [], self.shared))
                held.append(0)
            place = queue[0][1]
            pieces[place].jobs.append(job)
            pieces[place].seconds += job.seconds
            held[place] += job.bytes
            heapq.heapreplace(queue, (pieces[place].seconds, place))
            for entry in passed:
                heapq.heappush(queue, entry)
        return pieces


@dataclass
class _Piece:
    """A part that has no time yet."""

    group: _Prepared
    jobs: list[Job]
    seconds: float


class _Plan:
    """Pieces in the order in which a queue starts them, and when."""

    def __init__(self, slots: Sequence[Sequence[_Piece]]) -> None:
        self.pieces: list[_Piece] = []
        starts: list[float] = []
        for pieces in filter(None, slots):
            in_turn = sorted(pieces, key=lambda piece: -piece.seconds)
            self.pieces += in_turn
            starts += accumulate((piece.seconds for piece in in_turn[:-1]), initial=0.0)
        # A slot that is through early starts what another was to start later, and so two starts may become equal.
        for _ in range(2):
            ranks = [(start, -piece.seconds) for start, piece in zip(starts, self.pieces, strict=True)]
            self.pieces = [self.pieces[place] for place in sorted(range(len(ranks)), key=ranks.__getitem__)]
            self.times = _run([piece.seconds for piece in self.pieces], len(slots))
            starts = [start for start, _ in self.times]
        self.end = max(end for _, end in self.times)
        self.work = sum(piece.seconds for piece in self.pieces)

    def parts(self) -> list[Part]:
        """The plan as others see it."""
        timed = zip(self.pieces, self.times, strict=True)
        return [Part(piece.group.index, tuple(piece.jobs), start, end) for piece, (start, end) in timed]


class _Left:
    """The jobs of a group that are in no part yet."""

    def __init__(self, group: _Prepared) -> None:
        self.group = group
        self.jobs = list(group.jobs)
        self.seconds = list(group.seconds)
        self.total = group.sums[-1]

    @property
    def wanted(self) -> float:
        """Seconds of the next part if time were no limit."""
        if len(self.jobs) > self.group.largest:
            return self.group.shared + sum(self.seconds[-self.group.largest :])
        return self.group.shared + self.total

    def take(self, room: float) -> _Piece:
        """A part for `room` seconds: the longest job that fits, again and again."""
        taken: list[Job] = []
        held = 0
        room -= self.group.shared
        end = len(self.jobs)
        while self.group.fits(len(taken), held, self.group.lightest):
            end = bisect_right(self.seconds, room, 0, end) - 1
            if end < 0:
                break
            job = self.jobs[end]
            if self.group.fits(len(taken), held, job.bytes):
                taken.append(job)
                held += job.bytes
                room -= job.seconds
                del self.jobs[end], self.seconds[end]
        own = sum(job.seconds for job in taken)
        self.total -= own
        return _Piece(self.group, taken, self.group.shared + own)


def _prepare(groups: Sequence[Group], slots: int, largest: int | None, memory: int | None) -> list[_Prepared]:
    if slots < 1 or (largest is not None and largest < 1):
        raise ValueError("slots and largest must be at least 1")
    for group in groups:
        for seconds in (group.shared_seconds, *(job.seconds for job in group.jobs)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"seconds must be a finite number from 0, not {seconds}")
    return [_Prepared(i, group, largest, memory) for i, group in enumerate(groups) if group.jobs]


def _run(seconds: Iterable[float], slots: int) -> list[tuple[float, float]]:
    """Start and end of each part if whichever slot falls free first starts the next one."""
    free = [0.0] * slots
    times = []
    for duration in seconds:
        start = free[0]
        heapq.heapreplace(free, start + duration)
        times.append((start, start + duration))
    return times


def _candidates(groups: list[_Prepared], slots: int) -> list[_Plan]:
    """Plans for ever better capacities of a slot, from the bound up; then some that use the tolerance to save work."""
    # What costs most goes first: it then splits least, and the cheap groups are left to fill the gaps.
    by_shared = sorted(groups, key=lambda group: (-group.shared, -group.longest, group.index))
    by_longest = sorted(groups, key=lambda group: (-group.longest, -group.shared, group.index))
    ways = [(order, worthwhile) for worthwhile in _WORTHWHILE for order in (by_shared, by_longest)]
    bound = _lower_bound(groups, slots)
    plans: list[_Plan] = []

    def found(capacity: float) -> bool:
        plans.append(_balance(groups, slots, capacity))
        if plans[-1].end <= capacity * (1 + _ROUNDING):
            return True
        new = (_fill(order, slots, capacity, worthwhile) for order, worthwhile in ways)
        plan = next((plan for plan in new if plan is not None), None)
        if plan is not None:
            plans.append(plan)
        return plan is not None

    low, high = 0.0, 0.0
    while not found(bound * (1 + high)):
        low, high = high, max(TOLERANCE, 2 * high)
    while high - low > TOLERANCE / 5:
        middle = (low + high) / 2
        low, high = (low, middle) if found(bound * (1 + middle)) else (middle, high)
    end = min(plan.end for plan in plans)
    for share in (0, 0.5, 1):
        capacity = end * (1 + share * TOLERANCE)
        new = (_fill(order, slots, capacity, worthwhile) for order, worthwhile in ways)
        plans += [_balance(groups, slots, capacity), *(plan for plan in new if plan is not None)]
    return plans


def _fill(groups: list[_Prepared], slots: int, capacity: float, worthwhile: float) -> _Plan | None:
    """Fills slots up to `capacity` seconds group by group; None if that takes more slots than there are.

    What is left of a group goes whole into the smallest gap that holds it; otherwise into the largest gap, if that is
    worthwhile or no slot is empty; otherwise into an empty slot.
    """
    capacity *= 1 + _ROUNDING
    filled: list[list[_Piece]] = []
    gaps: list[tuple[float, int]] = []
    for group in groups:
        left = _Left(group)
        while left.jobs:
            whole = bisect_left(gaps, (left.wanted, -1))
            widest = gaps[-1][0] if gaps else 0.0
            if whole < len(gaps):
                room, slot = gaps.pop(whole)
            elif (
                gaps
                and widest >= group.shared + left.seconds[0]
                and (len(filled) == slots or widest - group.shared >= worthwhile * widest)
            ):
                room, slot = gaps.pop()
            elif len(filled) < slots:
                room, slot = capacity, len(filled)
                filled.append([])
            else:
                return None
            piece = left.take(room)
            if not piece.jobs:
                return None
            filled[slot].append(piece)
            insort(gaps, (room - piece.seconds, slot))
    return _Plan(filled + [[] for _ in range(slots - len(filled))])


def _balance(groups: list[_Prepared], slots: int, capacity: float) -> _Plan:
    """Every group in as few equal parts as `capacity` allows, the longest part first to the slot that falls free.

    Parts of one group that meet in a slot become one, if no limit says that the group needs several.
    """
    pieces = [piece for group in groups for piece in group.balanced(group.fewest(capacity))]
    pieces.sort(key=lambda piece: -piece.seconds)
    filled: list[list[_Piece]] = [[] for _ in range(slots)]
    free = [(0.0, slot) for slot in range(slots)]
    mergeable: dict[tuple[int, int], _Piece] = {}
    for piece in pieces:
        end, slot = free[0]
        host = mergeable.get((slot, piece.group.index))
        if host is None:
            filled[slot].append(piece)
            heapq.heapreplace(free, (end + piece.seconds, slot))
            if piece.group.parts == 1:
                mergeable[slot, piece.group.index] = piece
        else:
            own = piece.seconds - piece.group.shared
            host.jobs += piece.jobs
            host.seconds += own
            heapq.heapreplace(free, (end + own, slot))
    return _Plan(filled)


def _fewest(sizes: Sequence[float], sums: Sequence[float], capacity: float) -> int:
    """No fewer bins of `capacity` hold things of these ascending `sizes`, each of which fits; `sums` starts with 0."""
    if not sizes or sums[-1] <= capacity:
        return min(len(sizes), 1)
    fewest = max(math.ceil(sums[-1] / capacity), math.ceil(len(sizes) / (bisect_right(sums, capacity) - 1)))
    for pieces in (1, 2, 3):
        # A thing longer than i of the pieces + 1 equal pieces of a bin counts i; no bin holds more than `pieces`.
        longer = (len(sizes) - bisect_right(sizes, i * capacity / (pieces + 1)) for i in range(1, pieces + 1))
        fewest = max(fewest, math.ceil(sum(longer) / pieces))
    return fewest


def _lower_bound(groups: list[_Prepared], slots: int) -> float:
    """What no plan can beat: by the longest job, by work, and by counting."""
    if not groups:
        return 0.0

    def enough_work(capacity: float) -> bool:
        work = sum(group.fewest(capacity) * group.shared + group.sums[-1] for group in groups)
        return work <= slots * capacity * (1 + _ROUNDING)

    def enough_pieces(pieces: int, capacity: float) -> bool:
        return _count(groups, capacity, pieces) <= slots * pieces

    longest = max(group.longest for group in groups)
    bound = _first(enough_work, longest)
    for pieces in range(1, _PIECES + 1):
        bound = _first(partial(enough_pieces, pieces), bound)
    return max(longest, bound / (1 + _PRECISION))


def _first(holds: Callable[[float], bool], start: float) -> float:
    """The least number from `start` for which something holds that goes on to hold, or a trifle more than that."""
    if holds(start):
        return start
    low, high = start, 2 * start
    while not holds(high):
        low, high = high, 2 * high
    while high > low * (1 + _PRECISION):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _count(groups: list[_Prepared], capacity: float, pieces: int) -> int:
    """What the parts of all groups count at least, if one longer than i of pieces + 1 equal pieces of a slot counts i.

    Parts that end within `capacity` in one slot count at most `pieces` together.
    """
    capacity *= 1 + _ROUNDING
    limits = [i * capacity / (pieces + 1) for i in range(pieces + 2)]
    total = 0
    for group in groups:
        one = bisect_left(limits, group.smallest) - 1
        if one <= 0:
            continue
        # The most jobs that a part of each count may have; jobs are spread over parts of the best ratio.
        jobs = [min(group.largest, bisect_right(group.sums, limit - group.shared) - 1) for limit in limits[one + 1 :]]
        least = min(i / count for i, count in enumerate(jobs, start=one))
        total += max(math.ceil(least * len(group.jobs) - _ROUNDING), one * group.fewest(capacity))
    return total
