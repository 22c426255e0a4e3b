"""`kill -9` of trials and of processes that load their data, again and again."""

import hashlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from cells import make_cell
from chaos import EPOCHS, LONG, LONG_PROFILE, check_whole, hunt, kind
from counting import CHOSEN, WORKER_ALONE, Count, Make, Undisturbed, Watch
from early import IMPATIENT, WATCHFUL, early
from living import kill
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pld_grid import api
from pld_grid.train import data
from pld_grid.train.loader import Loader

LOADER_DEATHS, GRID_DEATHS = 24, 46

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
def unheard() -> Iterator[None]:
    """Another test's loader may have had torch listen for ends of processes in the main thread, and raise there."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("unheard")
def test_a_loader_outlives_its_workers(chance: random.Random, count: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    # As WATCHFUL.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))
    cell = make_cell()
    splits = data.load(cell.dataset, cell.recipe, None)
    digests: list[bytes] = []
    enough = threading.Event()

    def read(loader: Loader, epoch: int) -> Iterator[bytes]:
        """What a training reads in an epoch."""
        for batches in (loader.train(epoch), loader.validation()):
            yield from (hashlib.sha256(batch[0].numpy().tobytes()).digest() for batch in batches)

    def read_on() -> int:
        """Epochs until it is enough; how many."""
        loader = Loader(splits, cell.recipe, cell.seed, workers=1)
        epoch = 0
        while not enough.is_set():
            epoch += 1
            digests.extend(read(loader, epoch))
        return epoch

    # In a thread, as Ray does it: torch tells of such a death wherever it is asked for anything. In one alone, as in a
    # trial: a process that is forked while another thread is inside torch may wait for ever for a lock of that one's.
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_on)
        try:
            deaths, until = 0, time.monotonic() + 300
            while deaths < LOADER_DEATHS:
                before = len(digests)
                # No more than one death follows another without a batch.
                while len(digests) == before:
                    assert not reading.done(), reading.exception()
                    assert time.monotonic() < until
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.1))
                workers = [child for child in psutil.Process().children() if kind(child) == "loader worker"]
                if workers and kill(chance.choice(workers)):
                    deaths += 1
                    count.kill(WORKER_ALONE)
        finally:
            enough.set()
    plain = Loader(splits, cell.recipe, cell.seed)
    assert digests == [digest for epoch in range(1, reading.result() + 1) for digest in read(plain, epoch)]


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_pipe_may_tell_of_a_loaders_end_before_the_process_has_ended(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell()
    splits = data.load(cell.dataset, cell.recipe, None)
    wanted = list(Loader(splits, cell.recipe, cell.seed).train(1))
    first, read = iter([True]), _MultiProcessingDataLoaderIter._next_data

    def broken(this: _MultiProcessingDataLoaderIter) -> object:
        if next(first, False):
            raise error
        return read(this)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", broken)
    found = list(Loader(splits, cell.recipe, cell.seed, workers=1).train(1))
    assert len(found) == len(wanted)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(found, wanted, strict=True))


def test_trials_and_loader_workers_die_as_long_as_they_train(
    make: Make, watch: Watch, undisturbed: Undisturbed, chance: random.Random, count: Count
) -> None:
    service, witness = make(WITH_LOADERS)
    service.environment |= early(witness.folder, WATCHFUL, after=witness.folder)
    witness.slow(0.1)
    run = watch(service.start("run"))

    def prey(trial: psutil.Process) -> list[psutil.Process]:
        # A trial that never gets as far as a checkpoint is given up, as it should be.
        return [trial] if witness.saved(trial.pid) and chance.random() < 0.6 else run.loader_workers(trial)

    killed: Counter[str] = Counter()
    for victim in hunt(run, witness, chance, run.trials, prey, most=GRID_DEATHS):
        count.kill(victim)
        killed[victim] += 1
    witness.slow(0)
    assert run.end() == 0, run.said
    assert "5 cells trained" in run.said
    # Far more than any limit for deaths that bring no progress.
    assert killed["trial"] >= 5
    assert killed["loader worker"] >= 12
    # Two students of a cohort die together; a loader's death costs nothing.
    assert 0 < witness.repeated() <= 2 * killed["trial"]
    check_whole(service, undisturbed(LONG_PROFILE, LONG), run.seen)


def test_trials_die_between_any_two_steps_and_one_hangs(
    make: Make, watch: Watch, undisturbed: Undisturbed, count: Count
) -> None:
    service, witness = make(LONG_PROFILE + "machine: {cohort_size: 1}\n")
    service.environment |= early(witness.folder, IMPATIENT, after=witness.folder)
    grid = api.load_grid(service.folder / "losses.yaml", str(service.folder / "tiny.yaml"))
    students = {(cell.loss.name, cell.optimizer.name): cell for cell in grid.cells() if cell.epochs == EPOCHS}
    teacher = next(cell for cell in grid.cells() if cell.epochs != EPOCHS)
    orders = [(teacher.cell_id, order) for order in OF_TEACHER]
    orders += [(students[name].cell_id, order) for name, moments in MOMENTS.items() for order in moments]
    tickets = [witness.order(order.replace(":", f":{cell_id}:", 1)) for cell_id, order in orders]
    hanging = students["pld", "lamb"].cell_id
    # So that it is found in the middle.
    witness.slow(0.1)
    run = watch(service.start("run"))

    def begun() -> list[int]:
        return [each.pid for each in witness.begun() if each.cell_id == hanging and each.epoch == 3]

    run.wait_for(begun)
    psutil.Process(begun()[0]).suspend()
    witness.slow(0)
    count("trial stopped (SIGSTOP)")
    assert run.end() == 0, run.said
    assert [ticket.name for ticket in tickets if ticket.exists()] == []
    count.kill(CHOSEN, len(tickets))
    assert "hangs and is ended" in run.said
    witness.repeated()
    check_whole(service, undisturbed(LONG_PROFILE, LONG), run.seen)
