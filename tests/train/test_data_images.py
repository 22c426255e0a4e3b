"""ImageNet's images are decoded, cropped and resized as in the paper, by either decoder."""

import io
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.io
from PIL import Image
from small_datasets import AUGMENTATIONS, imagenet, make_photos, recipe, select_split, write_folders
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.cell import Dataset
from pld_grid.train import data
from pld_grid.train.data import Splits
from pld_grid.train.data._augmentation import draws_per_image
from pld_grid.train.data._image_split import decode
from pld_grid.train.randomness import uniforms

Load = Callable[..., Splits]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small ImageNet, as image folders."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_folders(folder, make_photos())
    return folder


@pytest.fixture
def load(folder: Path) -> Load:
    def get(augmentation: str = "none", **changes: Any) -> Splits:
        return data.load(imagenet(), recipe(3, augmentation=AUGMENTATIONS[augmentation], **changes), folder)

    return get


def write_jpeg(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.mark.parametrize(("rounding", "shorter"), [("ceil", 236), ("floor", 235)])
def test_validation_images_are_resized_and_cropped_as_in_the_paper(tmp_path, rounding, shorter):
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


def disable_torchvision_decoder(patch: pytest.MonkeyPatch, calls: list[str]) -> None:
    def refuse(*_: object) -> None:
        calls.append("torchvision")
        raise RuntimeError("moved to TorchCodec")

    patch.setattr(torchvision.io, "decode_jpeg", refuse, raising=False)


@pytest.mark.skipif(not hasattr(torchvision.io, "decode_jpeg"), reason="torchvision no longer decodes")
@pytest.mark.parametrize("data", list(jpegs()))
def test_decode_gives_the_same_pixels_without_torchvision(data, monkeypatch):
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    with monkeypatch.context() as patch:
        # Pillow may read only the header.
        patch.setattr(Image.Image, "convert", None)
        assert np.array_equal(decode(data).numpy(), expected)
    calls: list[str] = []
    disable_torchvision_decoder(monkeypatch, calls)
    assert np.array_equal(decode(data).numpy(), expected)
    assert calls == ["torchvision"]
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert np.array_equal(decode(data).numpy(), expected)


def test_decode_accepts_png():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    assert np.array_equal(decode(data.getvalue()).numpy(), pixels)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batch_does_not_depend_on_threads_or_the_decoder(load, augmentation, monkeypatch):
    splits, indices = vars(load(augmentation)).values(), np.arange(9)
    expected = [split.batch(indices, 3, 2)[0] for split in splits]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for split, images in zip(splits, expected, strict=True):
                assert torch.equal(split.batch(indices, 3, 2)[0], images)
    finally:
        torch.set_num_threads(before)
    disable_torchvision_decoder(monkeypatch, [])
    for split, images in zip(splits, expected, strict=True):
        assert torch.equal(split.batch(indices, 3, 2)[0], images)


def test_batch_row_is_the_crop_given_by_its_draws(load):
    """The expected pixels are decoded by Pillow, cropped and resized by torchvision."""
    made, size = AUGMENTATIONS["random_resized"], imagenet().image_size
    images, _ = load("random_resized").train.batch(np.arange(12), 3, 2)
    draws = uniforms(3, 2, np.arange(12), draws_per_image(made))
    for photo, image, draw in zip(select_split("train", make_photos()), images, draws, strict=True):
        whole = torch.from_numpy(np.array(Image.open(io.BytesIO(photo.data)).convert("RGB"))).permute(2, 0, 1)
        height, width = whole.shape[-2:]
        w, h = width + 1, height + 1
        # The first try that fits; every photo has one.
        for column in (2, *range(5, len(draw), 2)):
            if w > width or h > height:
                area = height * width * (made.scale[0] + (made.scale[1] - made.scale[0]) * draw[column])
                ratio = made.ratio[0] * (made.ratio[1] / made.ratio[0]) ** draw[column + 1]
                w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        top, left = int(draw[0] * (height - h + 1)), int(draw[1] * (width - w + 1))
        part = F.resized_crop(whole, top, left, h, w, [size, size], InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(image, part.flip(-1) if draw[4] < 0.5 else part)


def test_training_images_without_a_random_crop_do_not_change(load):
    plain = load()
    train = plain.train.batch(np.arange(4), 0, 1)[0]
    assert torch.equal(train, plain.train.batch(np.arange(4), 8, 9)[0])
