"""What every dataset must do, run over all that are discovered, and what each one promises beyond that."""

import hashlib
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR100
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.errors import PldGridError
from pld_grid.spec import Augmentation, Dataset, Recipe
from pld_grid.train import data
from pld_grid.train.data import DataError, Splits
from pld_grid.train.data._split import DRAWS, ArraySplit, augment, random_resized_crop, resize
from pld_grid.train.data.imagenet import decode
from pld_grid.train.randomness import uniforms

AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(horizontal_flip=True),
    "padded": Augmentation(crop="padded", padding=2, horizontal_flip=True),
    "random_resized": Augmentation(crop="random_resized", horizontal_flip=True),
}
Load = Callable[..., Splits]


def recipe(channels: int, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 4, "mean": [0.5] * channels, "std": [0.5] * channels}
    return Recipe.model_validate(fields | changes)


def write_cifar100(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    """A few random images in CIFAR-100's own layout; torchvision is told their checksums."""
    random = np.random.default_rng(0)
    inner = folder / CIFAR100.base_folder
    inner.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        (inner / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((inner / name).read_bytes()).hexdigest()

    def images(count: int) -> dict[str, Any]:
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "fine_labels": [i * 7 % 100 for i in range(count)]}

    patch.setattr(CIFAR100, "train_list", [["train", write("train", images(24))]])
    patch.setattr(CIFAR100, "test_list", [["test", write("test", images(9))]])
    meta = {**CIFAR100.meta, "md5": write("meta", {"fine_label_names": [f"class {i}" for i in range(100)]})}
    patch.setattr(CIFAR100, "meta", meta)
    return Dataset(name="cifar100", num_classes=100, channels=3, image_size=32)


def write_imagenet(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    """A tree of real JPEGs of several shapes, in three classes."""
    random = np.random.default_rng(0)
    for split, each in (("train", 4), ("validation", 3)):
        for name in ("n01440764", "n02102040", "n03000684"):
            (folder / split / name).mkdir(parents=True)
            for number in range(each):
                height, width = random.integers(30, 90, 2)
                coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
                # Real ImageNet has grey images and CMYK ones too.
                image.convert(("RGB", "L", "CMYK", "RGB")[number]).save(folder / split / name / f"{number}.JPEG")
    return Dataset(name="imagenet", num_classes=3, channels=3, image_size=24)


def no_folder(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    return Dataset(name="digits", num_classes=10, channels=1, image_size=16)


# A new dataset that needs a folder needs a small one here.
WRITERS = {"cifar100": write_cifar100, "imagenet": write_imagenet, "digits": no_folder}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Dataset, Path]]]:
    """A dataset's small folder and its description, written once."""
    made: dict[str, tuple[Dataset, Path]] = {}
    with pytest.MonkeyPatch.context() as patch:

        def get(name: str) -> tuple[Dataset, Path]:
            if name not in made:
                folder = tmp_path_factory.mktemp(name)
                made[name] = WRITERS[name](folder, patch), folder
            return made[name]

        yield get


@pytest.fixture
def load(prepared: Callable[[str], tuple[Dataset, Path]]) -> Load:
    def get(name: str, augmentation: str = "none", **changes: Any) -> Splits:
        dataset, folder = prepared(name)
        made = recipe(dataset.channels, augmentation=AUGMENTATIONS[augmentation], **changes)
        return data.load(dataset, made, folder)

    return get


every = pytest.mark.parametrize("name", data.available())
augmented = pytest.mark.parametrize("augmentation", AUGMENTATIONS)


@every
def test_info(name: str) -> None:
    info = data.dataset_module(name).INFO
    assert info.name == name
    assert info.num_classes >= 2
    assert info.channels in (1, 3)


@every
@augmented
def test_batches_are_uint8_pixels_and_labels(load: Load, prepared: Any, name: str, augmentation: str) -> None:
    dataset, _ = prepared(name)
    for split in vars(load(name, augmentation)).values():
        assert len(split) > 4
        images, target = split.batch(np.arange(5), 0, 1)
        assert images.shape == (5, dataset.channels, dataset.image_size, dataset.image_size)
        assert images.dtype == torch.uint8
        assert target.shape == (5,)
        assert target.dtype == torch.int64
        assert 0 <= int(target.min()) <= int(target.max()) < dataset.num_classes
        assert images.float().std() > 1


@every
@augmented
def test_a_row_depends_on_seed_epoch_and_index_alone(load: Load, name: str, augmentation: str) -> None:
    split = load(name, augmentation).train
    indices = np.random.default_rng(1).permutation(len(split))[:12]
    images, target = split.batch(indices, 3, 2)
    for order in (slice(None, None, -1), slice(2, 9), slice(5, 6), np.array([4, 4, 0])):
        some_images, some_target = split.batch(np.ascontiguousarray(indices[order]), 3, 2)
        at = torch.from_numpy(np.arange(len(indices))[order].copy())
        assert torch.equal(some_images, images[at])
        assert torch.equal(some_target, target[at])
    again = load(name, augmentation).train.batch(indices, 3, 2)
    assert torch.equal(again[0], images)


@every
@augmented
def test_augmentation_moves_with_seed_and_epoch(load: Load, name: str, augmentation: str) -> None:
    split = load(name, augmentation).train
    images, target = split.batch(np.arange(12), 3, 2)
    for seed, epoch in ((4, 2), (3, 3)):
        others, labels = split.batch(np.arange(12), seed, epoch)
        assert torch.equal(labels, target)
        assert torch.equal(others, images) == (augmentation == "none")


@every
@augmented
def test_validation_is_never_augmented(load: Load, name: str, augmentation: str) -> None:
    split, plain = load(name, augmentation).validation, load(name).validation
    indices = np.arange(len(split))
    images, target = split.batch(indices, 0, 1)
    for other in (split.batch(indices, 5, 9), plain.batch(indices, 0, 1)):
        assert torch.equal(other[0], images)
        assert torch.equal(other[1], target)


@every
def test_missing_folders_are_one_line(prepared: Any, tmp_path: Path, name: str) -> None:
    dataset, _ = prepared(name)
    if not data.dataset_module(name).INFO.needs_folder:
        data.load(dataset, recipe(dataset.channels), None)
        return
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for folder, expected in {
        None: f"dataset {name} needs a data folder",
        tmp_path / "missing": f"dataset {name}: no such folder: {tmp_path / 'missing'}",
        tmp_path / "file": f"dataset {name}: no such folder: {tmp_path / 'file'}",
        tmp_path / "empty": f"dataset {name}: ",
    }.items():
        with pytest.raises(DataError) as caught:
            data.load(dataset, recipe(dataset.channels), folder)
        assert str(caught.value).startswith(expected)
        assert str(caught.value).isprintable()
        assert isinstance(caught.value, PldGridError)
        if folder is not None:
            assert str(folder) in str(caught.value)


def test_unknown_datasets() -> None:
    with pytest.raises(ValueError, match='unknown dataset "digit"; valid: cifar100, digits, imagenet'):
        data.dataset_module("digit")


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_class(load: Load) -> None:
    splits = load("digits")
    assert (len(splits.train), len(splits.validation)) == (1442, 355)
    labels = [split.batch(np.arange(len(split)), 0, 1)[1] for split in (splits.train, splits.validation)]
    for label in range(10):
        train, held_out = (int((target == label).sum()) for target in labels)
        assert abs(held_out - (train + held_out) / 5) < 1
    counts = torch.bincount(labels[1])
    assert int(counts.max() - counts.min()) <= 2


def test_digits_are_scikit_learns_and_disjoint(prepared: Any) -> None:
    """At their own size, both splits together are the 1,797 images, each once."""
    dataset = Dataset(name="digits", num_classes=10, channels=1, image_size=8)
    splits = data.load(dataset, recipe(1))
    found = [split.batch(np.arange(len(split)), 0, 1) for split in (splits.train, splits.validation)]
    rows = [
        bytes(image.numpy().tobytes()) + bytes([int(label)])
        for images, target in found
        for image, label in zip(images, target, strict=True)
    ]
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    expected = [image.tobytes() + bytes([int(label)]) for image, label in zip(pixels, digits.target, strict=True)]
    assert sorted(rows) == sorted(expected)
    assert int(found[0][0].max()) == 255


# -- CIFAR-100 ---------------------------------------------------------------------------------------------------------


def test_cifar100_is_what_the_files_hold(load: Load, prepared: Any) -> None:
    _, folder = prepared("cifar100")
    for split, file in zip(vars(load("cifar100")).values(), ("train", "test"), strict=True):
        content = pickle.loads((folder / CIFAR100.base_folder / file).read_bytes())
        images, target = split.batch(np.arange(len(split)), 0, 1)
        assert np.array_equal(images.numpy().reshape(len(split), -1), content["data"])
        assert target.tolist() == content["fine_labels"]


def test_cifar100_at_another_size(prepared: Any) -> None:
    dataset, folder = prepared("cifar100")
    splits = data.load(dataset.model_copy(update={"image_size": 20}), recipe(3), folder)
    assert splits.train.batch(np.arange(2), 0, 1)[0].shape == (2, 3, 20, 20)


def test_damaged_cifar100_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dataset = write_cifar100(tmp_path, patch)
        file = tmp_path / CIFAR100.base_folder / "test"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"^dataset cifar100: .* does not hold CIFAR-100 whole: "):
            data.load(dataset, recipe(3), tmp_path)


# -- ImageNet ----------------------------------------------------------------------------------------------------------


def write_jpeg(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.mark.parametrize(("rounding", "shorter"), [("ceil", 236), ("floor", 235)])
def test_evaluation_is_the_papers(tmp_path: Path, rounding: str, shorter: int) -> None:
    shapes = {"a": (300, 260), "b": (240, 410)}
    for name, (height, width) in shapes.items():
        write_jpeg(tmp_path / "train" / name / "1.jpg", 40, 40)
        write_jpeg(tmp_path / "val" / name / "1.jpg", height, width)
    dataset = Dataset(name="imagenet", num_classes=2, channels=3, image_size=224)
    made = recipe(3, evaluation_crop=0.95, resize_rounding=rounding)
    images, target = data.load(dataset, made, tmp_path).validation.batch(np.arange(2), 0, 1)
    assert target.tolist() == [0, 1]
    for image, (name, (height, width)) in zip(images, shapes.items(), strict=True):
        whole = torch.from_numpy(np.array(Image.open(tmp_path / "val" / name / "1.jpg"))).permute(2, 0, 1)
        scale = shorter / min(height, width)
        size = [shorter, int(width * scale)] if height < width else [int(height * scale), shorter]
        resized = F.resize(whole, size, InterpolationMode.BICUBIC, antialias=True)
        top, left = (round((side - 224) / 2.0) for side in size)
        assert torch.equal(image, resized[:, top : top + 224, left : left + 224])


def jpegs() -> Iterator[Any]:
    """JPEGs of every kind that ImageNet has: colours, subsampling, progressive or not, odd sizes."""
    random = np.random.default_rng(0)
    for mode, subsampling, progressive in itertools.product(("RGB", "L", "CMYK"), (0, 1, 2), (False, True)):
        height, width = (int(side) for side in random.integers(17, 130, 2))
        coarse = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        data = io.BytesIO()
        image.save(data, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        yield pytest.param(data.getvalue(), id=f"{mode} {height}x{width} {subsampling} {progressive}")


def without_torchvisions_decoder(patch: pytest.MonkeyPatch, calls: list[str]) -> None:
    def refuse(*_: object) -> None:
        calls.append("torchvision")
        raise RuntimeError("moved to TorchCodec")

    patch.setattr(torchvision.io, "decode_jpeg", refuse, raising=False)


@pytest.mark.skipif(not hasattr(torchvision.io, "decode_jpeg"), reason="torchvision no longer decodes")
@pytest.mark.parametrize("data", list(jpegs()))
def test_both_decoders_give_the_same_pixels(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert np.array_equal(decode(data).numpy(), expected)
    calls: list[str] = []
    without_torchvisions_decoder(monkeypatch, calls)
    assert np.array_equal(decode(data).numpy(), expected)
    assert calls == ["torchvision"]
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert np.array_equal(decode(data).numpy(), expected)


def test_other_formats_are_read_too() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    assert np.array_equal(decode(data.getvalue()).numpy(), pixels)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_pixels_do_not_depend_on_threads_or_the_decoder(
    load: Load, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, indices = vars(load("imagenet", augmentation)).values(), np.arange(9)
    expected = [split.batch(indices, 3, 2)[0] for split in splits]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for split, images in zip(splits, expected, strict=True):
                assert torch.equal(split.batch(indices, 3, 2)[0], images)
    finally:
        torch.set_num_threads(before)
    without_torchvisions_decoder(monkeypatch, [])
    for split, images in zip(splits, expected, strict=True):
        assert torch.equal(split.batch(indices, 3, 2)[0], images)


def test_a_row_is_the_part_of_its_image_that_its_draws_say(load: Load, prepared: Any) -> None:
    """Read by Pillow, cut and resized by torchvision: another way to the same pixels."""
    dataset, folder = prepared("imagenet")
    made, size = AUGMENTATIONS["random_resized"], dataset.image_size
    images, _ = load("imagenet", "random_resized").train.batch(np.arange(12), 3, 2)
    files = sorted((folder / "train").glob("*/*.JPEG"))
    for file, image, draw in zip(files, images, uniforms(3, 2, np.arange(12), DRAWS), strict=True):
        whole = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
        height, width = whole.shape[-2:]
        area = height * width * (made.scale[0] + (made.scale[1] - made.scale[0]) * draw[2])
        ratio = made.ratio[0] * (made.ratio[1] / made.ratio[0]) ** draw[3]
        w, h = min(round(math.sqrt(area * ratio)), width), min(round(math.sqrt(area / ratio)), height)
        top, left = int(draw[0] * (height - h + 1)), int(draw[1] * (width - w + 1))
        part = F.resized_crop(whole, top, left, h, w, [size, size], InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(image, part.flip(-1) if draw[4] < 0.5 else part)


def test_training_without_a_random_crop_is_centred(load: Load) -> None:
    plain = load("imagenet")
    train = plain.train.batch(np.arange(4), 0, 1)[0]
    assert torch.equal(train, plain.train.batch(np.arange(4), 8, 9)[0])


def test_labels_follow_the_sorted_class_names(load: Load) -> None:
    splits = load("imagenet")
    assert splits.train.batch(np.arange(12), 0, 1)[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.validation.batch(np.arange(9), 0, 1)[1].tolist() == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (["train/a", "validation/a"], 2, r"train has 1 classes, not 2$"),
        (["train/a", "train/b", "validation/a", "validation/c"], 2, r"differ in their classes: b, c$"),
        (["train/a"], 1000, r"needs the folders train/ and validation/ \(or val/\)$"),
        (["val/a"], 1000, r"needs the folders train/ and validation/ \(or val/\)$"),
    ],
)
def test_trees_that_are_not_the_dataset(tmp_path: Path, folders: list[str], classes: int, message: str) -> None:
    for folder in folders:
        write_jpeg(tmp_path / folder / "1.jpg", 30, 30)
    dataset = Dataset(name="imagenet", num_classes=classes, channels=3, image_size=16)
    with pytest.raises(DataError, match=message) as caught:
        data.load(dataset, recipe(3), tmp_path)
    assert str(caught.value).isprintable()


def test_a_split_without_images(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    write_jpeg(tmp_path / "val" / "a" / "1.jpg", 30, 30)
    dataset = Dataset(name="imagenet", num_classes=2, channels=3, image_size=16)
    with pytest.raises(DataError, match=r"^dataset imagenet: .*train") as caught:
        data.load(dataset, recipe(3), tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_images_are_named(tmp_path: Path, damage: str) -> None:
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        write_jpeg(tmp_path / folder / "1.jpg", 30, 30)
    bad = tmp_path / "train" / "b" / "1.jpg"
    whole = bad.read_bytes()
    bad.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"<html>not found</html>"}[damage])
    dataset = Dataset(name="imagenet", num_classes=2, channels=3, image_size=16)
    split = data.load(dataset, recipe(3), tmp_path).train
    split.batch(np.array([0]), 0, 1)
    with pytest.raises(DataError, match=r"^dataset imagenet: damaged image .*/b/1.jpg: ") as caught:
        split.batch(np.array([0, 1]), 0, 1)
    assert str(caught.value).isprintable()


# -- augmentation ------------------------------------------------------------------------------------------------------


def coordinates(height: int, width: int) -> torch.Tensor:
    """An image whose channels hold each pixel's row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)


unit = st.floats(0, 1, exclude_max=True)


# torch fails on resizing to a single pixel (also through torchvision), which nobody trains on.
two_or_more = st.integers(2, 40)


@given(st.integers(1, 200), st.integers(1, 200), st.tuples(unit, unit, unit, unit, unit), two_or_more)
def test_random_resized_crops_stay_inside(height: int, width: int, draws: tuple[float, ...], size: int) -> None:
    augmentation = Augmentation(crop="random_resized", scale=(0.08, 1.0))
    image = coordinates(height, width)
    crop = random_resized_crop(image[None], size, augmentation, np.array(draws))[0]
    assert crop.shape == (3, size, size)
    assert int(crop[0].max()) <= height - 1 + 1
    assert int(crop[1].max()) <= width - 1 + 1
    assert int(crop[2].max()) == 0


@given(st.tuples(unit, unit, unit, unit, unit))
def test_random_resized_crops_have_the_area_and_ratio_asked_for(draws: tuple[float, ...]) -> None:
    side, scale, ratio = 200, (0.2, 0.5), (0.8, 1.25)
    augmentation = Augmentation(crop="random_resized", scale=scale, ratio=ratio)
    crop = random_resized_crop(coordinates(side, side)[None], 100, augmentation, np.array(draws))[0].double()
    # The first and last row show the part's edges, to within half a pixel of the result and its rounding.
    height = float(crop[0, -1].mean() - crop[0, 0].mean()) * 100 / 99 + 1
    width = float(crop[1, :, -1].mean() - crop[1, :, 0].mean()) * 100 / 99 + 1
    assert 0.9 * scale[0] < height * width / side**2 < 1.1 * scale[1]
    assert 0.93 * ratio[0] < width / height < 1.07 * ratio[1]


sides = st.tuples(st.integers(1, 60), st.integers(1, 60))


@given(st.sampled_from((1, 3)), sides, st.tuples(two_or_more, two_or_more), st.integers(0, 2**31), st.booleans())
def test_resizing_is_torchvisions(
    channels: int, old: tuple[int, int], new: tuple[int, int], seed: int, channels_last: bool
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, *old, channels), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    found = resize(image if channels_last else image.contiguous(), *new)
    expected = F.resize(image, list(new), InterpolationMode.BICUBIC, antialias=True)
    # torchvision goes through floats where the processor lacks AVX2, and may then round otherwise.
    assert int((found.int() - expected.int()).abs().max()) <= 1


def test_a_crop_of_everything_is_the_image() -> None:
    augmentation = Augmentation(crop="random_resized", scale=(1, 1), ratio=(1, 1))
    image = coordinates(32, 32)[None]
    assert torch.equal(random_resized_crop(image, 32, augmentation, np.full(5, 0.7)), image)


def test_crops_reach_all_edges() -> None:
    augmentation = Augmentation(crop="random_resized", scale=(0.25, 0.25), ratio=(1, 1))
    image = coordinates(100, 100)[None]
    low = random_resized_crop(image, 50, augmentation, np.zeros(5))
    high = random_resized_crop(image, 50, augmentation, np.full(5, np.nextafter(1, 0)))
    assert torch.equal(low, image[..., :50, :50])
    assert torch.equal(high, image[..., 50:, 50:])


def test_padded_crops_are_windows_of_the_padded_image() -> None:
    images = coordinates(6, 6)[None].repeat(25, 1, 1, 1)
    shifts = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), axis=-1).reshape(25, 2)
    draws = np.concatenate([(shifts + 0.5) / 5, np.zeros((25, 3))], axis=1)
    found = augment(images, 6, Augmentation(crop="padded", padding=2), draws)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, (top, left) in zip(found, shifts, strict=True):
        assert torch.equal(image, padded[0, :, top : top + 6, left : left + 6])


def test_half_of_the_images_are_flipped() -> None:
    images = coordinates(4, 4)[None].repeat(2, 1, 1, 1)
    draws = np.array([[0, 0, 0, 0, 0.49], [0, 0, 0, 0, 0.5]])
    found = augment(images, 4, Augmentation(horizontal_flip=True), draws)
    assert torch.equal(found[0], images[0].flip(-1))
    assert torch.equal(found[1], images[1])


def test_batches_leave_the_split_as_it_is() -> None:
    images = torch.arange(48, dtype=torch.uint8).reshape(3, 1, 4, 4)
    split = ArraySplit(images.clone(), torch.tensor([0, 1, 2]), AUGMENTATIONS["padded"])
    for epoch in range(4):
        split.batch(np.arange(3), 0, epoch)[0].zero_()
    assert torch.equal(split.images_NCHW, images)


def test_splits_can_be_sent_to_loader_processes(load: Load) -> None:
    splits = pickle.loads(pickle.dumps(load("imagenet")))
    assert len(splits.train.batch(np.arange(3), 0, 1)[0]) == 3
