"""Kinds of failures of a cell: each is reported, retried only if that can help, and leaves other cells alone."""

import re
import sqlite3
from collections import Counter
from collections.abc import Collection

import pytest
import torch
from cells import make_cell
from cli_process import PROFILE, RETRY_TIMEOUT_SECONDS, Service
from fault_injection import FaultInjection
from torch import Tensor

from pld_grid.experiment.cell import Cell
from pld_grid.orchestrate.resources import local_cpus
from pld_grid.store import CellRecord, Store, claims
from pld_grid.train.data import Splits
from pld_grid.train.data._split import ArraySplit, Indices
from pld_grid.train.failure import TrainingError
from pld_grid.train.loader import Loader

# A student has 70 MB with AdamW's state, and three times that while it writes a checkpoint.
FAT = "fat: {architecture: test_vit, options: {img_size: 8, patch_size: 4, depth: 1, embed_dim: 768}}"
MIXED_PROFILE = PROFILE.replace("models:", f"models:\n  {FAT}").replace(
    "optimizers:", "optimizers:\n  sgd: {learning_rate: 1e9}"
)
MIXED_PROFILE += "machine: {hung_after: 15}\n"
# The loss or the seed of a cell determines its fault.
MIXED = """
cells:
  - {teacher: big, student: small, epochs: 3, loss: [ce, kd, dist, pld]}
  - {student: small, epochs: 2, loss: ce, optimizer: sgd}
  - {student: small, epochs: 2, loss: ce, seed: [1, 2, 3, 4, 5]}
  - {student: fat, epochs: 1, loss: ls, hyperparameters: {ls: {eps: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}, seed: 6}
  - {student: fat, epochs: 1, loss: ce, seed: 7}
"""
READ_ERROR, NO_RESULT, DYING, HANGING_ONCE, HANGING, CROWDED, TOO_LARGE = range(1, 8)
FAULTS = {
    "pld_grid.store.leases": "HEARTBEAT_SECONDS, LEASE_TTL_SECONDS, MAX_CLOCK_GAP_SECONDS = 1.0, 10.0, 4.0",
    "pld_grid.orchestrate.waves": "MAX_WORKER_DEATHS = 1",
    "pld_grid.train.student": f"""
import os
_step = Student.train_step


def train_step(self, pixels_NCHW, *rest):
    name, place = (self.cell.loss.name, self.cell.seed), (self.next_epoch, rest[-1])
    if name == ("dist", 0) and place == (2, 4):
        raise ValueError("this loss cannot\\nbe computed")
    if name == ("kd", 0) and place == (2, 2):
        pixels_NCHW = pixels_NCHW * float("nan")
    if name[1] == {HANGING_ONCE} and place == (2, 1) and not os.path.exists(f"{{FAULT_FOLDER}}/hung"):
        open(f"{{FAULT_FOLDER}}/hung", "x").close()
        while True:  # holds the interpreter, but for the moments that it gives to other threads
            pass
    if name[1] == {HANGING} and place == (2, 0):
        time.sleep(1e6)  # in C, without the interpreter
    _step(self, pixels_NCHW, *rest)


Student.train_step = train_step
""",
    "pld_grid.train.data._split": f"""
_batch = ArraySplit.batch


def batch(self, indices, seed, epoch):
    if (seed, epoch) == ({READ_ERROR}, 2) and 77 in indices:
        raise OSError("image 77 cannot be read")
    return _batch(self, indices, seed, epoch)


ArraySplit.batch = batch
""",
    "pld_grid.orchestrate.trial": f"""
import os, resource
from pathlib import Path
_train = train_cohort


def train_cohort(cells, *rest):
    seed = cells[0].seed
    with open(f"{{FAULT_FOLDER}}/begun", "a") as diary:
        diary.write(f"{{seed}}\\n")
    if seed == {NO_RESULT}:
        return
    if seed == {DYING}:
        os._exit(1)
    more = {{{CROWDED}: 440_000_000, {TOO_LARGE}: 60_000_000}}.get(seed)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if more is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        _train(cells, *rest)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
""",
}

# The state and its reason, by loss and seed.
ENDS = {
    ("kd", 0): ("diverged", r"the loss was not finite in epoch 2, step 3"),
    ("dist", 0): ("failed", r"ValueError: this loss cannot be computed \(.*:\d+\)"),
    ("ce", READ_ERROR): ("failed", r"OSError: image 77 cannot be read \(.*:\d+\)"),
    ("ce", NO_RESULT): ("lost", r"its trial ended without a result"),
    ("ce", DYING): ("lost", r"its worker died 2 times: .*"),
    ("ce", HANGING): ("lost", r"its worker hung 2 times"),
    ("ce", TOO_LARGE): ("failed", r".*memory.*"),
}
# The number of attempts of cells that have a trial of their own, by seed.
TRIES = {READ_ERROR: 1, NO_RESULT: 1, DYING: 2, HANGING_ONCE: 2, HANGING: 2, TOO_LARGE: 1}
EPOCHS_KEPT = {("dist", 0): 1, ("ce", READ_ERROR): 1, ("ce", HANGING): 1}


def load_records(service: Service) -> dict[str, tuple[Cell, CellRecord]]:
    """Return all cells that the store has records of, by cell id."""
    store = Store(service.store)
    grid = service.load_grid()
    records = ((cell, store.record(cell.cell_id)) for cell in grid.cells())
    return {cell.cell_id: (cell, progress) for cell, progress in records if progress is not None}


def mlflow_states(service: Service) -> dict[str, str]:
    """Return MLflow's states of runs, by cell id."""
    sql = "SELECT value, status FROM runs JOIN tags USING (run_uuid) WHERE key = 'pld_grid.cell_id'"
    with sqlite3.connect(service.tracking_uri.removeprefix("sqlite:///")) as connection:
        return dict(connection.execute(sql).fetchall())


def run(service: Service, *arguments: str, code: int) -> str:
    """Run the grid and return what it printed to standard error."""
    process = service.start("run", *arguments)
    out, err = process.communicate(timeout=RETRY_TIMEOUT_SECONDS)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return err


def check_ends(records: Collection[tuple[Cell, CellRecord]]) -> None:
    """Check the state, the reason and the epochs of each cell."""
    for cell, progress in records:
        state, reason = ENDS.get((cell.loss.name, cell.seed), ("finished", ""))
        if cell.optimizer.name == "sgd":
            state, reason = "diverged", r"the (loss was|weights were) not finite .*epoch [12], step \d"
        assert progress.state == state, (cell.loss.name, cell.seed, progress)
        assert re.fullmatch(reason, progress.reason), progress.reason
        if (cell.loss.name, cell.seed) in EPOCHS_KEPT:
            assert len(progress.epochs) == EPOCHS_KEPT[cell.loss.name, cell.seed]
    assert len(records) == 1 + 4 + 1 + 5 + 6 + 1


def check_claimed_once(store: Store, records: Collection[tuple[Cell, CellRecord]]) -> None:
    """Check that a cell that a retry cannot help is claimed once, whatever happens to its cohort."""
    for cell, progress in records:
        if progress.state == "diverged" or (cell.loss.name, cell.seed) in {("dist", 0), ("ce", READ_ERROR)}:
            end = "finished" if progress.state == "diverged" else "released"
            assert [entry.kind for entry in claims.read_log(store, cell.cell_id)] == ["claimed", end], (cell, progress)


def check_reports(service: Service, records: dict[str, tuple[Cell, CellRecord]]) -> None:
    """Check that every number or state in the tables has a run, and that `why` explains the hanging cell."""
    expected = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "lost": "FAILED"}
    assert mlflow_states(service) == {cell_id: expected[progress.state] for cell_id, (_, progress) in records.items()}
    for name in ("losses.md", "index.html"):
        text = (service.folder / "tables" / name).read_text()
        assert [word for word in ("diverged", "failed", "lost") if word not in text] == []
    (hung,) = (cell_id for cell_id, (cell, _) in records.items() if cell.seed == HANGING)
    explanation = service.run("why", hung, "--profile", "tiny.yaml")[0]
    assert re.search(r"state +lost: its worker hung 2 times\n", explanation)
    assert "its worker hung; another continues from its checkpoint" in explanation


MIXED_FAULTS = [
    "NaN loss",
    "exploding loss",
    "loss raises",
    "dataset raises",
    "trial without a result",
    "worker dies always",
    "trial hangs once",
    "trial hangs always",
    "cohort does not fit into memory",
    "student does not fit into memory",
]


def test_each_kind_of_failure_affects_only_its_cells(tmp_path, database, undisturbed, count):
    service = Service(tmp_path / "run", profile=MIXED_PROFILE, grid=MIXED, database=database)
    injection = FaultInjection(service, tmp_path / "sabotage", FAULTS)
    err = run(service, "--report", "tables", code=1)
    records = load_records(service)
    check_ends(records.values())
    tries = Counter(map(int, (injection.folder / "begun").read_text().split()))
    assert {seed: tries[seed] for seed in TRIES} == TRIES
    check_claimed_once(Store(service.store), records.values())
    assert err.count("a worker died; its cohort continues") == sum(TRIES[seed] - 1 for seed in TRIES)
    assert re.search(r"split in two: \d students do not fit into memory", err)
    bad = sum(progress.state in ("failed", "lost") for _, progress in records.values())
    assert f"error: {bad} cells failed; the same command tries them again" in err
    check_reports(service, records)

    # Without the faults, the numbers equal those of an undisturbed grid.
    injection.end()
    again = [cell_id for cell_id, (_, progress) in records.items() if progress.state not in ("finished", "diverged")]
    again += [cell_id for cell_id, (cell, _) in records.items() if cell.loss.name == "kd"]
    run(service, "--only", ",".join(again), "--again", code=0)
    assert service.numbers() == undisturbed(MIXED_PROFILE, MIXED)
    for kind in MIXED_FAULTS:
        count(kind)


# Seven cohorts of three.
MANY_PROFILE = PROFILE.replace("models:", "models:\n  third: {architecture: test_efficientnet}")
MANY = "cells: {student: [big, small, third], epochs: 1, loss: ce, seed: [0, 1, 2, 3, 4, 5, 6]}"
RAISING = """
_step = Student.train_step


def train_step(self, *rest):
    if self.cell.student.architecture in NAMES:
        raise ValueError("this loss cannot be computed")
    _step(self, *rest)


Student.train_step = train_step
"""


def test_wave_in_which_all_cells_fail_alike_stops_and_with_one_bad_student_does_not(tmp_path, database, count):
    service = Service(tmp_path / "run", profile=MANY_PROFILE, grid=MANY, database=database)
    # Two cohorts at a time, so that one that started meanwhile could keep the others running.
    slots = ("--cpus-per-cohort", str(local_cpus() / 2))
    names = ("test_resnet", "test_vit", "test_efficientnet")
    injection = FaultInjection(service, tmp_path / "all", {"pld_grid.train.student": f"NAMES = {names}\n{RAISING}"})
    err = run(service, *slots, code=1)
    stopped = re.search(
        r"^error: the first (\d+) cells all failed with one error, so the other (\d+) were not tried: "
        r"ValueError: this loss cannot be computed \(.*\)$",
        err,
        re.MULTILINE,
    )
    assert stopped is not None, err
    failed, others = map(int, stopped.groups())
    states = Counter(progress.state for _, progress in load_records(service).values())
    assert states == {"failed": failed}
    assert failed + others == 21
    assert others >= 6
    # Some of the others were about to start.
    tried = load_records(service).keys()
    shown = {cell_id: "FAILED" if cell_id in tried else "KILLED" for cell_id in mlflow_states(service)}
    assert tried <= shown.keys()
    assert mlflow_states(service) == shown
    injection.end()

    FaultInjection(service, tmp_path / "one", {"pld_grid.train.student": f"NAMES = {names[2:]}\n{RAISING}"})
    err = run(service, *slots, code=1)
    assert "error: 7 cells failed; the same command tries them again" in err
    ends = Counter((cell.student.architecture, progress.state) for cell, progress in load_records(service).values())
    assert ends == {("test_resnet", "finished"): 7, ("test_vit", "finished"): 7, ("test_efficientnet", "failed"): 7}
    count("all cells of a wave fail alike")
    count("one student of three fails")


def test_error_of_a_loader_process_is_reported_with_its_place():
    cell = make_cell()

    class Damaged(ArraySplit):
        def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
            raise OSError("image 77 cannot be read")

    images, labels = torch.zeros(128, 1, 16, 16, dtype=torch.uint8), torch.zeros(128, dtype=torch.int64)
    damaged = Damaged(images, labels)
    with pytest.raises(OSError, match="image 77") as raised:
        next(Loader(Splits(damaged, damaged), cell.recipe, 0, workers=1).train_batches(1))
    assert re.fullmatch(
        r"OSError: image 77 cannot be read \(test_classes.py:\d+\)", str(TrainingError.from_exception(raised.value))
    )
