"""Kill processes at random or chosen moments, and check the results afterwards."""

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
from cli_process import GRID, PROFILE, RETRY_TIMEOUT_SECONDS, Service
from live_processes import describe_processes, have_exited, kill, list_descendants, process_name, query
from startup_code import write_startup_code

# Two optimizers and two losses, with enough epochs to be killed many times.
EPOCHS = 14
LONG = GRID.replace("epochs: 6", f"epochs: {EPOCHS}").replace("[ce, kd, dist, pld]", "[ce, pld]").partition("table:")[0]
# The number of its students, without the teacher.
STUDENTS = 4
# Two of LONG's students, and two others.
OTHER = LONG.replace("[ce, pld]", "[pld, kd]")
LONG_PROFILE = PROFILE.replace("epochs: 2", "epochs: 4")
# The message of a driver about cells that another one trains.
SHARED = "its results will be shared"

# Runs first in every process. It records the start of each epoch and step. It kills the process before or after a file
# is put in its place, if a ticket "before:PATTERN" or "after:PATTERN" names its path, with ":" for "/".
_WITNESS = """
import fnmatch, signal, time


def strike(when, path):
    for ticket in os.listdir(f"{HERE}/tickets"):
        moment, _, pattern = ticket.partition(":")
        if moment == when and fnmatch.fnmatch(os.fspath(path), "*/" + pattern.replace(":", "/")):
            try:
                os.unlink(f"{HERE}/tickets/{ticket}")
            except FileNotFoundError:
                continue  # taken by another process
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


class EpochStart(NamedTuple):
    """The start of an epoch of a cell in a process with a rank in the cohort's group."""

    pid: int
    rank: int
    cell_id: str
    epoch: int


class Recorder:
    """Records the epochs and steps of processes, and kills processes at chosen moments.

    Args:
        folder: Where every process that runs with `environment` writes its records.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tickets = folder / "tickets"
        self.tickets.mkdir(parents=True)
        (folder / "steps").mkdir()
        (folder / "begun").touch()
        self.environment = write_startup_code(folder, _WITNESS)

    def epochs_started(self) -> list[EpochStart]:
        """Return the starts of all epochs, in order."""
        *complete, _ = (self.folder / "begun").read_text().split("\n")
        return [
            EpochStart(int(pid), int(rank), cell, int(epoch)) for pid, rank, cell, epoch in map(str.split, complete)
        ]

    def has_checkpoint(self, pid: int) -> bool:
        """Return whether a process has written a checkpoint, after which it starts a second epoch."""
        return len({each.epoch for each in self.epochs_started() if each.pid == pid}) > 1

    def count_steps(self, pid: int) -> int:
        """Return how many steps a process has started, of all its students together."""
        path = self.folder / "steps" / str(pid)
        return path.stat().st_size if path.exists() else 0

    def kill_at(self, ticket: str) -> Path:
        """Kill the first process that comes to a moment; return a file that is removed by then."""
        (self.tickets / ticket).touch()
        return self.tickets / ticket

    def slow_down(self, seconds: float) -> None:
        """Make each step take some seconds longer, so that a grid does not end before the last fault."""
        new = self.folder / "slow.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "slow")

    def count_repeated_epochs(self, interval: int = 1) -> int:
        """Return how many epochs were repeated; assert that a kill repeats at most an interval of checkpoints."""
        processes: dict[str, dict[int, list[int]]] = defaultdict(dict)
        for each in self.epochs_started():
            if each.rank == 0:
                processes[each.cell_id].setdefault(each.pid, []).append(each.epoch)
        repeated = 0
        for cell_id, by_process in processes.items():
            last_epochs = [0]
            for epochs in by_process.values():
                assert epochs == list(range(epochs[0], epochs[0] + len(epochs))), (cell_id, epochs)
                # The last epoch of the previous process was incomplete; the checkpoint is of an epoch before.
                assert last_epochs[-1] - interval < epochs[0] <= last_epochs[-1] + 1, (cell_id, last_epochs, epochs)
                repeated += last_epochs[-1] + 1 - epochs[0]
                last_epochs.append(epochs[-1])
        return repeated


class Run:
    """A running command, its output, and every process that it was seen to start."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.started: set[psutil.Process] = {psutil.Process(process.pid)}
        self._output: list[str] = []
        # The process would block on a full pipe.
        self._readers = [
            threading.Thread(target=lambda pipe=pipe: self._output.extend(pipe), daemon=True)
            for pipe in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def output(self) -> str:
        """The output so far, of both streams."""
        return "".join(self._output)

    def list_descendants(self) -> list[psutil.Process]:
        """Return the running processes that the command started, directly or not."""
        descendants = list_descendants(self.process)
        self.started.update(descendants)
        return descendants

    def list_trials(self) -> list[psutil.Process]:
        """Return the processes of trials."""
        return [process for process in self.list_descendants() if classify_process(process) == "trial"]

    def list_ranks(self) -> list[psutil.Process]:
        """Return the processes that train cohorts on several devices."""
        return [process for process in self.list_descendants() if classify_process(process) == "rank"]

    def list_loader_workers(self, trial: psutil.Process) -> list[psutil.Process]:
        """Return the processes that load data for a trial."""
        return [process for process in query(trial.children, []) if classify_process(process) == "loader worker"]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until the command has brought a condition about."""
        deadline = time.monotonic() + RETRY_TIMEOUT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the command ended: {self.output}"
            assert time.monotonic() < deadline, f"the condition did not come true: {self.output}"
            self.list_descendants()
            time.sleep(0.1)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        deadline = time.monotonic() + RETRY_TIMEOUT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"the command did not end: {self.output}"
            self.list_descendants()
            time.sleep(0.1)
        self._close()
        return self.process.returncode

    def kill(self) -> None:
        """Kill the command alone."""
        self.list_descendants()
        self.process.kill()
        self._close()

    def kill_all(self) -> None:
        """Kill the command and all processes that it was seen to start."""
        self.list_descendants()
        for each in self.started:
            kill(each)
        self._close()

    def _close(self) -> None:
        with self.process:
            for reader in self._readers:
                # A pipe stays open as long as a descendant that outlived the command holds it.
                reader.join(timeout=1)


# By the start of a process's name.
_PROCESS_KINDS = {"ray::ImplicitFunc": "trial", "ray::RayTrainWorker": "rank", "pt_data_worker": "loader worker"}


def classify_process(process: psutil.Process) -> str:
    """Return the kind of a process."""
    name = process_name(process)
    return next((kind for prefix, kind in _PROCESS_KINDS.items() if name.startswith(prefix)), "other")


def kill_at_random(
    run: Run,
    recorder: Recorder,
    chance: random.Random,
    list_training: Callable[[], Sequence[psutil.Process]],
    choose_victims: Callable[[psutil.Process], Sequence[psutil.Process]],
    max_kills: int,
) -> Iterator[str]:
    """Kill processes at random moments while a run goes on.

    Args:
        run: The run.
        recorder: Records the steps of the run's processes.
        chance: The source of randomness.
        list_training: Returns the processes that train. Each comes up within a second, and again after its next step.
        choose_victims: Returns the processes of which one is killed when a training process comes up.
        max_kills: How many processes to kill at most.

    Yields:
        The kind of each killed process.
    """
    turns: dict[int, float] = {}
    before: dict[int, int] = defaultdict(int)
    killed = 0
    while run.process.poll() is None and killed < max_kills:
        for process in list_training():
            pid = process.pid
            if pid not in turns and recorder.count_steps(pid) > before[pid]:
                turns[pid] = time.monotonic() + chance.uniform(0, 1)
            if time.monotonic() < turns.get(pid, math.inf):
                continue
            victims = choose_victims(process)
            if victims:
                victim = chance.choice(victims)
                kind = classify_process(victim)
                if kill(victim):
                    killed += 1
                    yield kind
            del turns[pid]
            before[pid] = recorder.count_steps(pid)
        time.sleep(0.1)


def check_results(
    service: Service, expected: dict[str, bytes], started: Iterable[psutil.Process], *, apart: bool = False
) -> None:
    """Assert what must hold after a grid has ended, whatever faults there were.

    Tables, weights and MLflow's curves equal those of an undisturbed grid, byte for byte; MLflow has each metric once
    and no running run; each number is from a finished run; no process is left.

    Args:
        service: The service that ran the grid.
        expected: The files of the undisturbed grid.
        started: All processes that were started.
        apart: Whether the drivers shared no lock; each may then have created a run of a cell, of which all but one are
            deleted.
    """
    assert _different(service.numbers(), expected) == []
    assert _different(service.numbers("mlflow"), expected) == []
    with sqlite3.connect(service.tracking_uri.removeprefix("sqlite:///")) as connection:
        logged = connection.execute(_METRICS).fetchall()
        running = connection.execute("select name from runs where status = 'RUNNING'").fetchall()
        finished = connection.execute(_FINISHED).fetchall()
    epochs = sum(len(receipt.epochs) for receipt in service.receipts().values())
    processes = list(started)
    assert have_exited(processes), describe_processes(processes)
    metrics = [(run, key, step) for run, key, step, stage in logged if stage == "active" or not apart]
    assert len(metrics) == len(set(metrics))
    assert sum(key == "top1" for _, key, _ in metrics) == epochs
    assert running == []
    for source in ("store", "mlflow"):
        runs = _load_run_ids(service.folder / f"report-{source}")
        assert runs
        assert runs.items() <= set(finished)


_METRICS = "select run_uuid, key, step, lifecycle_stage from metrics join runs using (run_uuid)"
# Cells and their finished runs.
_FINISHED = """
    select value, run_uuid from runs join tags using (run_uuid)
    where key = 'pld_grid.cell_id' and status = 'FINISHED' and lifecycle_stage = 'active'
"""


def _load_run_ids(report: Path) -> dict[str, str]:
    """Return the ids of the MLflow runs in a report's records, by cell id."""
    records = map(json.loads, (report / "records.jsonl").read_text().splitlines()[1:])
    return {record["cell_id"]: record["run_id"] for record in records}


def _different(files: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return sorted(name for name in files.keys() | expected.keys() if files.get(name) != expected.get(name))
