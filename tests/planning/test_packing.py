import dataclasses
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import pytest
from cli_process import run_python
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_grid.planning.packing import TOLERANCE, CostGroup, Job, JobBatch, lower_bound, makespan, pack

ROUNDING = 1 + 1e-9


def equal_jobs(seconds: float, count: int, shared: float = 0.0) -> CostGroup:
    """Return a group of equal jobs."""
    return CostGroup(shared, tuple(Job(i, seconds) for i in range(count)))


def check_schedule(
    batches: Sequence[JobBatch], groups: Sequence[CostGroup], slots: int, max_jobs: int | None, memory: int | None
) -> None:
    """Assert what holds for every schedule."""
    expected = Counter((i, job) for i, group in enumerate(groups) for job in group.jobs)
    assert Counter((batch.group, job) for batch in batches for job in batch.jobs) == expected
    for batch in batches:
        group = groups[batch.group]
        seconds = group.shared_seconds + sum(job.seconds for job in batch.jobs)
        assert batch.end - batch.start == pytest.approx(seconds, rel=1e-9, abs=1e-9)
        assert batch.jobs
        if max_jobs is not None:
            assert len(batch.jobs) <= max_jobs
        if memory is not None and len(batch.jobs) > 1:
            assert group.shared_bytes + sum(job.bytes for job in batch.jobs) <= memory
    check_queue(batches, slots)


def check_queue(batches: Sequence[JobBatch], slots: int) -> None:
    """Assert that slots which take the batches in their order start them at the planned times."""
    free = [0.0] * slots
    for batch in batches:
        earliest = min(free)
        assert batch.start == pytest.approx(earliest, rel=1e-9, abs=1e-9)
        free[free.index(earliest)] = batch.end
    assert [batch.start for batch in batches] == sorted(batch.start for batch in batches)
    for before, after in pairwise(batches):
        if before.start == after.start and before.end > before.start:
            assert before.end >= after.end
    assert makespan(batches, slots) == pytest.approx(
        max((batch.end for batch in batches), default=0.0), rel=1e-9, abs=1e-9
    )


def splits(jobs: Sequence[Job]) -> Iterator[list[list[Job]]]:
    """Yield all ways to split jobs into batches."""
    if not jobs:
        yield []
        return
    for split in splits(jobs[1:]):
        yield [[jobs[0]], *split]
        for i in range(len(split)):
            yield [*split[:i], [jobs[0], *split[i]], *split[i + 1 :]]


def shortest_makespan(groups: Sequence[CostGroup], slots: int, max_jobs: int | None, memory: int | None) -> float:
    """Return the shortest makespan, by trying all splits of all groups on all slots."""

    def allowed(group: CostGroup, batch: list[Job]) -> bool:
        held = group.shared_bytes + sum(job.bytes for job in batch)
        return len(batch) == 1 or ((max_jobs is None or len(batch) <= max_jobs) and (memory is None or held <= memory))

    # The ends that the slots can have after some of the groups, without duplicates.
    ends = {(0.0,) * slots}
    for group in groups:
        reached = set()
        for split in splits(group.jobs):
            if not all(allowed(group, batch) for batch in split):
                continue
            options = ends
            for batch in split:
                seconds = group.shared_seconds + sum(job.seconds for job in batch)
                options = {
                    tuple(sorted((*end[:i], end[i] + seconds, *end[i + 1 :]))) for end in options for i in range(slots)
                }
            reached |= options
        ends = reached
    return min(max(end) for end in ends)


seconds = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.02, 2.0, 3.0, 7.5]) | st.floats(0.01, 10)
jobs = st.builds(Job, st.integers(0, 9), seconds, st.integers(0, 6))
job_lists = st.lists(jobs, min_size=0, max_size=12) | st.builds(lambda job, n: [job] * n, jobs, st.integers(1, 40))
any_groups = st.lists(st.builds(CostGroup, seconds, job_lists.map(tuple), st.integers(0, 5)), max_size=6)
limits = {"max_jobs": st.none() | st.integers(1, 6), "memory": st.none() | st.integers(0, 12)}
# Small enough to try everything, with seconds that add up exactly.
integral = st.integers(0, 6).map(float)
small_jobs = st.lists(
    st.builds(Job, st.just(0), st.integers(1, 6).map(float), st.integers(0, 4)), min_size=1, max_size=4
)
small_groups = st.lists(
    st.builds(CostGroup, integral, small_jobs.map(tuple), st.integers(0, 2)), min_size=1, max_size=2
)


@settings(deadline=None, max_examples=100)
@given(groups=any_groups, slots=st.integers(1, 9), **limits)
def test_pack_schedules_every_job_once_within_the_limits(groups, slots, max_jobs, memory):
    batches = pack(groups, slots, max_jobs=max_jobs, memory=memory)
    check_schedule(batches, groups, slots, max_jobs, memory)
    assert makespan(batches, slots) * ROUNDING >= lower_bound(groups, slots, max_jobs=max_jobs, memory=memory)
    assert pack(groups, slots, max_jobs=max_jobs, memory=memory) == batches


@settings(deadline=None, max_examples=100)
@given(groups=small_groups, slots=st.integers(1, 3), **limits)
def test_pack_of_a_small_instance_is_near_the_optimum(groups, slots, max_jobs, memory):
    best = shortest_makespan(groups, slots, max_jobs, memory)
    assert lower_bound(groups, slots, max_jobs=max_jobs, memory=memory) <= best * ROUNDING
    packed = makespan(pack(groups, slots, max_jobs=max_jobs, memory=memory), slots)
    # A heuristic errs most where one job takes a large part of a slot.
    assert best <= packed * ROUNDING
    assert packed <= best * 4 / 3 * ROUNDING


def test_pack_of_small_instances_is_nearly_always_optimal():
    generator = random.Random(0)
    ratios = []
    for _ in range(150):
        groups = [
            CostGroup(
                generator.choice([0.0, 1.0, 4.0]),
                tuple(Job(i, float(generator.randint(1, 9))) for i in range(generator.randint(1, 4))),
            )
            for _ in range(2)
        ]
        slots = generator.randint(1, 3)
        ratios.append(makespan(pack(groups, slots), slots) / shortest_makespan(groups, slots, None, None))
    assert sum(ratios) / len(ratios) < 1.005
    assert sum(ratio > ROUNDING for ratio in ratios) < len(ratios) / 20


@settings(deadline=None, max_examples=50)
@given(groups=any_groups)
def test_pack_on_one_slot_splits_no_group(groups):
    batches = pack(groups, 1)
    assert sorted(batch.group for batch in batches) == [i for i, group in enumerate(groups) if group.jobs]
    assert makespan(batches, 1) == pytest.approx(lower_bound(groups, 1), rel=1e-5)


@cache
def typical_groups(seed: int) -> tuple[CostGroup, ...]:
    """Return the students of 20 teachers, similar within a group, some of which train three times as long."""
    generator = random.Random(seed)
    groups = []
    for _ in range(20):
        seconds = 10 ** generator.uniform(0, 1) * generator.choice([1, 1, 1, 3])
        shared = seconds * generator.uniform(0.3, 10)
        each = [seconds * generator.uniform(0.97, 1.03) for _ in range(generator.randint(3, 60))]
        groups.append(CostGroup(shared, tuple(Job(i, own, 3) for i, own in enumerate(each)), 10))
    return tuple(groups)


@pytest.mark.parametrize("seed", range(3))
def test_pack_on_more_slots_never_takes_longer(seed):
    ends = [makespan(pack(typical_groups(seed), slots), slots) for slots in (1, 2, 3, 5, 8, 13, 21, 34, 89, 610)]
    for fewer, more in pairwise(ends):
        assert more <= fewer * (1 + TOLERANCE)
    assert ends[-1] < ends[0] / 10


@pytest.mark.parametrize("limit", [{}, {"max_jobs": 7}, {"memory": 40}])
@pytest.mark.parametrize("slots", [4, 16, 64])
def test_pack_is_within_five_percent_of_the_lower_bound(slots, limit):
    for seed in range(3):
        batches = pack(typical_groups(seed), slots, **limit)
        check_schedule(batches, typical_groups(seed), slots, limit.get("max_jobs"), limit.get("memory"))
        assert makespan(batches, slots) <= 1.05 * lower_bound(typical_groups(seed), slots, **limit)


def test_pack_splits_a_group_when_slots_would_be_idle():
    batches = pack([equal_jobs(1.0, 12, shared=2.0)], 4)
    assert [len(batch.jobs) for batch in batches] == [3, 3, 3, 3]
    assert makespan(batches, 4) == 5.0


def test_pack_does_not_split_a_group_if_that_only_adds_work():
    # The long job determines the makespan, so the others need not be spread over the other slots.
    batches = pack([equal_jobs(100.0, 1), equal_jobs(1.0, 12, shared=2.0)], 4)
    assert [(batch.group, batch.start, batch.end) for batch in batches] == [(0, 0.0, 100.0), (1, 0.0, 14.0)]


def test_pack_does_not_split_a_group_for_a_slightly_shorter_makespan():
    # With the longer group on all three slots, the makespan would be 204 instead of 205, at one more shared cost.
    batches = pack([equal_jobs(1.0, 200, shared=5.0), equal_jobs(1.0, 400, shared=1.0)], 3)
    assert sorted(batch.group for batch in batches) == [0, 1, 1]
    assert makespan(batches, 3) == 205.0


@pytest.mark.parametrize(
    ("groups", "slots", "best"),
    [
        ([equal_jobs(3.0, 1), equal_jobs(3.0, 1), equal_jobs(2.0, 1), equal_jobs(2.0, 1), equal_jobs(2.0, 1)], 2, 6.0),
        ([equal_jobs(1.0, 10, shared=5.0)], 1, 15.0),
        ([equal_jobs(1.0, 10, shared=5.0)], 10, 6.0),
        ([equal_jobs(1.0, 10, shared=5.0)], 100, 6.0),
        ([equal_jobs(1.0, 6, shared=1.0), equal_jobs(2.0, 3, shared=1.0)], 2, 7.0),
        # Eleven jobs on ten slots: one slot runs two.
        ([equal_jobs(1.0, 11, shared=0.5)], 10, 2.5),
        # One of the three is split unevenly, which costs less than an idle slot.
        ([equal_jobs(1.0, 3, shared=4.0)] * 3, 2, 13.0),
    ],
)
def test_pack_with_a_known_optimum_finds_it(groups, slots, best):
    batches = pack(groups, slots)
    check_schedule(batches, groups, slots, None, None)
    assert makespan(batches, slots) == pytest.approx(best, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("groups", "slots", "limit", "bound"),
    [
        ([equal_jobs(1.0, 10, shared=5.0)], 2, {}, 10.0),
        ([equal_jobs(1.0, 10, shared=5.0)], 1, {"max_jobs": 5}, 20.0),
        ([equal_jobs(1.0, 10, shared=5.0)], 1, {"memory": 0}, 15.0),
    ],
)
def test_lower_bound_of_known_instances(groups, slots, limit, bound):
    assert lower_bound(groups, slots, **limit) == pytest.approx(bound, rel=1e-5)


def test_pack_counts_shared_memory_and_runs_a_too_large_job_alone():
    light = CostGroup(1.0, tuple(Job(i, 1.0, 4) for i in range(6)), 10)
    heavy = CostGroup(1.0, (Job(0, 1.0, 90), Job(1, 1.0, 2), Job(2, 1.0, 2)), 10)
    sizes = defaultdict(list)
    for batch in pack([light, heavy], 1, memory=18):
        sizes[batch.group].append(len(batch.jobs))
    assert {group: sorted(counts) for group, counts in sizes.items()} == {0: [2, 2, 2], 1: [1, 2]}
    # If the shared bytes alone exceed the memory, every job runs alone.
    assert len(pack([light], 1, memory=9)) == 6


def test_pack_with_more_slots_than_jobs_ignores_the_rest():
    groups = [equal_jobs(2, 3, shared=1), equal_jobs(5, 2)]
    batches = pack(groups, 5)
    assert pack(groups, 10**12) == batches
    assert makespan(batches, 10**12) == makespan(batches, 5) == 5


def test_pack_without_jobs_returns_nothing():
    assert pack([], 3) == pack([CostGroup(5.0, ())], 3) == []
    assert lower_bound([], 3) == makespan([], 3) == 0.0


def test_pack_with_an_empty_group_keeps_the_indices_of_others():
    assert [batch.group for batch in pack([CostGroup(5.0, ()), equal_jobs(1.0, 2)], 1)] == [1]


@pytest.mark.parametrize("limit", [{"slots": 0}, {"slots": 1, "max_jobs": 0}])
def test_pack_with_a_limit_below_one_raises(limit):
    with pytest.raises(ValueError, match="at least 1"):
        pack([equal_jobs(1.0, 2)], **limit)


@pytest.mark.parametrize("invalid", [math.nan, math.inf, -1.0])
def test_pack_with_invalid_seconds_raises(invalid):
    for group in (equal_jobs(invalid, 2), equal_jobs(1.0, 2, shared=invalid)):
        with pytest.raises(ValueError, match="seconds must be"):
            pack([group], 2)
        with pytest.raises(ValueError, match="seconds must be"):
            lower_bound([group], 2)


def test_check_schedule_rejects_wrong_schedules():
    groups = [equal_jobs(1.0, 4, shared=1.0)]
    first, *others = pack(groups, 2)
    late = dataclasses.replace(first, start=1.0, end=4.0)
    for batches, max_jobs in ((others, 4), ([first, first, *others], 4), ([late, *others], 4), ([first, *others], 1)):
        with pytest.raises(AssertionError):
            check_schedule(batches, groups, 2, max_jobs, None)


def test_pack_in_every_process_returns_the_same_schedule():
    code = (
        "from pld_grid.planning.packing import *\n"
        "groups = [CostGroup(i % 5, tuple(Job(j, 1 + (i * j) % 7 / 7) for j in range(9))) for i in range(8)]\n"
        "print(pack(groups, 6))"
    )
    assert len({run_python(code, PYTHONHASHSEED=seed) for seed in ("1", "2")}) == 1
