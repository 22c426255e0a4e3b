"""Time reading ImageNet on one core: timm's loader, torchvision's v2 transforms, the imagenet profile; cores per GPU.

.venv/bin/python benchmarks/data.py [--gpu-images-per-second STUDENT/TEACHER=RATE]

Every contender reads the same generated JPEGs (500x375 pixels, of ImageNet's usual file size) from a folder, in this
process with one thread, and returns one batch of uint8 pixels. The files are in the page cache: no disk is measured.
Two small differences remain: timm and torchvision redraw a crop that does not fit, the profile clips it; timm's shorter
side for validation is 235 pixels, the paper's 236.
"""

import argparse
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
import torchvision.io
from _measure import Goal, alternate, last_line
from PIL import Image, ImageDraw
from timm.data import ImageDataset, create_transform
from timm.data.loader import fast_collate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import pld_grid
from pld_grid.experiment.cell import Dataset
from pld_grid.service.loading import load_profile
from pld_grid.train.data.imagenet import load

WIDTH, HEIGHT, SIZE, EVALUATION_CROP = 500, 375, 224, 0.95
QUALITY, NOISE = 90, 22
CLASSES, TRAIN_IMAGES, VALIDATION_IMAGES = 4, 256, 128
COHORT = 6
# Assumed, not measured: NVIDIA's figure for an H100 SXM (dense bfloat16), and the share of it that training reaches.
PEAK_FLOP_PER_SECOND, UTILISATION = 989e12, 0.35
GRIDS = sorted((Path(__file__).parent.parent / "grids").glob("table*.yaml"))
BICUBIC = v2.InterpolationMode.BICUBIC
Contenders = dict[str, Callable[[], Tensor]]


def photograph(seed: int) -> Image.Image:
    """Return smooth noise of all scales, shapes with hard edges, and grain; it compresses like a photograph."""
    draws = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.float32)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        coarse = draws.normal(size=(3, max(2, cells * HEIGHT // WIDTH), cells)).astype(np.float32)
        smooth = [Image.fromarray(plane).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for plane in coarse]
        pixels += 70 / cells**0.45 * np.stack(smooth, axis=-1)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, width, height = (int(d) for d in draws.integers((0, 0, 10, 10), (WIDTH, HEIGHT, 120, 120)))
        shape = pen.ellipse if draws.random() < 0.5 else pen.rectangle
        shape([left, top, left + width, top + height], fill=tuple(int(d) for d in draws.integers(0, 256, 3)))
    grain = draws.normal(scale=NOISE, size=(HEIGHT, WIDTH, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def write_images(folder: Path) -> float:
    """Write both splits; return the mean file size in bytes."""
    sizes = []
    for split, count in (("train", TRAIN_IMAGES), ("validation", VALIDATION_IMAGES)):
        for number in range(count):
            file = folder / split / f"n{number % CLASSES:08}" / f"{number:05}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            photograph(number).save(file, quality=QUALITY)
            sizes.append(file.stat().st_size)
    return float(np.mean(sizes))


def with_torchvision(path: str) -> Tensor:
    with open(path, "rb") as file:
        return torchvision.io.decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8), "RGB")


def with_pillow(path: str) -> Tensor:
    with open(path, "rb") as file:
        return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


class PillowCrop(v2.RandomResizedCrop):
    """torchvision's random crop, resized by Pillow directly from the whole image."""

    def forward(self, image: Image.Image) -> Image.Image:
        """Return the crop, resized to (SIZE, SIZE) pixels."""
        part = self.make_params([image])
        left, top = part["left"], part["top"]
        box = (left, top, left + part["width"], top + part["height"])
        return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


def torchvisions(folder: Path, loader: Callable[[str], object], *transforms: object) -> Callable[[], Tensor]:
    """Return a contender: torchvision's folder, a decoder, and its v2 transforms."""
    images = ImageFolder(str(folder), v2.Compose(transforms), loader=loader)

    def batch() -> Tensor:
        torch.manual_seed(0)
        return torch.stack([images[i][0] for i in range(len(images))])

    return batch


def timms(folder: Path, train: bool) -> Callable[[], Tensor]:
    """Return a contender: the work of `create_loader`'s workers in timm, with the paper's recipe."""
    transform = create_transform(
        SIZE, is_training=train, use_prefetcher=True, color_jitter=0, interpolation="bicubic", crop_pct=EVALUATION_CROP
    )
    images = ImageDataset(str(folder), transform=transform)

    def batch() -> Tensor:
        random.seed(0)
        torch.manual_seed(0)
        return fast_collate([images[i] for i in range(len(images))])[0]

    return batch


def ours(folder: Path, train: bool) -> Callable[[], Tensor]:
    """Return a contender: the imagenet profile, with fewer classes."""
    splits = load(
        Dataset(name="imagenet", num_classes=CLASSES, image_size=SIZE), load_profile("imagenet").recipe, folder
    )
    split = splits.train if train else splits.validation
    return lambda: split.batch(np.arange(len(split)), 0, 1)[0]


def without_torchvision(batch: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return the contender with Pillow as decoder, as used where torchvision does not decode."""

    def batch_by_pillow() -> Tensor:
        with mock.patch.object(torchvision.io, "decode_jpeg", side_effect=RuntimeError):
            return batch()

    return batch_by_pillow


def contenders(folder: Path, train: bool) -> Contenders:
    files = folder / ("train" if train else "validation")
    if train:
        transforms = [v2.RandomResizedCrop(SIZE, interpolation=BICUBIC, antialias=True), v2.RandomHorizontalFlip()]
    else:
        shorter = int(np.ceil(SIZE / EVALUATION_CROP))
        transforms = [v2.Resize(shorter, interpolation=BICUBIC, antialias=True), v2.CenterCrop(SIZE)]
    profile = ours(folder, train)
    calls = {
        "timm": timms(files, train),
        "torchvision v2": torchvisions(files, with_torchvision, *transforms),
        "torchvision v2, read by Pillow": torchvisions(files, with_pillow, *transforms),
        "imagenet profile": profile,
        "imagenet profile, read by Pillow": without_torchvision(profile),
    }
    if train:
        by_pillow = (PillowCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor())
        calls["Pillow, resize(box=...)"] = torchvisions(files, lambda p: Image.open(p).convert("RGB"), *by_pillow)
    return calls


def check(calls: Contenders, train: bool) -> None:
    """Check that the contenders return the same shapes, and for validation the same pixels."""
    batches = {name: call() for name, call in calls.items()}
    assert all(b.shape[1:] == (3, SIZE, SIZE) and b.dtype == torch.uint8 for b in batches.values())
    assert torch.equal(batches["imagenet profile"], batches["imagenet profile, read by Pillow"])
    if not train:
        assert torch.equal(batches["imagenet profile"], batches["torchvision v2"])


def compare(folder: Path, train: bool) -> tuple[float, float]:
    """Print images per second on one core; return the profile's rate, and its ratio to the fastest peer."""
    calls, count = contenders(folder, train), TRAIN_IMAGES if train else VALIDATION_IMAGES
    check(calls, train)
    rates = {name: count / seconds for name, seconds in alternate(calls).items()}
    print(f"{'training' if train else 'validation':<36}{'images/s':>10}{'ms/image':>10}   one core, median")
    for name, rate in rates.items():
        print(f"  {name:<34}{rate:>10.0f}{1000 / rate:>10.2f}")
    peers = max(rates[name] for name in ("timm", "torchvision v2", "torchvision v2, read by Pillow"))
    return rates["imagenet profile"], rates["imagenet profile"] / peers


def forward_flops(architecture: str) -> int:
    """Return floating-point operations per image of 224 pixels; a multiply-add counts as two."""
    with torch.device("meta"), torch.inference_mode():
        model = timm.create_model(architecture, num_classes=1000).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(1, 3, SIZE, SIZE))
    return int(counter.get_total_flops())


def pairs() -> list[tuple[str, str]]:
    """Return (student, teacher) of the ten tables, in their order."""
    grids = pld_grid.load_grids(GRIDS, profile="imagenet")
    cells = [cell for grid in grids for cell in grid.cells() if cell.teacher is not None]
    return list(dict.fromkeys((c.student.architecture, c.teacher.student.architecture) for c in cells))


def gpu_rates(student: str, teacher: str) -> Iterator[float]:
    """Yield assumed images/s of one GPU: student alone, with teacher, a cohort. Backward costs two forward passes."""
    step, teacher_flops = 3 * forward_flops(student), forward_flops(teacher)
    for flops in (step, step + teacher_flops, COHORT * step + teacher_flops):
        yield PEAK_FLOP_PER_SECOND * UTILISATION / flops


def print_cores(rate: float, measured: dict[str, float]) -> dict[str, list[float]]:
    """Print and return the cores that keep one GPU busy: student alone, with its teacher, in a cohort."""
    print(
        f"\nCores to feed one H100-class GPU. Assumed, not measured: {UTILISATION:.0%} of"
        f" {PEAK_FLOP_PER_SECOND / 1e12:.0f} TFLOP/s in bfloat16;\n3 forward passes per student and one per teacher."
        " Small models reach less than that, so theirs is an upper bound.\n"
        "measured: given by --gpu-images-per-second, the student with its teacher.\n"
        f"{'student <- teacher':<54}{'alone':>17}{'with teacher':>17}{f'cohort of {COHORT}':>17}{'measured':>17}\n"
        f"{'':<54}" + f"{'images/s':>10}{'cores':>7}" * 4
    )
    cores = {}
    for student, teacher in pairs():
        name, rates = f"{student} <- {teacher}", list(gpu_rates(student, teacher))
        rates += [measured[name]] if name in measured else []
        print(f"{name:<54}" + "".join(f"{gpu:>10.0f}{gpu / rate:>7.1f}" for gpu in rates))
        cores[name] = [round(gpu / rate, 1) for gpu in rates]
    return cores


def arguments() -> dict[str, float]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu-images-per-second", action="append", default=[], metavar="STUDENT/TEACHER=RATE")
    pairs = (text.split("=") for text in parser.parse_args().gpu_images_per_second)
    return {pair.replace("/", " <- "): float(rate) for pair, rate in pairs}


def main() -> None:
    measured = arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_images(folder)
        print(f"{TRAIN_IMAGES + VALIDATION_IMAGES} JPEGs, {WIDTH}x{HEIGHT}, {size / 1000:.0f} kB on average\n")
        rate, training = compare(folder, train=True)
        validation_rate, validation = compare(folder, train=False)
    cores = print_cores(rate, measured)
    last_line(
        "data",
        [
            Goal("training: the imagenet profile / the faster of timm's and torchvision's", training, 1.0, least=True),
            Goal("validation: the imagenet profile / the faster of both", validation, 1.0, least=True),
        ],
        images_per_second_per_core={"training": round(rate), "validation": round(validation_rate)},
        kilobytes_per_image=round(size / 1000, 1),
        cores_alone_with_teacher_in_cohort=cores,
    )


if __name__ == "__main__":
    main()
