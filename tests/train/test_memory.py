"""A cohort that does not fit into memory is split and gives the same numbers."""

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from trainable_cells import numbers, train, train_one, trainable

from pld_grid.experiment.cell import Model, Optimizer, Recipe
from pld_grid.experiment.events import CellFailed, CellFinished, CellStarted, CohortSplit, Event
from pld_grid.store import Store
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.student import Student

pytestmark = pytest.mark.slow

# Many parameters and small activations: some 40 MB of weights, with gradients and AdamW's state 170 MB a student.
LARGE = Model(
    architecture="test_vit",
    options={"img_size": 8, "patch_size": 8, "depth": 1, "embed_dim": 1024, "class_token": False, "global_pool": "avg"},
)
RECIPE = Recipe(batch_size=722, micro_batch_size=38, warmup_epochs=0.5, mean=(0.3,), std=(0.38,))
COHORT = [
    trainable("ce", student=LARGE, recipe=RECIPE, epochs=1, optimizer=Optimizer(name="adamw", learning_rate=rate))
    for rate in (1e-3, 2e-3, 3e-3, 4e-3)
]
# glibc's settings (mallopt(3)) without which the address space that a training takes depends on the machine: a thread
# reserves 64 MB for an arena of its own, and freed tensors may stay in the heap as fragments.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
# The first cell trains before the limit, to import and allocate what is needed once.
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from pld_grid.experiment.cell import Cell
from pld_grid.train.cohort import train_cohort
from pld_grid.train.run_context import RunContext
torch.set_num_threads(1)
small, *cells = [Cell.model_validate(cell) for cell in json.loads(Path(sys.argv[1]).read_text())]
train_cohort([small], RunContext(store=sys.argv[2]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
train_cohort(cells, RunContext(store=sys.argv[2]), lambda event: print(json.dumps(event.to_dict())))
"""


def train_limited(folder: Path, megabytes: int) -> list[Event]:
    """Train the cohort in a process that may take `megabytes` more of memory; return its events."""
    cells_file = folder / "cells.json"
    cells_file.write_text(json.dumps([cell.model_dump(mode="json") for cell in (trainable(epochs=1), *COHORT)]))
    command = [sys.executable, "-c", LIMITED, str(cells_file), str(folder / "store"), str(megabytes * 1_000_000)]
    output = ""
    for _ in range(3):
        process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ALLOCATOR})
        output += process.stdout
        # C libraries sometimes crash without memory; Ray would restart the process.
        if process.returncode >= 0:
            break
    assert process.returncode == 0, (process.returncode, process.stderr)
    return [Event.from_dict(json.loads(line)) for line in output.splitlines()]


def test_cohort_that_does_not_fit_is_split_and_gives_the_same_numbers(tmp_path):
    # Two students and a checkpoint take 400 MB, four students 650 MB.
    events = train_limited(tmp_path, 525)
    assert [event for event in events if isinstance(event, CohortSplit)]
    assert not [event for event in events if isinstance(event, CellFailed)]
    store = Store(tmp_path / "store")
    assert all(store.receipt(cell) is not None for cell in COHORT)
    for cell in (COHORT[0], COHORT[-1]):
        assert numbers(store.receipt(cell)) == numbers(train_one(tmp_path / cell.cell_id, cell))


# Too few megabytes for any student, and some at which allocations of any kind fail, anywhere in a training.
@pytest.mark.parametrize("megabytes", [30, *random.Random(20260722).sample(range(100, 600, 10), 3)])
def test_memory_exhausted_anywhere_is_reported_for_every_cell(tmp_path, megabytes):
    ends = {e.cell_id: e for e in train_limited(tmp_path, megabytes) if isinstance(e, CellFailed | CellFinished)}
    assert ends.keys() == {cell.cell_id for cell in COHORT}
    reasons = [event.reason for event in ends.values() if isinstance(event, CellFailed)]
    assert [reason for reason in reasons if "memory" not in reason.lower()] == []
    assert len(reasons) == len(COHORT) or megabytes > 30


def test_halves_of_a_split_cohort_contain_only_remaining_cells(tmp_path, monkeypatch):
    """One student fails by itself, then the device is full: the failed one is not trained again."""
    cells = [trainable("ce", optimizer=Optimizer(name="adamw", learning_rate=rate)) for rate in (1e-3, 2e-3, 3e-3)]
    step, together = Student.train_step, {cell.cell_id for cell in cells}

    def limited(self: Student, *arguments: object) -> None:
        if self.cell is cells[0]:
            together.discard(self.cell.cell_id)
            raise ValueError("broken by itself")
        if self.cell is cells[2] and self.next_epoch == 2 and together >= {cells[1].cell_id, cells[2].cell_id}:
            together.discard(cells[1].cell_id)
            raise torch.OutOfMemoryError("the device is full")
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Student, "train_step", limited)
    events: list[Event] = []
    receipts = train(tmp_path, *cells, on_event=events.append)
    ends = [event for event in events if isinstance(event, CellFailed | CohortSplit | CellFinished)]
    assert [(type(event), event.cell_id) for event in ends] == [
        (CellFailed, cells[0].cell_id),
        (CohortSplit, cells[1].cell_id),
        (CellFinished, cells[1].cell_id),
        (CellFinished, cells[2].cell_id),
    ]
    monkeypatch.undo()
    for cell in cells[1:]:
        assert numbers(receipts[cell.cell_id]) == numbers(train_one(tmp_path / cell.cell_id, cell))
    # The second start is from a checkpoint.
    assert [e.epoch for e in events if isinstance(e, CellStarted) and e.cell_id == cells[2].cell_id] == [0, 1]


class Case(NamedTuple):
    """An error, what it was raised from or while handling, and whether it means that memory is exhausted."""

    error: Exception
    expected: bool
    cause: Exception | None = None
    context: Exception | None = None


@pytest.mark.parametrize(
    "case",
    [
        Case(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        Case(RuntimeError("CUDA error: out of memory"), True),
        Case(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        Case(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        Case(RuntimeError("unable to mmap 1024 bytes: Cannot allocate memory (12)"), True),
        Case(MemoryError(), True),
        Case(OSError(errno.ENOMEM, "no more"), True),
        Case(RuntimeError("unexpected pos"), True, context=MemoryError()),
        Case(ValueError("could not load"), True, cause=MemoryError()),
        Case(ValueError("its own fault"), False, context=MemoryError()),
        Case(ValueError("the name 'out of memory' is taken"), False),
        Case(RuntimeError("the shapes differ"), False),
        Case(OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_is_out_of_memory(case):
    case.error.__cause__, case.error.__context__ = case.cause, case.context
    case.error.__suppress_context__ = False
    assert is_out_of_memory(case.error) is case.expected
