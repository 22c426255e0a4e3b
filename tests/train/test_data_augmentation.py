"""Augmentation: where crops lie, what they hold, and that images in memory stay as they are."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import AUGMENTATIONS
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.spec import Augmentation
from pld_grid.train.data._split import ArraySplit, augment, random_resized_crop, resize


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
