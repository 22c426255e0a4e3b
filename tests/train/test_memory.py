"""A cohort that does not fit into memory: split, and the same numbers."""

import errno
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainable import numbers, train, trainable

from pld_grid.events import Event
from pld_grid.spec import Model, Optimizer, Recipe
from pld_grid.store import Store
from pld_grid.train.device import out_of_memory
from pld_grid.train.student import Student

# Many parameters, few images: with gradients and AdamW's state, some 70 MB a student.
LARGE = Model(architecture="mobilenetv4_conv_small_narrow", options={"num_features": 100_000})
RECIPE = Recipe(batch_size=722, micro_batch_size=38, warmup_epochs=0.5, mean=(0.3,), std=(0.38,))
COHORT = [
    trainable("ce", student=LARGE, recipe=RECIPE, epochs=1, optimizer=Optimizer(name="adamw", learning_rate=rate))
    for rate in (1e-3, 2e-3, 3e-3, 4e-3)
]
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from pld_grid.spec import Cell
from pld_grid.train.cohort import train_cohort
from pld_grid.train.surroundings import Surroundings
torch.set_num_threads(1)
small, *cells = [Cell.model_validate(cell) for cell in json.loads(Path(sys.argv[1]).read_text())]
# Everything that is imported and allocated once.
train_cohort([small], Surroundings(store=sys.argv[2]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
train_cohort(cells, Surroundings(store=sys.argv[2]), lambda event: print(event.kind, event.cell_id, event.reason))
"""


def train_limited(folder: Path, megabytes: int) -> list[str]:
    """Trains the cohort in a process that may take so much more memory; what it told."""
    given = folder / "cells.json"
    cells = [trainable(epochs=1), *COHORT]
    given.write_text(json.dumps([cell.model_dump(mode="json") for cell in cells]))
    command = [sys.executable, "-c", LIMITED, str(given), str(folder / "store"), str(megabytes * 1_000_000)]
    said = ""
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True)
        said += done.stdout
        # C libraries now and then die of it; Ray starts a process that has died again.
        if done.returncode >= 0:
            break
    assert done.returncode == 0, (done.returncode, done.stderr)
    return said.splitlines()


def test_a_cohort_that_does_not_fit_is_split_and_gives_the_same_numbers(tmp_path: Path) -> None:
    # Two students fit with much to spare, four do not.
    told = train_limited(tmp_path, 300)
    assert [line for line in told if line.startswith("split")]
    assert not [line for line in told if line.startswith("failed")]
    store = Store(tmp_path / "store")
    for cell in (COHORT[0], COHORT[-1]):
        assert numbers(store.receipt(cell)) == numbers(train(tmp_path / cell.cell_id, cell)[cell.cell_id])
    assert all(store.receipt(cell) is not None for cell in COHORT)


def test_students_that_never_fit_fail_by_name(tmp_path: Path) -> None:
    told = train_limited(tmp_path, 30)
    failed = [line for line in told if line.startswith("failed")]
    assert {line.split()[1] for line in failed} == {cell.cell_id for cell in COHORT}
    assert not [line for line in told if line.startswith("finished")]


# Megabytes at which allocations of any kind fail, wherever in a training: some of those between none and enough.
LIMITS = random.Random(20260722).sample(range(100, 300, 10), 3)


@pytest.mark.parametrize("megabytes", LIMITS)
def test_wherever_memory_ends_it_is_known_for_that(tmp_path: Path, megabytes: int) -> None:
    told = [line.split(maxsplit=2) for line in train_limited(tmp_path, megabytes)]
    ends = {cell_id: (kind, reason) for kind, cell_id, *reason in told if kind in ("finished", "failed")}
    assert ends.keys() == {cell.cell_id for cell in COHORT}
    assert [reason for kind, reason in ends.values() if kind == "failed" and "memory" not in reason[0].lower()] == []


def test_only_those_left_go_on_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One student fails by itself, then the device is full: the failed one is not tried again."""
    cells = [trainable("ce", optimizer=Optimizer(name="adamw", learning_rate=rate)) for rate in (1e-3, 2e-3, 3e-3)]
    step, living = Student.train_step, {cell.cell_id for cell in cells}

    def limited(self: Student, *arguments: object) -> None:
        if self.cell is cells[0]:
            living.discard(self.cell.cell_id)
            raise ValueError("broken by itself")
        if self.cell is cells[2] and self.next_epoch == 2 and living >= {cells[1].cell_id, cells[2].cell_id}:
            living.discard(cells[1].cell_id)
            raise torch.OutOfMemoryError("the device is full")
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Student, "train_step", limited)
    told: list[Event] = []
    receipts = train(tmp_path, *cells, listener=told.append)
    assert [(e.kind, e.cell_id) for e in told if e.kind in ("failed", "split", "finished")] == [
        ("failed", cells[0].cell_id),
        ("split", cells[1].cell_id),
        ("finished", cells[1].cell_id),
        ("finished", cells[2].cell_id),
    ]
    monkeypatch.undo()
    for cell in cells[1:]:
        assert numbers(receipts[cell.cell_id]) == numbers(train(tmp_path / cell.cell_id, cell)[cell.cell_id])
    # From their checkpoints on, not from the start.
    assert [e.epoch for e in told if e.kind == "started" and e.cell_id == cells[2].cell_id] == [0, 1]


def chained(outer: Exception, inner: Exception, *, cause: bool) -> Exception:
    """An error as if raised from, or while handling, another."""
    if cause:
        outer.__cause__ = inner
    else:
        outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("unable to mmap 1024 bytes: Cannot allocate memory (12)"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "no more"), True),
        (chained(RuntimeError("unexpected pos"), MemoryError(), cause=False), True),
        (chained(ValueError("could not load"), MemoryError(), cause=True), True),
        (chained(ValueError("its own fault"), MemoryError(), cause=False), False),
        (ValueError("the name 'out of memory' is taken"), False),
        (RuntimeError("the shapes differ"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_errors_that_mean_a_lack_of_memory(error: Exception, full: bool) -> None:
    assert out_of_memory(error) is full
