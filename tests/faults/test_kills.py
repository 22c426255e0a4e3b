"""Repeated SIGKILLs of trials and of processes that load their data."""

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from cells import make_cell
from fault_counts import CHOSEN, WORKER_ALONE
from live_processes import kill
from process_kills import EPOCHS, LONG, LONG_PROFILE, check_results, classify_process, kill_at_random
from startup_code import FAST_LOADER_CHECKS, SHORT_LEASES, write_startup_code
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pld_grid.train import data
from pld_grid.train.loader import Loader, LoaderWorkerDied

LONE_LOADER_KILLS, GRID_KILLS = 6, 16

WITH_LOADERS = LONG_PROFILE + "machine: {loader_workers: 1}\n"

# Moments between two steps of a training that random kills never hit: by the student's loss and optimizer, before or
# after a file is written. At most three in a row have no progress between them.
MOMENTS = {
    ("ce", "adamw"): [
        "before:claims:000001.json",
        "after:claims:000001.json",
        "before:checkpoints:000003.pt",
        "after:checkpoints:000003.pt",
        "before:checkpoints:000005.json",
    ],
    ("ce", "lamb"): [f"after:checkpoints:{EPOCHS:06d}.json", "before:receipt.json", "after:receipt.json"],
    # The second claim entry of an undisturbed student finishes it; after a kill there, it is a new claim.
    ("pld", "adamw"): ["before:claims:000002.json", "after:claims:000003.json"],
}
TEACHER_MOMENTS = ["before:weights.safetensors", "after:weights.safetensors"]


@pytest.fixture
def default_sigchld() -> Iterator[None]:
    """Restore the default SIGCHLD handler: torch's, which an earlier test may have installed, raises anywhere."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, previous)


@pytest.mark.usefixtures("default_sigchld")
def test_loader_whose_worker_is_killed_raises(chance, count, monkeypatch):
    # The change of FAST_LOADER_CHECKS.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))
    cell = make_cell()
    splits = data.load(cell.dataset, cell.recipe, None)

    def read(loader: Loader, started: threading.Event, stopped: threading.Event) -> None:
        for epoch in itertools.count(1):
            for _ in itertools.chain(loader.train_batches(epoch), loader.validation_batches()):
                started.set()
                if stopped.is_set():
                    return

    for _ in range(LONE_LOADER_KILLS):
        started, stopped = threading.Event(), threading.Event()
        # Workers of an earlier loader may still be shutting down.
        earlier = psutil.Process().children()
        # In a thread, as in a Ray trial: in the main thread torch's signal handler raises too.
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, Loader(splits, cell.recipe, cell.seed, workers=1), started, stopped)
            try:
                assert started.wait(300)
                time.sleep(chance.uniform(0, 0.1))
                children = [child for child in psutil.Process().children() if child not in earlier]
                workers = [child for child in children if classify_process(child) == "loader worker"]
                assert kill(chance.choice(workers))
                with pytest.raises(LoaderWorkerDied, match="a data loader process was killed"):
                    reading.result(300)
            finally:
                # Otherwise the pool would wait for ever for a thread whose worker was not killed.
                stopped.set()
        count.kill(WORKER_ALONE)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), LoaderWorkerDied),
        (EOFError(), LoaderWorkerDied),
        (EOFError("Caught EOFError in pin memory thread for device 0."), LoaderWorkerDied),
        (EOFError("Caught EOFError in DataLoader worker process 0."), EOFError),
        (RuntimeError("the worker is alive"), RuntimeError),
    ],
)
def test_loader_whose_pipe_breaks_raises_as_for_a_killed_worker(error, expected, monkeypatch):
    """torch may report a broken pipe before the killed process has ended."""
    cell = make_cell()

    def broken(_: object) -> object:
        raise error

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", broken)
    loader = Loader(data.load(cell.dataset, cell.recipe, None), cell.recipe, cell.seed, workers=1)
    with pytest.raises(expected) as raised:
        next(loader.train_batches(1))
    assert raised.type is expected


def test_grid_whose_trials_and_loader_workers_are_killed_gives_the_same_numbers(
    make, watch, undisturbed, chance, count
):
    service, recorder = make(WITH_LOADERS)
    service.environment |= write_startup_code(recorder.folder, FAST_LOADER_CHECKS, after=recorder.folder)
    recorder.slow_down(0.1)
    run = watch(service.start("run"))

    def choose_victims(trial: psutil.Process) -> list[psutil.Process]:
        # Only after a checkpoint, because a cohort is given up whose workers die without progress in between.
        if not recorder.has_checkpoint(trial.pid):
            return []
        return [trial] if 2 * killed["trial"] < killed["loader worker"] else run.list_loader_workers(trial)

    killed: Counter[str] = Counter()
    for victim in kill_at_random(run, recorder, chance, run.list_trials, choose_victims, max_kills=GRID_KILLS):
        count.kill(victim)
        killed[victim] += 1
    recorder.slow_down(0)
    assert run.end() == 0, run.output
    assert "5 cells trained" in run.output
    # More of each than MAX_WORKER_DEATHS, the deaths that a cohort may have without progress in between.
    assert killed["trial"] >= 4
    assert killed["loader worker"] >= 6
    # The attempt fails with its loader's process: the two students of a cohort repeat an epoch at most.
    assert 0 < recorder.count_repeated_epochs() <= 2 * killed.total()
    check_results(service, undisturbed(LONG_PROFILE, LONG), run.started)


def test_grid_whose_trials_are_killed_at_chosen_moments_or_hang_gives_the_same_numbers(make, watch, undisturbed, count):
    service, recorder = make(LONG_PROFILE + "machine: {cohort_size: 1}\n")
    service.environment |= write_startup_code(recorder.folder, SHORT_LEASES, after=recorder.folder)
    grid = service.load_grid()
    students = {(cell.loss.name, cell.optimizer.name): cell for cell in grid.cells() if cell.epochs == EPOCHS}
    teacher = next(cell for cell in grid.cells() if cell.epochs != EPOCHS)
    kills = [(teacher.cell_id, moment) for moment in TEACHER_MOMENTS]
    kills += [(students[name].cell_id, moment) for name, moments in MOMENTS.items() for moment in moments]
    tickets = [recorder.kill_at(moment.replace(":", f":{cell_id}:", 1)) for cell_id, moment in kills]
    hanging = students["pld", "lamb"].cell_id
    # So that the trial is suspended in the middle of its training.
    recorder.slow_down(0.1)
    run = watch(service.start("run"))

    def find_hanging() -> list[int]:
        return [each.pid for each in recorder.epochs_started() if each.cell_id == hanging and each.epoch == 3]

    run.wait_for(find_hanging)
    psutil.Process(find_hanging()[0]).suspend()
    recorder.slow_down(0)
    count("trial stopped (SIGSTOP)")
    assert run.end() == 0, run.output
    assert [ticket.name for ticket in tickets if ticket.exists()] == []
    count.kill(CHOSEN, len(tickets))
    assert "hangs and is ended" in run.output
    recorder.count_repeated_epochs()
    check_results(service, undisturbed(LONG_PROFILE, LONG), run.started)
