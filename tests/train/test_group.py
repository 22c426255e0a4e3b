"""Several gloo processes train a cohort as one process does, and end together."""

import json
import multiprocessing
import shutil
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn
from trainable_cells import RESNET, Interruption, distilled, give_weights, numbers, train, trainable

from pld_grid.experiment.cell import Cell, Optimizer, Recipe
from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import CellFailed, CellFinished, CellStarted, CohortSplit, EpochCompleted, Event
from pld_grid.experiment.machine import MachineSettings
from pld_grid.store import Receipt, Store, stop_requests
from pld_grid.train import data
from pld_grid.train.cohort import train_cohort
from pld_grid.train.data import DataError
from pld_grid.train.group import Group, GroupBroken, Reducer
from pld_grid.train.loader import Batch, Loader
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.run_context import RunContext
from pld_grid.train.student import Student
from pld_grid.train.teacher import TeacherRunner

pytestmark = pytest.mark.slow

RECIPE = Recipe(batch_size=360, micro_batch_size=90, warmup_epochs=0.5, mean=(0.3,), std=(0.38,))
SETTINGS: dict[str, Any] = {"recipe": RECIPE, "epochs": 2}
COHORT = [
    trainable("ce", **SETTINGS),
    distilled("kd", **SETTINGS, student=RESNET),
    distilled("dist", **SETTINGS, student=RESNET, optimizer=Optimizer(name="lamb", learning_rate=5e-3)),
    distilled("pld", **SETTINGS),
]
# Children of a fork server that has imported everything start at once.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["pld_grid.train.cohort"])


def _join(rank: int, size: int, folder: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/rendezvous", timedelta(seconds=100), rank=rank, world_size=size
        )
        work(Group.from_distributed(), *arguments)
        torch.distributed.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


def in_group(folder: Path, size: int, work: Callable[..., None], *arguments: Any) -> dict[int, str]:
    """Call `work(group, *arguments)` in `size` processes; return the tracebacks of those that raised, by rank."""
    folder = folder / f"group-{len(list(folder.iterdir())) if folder.exists() else 0}"
    folder.mkdir(parents=True)
    processes = [FORK.Process(target=_join, args=(rank, size, folder, work, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    alive = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not alive, f"processes {alive} have not ended"
    return {rank: (folder / f"error-{rank}").read_text() for rank, process in enumerate(processes) if process.exitcode}


def _train(group: Group, folder: Path, cells: Sequence[Cell], sabotage: Callable[..., Any]) -> None:
    if not group.is_main:
        # Only the main process may write.
        Store.write = Store.remove = None  # type: ignore[method-assign, assignment]
    events: list[Event] = []
    interfere = sabotage(group) or (lambda _: None)

    def on_event(event: Event) -> None:
        events.append(event)
        interfere(event)

    train_cohort(cells, RunContext(store=str(folder), run="run"), on_event, group=group)
    if group.is_main:
        (folder / "events.json").write_text(json.dumps([event.to_dict() for event in events]))
    else:
        assert not events


def no_sabotage(_: Group) -> None:
    """Leave the processes as they are."""


def train_in_group(
    folder: Path, size: int, *cells: Cell, sabotage: Callable[..., Any] = no_sabotage
) -> dict[str, Receipt | None]:
    """Call `trainable.train` in `size` processes, which must all end without an error."""
    store = Store(folder)
    give_teacher(store, cells)
    assert in_group(folder / "processes", size, _train, folder, cells, sabotage) == {}
    return {cell.cell_id: store.receipt(cell) for cell in cells}


def give_teacher(store: Store, cells: Sequence[Cell]) -> None:
    """Finish the teacher of a cohort, if it has one."""
    teacher = Cohort(tuple(cells)).teacher
    if teacher is not None and store.receipt(teacher) is None:
        give_weights(store, teacher)


def read_events(folder: Path, *kinds: type[Event]) -> list[Any]:
    """Return the events of these types of the last training in a group."""
    events = json.loads((folder / "events.json").read_text())
    return [event for event in map(Event.from_dict, events) if isinstance(event, kinds)]


def assert_close(cell: Cell, folder: Path, other: Path) -> None:
    """Assert that two stores have the same curves and weights of a cell, up to the order of summation."""
    stores = Store(folder), Store(other)
    receipt, expected = (store.receipt(cell) for store in stores)
    assert (receipt.state, receipt.parameters) == (expected.state, expected.parameters)
    assert [record.epoch for record in receipt.epochs] == [record.epoch for record in expected.epochs]
    for record, wanted in zip(receipt.epochs, expected.epochs, strict=True):
        for name in record.metrics.keys() - {"images_per_second"}:
            # One of 355 images may be classified differently.
            close = {"abs": 0.3} if "top" in name else {"rel": 1e-3}
            assert record.metrics[name] == pytest.approx(wanted.metrics[name], **close), (cell.loss.name, name)
        assert record.metrics.keys() == wanted.metrics.keys()
    here, there = (safetensors.torch.load(store.read_weights(cell)) for store in stores)
    assert here.keys() == there.keys()
    for name, value in here.items():
        tight = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        torch.testing.assert_close(
            value, there[name], rtol=1e-3 if tight else 1e-2, atol=1e-4 if tight else 1e-3, msg=name
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the cohort trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, *COHORT)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the cohort trained by two processes."""
    folder = tmp_path_factory.mktemp("pair")
    train_in_group(folder, 2, *COHORT)
    return folder


def assert_same(cells: Sequence[Cell], receipts: dict[str, Receipt | None], other: Path) -> None:
    """Assert that receipts have exactly the numbers of another store."""
    for cell in cells:
        assert numbers(receipts[cell.cell_id]) == numbers(Store(other).receipt(cell))


def test_two_processes_train_as_one_does(alone, pair):
    for cell in COHORT:
        assert_close(cell, pair, alone)


def test_four_processes_train_as_one_does(tmp_path, alone):
    train_in_group(tmp_path, 4, *COHORT)
    for cell in COHORT:
        assert_close(cell, tmp_path, alone)


def test_cohort_in_a_group_gives_the_numbers_of_each_cell_alone(tmp_path, pair):
    assert_same([COHORT[1]], train_in_group(tmp_path, 2, COHORT[1]), pair)


# -- parts ---------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Use BatchNorm in every way, and parameters that get a gradient rarely or never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.BatchNorm1d(3, momentum=0.3), nn.BatchNorm1d(3, momentum=0.01)
        self.frozen, self.untracked = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
        self.rarely, self.never = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x_NC: Tensor, number: int) -> Tensor:
        self.frozen.eval()
        x_NC = self.shared(self.shared(self.first(x_NC)) + 1)
        x_NC = self.untracked(x_NC + self.frozen(x_NC))
        return x_NC + self.rarely(x_NC) if number == 3 else x_NC


def _compare_update(group: Group) -> None:
    torch.manual_seed(0)
    whole = Layers()
    torch.nn.init.normal_(whole.frozen.running_mean)  # type: ignore[arg-type]
    part = deepcopy(whole)
    reducer = Reducer(part, group)
    count = 4 // group.size
    own = range(group.rank * count, (group.rank + 1) * count)
    for update_MNC in torch.randn(3, 4, 6, 3) * 2 + 5:
        for number, batch_NC in enumerate(update_MNC):
            whole(batch_NC, number).square().mean().div(4).backward()
        reducer.begin_update()
        for number in own:
            part(update_MNC[number], number).square().mean().div(4).backward()
        reducer.collect()
        reducer.start_allreduce(failed=False)
        assert reducer.finish_allreduce()
        for (name, parameter), expected in zip(part.named_parameters(), whole.parameters(), strict=True):
            assert (parameter.grad is None) == (expected.grad is None) == name.startswith("never"), name
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, expected.grad, msg=name)
        for (name, buffer), value in zip(part.named_buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(buffer, value, rtol=1e-6, atol=1e-6, msg=name)
        part.zero_grad()
        whole.zero_grad()
    assert whole.shared.num_batches_tracked == 2 * 3 * 4


@pytest.mark.parametrize("size", [2, 4])
def test_reducer_gives_gradients_and_batch_statistics_of_all_micro_batches(tmp_path, size):
    assert in_group(tmp_path, size, _compare_update) == {}


def _validate(group: Group, micro_batch: int) -> None:
    sizes = {"batch_size": 4 * micro_batch, "micro_batch_size": micro_batch}
    cell = distilled("kd", recipe=RECIPE.model_copy(update=sizes))
    splits = data.load(cell.dataset, cell.recipe)
    results = []
    for each in (Group(), group):
        loader = Loader(splits, cell.recipe, cell.seed, rank=each.rank, size=each.size)
        student = Student(cell, torch.device("cpu"), MachineSettings(), 0, loader.accumulation, each)
        student.begin_validation()
        for pixels, target in loader.validation_batches():
            teacher_NC = torch.nn.functional.one_hot(target, 10).float() * (pixels.float().mean() / 50)
            student.validate(pixels, target, teacher_NC)
        assert student.reduce_metrics(loader.micro_batch_numbers) is None
        assert student.validation_metrics.count == loader.validation_size
        results.append(student.validation_metrics.compute())
    assert results[1] == pytest.approx(results[0], rel=1e-12)


# 355 validation images in eight batches, of which the last is smaller; in one per process; in a single one.
@pytest.mark.parametrize("micro_batch", [50, 100, 360])
def test_validation_in_a_group_counts_every_image_once(tmp_path, micro_batch):
    assert in_group(tmp_path, 4, _validate, micro_batch) == {}


def _overflow(group: Group) -> None:
    cell = trainable(recipe=RECIPE)
    student = Student(cell, torch.device("cpu"), MachineSettings(), 2, 4, group)
    student.begin_epoch()
    student.begin_validation()
    loader = Loader(data.load(cell.dataset, cell.recipe), cell.recipe, cell.seed, rank=group.rank, size=group.size)
    mine = loader.micro_batch_numbers[: 2 * loader.local_micro_batches]
    for number in mine:
        student.train_metrics.update(torch.tensor(torch.nan if number == 6 else float(number)))
    assert student.reduce_metrics(mine) is None
    assert student.train_metrics.first_non_finite() == 6


def test_first_non_finite_loss_is_known_in_all_processes(tmp_path):
    assert in_group(tmp_path, 2, _overflow) == {}


def test_reducer_of_batchnorm_without_momentum_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0: BatchNorm without a momentum"):
        Reducer(nn.Sequential(nn.BatchNorm2d(3, momentum=None)), Group(0, 2))


# -- ends ----------------------------------------------------------------------------------------------------------


def fail_step(group: Group, *, cell: Cell, rank: int, error: Exception) -> None:
    """Let one student's step fail once, in one process in epoch 2."""
    step, failed = Student.train_step, False

    def broken(self: Student, pixels: Tensor, target: Tensor, teacher: TeacherBatch | None, number: int) -> None:
        nonlocal failed
        if not failed and (group.rank, self.cell.cell_id, self.next_epoch) == (rank, cell.cell_id, 2):
            failed = number > 4
            if failed:
                raise error
        step(self, pixels, target, teacher, number)

    Student.train_step = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("rank", [0, 1])
def test_student_that_fails_in_one_process_leaves_in_all(tmp_path, pair, rank):
    *others, bad = COHORT[0], COHORT[1], COHORT[3], COHORT[2]
    sabotage = partial(fail_step, cell=bad, rank=rank, error=ValueError("broken here"))
    receipts = train_in_group(tmp_path, 2, *COHORT, sabotage=sabotage)
    (event,) = read_events(tmp_path, CellFailed)
    assert (event.cell_id, event.epoch) == (bad.cell_id, 1)
    assert event.reason.startswith("ValueError: broken here (test_group.py:")
    assert receipts[bad.cell_id] is None
    assert_same(others, receipts, pair)


def test_step_out_of_memory_in_one_process_splits_the_cohort_in_all(tmp_path, pair):
    sabotage = partial(fail_step, cell=COHORT[1], rank=1, error=torch.OutOfMemoryError("the device is full"))
    receipts = train_in_group(tmp_path, 2, *COHORT, sabotage=sabotage)
    assert len(read_events(tmp_path, CohortSplit)) == 1
    assert read_events(tmp_path, CellFailed) == []
    # The halves resume from checkpoints.
    assert [event.epoch for event in read_events(tmp_path, CellStarted)] == [0] * 4 + [1] * 4
    assert_same(COHORT, receipts, pair)


def exhaust_memory_of_teacher(group: Group) -> None:
    """Let the teacher run out of memory once, in the second process."""
    compute, calls = TeacherRunner._logits, 0

    def full(self: TeacherRunner, pixels: Tensor) -> Tensor:
        nonlocal calls
        calls += group.rank
        if calls == 3:
            raise torch.OutOfMemoryError("the device is full")
        return compute(self, pixels)

    TeacherRunner._logits = full  # type: ignore[method-assign]


def test_teacher_out_of_memory_in_one_process_splits_the_cohort_in_all(tmp_path, pair):
    cells = COHORT[1], COHORT[3]
    receipts = train_in_group(tmp_path, 2, *cells, sabotage=exhaust_memory_of_teacher)
    assert len(read_events(tmp_path, CohortSplit)) == 1
    assert_same(cells, receipts, pair)


def fail_loader(group: Group) -> None:
    """Let the second process's loader fail in the second update."""
    train_ = Loader.train_batches

    def torn(self: Loader, epoch: int) -> Any:
        batches: list[Batch] = list(train_(self, epoch))
        yield from batches[:3]
        raise DataError("the data is torn")

    if group.rank == 1:
        Loader.train_batches = torn  # type: ignore[method-assign]


def fail_dataset(group: Group) -> None:
    """Let the second process fail to load the dataset."""

    def missing(*_: object) -> Any:
        raise DataError("no such folder")

    if group.rank == 1:
        data.load = missing


@pytest.mark.parametrize(
    ("sabotage", "error", "in_main"),
    [
        (fail_loader, "DataError: the data is torn", GroupBroken.__name__),
        (fail_dataset, "DataError: no such folder", "DataError: no such folder"),
    ],
)
def test_data_error_in_one_process_ends_all(tmp_path, sabotage, error, in_main):
    cell = trainable("ce", **SETTINGS)
    errors = in_group(tmp_path / "processes", 2, _train, tmp_path, [cell], sabotage)
    assert in_main in errors[0]
    assert error in errors[1]
    assert Store(tmp_path).record(cell.cell_id) is None


def interrupt(_: Group) -> Callable[[Event], None]:
    """Kill the main process after an epoch."""

    def on_event(event: Event) -> None:
        if isinstance(event, EpochCompleted):
            raise Interruption

    return on_event


def test_checkpoint_is_resumed_by_any_number_of_processes(tmp_path, alone):
    cell = COHORT[1]
    give_teacher(Store(tmp_path / "2"), [cell])
    errors = in_group(tmp_path / "processes", 2, _train, tmp_path / "2", [cell], interrupt)
    assert Interruption.__name__ in errors[0]
    assert GroupBroken.__name__ in errors[1]
    for size in (1, 4):
        folder = tmp_path / str(size)
        shutil.copytree(tmp_path / "2", folder)
        train_in_group(folder, size, cell)
        assert [event.epoch for event in read_events(folder, CellStarted, EpochCompleted)] == [1, 2]
        assert_close(cell, folder, alone)


def request_stop(_: Group, *, store: Path) -> Callable[[Event], None]:
    """Request a stop after the first epoch."""

    def on_event(event: Event) -> None:
        if isinstance(event, EpochCompleted):
            stop_requests.request(Store(store), "run")

    return on_event


def test_stop_request_reaches_all_processes(tmp_path):
    cells = [trainable("ce", **SETTINGS), trainable("ls", **SETTINGS)]
    train_in_group(tmp_path, 2, *cells, sabotage=partial(request_stop, store=tmp_path))
    assert [event.epoch for event in read_events(tmp_path, CellStarted, EpochCompleted, CellFinished)] == [0, 0, 1, 1]
    store = Store(tmp_path)
    assert [len(record.epochs) for cell in cells if (record := store.record(cell.cell_id))] == [1, 1]
    assert all(store.receipt(cell) is None for cell in cells)
