"""Several processes train a cohort as one does: real gloo processes, the same curves, and ends in step."""

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
from trainable import RESNET, Interruption, distilled, give_weights, numbers, train, trainable

from pld_grid import stop
from pld_grid.events import Event
from pld_grid.machine import MachineSettings
from pld_grid.plan import Cohort
from pld_grid.spec import Cell, Optimizer, Recipe
from pld_grid.store import Receipt, Store
from pld_grid.train import data
from pld_grid.train.cohort import train_cohort
from pld_grid.train.data import DataError
from pld_grid.train.group import Exchange, Group, GroupBroken
from pld_grid.train.loader import Batch, Loader
from pld_grid.train.losses import TeacherBatch
from pld_grid.train.student import Student
from pld_grid.train.surroundings import Surroundings
from pld_grid.train.training import Training

RECIPE = Recipe(batch_size=360, micro_batch_size=90, warmup_epochs=0.5, mean=(0.3,), std=(0.38,))
SETTINGS: dict[str, Any] = {"recipe": RECIPE, "epochs": 2}
COHORT = [
    trainable("ce", **SETTINGS),
    distilled("kd", **SETTINGS, student=RESNET),
    distilled("dist", **SETTINGS, student=RESNET, optimizer=Optimizer(name="lamb", learning_rate=5e-3)),
    distilled("pld", **SETTINGS),
]
# Children of a process that has imported everything, and computed nothing, start at once.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["pld_grid.train.cohort"])


def _meet(rank: int, size: int, folder: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/meeting", timedelta(seconds=100), rank=rank, world_size=size
        )
        work(Group.joined(), *arguments)
        torch.distributed.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


def in_group(folder: Path, size: int, work: Callable[..., None], *arguments: Any) -> dict[int, str]:
    """Calls `work(group, *arguments)` in so many processes; once all have ended, tracebacks of those that raised."""
    folder = folder / f"group-{len(list(folder.iterdir())) if folder.exists() else 0}"
    folder.mkdir(parents=True)
    processes = [FORK.Process(target=_meet, args=(rank, size, folder, work, arguments)) for rank in range(size)]
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
    if not group.first:
        # Only the first process writes.
        Store.write = Store.remove = None  # type: ignore[method-assign, assignment]
    told: list[Event] = []
    listener = sabotage(group) or (lambda _: None)

    def hear(event: Event) -> None:
        told.append(event)
        listener(event)

    train_cohort(cells, Surroundings(store=str(folder), run="run"), hear, group=group)
    if group.first:
        (folder / "told.json").write_text(json.dumps([event.to_dict() for event in told]))
    else:
        assert not told


def nothing(_: Group) -> None:
    """No sabotage."""


def train_in_group(
    folder: Path, size: int, *cells: Cell, sabotage: Callable[..., Any] = nothing
) -> dict[str, Receipt | None]:
    """`trainable.train` in so many processes, which must all end without an error."""
    store = Store(folder)
    give_teacher(store, cells)
    assert in_group(folder / "processes", size, _train, folder, cells, sabotage) == {}
    return {cell.cell_id: store.receipt(cell) for cell in cells}


def give_teacher(store: Store, cells: Sequence[Cell]) -> None:
    """Finishes the teacher of a cohort, if it has one."""
    teacher = Cohort(tuple(cells)).teacher
    if teacher is not None and store.receipt(teacher) is None:
        give_weights(store, teacher)


def told(folder: Path, *kinds: str) -> list[Event]:
    """What was heard of the last training in a group."""
    return [Event(**event) for event in json.loads((folder / "told.json").read_text()) if event["kind"] in kinds]


def weights(folder: Path, cell: Cell) -> dict[str, Tensor]:
    """The stored model, buffers included."""
    return safetensors.torch.load(Store(folder).weights_of(cell))


def assert_close(cell: Cell, folder: Path, receipt: Receipt | None, other: Path, expected: Receipt | None) -> None:
    """The same curves and weights but for the order in which numbers were added up."""
    assert receipt is not None
    assert expected is not None
    assert (receipt.state, receipt.parameters) == (expected.state, expected.parameters)
    assert [record.epoch for record in receipt.epochs] == [record.epoch for record in expected.epochs]
    for record, wanted in zip(receipt.epochs, expected.epochs, strict=True):
        for name in record.metrics.keys() - {"images_per_second"}:
            # One of 355 images may fall to the other side.
            close = {"abs": 0.3} if "top" in name else {"rel": 1e-3}
            assert record.metrics[name] == pytest.approx(wanted.metrics[name], **close), (cell.loss.name, name)
        assert record.metrics.keys() == wanted.metrics.keys()
    here, there = weights(folder, cell), weights(other, cell)
    assert here.keys() == there.keys()
    for name, value in here.items():
        tight = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        torch.testing.assert_close(
            value, there[name], rtol=1e-3 if tight else 1e-2, atol=1e-4 if tight else 1e-3, msg=name
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Receipt | None]]:
    """The cohort, trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, train(folder, *COHORT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Receipt | None]]:
    """The cohort, trained by two."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, train_in_group(folder, 2, *COHORT)


def test_two_processes_train_as_one_does(alone, pair) -> None:  # type: ignore[no-untyped-def]
    for cell in COHORT:
        assert_close(cell, pair[0], pair[1][cell.cell_id], alone[0], alone[1][cell.cell_id])


def test_four_processes_train_as_one_does(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    receipts = train_in_group(tmp_path, 4, *COHORT)
    for cell in COHORT:
        assert_close(cell, tmp_path, receipts[cell.cell_id], alone[0], alone[1][cell.cell_id])


def test_a_cohort_gives_the_numbers_of_each_alone_in_a_group_too(tmp_path: Path, pair) -> None:  # type: ignore[no-untyped-def]
    cell = COHORT[1]
    assert numbers(train_in_group(tmp_path, 2, cell)[cell.cell_id]) == numbers(pair[1][cell.cell_id])


# -- parts ---------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """BatchNorm in all its uses, and parameters that get a gradient seldom or never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.BatchNorm1d(3, momentum=0.3), nn.BatchNorm1d(3, momentum=0.01)
        self.frozen, self.untracked = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
        self.seldom, self.never = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x_NC: Tensor, number: int) -> Tensor:
        self.frozen.eval()
        x_NC = self.shared(self.shared(self.first(x_NC)) + 1)
        x_NC = self.untracked(x_NC + self.frozen(x_NC))
        return x_NC + self.seldom(x_NC) if number == 3 else x_NC


def _add_up(group: Group) -> None:
    torch.manual_seed(0)
    whole = Layers()
    torch.nn.init.normal_(whole.frozen.running_mean)  # type: ignore[arg-type]
    part = deepcopy(whole)
    exchange = Exchange(part, group)
    share = 4 // group.size
    own = range(group.rank * share, (group.rank + 1) * share)
    for update_MNC in torch.randn(3, 4, 6, 3) * 2 + 5:
        for number, batch_NC in enumerate(update_MNC):
            whole(batch_NC, number).square().mean().div(4).backward()
        exchange.begin()
        for number in own:
            part(update_MNC[number], number).square().mean().div(4).backward()
        exchange.fill()
        exchange.send(failed=False)
        assert exchange.receive()
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
def test_gradients_and_batch_statistics_are_those_of_all_micro_batches(tmp_path: Path, size: int) -> None:
    assert in_group(tmp_path, size, _add_up) == {}


def _validate(group: Group, micro_batch: int) -> None:
    sizes = {"batch_size": 4 * micro_batch, "micro_batch_size": micro_batch}
    cell = distilled("kd", recipe=RECIPE.model_copy(update=sizes))
    splits = data.load(cell.dataset, cell.recipe)
    results = []
    for of in (Group(), group):
        loader = Loader(splits, cell.recipe, cell.seed, rank=of.rank, size=of.size)
        student = Student(cell, torch.device("cpu"), MachineSettings(), 0, loader.accumulation, of)
        student.begin_validation()
        for pixels, target in loader.validation():
            teacher_NC = torch.nn.functional.one_hot(target, 10).float() * (pixels.float().mean() / 50)
            student.validate(pixels, target, teacher_NC)
        assert student.gather(loader.numbers) is None
        assert student.validation_metrics.count == loader.validation_size
        results.append(student.validation_metrics.result())
    assert results[1] == pytest.approx(results[0], rel=1e-12)


# 355 validation images: in eight batches, the last of which is smaller; in as many as there are processes; in one.
@pytest.mark.parametrize("micro_batch", [50, 100, 360])
def test_every_validation_image_counts_once(tmp_path: Path, micro_batch: int) -> None:
    assert in_group(tmp_path, 4, _validate, micro_batch) == {}


def _overflow(group: Group) -> None:
    cell = trainable(recipe=RECIPE)
    student = Student(cell, torch.device("cpu"), MachineSettings(), 2, 4, group)
    student.begin_epoch()
    student.begin_validation()
    loader = Loader(data.load(cell.dataset, cell.recipe), cell.recipe, cell.seed, rank=group.rank, size=group.size)
    mine = loader.numbers[: 2 * loader.share]
    for number in mine:
        student.train_metrics.update(torch.tensor(torch.nan if number == 6 else float(number)))
    assert student.gather(mine) is None
    assert student.train_metrics.first_bad() == 6


def test_all_processes_know_which_step_was_not_finite(tmp_path: Path) -> None:
    assert in_group(tmp_path, 2, _overflow) == {}


def test_batchnorm_without_a_momentum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0: BatchNorm without a momentum"):
        Exchange(nn.Sequential(nn.BatchNorm2d(3, momentum=None)), Group(0, 2))


# -- ends ----------------------------------------------------------------------------------------------------------


def failing(group: Group, *, cell: Cell, rank: int, epoch: int, error: Exception) -> None:
    """One student's step fails once, in one process."""
    step, failed = Student.train_step, False

    def broken(self: Student, pixels: Tensor, target: Tensor, teacher: TeacherBatch | None, number: int) -> None:
        nonlocal failed
        if not failed and (group.rank, self.cell.cell_id, self.next_epoch) == (rank, cell.cell_id, epoch):
            failed = number > 4
            if failed:
                raise error
        step(self, pixels, target, teacher, number)

    Student.train_step = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_student_that_fails_in_one_process_leaves_in_all(tmp_path: Path, pair, rank: int) -> None:  # type: ignore[no-untyped-def]
    bad = COHORT[2]
    sabotage = partial(failing, cell=bad, rank=rank, epoch=2, error=ValueError("broken here"))
    receipts = train_in_group(tmp_path, 2, *COHORT, sabotage=sabotage)
    (event,) = told(tmp_path, "failed")
    assert (event.cell_id, event.epoch) == (bad.cell_id, 1)
    assert event.reason.startswith("ValueError: broken here (test_group.py:")
    assert receipts[bad.cell_id] is None
    for cell in COHORT:
        if cell is not bad:
            assert numbers(receipts[cell.cell_id]) == numbers(pair[1][cell.cell_id])


def test_a_lack_of_memory_in_one_process_splits_the_cohort_in_all(tmp_path: Path, pair) -> None:  # type: ignore[no-untyped-def]
    error = torch.OutOfMemoryError("the device is full")
    sabotage = partial(failing, cell=COHORT[1], rank=1, epoch=2, error=error)
    receipts = train_in_group(tmp_path, 2, *COHORT, sabotage=sabotage)
    assert len(told(tmp_path, "split")) == 1
    assert told(tmp_path, "failed") == []
    # From their checkpoints on, not from the start.
    assert [event.epoch for event in told(tmp_path, "started")] == [0] * 4 + [1] * 4
    for cell in COHORT:
        assert numbers(receipts[cell.cell_id]) == numbers(pair[1][cell.cell_id])


def teacher_without_memory(group: Group) -> None:
    """The teacher's pass runs out of memory once, in the second process."""
    teach, calls = Training._teach, 0

    def full(self: Training, pixels: Tensor) -> Tensor:
        nonlocal calls
        calls += group.rank
        if calls == 3:
            raise torch.OutOfMemoryError("the device is full")
        return teach(self, pixels)

    Training._teach = full  # type: ignore[method-assign]


def test_a_teacher_that_lacks_memory_in_one_process_splits_the_cohort_in_all(tmp_path: Path, pair) -> None:  # type: ignore[no-untyped-def]
    receipts = train_in_group(tmp_path, 2, COHORT[1], COHORT[3], sabotage=teacher_without_memory)
    assert len(told(tmp_path, "split")) == 1
    for cell in (COHORT[1], COHORT[3]):
        assert numbers(receipts[cell.cell_id]) == numbers(pair[1][cell.cell_id])


def torn_batches(group: Group) -> None:
    """The second process's loader fails in the second update."""
    train_ = Loader.train

    def torn(self: Loader, epoch: int) -> Any:
        batches: list[Batch] = list(train_(self, epoch))
        yield from batches[:3]
        raise DataError("the data is torn")

    if group.rank == 1:
        Loader.train = torn  # type: ignore[method-assign]


def test_a_loader_that_fails_in_one_process_ends_all(tmp_path: Path) -> None:
    cell = trainable("ce", **SETTINGS)
    errors = in_group(tmp_path / "processes", 2, _train, tmp_path, [cell], torn_batches)
    assert set(errors) == {0, 1}
    assert "DataError: the data is torn" in errors[1]
    assert GroupBroken.__name__ in errors[0]
    progress = Store(tmp_path).progress(cell.cell_id)
    assert progress is None


def missing_data(group: Group) -> None:
    """The second process does not find the data."""

    def missing(*_: object) -> Any:
        raise DataError("no such folder")

    if group.rank == 1:
        data.load = missing


def test_data_that_one_process_lacks_is_said_by_all(tmp_path: Path) -> None:
    errors = in_group(tmp_path / "processes", 2, _train, tmp_path, [trainable("ce", **SETTINGS)], missing_data)
    assert "DataError: no such folder" in errors[0]
    assert "DataError: no such folder" in errors[1]


def interrupted(_: Group) -> Callable[[Event], None]:
    """The first process is ended after an epoch."""

    def listener(event: Event) -> None:
        if event.kind == "epoch":
            raise Interruption

    return listener


def test_a_checkpoint_is_gone_on_from_with_any_number_of_processes(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    cell = COHORT[1]
    give_teacher(Store(tmp_path / "2"), [cell])
    errors = in_group(tmp_path / "processes", 2, _train, tmp_path / "2", [cell], interrupted)
    assert Interruption.__name__ in errors[0]
    assert GroupBroken.__name__ in errors[1]
    for size in (1, 4):
        folder = tmp_path / str(size)
        shutil.copytree(tmp_path / "2", folder)
        receipts = train_in_group(folder, size, cell)
        assert [event.epoch for event in told(folder, "started", "epoch")] == [1, 2]
        assert_close(cell, folder, receipts[cell.cell_id], alone[0], alone[1][cell.cell_id])


def stopping(_: Group, *, store: Path) -> Callable[[Event], None]:
    """Somebody asks for an end after the first epoch."""

    def listener(event: Event) -> None:
        if event.kind == "epoch":
            stop.request(Store(store), "run")

    return listener


def test_a_wish_to_stop_reaches_all_processes(tmp_path: Path) -> None:
    cells = [trainable("ce", **SETTINGS), trainable("ls", **SETTINGS)]
    train_in_group(tmp_path, 2, *cells, sabotage=partial(stopping, store=tmp_path))
    assert [event.epoch for event in told(tmp_path, "started", "epoch", "finished")] == [0, 0, 1, 1]
    assert [len(progress.epochs) for cell in cells if (progress := Store(tmp_path).progress(cell.cell_id))] == [1, 1]
    assert all(Store(tmp_path).receipt(cell) is None for cell in cells)
