import dataclasses
import math
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_grid.packing import TOLERANCE, Group, Job, Part, lower_bound, makespan, pack

SLACK = 1 + 1e-9


def same(seconds: float, count: int, shared: float = 0.0) -> Group:
    """A group of jobs that are all alike."""
    return Group(shared, tuple(Job(i, seconds) for i in range(count)))


def check(parts: Sequence[Part], groups: Sequence[Group], slots: int, largest: int | None, memory: int | None) -> None:
    """What holds for every plan, whatever it is of."""
    wanted = Counter((i, job) for i, group in enumerate(groups) for job in group.jobs)
    assert Counter((part.group, job) for part in parts for job in part.jobs) == wanted
    for part in parts:
        group = groups[part.group]
        seconds = group.shared_seconds + sum(job.seconds for job in part.jobs)
        assert part.end - part.start == pytest.approx(seconds, rel=1e-9, abs=1e-9)
        assert part.jobs
        if largest is not None:
            assert len(part.jobs) <= largest
        if memory is not None and len(part.jobs) > 1:
            assert group.shared_bytes + sum(job.bytes for job in part.jobs) <= memory
    check_queue(parts, slots)


def check_queue(parts: Sequence[Part], slots: int) -> None:
    """Slots that take the parts in their order start them at the planned times."""
    free = [0.0] * slots
    for part in parts:
        soonest = min(free)
        assert part.start == pytest.approx(soonest, rel=1e-9, abs=1e-9)
        free[free.index(soonest)] = part.end
    assert [part.start for part in parts] == sorted(part.start for part in parts)
    for before, after in pairwise(parts):
        if before.start == after.start and before.end > before.start:
            assert before.end >= after.end
    assert makespan(parts, slots) == pytest.approx(max((part.end for part in parts), default=0.0), rel=1e-9, abs=1e-9)


def splits(jobs: Sequence[Job]) -> Iterator[list[list[Job]]]:
    """All ways to split jobs into parts."""
    if not jobs:
        yield []
        return
    for split in splits(jobs[1:]):
        yield [[jobs[0]], *split]
        for i in range(len(split)):
            yield [*split[:i], [jobs[0], *split[i]], *split[i + 1 :]]


def shortest(groups: Sequence[Group], slots: int, largest: int | None, memory: int | None) -> float:
    """The earliest end of all, by trying everything: all splits of all groups, on all slots."""

    def allowed(group: Group, part: list[Job]) -> bool:
        held = group.shared_bytes + sum(job.bytes for job in part)
        return len(part) == 1 or ((largest is None or len(part) <= largest) and (memory is None or held <= memory))

    # Which ends the slots can have after some of the groups; equal ones are kept once.
    ends = {(0.0,) * slots}
    for group in groups:
        reached = set()
        for split in splits(group.jobs):
            if not all(allowed(group, part) for part in split):
                continue
            options = ends
            for part in split:
                seconds = group.shared_seconds + sum(job.seconds for job in part)
                options = {
                    tuple(sorted((*end[:i], end[i] + seconds, *end[i + 1 :]))) for end in options for i in range(slots)
                }
            reached |= options
        ends = reached
    return min(max(end) for end in ends)


seconds = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.02, 2.0, 3.0, 7.5]) | st.floats(0.01, 10)
jobs = st.builds(Job, st.integers(0, 9), seconds, st.integers(0, 6))
many = st.lists(jobs, min_size=0, max_size=12) | st.builds(lambda job, n: [job] * n, jobs, st.integers(1, 40))
anything = st.lists(st.builds(Group, seconds, many.map(tuple), st.integers(0, 5)), max_size=6)
limits = {"largest": st.none() | st.integers(1, 6), "memory": st.none() | st.integers(0, 12)}
# Small enough to try everything, in seconds that add up exactly.
whole = st.integers(0, 6).map(float)
small_jobs = st.lists(
    st.builds(Job, st.just(0), st.integers(1, 6).map(float), st.integers(0, 4)), min_size=1, max_size=4
)
small = st.lists(st.builds(Group, whole, small_jobs.map(tuple), st.integers(0, 2)), min_size=1, max_size=2)


@settings(deadline=None, max_examples=100)
@given(groups=anything, slots=st.integers(1, 9), **limits)
def test_every_job_once_within_limits_and_in_the_order_of_a_queue(
    groups: list[Group], slots: int, largest: int | None, memory: int | None
) -> None:
    parts = pack(groups, slots, largest=largest, memory=memory)
    check(parts, groups, slots, largest, memory)
    assert makespan(parts, slots) * SLACK >= lower_bound(groups, slots, largest=largest, memory=memory)
    assert pack(groups, slots, largest=largest, memory=memory) == parts


@settings(deadline=None, max_examples=100)
@given(groups=small, slots=st.integers(1, 3), **limits)
def test_beside_all_plans_of_a_small_instance(
    groups: list[Group], slots: int, largest: int | None, memory: int | None
) -> None:
    best = shortest(groups, slots, largest, memory)
    assert lower_bound(groups, slots, largest=largest, memory=memory) <= best * SLACK
    found = makespan(pack(groups, slots, largest=largest, memory=memory), slots)
    # Jobs that are a large part of a slot are where a rule of thumb errs most.
    assert best <= found * SLACK
    assert found <= best * 4 / 3 * SLACK


def test_small_instances_are_nearly_always_the_best() -> None:
    generator = random.Random(0)
    ratios = []
    for _ in range(150):
        groups = [
            Group(
                generator.choice([0.0, 1.0, 4.0]),
                tuple(Job(i, float(generator.randint(1, 9))) for i in range(generator.randint(1, 4))),
            )
            for _ in range(2)
        ]
        slots = generator.randint(1, 3)
        ratios.append(makespan(pack(groups, slots), slots) / shortest(groups, slots, None, None))
    assert sum(ratios) / len(ratios) < 1.005
    assert sum(ratio > SLACK for ratio in ratios) < len(ratios) / 20


@settings(deadline=None, max_examples=50)
@given(groups=anything)
def test_one_slot_shares_everything(groups: list[Group]) -> None:
    parts = pack(groups, 1)
    assert sorted(part.group for part in parts) == [i for i, group in enumerate(groups) if group.jobs]
    assert makespan(parts, 1) == pytest.approx(lower_bound(groups, 1), rel=1e-5)


@cache
def ordinary(seed: int) -> tuple[Group, ...]:
    """Students of about 20 teachers: alike within a group, three times as long with longer training."""
    generator = random.Random(seed)
    groups = []
    for _ in range(20):
        seconds = 10 ** generator.uniform(0, 1) * generator.choice([1, 1, 1, 3])
        shared = seconds * generator.uniform(0.3, 10)
        each = [seconds * generator.uniform(0.97, 1.03) for _ in range(generator.randint(3, 60))]
        groups.append(Group(shared, tuple(Job(i, own, 3) for i, own in enumerate(each)), 10))
    return tuple(groups)


@pytest.mark.parametrize("seed", range(3))
def test_more_slots_never_take_longer(seed: int) -> None:
    ends = [makespan(pack(ordinary(seed), slots), slots) for slots in (1, 2, 3, 5, 8, 13, 21, 34, 89, 610)]
    for fewer, more in pairwise(ends):
        assert more <= fewer * (1 + TOLERANCE)
    assert ends[-1] < ends[0] / 10


@pytest.mark.parametrize("limit", [{}, {"largest": 7}, {"memory": 40}])
@pytest.mark.parametrize("slots", [4, 16, 64])
def test_ends_within_five_percent_of_what_nothing_can_beat(slots: int, limit: dict[str, int]) -> None:
    for seed in range(3):
        parts = pack(ordinary(seed), slots, **limit)
        check(parts, ordinary(seed), slots, limit.get("largest"), limit.get("memory"))
        assert makespan(parts, slots) <= 1.05 * lower_bound(ordinary(seed), slots, **limit)


def test_a_group_is_split_when_slots_would_stand_idle() -> None:
    parts = pack([same(1.0, 12, shared=2.0)], 4)
    assert [len(part.jobs) for part in parts] == [3, 3, 3, 3]
    assert makespan(parts, 4) == 5.0


def test_a_group_is_not_split_where_that_only_costs_more() -> None:
    # The long job decides the end, so that the others need not be spread over the slots that are left.
    parts = pack([same(100.0, 1), same(1.0, 12, shared=2.0)], 4)
    assert [(part.group, part.start, part.end) for part in parts] == [(0, 0.0, 100.0), (1, 0.0, 14.0)]


def test_an_end_that_is_hardly_earlier_is_not_worth_another_part() -> None:
    # The longer group on all three slots would end everything at 204 instead of 205, and pay for sharing once more.
    parts = pack([same(1.0, 200, shared=5.0), same(1.0, 400, shared=1.0)], 3)
    assert sorted(part.group for part in parts) == [0, 1, 1]
    assert makespan(parts, 3) == 205.0


@pytest.mark.parametrize(
    ("groups", "slots", "best"),
    [
        ([same(3.0, 1), same(3.0, 1), same(2.0, 1), same(2.0, 1), same(2.0, 1)], 2, 6.0),
        ([same(1.0, 10, shared=5.0)], 1, 15.0),
        ([same(1.0, 10, shared=5.0)], 10, 6.0),
        ([same(1.0, 10, shared=5.0)], 100, 6.0),
        ([same(1.0, 6, shared=1.0), same(2.0, 3, shared=1.0)], 2, 7.0),
        # Eleven jobs on ten slots: one slot has two, however much time all others have left.
        ([same(1.0, 11, shared=0.5)], 10, 2.5),
        # One of the three is split, unevenly; sharing it costs less than a slot that stands idle.
        ([same(1.0, 3, shared=4.0)] * 3, 2, 13.0),
    ],
)
def test_known_best(groups: list[Group], slots: int, best: float) -> None:
    parts = pack(groups, slots)
    check(parts, groups, slots, None, None)
    assert makespan(parts, slots) == pytest.approx(best, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("groups", "slots", "limit", "bound"),
    [
        ([same(1.0, 11, shared=0.5)], 10, {}, 2.5),
        ([same(1.0, 10, shared=5.0)], 2, {}, 10.0),
        ([same(1.0, 10, shared=5.0)], 1, {"largest": 5}, 20.0),
        ([same(1.0, 10, shared=5.0)], 1, {"memory": 0}, 15.0),
        # 47 jobs a group leave no slot with ten jobs of one group; the work alone says 10.06.
        ([same(1.0, 47, shared=0.05)] * 213, 1000, {}, 11.05),
    ],
)
def test_lower_bound(groups: list[Group], slots: int, limit: dict[str, int], bound: float) -> None:
    assert lower_bound(groups, slots, **limit) == pytest.approx(bound, rel=1e-5)


def test_memory_counts_what_is_shared_and_the_largest_job_may_exceed_it() -> None:
    light = Group(1.0, tuple(Job(i, 1.0, 4) for i in range(6)), 10)
    heavy = Group(1.0, (Job(0, 1.0, 90), Job(1, 1.0, 2), Job(2, 1.0, 2)), 10)
    sizes = defaultdict(list)
    for part in pack([light, heavy], 1, memory=18):
        sizes[part.group].append(len(part.jobs))
    assert {group: sorted(found) for group, found in sizes.items()} == {0: [2, 2, 2], 1: [1, 2]}
    # Where what is shared exceeds the memory already, nobody trains beside another one.
    assert len(pack([light], 1, memory=9)) == 6


def test_slots_beyond_all_jobs_cost_nothing() -> None:
    groups = [same(2, 3, shared=1), same(5, 2)]
    parts = pack(groups, 5)
    assert pack(groups, 10**12) == parts
    assert makespan(parts, 10**12) == makespan(parts, 5) == 5


def test_nothing_to_do() -> None:
    assert pack([], 3) == pack([Group(5.0, ())], 3) == []
    assert lower_bound([], 3) == makespan([], 3) == 0.0


def test_groups_keep_their_place_beside_empty_ones() -> None:
    assert [part.group for part in pack([Group(5.0, ()), same(1.0, 2)], 1)] == [1]


@pytest.mark.parametrize("limit", [{"slots": 0}, {"slots": 1, "largest": 0}])
def test_limits_below_one(limit: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack([same(1.0, 2)], **limit)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_seconds_that_are_none(wrong: float) -> None:
    for group in (same(wrong, 2), same(1.0, 2, shared=wrong)):
        with pytest.raises(ValueError, match="seconds must be"):
            pack([group], 2)
        with pytest.raises(ValueError, match="seconds must be"):
            lower_bound([group], 2)


def test_the_same_plan_in_every_process() -> None:
    code = (
        "from pld_grid.packing import *\n"
        "groups = [Group(i % 5, tuple(Job(j, 1 + (i * j) % 7 / 7) for j in range(9))) for i in range(8)]\n"
        "print(pack(groups, 6))"
    )
    plans = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(plans) == 1


def test_a_wrong_plan_is_seen() -> None:
    """The checks above can fail."""
    groups = [same(1.0, 4, shared=1.0)]
    first, *others = pack(groups, 2)
    for wrong in (others, [first, first, *others], [dataclasses.replace(first, start=1.0, end=4.0), *others]):
        with pytest.raises(AssertionError):
            check(wrong, groups, 2, None, None)
    with pytest.raises(AssertionError):
        check([first, *others], groups, 2, 1, None)
