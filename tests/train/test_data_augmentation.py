"""Augmentation: position, size and content of crops, and that images in memory are not modified."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import AUGMENTATIONS
from torchvision.transforms.v2 import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.cell import Augmentation
from pld_grid.train.data._augmentation import augment, draws_per_image, random_resized_crop, resize
from pld_grid.train.data._split import ArraySplit
from pld_grid.train.randomness import uniforms


def coordinates(height: int, width: int) -> torch.Tensor:
    """An image whose channels hold each pixel's row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)


unit = st.floats(0, 1, exclude_max=True)
CROP = Augmentation(crop="random_resized")
crop_draws = st.tuples(*[unit] * draws_per_image(CROP))


# torch (and torchvision) cannot resize to a single pixel.
two_or_more = st.integers(2, 40)


@given(st.integers(1, 200), st.integers(1, 200), crop_draws, two_or_more)
def test_random_resized_crop_stays_inside(height, width, draws, size):
    augmentation = Augmentation(crop="random_resized", scale=(0.08, 1.0))
    image = coordinates(height, width)
    crop = random_resized_crop(image[None], size, augmentation, np.array(draws))[0]
    assert crop.shape == (3, size, size)
    assert int(crop[0].max()) <= height - 1 + 1
    assert int(crop[1].max()) <= width - 1 + 1
    assert int(crop[2].max()) == 0


@given(crop_draws)
def test_random_resized_crop_has_the_requested_area_and_ratio(draws):
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
def test_resize_equals_torchvisions(channels, old, new, seed, channels_last):
    pixels = np.random.default_rng(seed).integers(0, 256, (1, *old, channels), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    actual = resize(image if channels_last else image.contiguous(), *new)
    expected = F.resize(image, list(new), InterpolationMode.BICUBIC, antialias=True)
    # Without AVX2, torchvision resizes floats, and may round differently.
    assert int((actual.int() - expected.int()).abs().max()) <= 1


def test_random_resized_crop_of_the_whole_image_is_the_image():
    augmentation = Augmentation(crop="random_resized", scale=(1, 1), ratio=(1, 1))
    image = coordinates(32, 32)[None]
    assert torch.equal(random_resized_crop(image, 32, augmentation, np.full(draws_per_image(CROP), 0.7)), image)


def test_random_resized_crop_reaches_all_edges():
    augmentation = Augmentation(crop="random_resized", scale=(0.25, 0.25), ratio=(1, 1))
    image = coordinates(100, 100)[None]
    low = random_resized_crop(image, 50, augmentation, np.zeros(draws_per_image(CROP)))
    high = random_resized_crop(image, 50, augmentation, np.full(draws_per_image(CROP), np.nextafter(1, 0)))
    assert torch.equal(low, image[..., :50, :50])
    assert torch.equal(high, image[..., 50:, 50:])


def test_padded_crop_is_a_window_of_the_padded_image():
    images = coordinates(6, 6)[None].repeat(25, 1, 1, 1)
    shifts = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), axis=-1).reshape(25, 2)
    draws = np.concatenate([(shifts + 0.5) / 5, np.zeros((25, 3))], axis=1)
    crops = augment(images, 6, Augmentation(crop="padded", padding=2), draws)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for image, (top, left) in zip(crops, shifts, strict=True):
        assert torch.equal(image, padded[0, :, top : top + 6, left : left + 6])


def test_horizontal_flip_applies_to_draws_below_one_half():
    images = coordinates(4, 4)[None].repeat(2, 1, 1, 1)
    draws = np.array([[0, 0, 0, 0, 0.49], [0, 0, 0, 0, 0.5]])
    flipped = augment(images, 4, Augmentation(horizontal_flip=True), draws)
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])


def test_changing_a_batch_does_not_change_the_split():
    images = torch.arange(48, dtype=torch.uint8).reshape(3, 1, 4, 4)
    split = ArraySplit(images.clone(), torch.tensor([0, 1, 2]), AUGMENTATIONS["padded"])
    for epoch in range(4):
        split.batch(np.arange(3), 0, epoch)[0].zero_()
    assert torch.equal(split.images_NCHW, images)


# Typical of ImageNet, a portrait, a square, and a strip that no try fits into.
SHAPES = [(375, 500), (500, 333), (224, 224), (40, 400)]


def measure_parts(height: int, width: int, size: int, crop: Callable[[int, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Return area (of the image's), log aspect ratio, and the centre's row and column, each of 0..1, of many crops.

    They are read off the resized coordinates: both implementations are measured through their pixels alone.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # 16 bits do not fit into bytes, so fractions of the side are shown as bytes.
    image = torch.stack([rows * 255 / (height - 1), columns * 255 / (width - 1)]).float()
    parts = []
    for number in range(CROPS):
        part = crop(number, image)
        assert part.shape == (2, size, size)
        edges = [part[0, 0].mean(), part[0, -1].mean(), part[1, :, 0].mean(), part[1, :, -1].mean()]
        top, bottom, left, right = (float(edge) / 255 for edge in edges)
        # The outer rows show points half a pixel of the result inside the part.
        tall, wide = ((high - low) * size / (size - 1) for low, high in ((top, bottom), (left, right)))
        parts.append((tall * wide, np.log(wide * width / (tall * height)), (top + bottom) / 2, (left + right) / 2))
    return np.array(parts)


CROPS = 4000


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_random_resized_crop_has_the_distribution_of_torchvisions(height: int, width: int) -> None:
    """Two-sample Kolmogorov-Smirnov tests of area, aspect ratio and both positions; the seeds are fixed."""
    size = 16
    draws_ND = uniforms(0, 1, np.arange(CROPS), draws_per_image(CROP))

    def ours(number: int, image: torch.Tensor) -> torch.Tensor:
        return random_resized_crop(image[None], size, CROP, draws_ND[number])[0]

    theirs = RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    torch.manual_seed(0)
    measured = measure_parts(height, width, size, ours)
    expected = measure_parts(height, width, size, lambda _, image: theirs(image))
    for quantity, (one, other) in enumerate(zip(measured.T, expected.T, strict=True)):
        # Each part is clear to less than a pixel; equal sizes must not differ by rounding.
        test = scipy.stats.ks_2samp(one.round(3), other.round(3))
        assert test.pvalue > 0.001, (quantity, test)
        assert test.statistic < 0.04, (quantity, test)
