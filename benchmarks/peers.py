"""Time one distillation job in this project, in torchdistill, and in a minimal loop with timm.

.venv/bin/python benchmarks/peers.py [--rounds 5] [--epochs 10]        (torchdistill: pip install -e ".[bench]")

The job: a KD student of tables 1 and 7 under the profile `digits` with its optimizer, schedule and epochs, one thread,
validation after every epoch. All sides get the same images, padded crop, models, initial weights and trained teacher.
A side's time is its whole call: build data and models, then load, run the teacher, train and validate every epoch. Ours
also writes its checkpoints, receipt and weights; the peers write nothing, log nothing and check no loss.
Each round uses another seed and runs every side once.

Three losses on one teacher are one cohort of KD, DIST and PLD here. The peers share nothing between runs and have no
PLD, so they are charged three KD runs (three times the measured one), which favours them.
"""

import argparse
import importlib.util
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Goal, last_line
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, RandomSampler, SequentialSampler
from torchvision import transforms

import pld_grid
from pld_grid.experiment.cell import Augmentation, Cell, Loss
from pld_grid.experiment.grid import Grid
from pld_grid.experiment.machine import MachineSettings
from pld_grid.store import Store
from pld_grid.train import data, losses
from pld_grid.train.cohort import train_cohort
from pld_grid.train.models import build_model, load_weights
from pld_grid.train.run_context import RunContext

GRIDS = Path(__file__).parents[1] / "grids"
# Table 7's pair, then Table 1's.
TABLES = ("table07", "table01")
LOSSES = ("kd", "dist", "pld")
WARM_UP_SEED = 1000


@dataclass(frozen=True)
class Job:
    """The input of each side: a student to train, and the weights of its trained teacher."""

    cell: Cell
    teacher_weights: bytes
    workers: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of `create_optimizer_v2` besides the model."""
        settings = self.cell.optimizer
        return {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, **settings.options}

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Return the student with its seed's initial weights, and the trained teacher."""
        teacher_cell = self.cell.teacher
        assert teacher_cell is not None
        teacher = build_model(teacher_cell.student, teacher_cell.dataset, teacher_cell.seed)
        load_weights(teacher, self.teacher_weights)
        return build_model(self.cell.student, self.cell.dataset, self.cell.seed), teacher

    def images(self) -> tuple["Images", "Images"]:
        """Return training and validation images with a per-image transform, as both peers expect them."""
        recipe, size = self.cell.recipe, self.cell.dataset.image_size
        last = [transforms.ConvertImageDtype(torch.float32), transforms.Normalize(recipe.mean, recipe.std)]
        crop = transforms.RandomCrop(size, padding=recipe.augmentation.padding)
        splits = data.load(self.cell.dataset, recipe.model_copy(update={"augmentation": Augmentation()}))
        return Images(splits.train, transforms.Compose([crop, *last])), Images(
            splits.validation, transforms.Compose(last)
        )


class Images(Dataset[tuple[Tensor, int]]):
    """A split as a dataset of single images. The transforms take tensors: faster than with PIL images between."""

    def __init__(self, split: data.Split, transform: Callable[[Tensor], Tensor]) -> None:
        images, target = split.batch(np.arange(len(split)), seed=0, epoch=0)
        self.images, self.target, self.transform = list(images), target.tolist(), transform

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.target[index]


@torch.inference_mode()
def top1(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Accuracy in percent."""
    model.eval()
    right = total = 0
    for pixels, target in loader:
        right += int((model(pixels).argmax(dim=-1) == target).sum())
        total += len(target)
    return 100 * right / total


# -- the sides: each trains one job and returns the last epoch's top-1 -------------------------------------------------


def ours(cells: Sequence[Cell], store: Path, machine: MachineSettings) -> float:
    """Train a cohort under the profile's machine settings; return the first cell's top-1."""
    train_cohort(cells, RunContext(store=str(store), machine=machine))
    receipts = [Store(store).receipt(cell) for cell in cells]
    assert all(receipt is not None and receipt.state == "finished" for receipt in receipts)
    assert receipts[0] is not None
    return receipts[0].metrics["top1"]


def timm_loop(job: Job, *, tuned: bool = False) -> float:
    """Train with timm's loader, optimizer and schedule only; `tuned` adds the settings that we found faster."""
    layout = torch.channels_last if tuned else torch.contiguous_format
    cell, recipe = job.cell, job.cell.recipe
    torch.manual_seed(cell.seed)
    student, teacher = job.models()
    student, teacher = student.to(memory_format=layout), teacher.to(memory_format=layout)
    teacher.eval().requires_grad_(False)
    loaders = []
    for images, training in zip(job.images(), (True, False), strict=True):
        # create_loader replaces the transform, and its own have no padded crop.
        transform = images.transform
        size = (cell.dataset.channels, cell.dataset.image_size, cell.dataset.image_size)
        loader = create_loader(
            images,
            size,
            recipe.batch_size,
            is_training=training,
            no_aug=True,
            use_prefetcher=False,
            num_workers=job.workers,
            device=torch.device("cpu"),
            mean=recipe.mean,
            std=recipe.std,
        )
        images.transform = transform
        loaders.append(loader)
    train, validation = loaders
    switches = {"foreach": True} if tuned else {}
    optimizer = create_optimizer_v2(student, opt=cell.optimizer.name, **job.options, **switches)
    schedule, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=cell.epochs - int(recipe.warmup_epochs),
        step_on_epochs=False,
        warmup_epochs=int(recipe.warmup_epochs),
        warmup_prefix=True,
        updates_per_epoch=len(train),
        warmup_lr=recipe.warmup_learning_rate,
        min_lr=recipe.final_learning_rate,
    )
    assert epochs == cell.epochs
    alpha, tau = (float(cell.loss.hyperparameters[name]) for name in ("alpha", "tau"))  # type: ignore[arg-type]
    accuracy = 0.0
    for epoch in range(epochs):
        student.train()
        for number, (pixels, target) in enumerate(train):
            schedule.step_update(epoch * len(train) + number)
            pixels = pixels.contiguous(memory_format=layout)
            with torch.no_grad():
                teacher_logits = teacher(pixels)
            logits = student(pixels)
            soft = functional.kl_div(
                functional.log_softmax(logits / tau, -1),
                functional.softmax(teacher_logits / tau, -1),
                reduction="batchmean",
            )
            loss = alpha * functional.cross_entropy(logits, target) + (1 - alpha) * tau**2 * soft
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        accuracy = top1(student, validation)
    return accuracy


def torchdistill_config(job: Job, updates: int) -> dict[str, Any]:
    """Return a training configuration like torchdistill's sample configs, with its registered names as keys."""
    cell, recipe = job.cell, job.cell.recipe
    common = {"batch_size": recipe.batch_size, "num_workers": job.workers, "persistent_workers": job.workers > 0}
    logits = {
        f"{who}_module_{what}": value
        for who in ("student", "teacher")
        for what, value in (("path", "."), ("io", "output"))
    }
    alpha, tau = cell.loss.hyperparameters["alpha"], cell.loss.hyperparameters["tau"]
    distillation = {"key": "KDLoss", "kwargs": {**logits, "temperature": tau, "alpha": alpha, "reduction": "batchmean"}}
    return {
        "num_epochs": cell.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {**common, "drop_last": True},
        },
        "val_data_loader": {
            "dataset_id": "validation",
            "sampler": {"class_or_func": SequentialSampler},
            "kwargs": common,
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        # The whole module, not only its parameters: timm recognizes norm and bias by their names and shapes.
        "optimizer": {"key": "timm", "kwargs": {"opt": cell.optimizer.name, **job.options}, "filters_params": False},
        "scheduler": {
            "key": "warm_cosine",
            "kwargs": {"warmup": round(recipe.warmup_epochs * updates), "updates": cell.epochs * updates},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": distillation, "weight": 1.0}}},
        },
    }


def warm_cosine(optimizer: torch.optim.Optimizer, warmup: int, updates: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the profile's schedule as a torch scheduler, for torchdistill."""

    def factor(update: int) -> float:
        if update < warmup:
            return update / warmup
        return (1 + math.cos(math.pi * (update - warmup) / (updates - warmup))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def torchdistill_box(job: Job) -> float:
    """Train with torchdistill's DistillationBox, as its image classification example does."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.optim.registry import register_optimizer, register_scheduler

    register_optimizer(key="timm")(create_optimizer_v2)
    register_scheduler(key="warm_cosine")(warm_cosine)
    torch.manual_seed(job.cell.seed)
    student, teacher = job.models()
    # torchdistill freezes the teacher's parameters but does not set its mode.
    teacher.eval()
    train, validation = job.images()
    config = torchdistill_config(job, len(train) // job.cell.recipe.batch_size)
    device = torch.device("cpu")
    box = get_distillation_box(
        teacher, student, {"train": train, "validation": validation}, config, device, None, False, 1
    )
    accuracy = 0.0
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for pixels, target, supplement in box.train_data_loader:
            loss = box.forward_process(pixels, target, supplement)
            box.post_forward_process(loss=loss)
        accuracy = top1(student, box.val_data_loader)
        box.post_epoch_process()
    box.clean_modules()
    return accuracy


PEERS: dict[str, Callable[[Job], float]] = {
    "torchdistill": torchdistill_box,
    "timm loop": timm_loop,
    "timm loop, tuned": partial(timm_loop, tuned=True),
}
# Reported without a goal: writing it takes the measurements that this project made.
STATED = ("timm loop, tuned",)


# -- the rounds --------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """The results of one pair's rounds: seconds of each side's call, and the top-1 of its KD student."""

    seconds: dict[str, list[float]]
    top1: dict[str, list[float]]

    def add(self, side: str, call: Callable[[], float]) -> None:
        """Run a side once and record its results."""
        started = time.perf_counter()
        accuracy = call()
        self.seconds.setdefault(side, []).append(time.perf_counter() - started)
        self.top1.setdefault(side, []).append(accuracy)


def kd_cell(grid: Grid, epochs: int | None) -> Cell:
    """Return the grid's KD student with the cross-entropy term, under the profile's base optimizer."""
    cell = next(
        c for c in grid.cells() if c.loss == default_loss("kd") and c.optimizer.name == "lamb" and c.teacher is not None
    )
    if epochs is None:
        return cell
    assert cell.teacher is not None
    return cell.model_copy(update={"epochs": epochs, "teacher": cell.teacher.model_copy(update={"epochs": epochs})})


def default_loss(name: str) -> Loss:
    """Return a loss with its default hyperparameters."""
    return Loss(name=name, hyperparameters=losses.build(name).settings())


def measure(cell: Cell, machine: MachineSettings, rounds: int, peers: Sequence[str]) -> Measured:
    """Train the teacher, then run every side once per round, each round with its own seed."""
    assert cell.teacher is not None
    with tempfile.TemporaryDirectory() as folder:
        teacher_store = Path(folder) / "teacher"
        train_cohort([cell.teacher], RunContext(store=str(teacher_store), machine=machine))
        weights = Store(teacher_store).read_weights(cell.teacher)

        def cohort(seed: int, names: Sequence[str]) -> Callable[[], float]:
            # A copy of the store with the teacher, made before the clock starts.
            store = Path(tempfile.mkdtemp(dir=folder)) / "store"
            shutil.copytree(teacher_store, store)
            cells = [cell.model_copy(update={"seed": seed, "loss": default_loss(name)}) for name in names]
            return partial(ours, cells, store, machine)

        workers = {peer: faster_workers(peer, cell, weights) for peer in peers}
        cohort(WARM_UP_SEED, LOSSES)()
        measured = Measured({}, {})
        for seed in range(rounds):
            measured.add("ours", cohort(seed, LOSSES[:1]))
            for peer in peers:
                job = Job(cell.model_copy(update={"seed": seed}), weights, workers[peer])
                measured.add(peer, partial(PEERS[peer], job))
            measured.add("ours, three losses", cohort(seed, LOSSES))
    # A cell's numbers do not depend on its cohort.
    assert measured.top1["ours"] == measured.top1["ours, three losses"]
    return measured


def faster_workers(peer: str, cell: Cell, weights: bytes) -> int:
    """Return the number of loader processes that is faster for a peer, by the best of two jobs each; also warms up."""
    warm_up, trials = cell.model_copy(update={"seed": WARM_UP_SEED}), Measured({}, {})
    for _ in range(2):
        for workers in (0, 2):
            trials.add(str(workers), partial(PEERS[peer], Job(warm_up, weights, workers)))
    best = {int(workers): min(seconds) for workers, seconds in trials.seconds.items()}
    chosen = min(best, key=best.__getitem__)
    print(f"  {peer}: {best[0]:.2f} s without loader processes, {best[2]:.2f} s with two; measured with {chosen}")
    return chosen


def judge(pair: str, cell: Cell, measured: Measured, peers: Sequence[str]) -> tuple[list[Goal], dict[str, float]]:
    """Print the pair's table; return its goals and ratios."""
    median = {side: statistics.median(values) for side, values in measured.seconds.items()}
    train = data.load(cell.dataset, cell.recipe).train
    images = cell.epochs * (len(train) // cell.recipe.batch_size) * cell.recipe.batch_size
    shared, runs = median["ours, three losses"], len(LOSSES)

    def row(side: str, seconds: float, students: int, baseline: float, remark: str) -> None:
        rate = students * images / seconds
        print(f"  {side:<25}{seconds:>10.2f}{rate:>10.0f}{seconds / baseline:>13.2f}   {remark}")

    print(f"  {'':<25}{'s, median':>10}{'images/s':>10}{'time by ours':>13}   KD top-1 % by seed; mean")
    for side in ("ours", *peers):
        accuracies = measured.top1[side]
        texts = " ".join(f"{value:.2f}" for value in accuracies)
        row(side, median[side], 1, median["ours"], f"{texts}; {statistics.mean(accuracies):.2f}")
    row("ours, three losses", shared, runs, shared, "")
    goals, ratios = [], {}
    for peer in peers:
        apart = standard_errors_apart(measured.top1["ours"], measured.top1[peer])
        remark = f"mean top-1 {apart:.2f} standard errors from ours"
        row(f"{peer}, three runs", runs * median[peer], runs, shared, remark)
        alone, three = median[peer] / median["ours"], runs * median[peer] / shared
        ratios |= {f"{pair}: {peer}, one student": alone, f"{pair}: {peer}, three losses": three}
        if peer in STATED:
            continue
        goals += [
            Goal(f"{pair}: images/s of one student, ours by {peer}'s", alone, 1.2, least=True),
            Goal(f"{pair}: student-images/s of three losses, ours by {peer}'s", three, 2.0, least=True),
            Goal(f"{pair}: KD top-1, ours from {peer}'s in standard errors of the difference", apart, 2.0),
        ]
    return goals, {name: round(value, 3) for name, value in ratios.items()}


def standard_errors_apart(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the distance of two means in standard errors of their difference."""
    distance = abs(statistics.mean(first) - statistics.mean(second))
    error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))
    if error == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / error


def main() -> None:
    """Print a table per pair, and the goals and ratios as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each with its own seed (at least 2)")
    parser.add_argument(
        "--epochs", type=int, help="of teacher and students, instead of the profile's: for a quick look"
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="whose pairs to train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers = [peer for peer in PEERS if peer != "torchdistill" or importlib.util.find_spec("torchdistill")]
    if "torchdistill" not in peers:
        print('torchdistill is not installed (pip install -e ".[bench]"): its side and its goals are left out.')
    goals: list[Goal] = []
    ratios: dict[str, float] = {}
    for table in arguments.tables:
        grid = pld_grid.load_grids([GRIDS / f"{table}.yaml"], profile="digits")[0]
        cell = kd_cell(grid, arguments.epochs)
        assert cell.teacher is not None
        pair = f"{cell.student.architecture} <- {cell.teacher.student.architecture}"
        print(f"{pair}: {cell.epochs} epochs, {arguments.rounds} rounds")
        measured = measure(cell, grid.profile.machine, arguments.rounds, peers)
        more_goals, more_ratios = judge(pair, cell, measured, peers)
        goals += more_goals
        ratios |= more_ratios
    last_line("peers", goals, threads=torch.get_num_threads(), peers=peers, ratios=ratios)


if __name__ == "__main__":
    main()
