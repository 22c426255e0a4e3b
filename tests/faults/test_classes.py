"""What can go wrong with a cell: told apart, tried again only where that can help, and no harm to the others."""

import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import torch
from cells import make_cell
from counting import Count, Undisturbed
from sabotage import Sabotage
from service import PATIENCE, PROFILE, Service
from torch import Tensor

from pld_grid import api, schedule
from pld_grid.spec import Cell
from pld_grid.store import Progress, Store, claims
from pld_grid.train.data import Splits
from pld_grid.train.data._split import ArraySplit, Indices
from pld_grid.train.failure import Failed
from pld_grid.train.loader import Loader

# With AdamW's state 70 MB a student, and three times that while it writes its checkpoint.
FAT = "fat: {architecture: test_vit, options: {img_size: 8, patch_size: 4, depth: 1, embed_dim: 768}}"
MIXED_PROFILE = PROFILE.replace("models:", f"models:\n  {FAT}").replace(
    "optimizers:", "optimizers:\n  sgd: {learning_rate: 1e9}"
)
MIXED_PROFILE += "machine: {hung_after: 9}\n"
# What happens to a cell depends on its loss, or else on its seed.
MIXED = """
cells:
  - {teacher: big, student: small, epochs: 3, loss: [ce, kd, dist, pld]}
  - {student: small, epochs: 2, loss: ce, optimizer: sgd}
  - {student: small, epochs: 2, loss: ce, seed: [1, 2, 3, 4, 5]}
  - {student: fat, epochs: 1, loss: ls, hyperparameters: {ls: {eps: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}, seed: 6}
  - {student: fat, epochs: 1, loss: ce, seed: 7}
"""
READING, SILENT, DYING, HANGING_ONCE, HANGING, CROWDED, TOO_LARGE = range(1, 8)
BROKEN = {
    "pld_grid.store.leases": "BEAT, LAPSED, FROZEN = 1.0, 10.0, 4.0",
    "pld_grid.schedule.waves": "WORKER_DEATHS = 1",
    "pld_grid.train.student": f"""
import os
_step = Student.train_step


def train_step(self, pixels_NCHW, *rest):
    name, place = (self.cell.loss.name, self.cell.seed), (self.next_epoch, rest[-1])
    if name == ("dist", 0) and place == (2, 4):
        raise ValueError("this loss cannot\\nbe computed")
    if name == ("kd", 0) and place == (2, 2):
        pixels_NCHW = pixels_NCHW * float("nan")
    if name[1] == {HANGING_ONCE} and place == (2, 1) and not os.path.exists(f"{{SABOTAGE}}/hung"):
        open(f"{{SABOTAGE}}/hung", "x").close()
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
    if (seed, epoch) == ({READING}, 2) and 77 in indices:
        raise OSError("image 77 cannot be read")
    return _batch(self, indices, seed, epoch)


ArraySplit.batch = batch
""",
    "pld_grid.schedule.trial": f"""
import os, resource
from pathlib import Path
_train = train_cohort


def train_cohort(cells, *rest):
    seed = cells[0].seed
    with open(f"{{SABOTAGE}}/begun", "a") as diary:
        diary.write(f"{{seed}}\\n")
    if seed == {SILENT}:
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

# By loss and seed: how it ends, and why.
ENDS = {
    ("kd", 0): ("diverged", r"the loss was not finite in epoch 2, step 3"),
    ("dist", 0): ("failed", r"ValueError: this loss cannot be computed \(.*:\d+\)"),
    ("ce", READING): ("failed", r"OSError: image 77 cannot be read \(.*:\d+\)"),
    ("ce", SILENT): ("lost", r"its trial ended without a result"),
    ("ce", DYING): ("lost", r"its worker died 2 times: .*"),
    ("ce", HANGING): ("lost", r"its worker hung 2 times"),
    ("ce", TOO_LARGE): ("failed", r".*memory.*"),
}
# How often cells are tried whose trial is theirs alone.
TRIES = {READING: 1, SILENT: 1, DYING: 2, HANGING_ONCE: 2, HANGING: 2, TOO_LARGE: 1}
EPOCHS_KEPT = {("dist", 0): 1, ("ce", READING): 1, ("ce", HANGING): 1}


def progress_of(service: Service) -> dict[str, tuple[Cell, Progress]]:
    """All that the store knows, by cell id."""
    store = Store(service.store)
    grid = api.load_grid(service.folder / "losses.yaml", str(service.folder / "tiny.yaml"))
    found = ((cell, store.progress(cell.cell_id)) for cell in grid.cells())
    return {cell.cell_id: (cell, progress) for cell, progress in found if progress is not None}


def mlflow_states(service: Service) -> dict[str, str]:
    """What MLflow calls the runs of cells."""
    sql = "SELECT value, status FROM runs JOIN tags USING (run_uuid) WHERE key = 'pld_grid.cell_id'"
    with sqlite3.connect(service.tracking_uri.removeprefix("sqlite:///")) as connection:
        return dict(connection.execute(sql).fetchall())


def run(service: Service, *arguments: str, code: int) -> str:
    """Runs the grid, for as long as a busy machine may take; what was said."""
    process = service.start("run", *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return err


def test_each_kind_of_failure_stays_where_it_is(
    tmp_path: Path, database: Path, undisturbed: Undisturbed, count: Count
) -> None:
    service = Service(tmp_path / "run", profile=MIXED_PROFILE, grid=MIXED, database=database)
    sabotage = Sabotage(service, tmp_path / "sabotage", BROKEN)
    err = run(service, "--report", "tables", code=1)
    found = progress_of(service)
    for cell, progress in found.values():
        state, reason = ENDS.get((cell.loss.name, cell.seed), ("finished", ""))
        if cell.optimizer.name == "sgd":
            state, reason = "diverged", r"the (loss was|weights were) not finite .*epoch [12], step \d"
        assert progress.state == state, (cell.loss.name, cell.seed, progress)
        assert re.fullmatch(reason, progress.reason), progress.reason
        if (cell.loss.name, cell.seed) in EPOCHS_KEPT:
            assert len(progress.epochs) == EPOCHS_KEPT[cell.loss.name, cell.seed]
    assert len(found) == 1 + 4 + 1 + 5 + 6 + 1
    tries = Counter(map(int, (sabotage.folder / "begun").read_text().split()))
    assert {seed: tries[seed] for seed in TRIES} == TRIES
    # What no other try can help is claimed once, whoever trains beside it.
    store = Store(service.store)
    for cell, progress in found.values():
        if progress.state == "diverged" or (cell.loss.name, cell.seed) in {("dist", 0), ("ce", READING)}:
            end = "finished" if progress.state == "diverged" else "released"
            assert [entry.kind for entry in claims.entries(store, cell.cell_id)] == ["claimed", end], (cell, progress)
    assert err.count("a worker died; its cohort goes on") == sum(TRIES[seed] - 1 for seed in TRIES)
    assert re.search(r"split in two: \d students do not fit into memory", err)
    bad = sum(progress.state in ("failed", "lost") for _, progress in found.values())
    assert f"error: {bad} cells failed; the same command tries them again" in err

    # Every number, or what is there instead of it, leads to a run.
    expected = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "lost": "FAILED"}
    assert mlflow_states(service) == {cell_id: expected[progress.state] for cell_id, (_, progress) in found.items()}
    tables = (service.folder / "tables" / "losses.md").read_text()
    page = (service.folder / "tables" / "index.html").read_text()
    for word in ("diverged", "failed", "lost"):
        assert word in tables
        assert word in page
    (hung,) = (cell_id for cell_id, (cell, _) in found.items() if cell.seed == HANGING)
    shown = service.run("why", hung, "--profile", "tiny.yaml")[0]
    assert re.search(r"state +lost: its worker hung 2 times\n", shown)
    assert "its worker hung; another goes on from its checkpoint" in shown

    # With the causes gone, the same numbers as if they had never been.
    sabotage.end()
    again = [cell_id for cell_id, (cell, progress) in found.items() if progress.state not in ("finished", "diverged")]
    again += [cell_id for cell_id, (cell, _) in found.items() if cell.loss.name == "kd"]
    run(service, "--only", ",".join(again), "--again", code=0)
    assert service.numbers() == undisturbed(MIXED_PROFILE, MIXED)
    for kind in (
        "NaN loss", "exploding loss", "loss raises", "dataset raises", "trial without a result", "worker dies always",
        "trial hangs once", "trial hangs always", "cohort does not fit into memory", "student does not fit into memory",
    ):  # fmt: skip
        count(kind)


# Seven cohorts of three.
MANY_PROFILE = PROFILE.replace("models:", "models:\n  third: {architecture: test_efficientnet}")
MANY = "cells: {student: [big, small, third], epochs: 1, loss: ce, seed: [0, 1, 2, 3, 4, 5, 6]}"
RAISING = """
_step = Student.train_step


def train_step(self, *rest):
    if self.cell.student.architecture in NAMES:
        raise ValueError("nobody can learn from this")
    _step(self, *rest)


Student.train_step = train_step
"""


def test_a_wave_in_which_all_fail_alike_is_stopped_and_one_bad_student_stops_nothing(
    tmp_path: Path, database: Path, count: Count
) -> None:
    service = Service(tmp_path / "run", profile=MANY_PROFILE, grid=MANY, database=database)
    # Two cohorts at a time on any machine: one that has begun meanwhile must not keep the others going.
    slots = ("--cpus-per-cohort", str(schedule.local_cpus() / 2))
    names = ("test_resnet", "test_vit", "test_efficientnet")
    sabotage = Sabotage(service, tmp_path / "all", {"pld_grid.train.student": f"NAMES = {names}\n{RAISING}"})
    err = run(service, *slots, code=1)
    said = re.search(r"^error: the first (\d+) cells all failed with one error, so the other (\d+) were not tried: "
                     r"ValueError: nobody can learn from this \(.*\)$", err, re.MULTILINE)  # fmt: skip
    assert said is not None, err
    failed, others = map(int, said.groups())
    states = Counter(progress.state for _, progress in progress_of(service).values())
    assert states == {"failed": failed}
    assert failed + others == 21
    assert others >= 6
    # Some of the others were about to begin.
    tried = progress_of(service).keys()
    shown = {cell_id: "FAILED" if cell_id in tried else "KILLED" for cell_id in mlflow_states(service)}
    assert tried <= shown.keys()
    assert mlflow_states(service) == shown
    sabotage.end()

    Sabotage(service, tmp_path / "one", {"pld_grid.train.student": f"NAMES = {names[2:]}\n{RAISING}"})
    err = run(service, *slots, code=1)
    assert "error: 7 cells failed; the same command tries them again" in err
    ends = Counter((cell.student.architecture, progress.state) for cell, progress in progress_of(service).values())
    assert ends == {("test_resnet", "finished"): 7, ("test_vit", "finished"): 7, ("test_efficientnet", "failed"): 7}
    count("all cells of a wave fail alike")
    count("one student of three fails")


def test_what_a_loader_process_says_is_said() -> None:
    cell = make_cell()

    class Torn(ArraySplit):
        def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
            raise OSError("image 77 cannot be read")

    images, labels = torch.zeros(128, 1, 16, 16, dtype=torch.uint8), torch.zeros(128, dtype=torch.int64)
    torn = Torn(images, labels)
    with pytest.raises(OSError, match="image 77") as caught:
        next(Loader(Splits(torn, torn), cell.recipe, 0, workers=1).train(1))
    assert re.fullmatch(r"OSError: image 77 cannot be read \(test_classes.py:\d+\)", str(Failed.of(caught.value)))
