r"""Time training on a GPU: ResNet-50 <- ResNet-152, one student and cohorts of 3 and 6, beside a minimal timm loop.

    .venv/bin/python benchmarks/gpu.py [--compile]
    .venv/bin/python benchmarks/gpu.py --device cpu --student test_resnet --teacher resnet10t --images 16 --size 32 \
        --batch 8

The second command is a dry run on a CPU; its figures mean nothing. Images are synthetic and in memory, and both sides
use the same batches from the same loader. The trainer is the project's, without validation and checkpoints. A round is
one epoch of `--images`; the clock stops when the device has finished.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from _measure import Goal, alternate, last_line
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pld_grid.experiment.cell import Cell, Dataset, Loss, Model, Optimizer, Recipe
from pld_grid.experiment.machine import MachineSettings
from pld_grid.store import Provenance, Receipt, Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.train import data, losses
from pld_grid.train.data import Splits
from pld_grid.train.data._split import ArraySplit
from pld_grid.train.group import Group
from pld_grid.train.loader import Batch, Loader
from pld_grid.train.models import build_model, dump_weights
from pld_grid.train.optim import build_schedule
from pld_grid.train.recorder import CellRecorder
from pld_grid.train.run_context import RunContext
from pld_grid.train.training import Training

CLASSES = 1000
ONE = "one student"
COHORTS = {ONE: 1, "cohort of 3": 3, "cohort of 6": 6}
MINIMAL = "minimal timm loop"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.02
KD_ALPHA, KD_TAU = 0.1, 2.0
# The first is the KD student of the minimal loop.
LOSSES = [
    ("kd", {"alpha": KD_ALPHA, "tau": KD_TAU}),
    ("dist", {}),
    ("pld", {}),
    ("kd", {"tau": 4.0}),
    ("dist", {"tau": 4.0}),
    ("pld", {"tau": 2.0}),
]
# Dense bfloat16 FLOP per second from NVIDIA's data sheets (half of the figure "with sparsity" where only that is
# printed), by torch's name of the device. Utilisation of other devices is not reported.
SOURCE = "NVIDIA's data sheets of A100, H100 SXM and H200 SXM"
PEAKS = {r"NVIDIA A100[- ].*": 312e12, r"NVIDIA H100 80GB HBM3": 989e12, r"NVIDIA H200": 989e12}


def cells(options: argparse.Namespace) -> list[Cell]:
    """Return six students of one teacher."""
    recipe = Recipe(
        batch_size=options.batch, micro_batch_size=options.batch, mean=MEAN, std=STD, precision=options.precision
    )
    settings = Optimizer(name="lamb", learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def cell(
        architecture: str, loss: str, hyperparameters: dict[str, float], epochs: int, teacher: Cell | None = None
    ) -> Cell:
        return Cell(
            dataset=Dataset(name="imagenet", num_classes=CLASSES, image_size=options.size),
            recipe=recipe,
            teacher=teacher,
            student=Model(architecture=architecture),
            loss=Loss(name=loss, hyperparameters=dict(losses.build(loss, **hyperparameters).settings())),
            optimizer=settings,
            epochs=epochs,
        )

    teacher = cell(options.teacher, "ce", {}, 1)
    return [cell(options.student, loss, values, 100, teacher) for loss, values in LOSSES]


def splits(options: argparse.Namespace) -> Splits:
    """Return random pixels and labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.images, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    split = ArraySplit(images, torch.randint(CLASSES, (options.images,), generator=generator))
    return Splits(train=split, validation=split)


def finish_teacher(store: Store, cell: Cell) -> None:
    """Store random weights as those of a finished teacher; their accuracy does not affect time."""
    store.write_cell(cell)
    now = time.time()
    model = build_model(cell.student, cell.dataset, cell.seed)
    store.write_receipt(
        Receipt(
            cell=cell,
            state="finished",
            parameters=0,
            metrics={},
            epochs=(),
            weights_sha256=store.write_weights(cell.cell_id, dump_weights(model)),
            provenance=Provenance(commit="", versions={}, device="cpu", threads=1, started=now, ended=now),
        )
    )


class Ours:
    """The project's trainer with these students."""

    def __init__(self, students: list[Cell], store: Path, machine: MachineSettings) -> None:
        self.count = len(students)
        self.reasons: list[str] = []
        opened = Store(store)
        recorder = CellRecorder(
            opened,
            RunContext(store=str(store), machine=machine),
            Claims(opened, Lease(opened, "benchmark")),
            Group(),
            on_event=lambda event: self.reasons.append(getattr(event, "reason", "")),
            on_flush=lambda: None,
        )
        self.training = Training(students, recorder)

    def __call__(self) -> None:
        """Train one epoch."""
        students = list(self.training.students)
        self.training._train(1, students)
        if len(self.training.students) != self.count:
            raise RuntimeError(f"a student failed: {[reason for reason in self.reasons if reason]}")


class MinimalLoop:
    """One KD student, written with timm: no records, no cohort, no checkpoints."""

    def __init__(self, options: argparse.Namespace, device: torch.device, data_splits: Splits, cell: Cell) -> None:
        self.device, self.dtype = device, getattr(torch, options.precision)
        loader = Loader(data_splits, cell.recipe, 0, workers=options.workers, pin=device.type == "cuda")
        self.batches = PrefetchLoader(_Epochs(loader), mean=MEAN, std=STD, device=device)
        self.student, self.teacher = (
            timm.create_model(name, num_classes=CLASSES).to(device=device, memory_format=torch.channels_last)
            for name in (options.student, options.teacher)
        )
        self.teacher.requires_grad_(False).eval()
        self.optimizer = create_optimizer_v2(self.student, opt="lamb", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.schedule = build_schedule(self.optimizer, cell.recipe, cell.epochs, loader.updates_per_epoch)
        if options.compile:
            self.student, self.teacher = torch.compile(self.student), torch.compile(self.teacher)

    def __call__(self) -> None:
        """Train one epoch."""
        self.student.train()
        for number, (pixels, target) in enumerate(self.batches):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                with torch.no_grad():
                    teacher_logits = self.teacher(pixels)
                logits = self.student(pixels)
            loss = distill(logits.float(), teacher_logits.float(), target)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step_update(number)


class _Epochs:
    """An iterable that repeats one epoch, as timm's loader expects it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.train_batches(1)


def distill(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Return the KD loss, from torch's functions."""
    divergence = functional.kl_div(
        functional.log_softmax(student / KD_TAU, 1),
        functional.log_softmax(teacher / KD_TAU, 1),
        reduction="batchmean",
        log_target=True,
    )
    return KD_ALPHA * functional.cross_entropy(student, target) + (1 - KD_ALPHA) * KD_TAU**2 * divergence


def flops(architecture: str, size: int, *, training: bool) -> float:
    """Return FLOP per image as torch counts them, two per multiply-add; with the backward pass if `training`."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(architecture, num_classes=CLASSES).train(training)
        # Two images, because BatchNorm refuses one.
        pixels = torch.empty(2, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        logits = model(pixels)
        if training:
            logits.sum().backward()
    return counter.get_total_flops() / 2


class Memory:
    """Measure one contender's peak memory, apart from the contenders that remain on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self._allocated()

    def peak(self, call: Callable[[], object]) -> int:
        """Return the peak bytes of a round, with the optimizer's state; 0 on a CPU, where torch does not count."""
        if self.device.type != "cuda":
            call()
            return 0
        call()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - self.before

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile of students and teachers, on both sides")
    parser.add_argument("--student", default="resnet50")
    parser.add_argument("--teacher", default="resnet152")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=256 * 24, help="per round")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, help="loader processes; 4 on a GPU, else none")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], help="bfloat16 on a GPU, else float32")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.precision = options.precision or ("bfloat16" if on_gpu else "float32")
    if options.workers is None:
        options.workers = 4 if on_gpu else 0
    return options


def measure(options: argparse.Namespace, device: torch.device, store: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Return the seconds per round and the peak bytes of every contender."""
    students, data_splits = cells(options), splits(options)
    assert students[0].teacher is not None
    finish_teacher(Store(store), students[0].teacher)
    # The trainer loads its data by name; these images have none.
    data.load = lambda *_: data_splits
    machine = MachineSettings(
        gpus_per_cohort=int(device.type == "cuda"),
        loader_workers=options.workers,
        channels_last=True,
        compile=options.compile,
    )
    torch.backends.cudnn.benchmark = device.type == "cuda"
    calls: dict[str, Callable[[], object]] = {}
    peaks = {}

    def add(name: str, build: Callable[[], Callable[[], None]]) -> None:
        memory = Memory(device)
        train = build()

        def call() -> None:
            train()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        peaks[name] = memory.peak(call)
        calls[name] = call

    add(MINIMAL, lambda: MinimalLoop(options, device, data_splits, students[0]))
    for name, count in COHORTS.items():
        add(name, lambda count=count: Ours(students[:count], store, machine))  # type: ignore[misc]
    return alternate(calls, rounds=options.rounds, seconds=0), peaks


def main() -> None:
    """Print a line per contender, and the goals as the last line."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        last_line("gpu", [], skipped="no GPU")
        return
    dry, device = options.device == "cpu", torch.device(options.device)
    name = "cpu" if dry else torch.cuda.get_device_name()
    peak = next((rate for pattern, rate in PEAKS.items() if re.fullmatch(pattern, name)), None)
    images = options.images // options.batch * options.batch
    teacher, student = (
        flops(options.teacher, options.size, training=False),
        flops(options.student, options.size, training=True),
    )
    if dry:
        print("Dry run, figures mean nothing.")
    print(
        f"{name}, torch {torch.__version__}: {options.student} <- {options.teacher}, batch {options.batch}, "
        f"{options.size}x{options.size}, {options.precision}, {'compiled' if options.compile else 'not compiled'}"
    )
    print(f"GFLOP per image: teacher forward {teacher / 1e9:.2f}, student forward and backward {student / 1e9:.2f}")
    if peak is not None:
        print(f"assumed peak {peak / 1e12:.0f} TFLOP/s, dense bfloat16 ({SOURCE})")
    else:
        print("utilisation is not given: the peak of this device is not known here")
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = measure(options, device, Path(folder))

    rates = {contender: images / taken for contender, taken in seconds.items()}
    counts = {MINIMAL: 1} | COHORTS
    utilisation = {
        contender: rate * (teacher + counts[contender] * student) / peak if peak else None
        for contender, rate in rates.items()
    }
    print(f"{'':>18} {'images/s':>10} {'student-images/s':>17} {'utilisation':>12} {'peak GiB':>9}   median of rounds")
    for contender, rate in rates.items():
        used = "-" if utilisation[contender] is None else f"{100 * utilisation[contender]:.1f} %"
        print(
            f"{contender:>18} {rate:>10.1f} {counts[contender] * rate:>17.1f} {used:>12} "
            f"{memory[contender] / 2**30:>9.2f}"
        )
    one, cohorts = rates[ONE], {name: count for name, count in COHORTS.items() if count > 1}
    ideal = {name: count * (teacher + student) / (teacher + count * student) for name, count in cohorts.items()}
    goals = [
        Goal("one student, images/s against the minimal timm loop", one / rates[MINIMAL], 1.0, least=True),
        *(
            Goal(f"student-images/s, {name} against one student", count * rates[name] / one, 1.0, least=True)
            for name, count in cohorts.items()
        ),
    ]
    last_line(
        "gpu",
        [] if dry else goals,
        **({"skipped": "dry run on a CPU"} if dry else {}),
        device=name,
        torch=torch.__version__,
        compiled=options.compile,
        images_per_second=rates,
        utilisation=utilisation,
        peak_bytes=memory,
        gain_by_flops_alone=ideal,
    )


if __name__ == "__main__":
    main()
