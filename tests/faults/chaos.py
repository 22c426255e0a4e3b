"""Processes that are killed, at random moments and at chosen ones, and what must hold afterwards."""

import json
import math
import random
import sqlite3
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from early import early
from living import all_gone, asked, details, family, kill, name
from service import GRID, PATIENCE, PROFILE, Service

# Of two optimizers and two losses, long enough to be killed many times.
EPOCHS = 14
LONG = GRID.replace("epochs: 6", f"epochs: {EPOCHS}").replace("[ce, kd, dist, pld]", "[ce, pld]").partition("table:")[0]
# How many it has, besides their teacher.
STUDENTS = 4
# Two of LONG's students, and two that LONG has not got.
OTHER = LONG.replace("[ce, pld]", "[pld, kd]")
LONG_PROFILE = PROFILE.replace("epochs: 2", "epochs: 4")
# What a driver says of cells that another one trains.
SHARED = "its results will be shared"

# Runs in every process before all else. It notes each epoch that is begun and each step, and kills its process where a
# ticket says so: "before:PATTERN" or "after:PATTERN" of the path that a whole file is about to get, with ":" for "/".
_WITNESS = """
import fnmatch, signal, time


def strike(when, path):
    for ticket in os.listdir(f"{HERE}/tickets"):
        moment, _, pattern = ticket.partition(":")
        if moment == when and fnmatch.fnmatch(os.fspath(path), "*/" + pattern.replace(":", "/")):
            try:
                os.unlink(f"{HERE}/tickets/{ticket}")
            except FileNotFoundError:
                continue  # another process's
            os.kill(os.getpid(), signal.SIGKILL)


def watched(move):
    def call(source, destination, **options):
        strike("before", destination)
        move(source, destination, **options)
        strike("after", destination)
    return call


os.replace, os.link, os.rename = watched(os.replace), watched(os.link), watched(os.rename)


def witnessed(module):
    begin, step = module.Student.begin_epoch, module.Student.train_step

    def begin_epoch(student):
        line = f"{os.getpid()} {student.group.rank} {student.cell.cell_id} {student.next_epoch}\\n"
        with open(f"{HERE}/begun", "a") as diary:
            diary.write(line)
        return begin(student)

    def train_step(student, *arguments):
        if os.path.exists(f"{HERE}/slow"):
            time.sleep(float(open(f"{HERE}/slow").read() or 0))
        with open(f"{HERE}/steps/{os.getpid()}", "a") as diary:
            diary.write(".")
        return step(student, *arguments)

    module.Student.begin_epoch, module.Student.train_step = begin_epoch, train_step


after_import("pld_grid.train.student", witnessed)
"""


class Begun(NamedTuple):
    """An epoch of a cell that a process, by its rank in the cohort's group, has begun."""

    pid: int
    rank: int
    cell_id: str
    epoch: int


class Witness:
    """Notes of processes about what they do, and orders for them where to die.

    Args:
        folder: for the notes; every process that has `environment` writes there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tickets = folder / "tickets"
        self.tickets.mkdir(parents=True)
        (folder / "steps").mkdir()
        (folder / "begun").touch()
        # What a process's environment needs.
        self.environment = early(folder, _WITNESS)

    def begun(self) -> list[Begun]:
        """All epochs that were begun, in their order."""
        *whole, _ = (self.folder / "begun").read_text().split("\n")
        return [Begun(int(pid), int(rank), cell, int(epoch)) for pid, rank, cell, epoch in map(str.split, whole)]

    def saved(self, pid: int) -> bool:
        """Whether a process has written a checkpoint, of one student at least: it has begun a second epoch."""
        return len({each.epoch for each in self.begun() if each.pid == pid}) > 1

    def steps_of(self, pid: int) -> int:
        """How many steps a process has begun, of all its students together."""
        path = self.folder / "steps" / str(pid)
        return path.stat().st_size if path.exists() else 0

    def order(self, ticket: str) -> Path:
        """Orders the first process that comes to a moment to die there; the file is gone when one has."""
        (self.tickets / ticket).touch()
        return self.tickets / ticket

    def slow(self, seconds: float) -> None:
        """How much longer each step takes, so that a grid does not end before all has been done to it."""
        new = self.folder / "slow.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "slow")

    def repeated(self, interval: int = 1) -> int:
        """How many epochs were trained again. Fails if a death cost more than a checkpoint interval, in epochs."""
        lives: dict[str, dict[int, list[int]]] = defaultdict(dict)
        for each in self.begun():
            if each.rank == 0:
                lives[each.cell_id].setdefault(each.pid, []).append(each.epoch)
        again = 0
        for cell_id, by_process in lives.items():
            lasts = [0]
            for epochs in by_process.values():
                assert epochs == list(range(epochs[0], epochs[0] + len(epochs))), (cell_id, epochs)
                # Its last epoch was not ended, so the checkpoint is of one of the `interval` epochs before.
                assert lasts[-1] - interval < epochs[0] <= lasts[-1] + 1, (cell_id, lasts, epochs)
                again += lasts[-1] + 1 - epochs[0]
                lasts.append(epochs[-1])
        return again


class Run:
    """A command that is going on: what it says, and every process that it was seen to start."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: set[psutil.Process] = {psutil.Process(process.pid)}
        self._said: list[str] = []
        # What nobody reads would stop the process when the pipe is full.
        self._readers = [
            threading.Thread(target=lambda pipe=pipe: self._said.extend(pipe), daemon=True)
            for pipe in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def said(self) -> str:
        """All that it printed so far."""
        return "".join(self._said)

    def family(self) -> list[psutil.Process]:
        """The processes that it has started and that live, directly or not."""
        found = family(self.process)
        self.seen.update(found)
        return found

    def trials(self) -> list[psutil.Process]:
        """Processes of trials."""
        return [process for process in self.family() if kind(process) == "trial"]

    def ranks(self) -> list[psutil.Process]:
        """Processes that train a cohort together."""
        return [process for process in self.family() if kind(process) == "rank"]

    def loader_workers(self, trial: psutil.Process) -> list[psutil.Process]:
        """Processes that load data for a trial."""
        return [process for process in asked(trial.children, []) if kind(process) == "loader worker"]

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Looks until something happened that it brings about."""
        until = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < until, f"it did not happen: {self.said}"
            self.family()
            time.sleep(0.1)

    def end(self) -> int:
        """Waits for its end; the exit code."""
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < until, f"it did not end: {self.said}"
            self.family()
            time.sleep(0.1)
        self._close()
        return self.process.returncode

    def kill(self) -> None:
        """Kills the command alone."""
        self.family()
        self.process.kill()
        self._close()

    def kill_all(self) -> None:
        """Kills it and all that it was seen to start, at once."""
        self.family()
        for each in self.seen:
            kill(each)
        self._close()

    def _close(self) -> None:
        with self.process:
            for reader in self._readers:
                # A pipe stays open as long as somebody holds it who has outlived the command.
                reader.join(timeout=1)


# By the beginning of a process's name.
_KINDS = {"ray::ImplicitFunc": "trial", "ray::RayTrainWorker": "rank", "pt_data_worker": "loader worker"}


def kind(process: psutil.Process) -> str:
    """What a process of a trial is, in a word."""
    named = name(process)
    return next((word for beginning, word in _KINDS.items() if named.startswith(beginning)), "other")


def hunt(
    run: Run,
    witness: Witness,
    chance: random.Random,
    training: Callable[[], Sequence[psutil.Process]],
    prey: Callable[[psutil.Process], Sequence[psutil.Process]],
    most: int,
) -> Iterator[str]:
    """Kills so many processes at random moments, if the run does not end before, and tells what they were.

    Args:
        training: the processes that train. The turn of each comes within a second, and again as soon as it got on.
        prey: those of which one is killed when it is the turn of a process that trains; none if it is to be spared.
    """
    turns: dict[int, float] = {}
    before: dict[int, int] = defaultdict(int)
    killed = 0
    while run.process.poll() is None and killed < most:
        for process in training():
            pid = process.pid
            if pid not in turns and witness.steps_of(pid) > before[pid]:
                turns[pid] = time.monotonic() + chance.uniform(0, 1)
            if time.monotonic() < turns.get(pid, math.inf):
                continue
            victims = prey(process)
            if victims:
                victim = chance.choice(victims)
                word = kind(victim)
                if kill(victim):
                    killed += 1
                    yield word
            del turns[pid]
            before[pid] = witness.steps_of(pid)
        time.sleep(0.1)


def check_whole(
    service: Service, expected: dict[str, bytes], started: Iterable[psutil.Process], *, apart: bool = False
) -> None:
    """What must hold when a grid has come to its end, whatever happened on the way.

    Tables, weights and MLflow's curves are those of a grid that was never disturbed, byte for byte; MLflow has each
    metric once and calls nothing running; each number is of a run there that has ended well; no process that was
    started is left.

    Args:
        apart: whether drivers had no lock in common: each may have made a run of a cell, of which all but one are
            deleted with what they have.
    """
    assert _different(service.numbers(), expected) == []
    assert _different(service.numbers("mlflow"), expected) == []
    with sqlite3.connect(service.tracking_uri.removeprefix("sqlite:///")) as connection:
        logged = connection.execute(_METRICS).fetchall()
        running = connection.execute("select name from runs where status = 'RUNNING'").fetchall()
        ended = connection.execute(_ENDED_WELL).fetchall()
    epochs = sum(len(receipt.epochs) for receipt in service.receipts().values())
    processes = list(started)
    assert all_gone(processes), details(processes)
    metrics = [(run, key, step) for run, key, step, stage in logged if stage == "active" or not apart]
    assert len(metrics) == len(set(metrics))
    assert sum(key == "top1" for _, key, _ in metrics) == epochs
    assert running == []
    for source in ("store", "mlflow"):
        told = _runs_of(service.folder / f"report-{source}")
        assert told
        assert told.items() <= set(ended)


_METRICS = "select run_uuid, key, step, lifecycle_stage from metrics join runs using (run_uuid)"
# Cells, and the runs that show them.
_ENDED_WELL = """
    select value, run_uuid from runs join tags using (run_uuid)
    where key = 'pld_grid.cell_id' and status = 'FINISHED' and lifecycle_stage = 'active'
"""


def _runs_of(report: Path) -> dict[str, str]:
    """Where the records of a report say that their numbers come from: ids of MLflow's runs by cell id."""
    records = map(json.loads, (report / "records.jsonl").read_text().splitlines()[1:])
    return {record["cell_id"]: record["run_id"] for record in records}


def _different(files: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files.keys() | expected.keys() if files.get(name) != expected.get(name))
