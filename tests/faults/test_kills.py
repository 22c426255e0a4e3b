"""`kill -9` of everything that a run consists of, on one machine, again and again."""

import hashlib
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cells import make_cell
from chaos import EPOCHS, LONG, LONG_PROFILE, Run, Witness, check_whole, hunt, kill, kind
from counting import CHOSEN, Count, Undisturbed, Watch
from service import PROFILE, Service

from pld_grid import api
from pld_grid.train import data
from pld_grid.train.loader import Batch, Loader

READERS, ROUNDS_OF_READERS = 4, 8

# Two processes train each cohort; a batch is two micro-batches.
TOGETHER = PROFILE.replace("micro_batch_size: 180", "micro_batch_size: 90")
TOGETHER += "machine: {cpus_per_cohort: 1, devices_per_cohort: 2}\n"
ONE_CELL = "cells: {student: small, epochs: 8, loss: ce}"
WITH_LOADERS = LONG_PROFILE + "machine: {loader_workers: 1}\n"

# Of the moments between two steps of a training, those that nobody hits by chance, by student: loss, optimizer, and
# the file that is about to be written or has just been. No more than three of a row come without progress between them.
MOMENTS = {
    ("ce", "adamw"): [
        "before:claims:000001.json", "after:claims:000001.json", "before:checkpoints:000003.pt",
        "after:checkpoints:000003.pt", "before:checkpoints:000005.json",
    ],
    ("ce", "lamb"): [f"after:checkpoints:{EPOCHS:06d}.json", "before:receipt.json", "after:receipt.json"],
    # An undisturbed student's second entry finishes it; one that has died there claims by that one.
    ("pld", "adamw"): ["before:claims:000002.json", "after:claims:000003.json"],
}  # fmt: skip
OF_TEACHER = ["before:weights.safetensors", "after:weights.safetensors"]


@pytest.fixture
def make(tmp_path: Path, database: Path) -> Callable[..., tuple[Service, Witness]]:
    """A folder with a grid, whose processes note what they do."""

    def made(profile: str = LONG_PROFILE, grid: str = LONG) -> tuple[Service, Witness]:
        service = Service(tmp_path / "run", profile=profile, grid=grid, database=database)
        witness = Witness(tmp_path / "witness")
        service.environment |= witness.environment
        return service, witness

    return made


Make = Callable[..., tuple[Service, Witness]]


def test_a_loader_outlives_its_workers(chance: random.Random, count: Count) -> None:
    cell = make_cell()
    splits = data.load(cell.dataset, cell.recipe, None)
    plain = Loader(splits, cell.recipe, cell.seed)
    digests: list[list[bytes]] = [[] for _ in range(READERS)]
    enough = threading.Event()

    def digest(batch: Batch) -> bytes:
        return hashlib.sha256(batch[0].numpy().tobytes()).digest()

    def read(epochs: list[bytes]) -> int:
        """Epochs of a loader of its own, until it is enough."""
        loader = Loader(splits, cell.recipe, cell.seed, workers=1)
        epoch = 0
        while not enough.is_set():
            epoch += 1
            epochs += map(digest, loader.train(epoch))
        return epoch

    # In threads, as Ray does it: torch tells others of such a death wherever they are.
    with ThreadPoolExecutor(READERS) as pool:
        reading = [pool.submit(read, epochs) for epochs in digests]
        try:
            for _ in range(ROUNDS_OF_READERS):
                before = [len(epochs) for epochs in digests]
                # All have got a batch since the last time: no more than one death follows another without.
                while not all(len(now) > then for now, then in zip(digests, before, strict=True)):
                    assert not any(future.done() for future in reading), [f.exception() for f in reading if f.done()]
                    time.sleep(0.01)
                for worker in psutil.Process().children():
                    time.sleep(chance.uniform(0, 0.02))
                    if kind(worker) == "loader worker" and chance.random() < 0.8 and kill(worker):
                        count.kill("loader worker")
        finally:
            enough.set()
    for epochs, future in zip(digests, reading, strict=True):
        assert epochs == [digest(batch) for epoch in range(1, future.result() + 1) for batch in plain.train(epoch)]


def test_trials_and_loader_workers_die_as_long_as_they_train(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(WITH_LOADERS)
    witness.slow(True)
    run = watch(service.start("run"))

    def prey(trial: psutil.Process) -> list[psutil.Process]:
        return run.loader_workers(trial) if chance.random() < 0.25 else [trial]

    killed = 0
    for victim in hunt(run, witness, chance, run.trials, prey):
        count.kill(victim)
        killed += 1
    assert run.end() == 0, run.said
    assert "5 cells trained" in run.said
    # Far more than any limit for deaths that bring no progress.
    assert killed >= 10
    # Two students of a cohort die together.
    assert 0 < witness.repeated() <= 2 * killed
    check_whole(service, undisturbed(LONG_PROFILE, LONG), run.seen)


def test_trials_die_between_any_two_steps_and_one_hangs(
    make: Make, watch: Watch, undisturbed: Undisturbed, count: Count
) -> None:
    service, witness = make(LONG_PROFILE + "machine: {cohort_size: 1}\n")
    grid = api.load_grid(service.folder / "losses.yaml", str(service.folder / "tiny.yaml"))
    students = {(cell.loss.name, cell.optimizer.name): cell for cell in grid.cells() if cell.epochs == EPOCHS}
    teacher = next(cell for cell in grid.cells() if cell.epochs != EPOCHS)
    orders = [(teacher.cell_id, order) for order in OF_TEACHER]
    orders += [(students[name].cell_id, order) for name, moments in MOMENTS.items() for order in moments]
    tickets = [witness.order(order.replace(":", f":{cell_id}:", 1)) for cell_id, order in orders]
    hanging = students["pld", "lamb"].cell_id
    run = watch(service.start("run"))

    def begun() -> list[int]:
        return [each.pid for each in witness.begun() if each.cell_id == hanging and each.epoch == 3]

    run.wait_for(begun, within=400)
    psutil.Process(begun()[0]).suspend()
    count("trial stopped (SIGSTOP)")
    assert run.end(within=600) == 0, run.said
    assert [ticket.name for ticket in tickets if ticket.exists()] == []
    count.kill(CHOSEN, len(tickets))
    assert "hangs and is ended" in run.said
    witness.repeated()
    check_whole(service, undisturbed(LONG_PROFILE, LONG), run.seen)


ROUNDS = ["driver", "driver", "whole job", "whole job", "SIGTERM", "SIGINT"]


def test_drivers_and_whole_jobs_die_and_the_same_command_goes_on(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(LONG_PROFILE + "machine: {checkpoint_every: 2}\n")
    witness.slow(True)
    runs: list[Run] = []
    for what in chance.sample(ROUNDS, len(ROUNDS)):
        receipts, begun = service.receipts(), witness.begun()
        run = watch(service.start("run"))
        runs.append(run)
        wanted = len(begun) + chance.randint(1, 8)
        run.wait_for(lambda wanted=wanted: len(witness.begun()) >= wanted, within=400)
        time.sleep(chance.uniform(0, 0.3))
        if what == "driver":
            run.kill()
            count.kill(what)
        elif what == "whole job":
            run.kill_all()
            count.kill(what)
        else:
            run.process.send_signal(signal.Signals[what])
            assert run.end() == 130, run.said
            assert "checkpoints are kept" in run.said
            assert "Traceback" not in run.said
            count(what)
        assert receipts.items() <= service.receipts().items()
        # What was finished before was not begun again.
        assert not {each.cell_id for each in witness.begun()[len(begun) :]} & receipts.keys()
    witness.slow(False)
    run = watch(service.start("run"))
    runs.append(run)
    assert run.end() == 0, run.said
    witness.repeated(interval=2)
    check_whole(service, undisturbed(LONG_PROFILE, LONG), {process for run in runs for process in run.seen})


def test_processes_that_train_together_die_in_turn(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(TOGETHER, ONE_CELL)
    witness.slow(True)
    run = watch(service.start("run"))
    killed = 0
    for victim in hunt(run, witness, chance, run.ranks, lambda _: [*run.ranks(), *run.trials()]):
        count.kill(victim)
        killed += 1
    assert run.end() == 0, run.said
    assert killed >= 3
    assert 0 < witness.repeated() <= killed
    check_whole(service, undisturbed(TOGETHER, ONE_CELL), run.seen)
