"""A split: images by index, as whole micro-batches of uint8 pixels. Normalisation happens on the device.

Shape suffixes: N images, C channels, H and W pixels; 1CHW is a batch of one image.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pld_grid.errors import PldGridError
from pld_grid.spec import Augmentation
from pld_grid.train.randomness import uniforms

Indices = npt.NDArray[np.int64]
DRAWS = 5


class DataError(PldGridError, ValueError):
    """The data is missing, damaged or not what the profile says."""

    def __init__(self, message: str) -> None:
        if message.startswith("Caught DataError in DataLoader worker"):
            # So torch brings it from a loader's process: as the text of the traceback, whose last line is the message.
            message = message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.DataError: ")
        super().__init__(message)


class Split(Protocol):
    """One split of a dataset. `target_N`: the labels of all its images, int64."""

    target_N: Tensor

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) uint8 and labels (N,) int64; random only in (seed, epoch, index)."""


@dataclass(frozen=True)
class Splits:
    """Training images, augmented, and validation images, as the recipe prepares them."""

    train: Split
    validation: Split


class ArraySplit:
    """A split that fits in memory.

    Args:
        images_NCHW: uint8 pixels at the final size.
        target_N: labels.
        augmentation: None for validation.
    """

    def __init__(self, images_NCHW: Tensor, target_N: Tensor, augmentation: Augmentation | None = None) -> None:
        self.images_NCHW, self.target_N, self.augmentation = images_NCHW.contiguous(), target_N.long(), augmentation

    def __len__(self) -> int:
        return len(self.target_N)

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """See `Split.batch`."""
        index_N = torch.from_numpy(indices)
        images_NCHW = self.images_NCHW[index_N]
        if self.augmentation is not None:
            draws_ND = uniforms(seed, epoch, indices, DRAWS)
            images_NCHW = augment(images_NCHW, images_NCHW.shape[-1], self.augmentation, draws_ND)
        return images_NCHW, self.target_N[index_N]


def augment(images_NCHW: Tensor, size: int, augmentation: Augmentation, draws_ND: npt.NDArray[np.float64]) -> Tensor:
    """Augmented images; image n uses the uniform numbers of row n. Only a random resized crop changes their size."""
    if augmentation.crop == "padded":
        images_NCHW = _padded_crop(images_NCHW, augmentation.padding, draws_ND[:, 0], draws_ND[:, 1])
    elif augmentation.crop == "random_resized":
        parts = zip(torch.split(images_NCHW, 1), draws_ND, strict=True)
        images_NCHW = torch.cat([random_resized_crop(image, size, augmentation, draws) for image, draws in parts])
    if augmentation.horizontal_flip:
        # One by one: `torch.where` on bytes costs more than resizing them.
        pairs = zip(torch.split(images_NCHW, 1), draws_ND[:, 4] < 0.5, strict=True)
        images_NCHW = torch.cat([image.flip(-1) if flip else image for image, flip in pairs])
    return images_NCHW


def _padded_crop(
    images_NCHW: Tensor, padding: int, row_draw_N: npt.NDArray[np.float64], column_draw_N: npt.NDArray[np.float64]
) -> Tensor:
    """Zero-pads by `padding` and cuts out a window of the old size at a random place."""
    n, channels, height, width = images_NCHW.shape
    padded = torch.nn.functional.pad(images_NCHW, (padding,) * 4)
    top = torch.from_numpy((row_draw_N * (2 * padding + 1)).astype(np.int64))
    left = torch.from_numpy((column_draw_N * (2 * padding + 1)).astype(np.int64))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    sample = torch.arange(n)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def random_resized_crop(
    image_1CHW: Tensor, size: int, augmentation: Augmentation, draws_D: npt.NDArray[np.float64]
) -> Tensor:
    """A random part of an image (area and aspect ratio as in Inception), resized to (1, C, size, size).

    One draw each for area, aspect ratio and place; a part that does not fit is clipped to the image, where
    torchvision would draw again: the number of draws must not depend on the image.
    """
    height, width = image_1CHW.shape[-2:]
    low, high = augmentation.scale
    area = height * width * (low + (high - low) * draws_D[2])
    log_low, log_high = np.log(augmentation.ratio)
    ratio = float(np.exp(log_low + (log_high - log_low) * draws_D[3]))
    crop_width = min(max(round((area * ratio) ** 0.5), 1), width)
    crop_height = min(max(round((area / ratio) ** 0.5), 1), height)
    top = int(draws_D[0] * (height - crop_height + 1))
    left = int(draws_D[1] * (width - crop_width + 1))
    return resize(image_1CHW[:, :, top : top + crop_height, left : left + crop_width], size, size)


def resize(image_1CHW: Tensor, height: int, width: int) -> Tensor:
    """uint8 pixels resized to (1, C, height, width), bicubic and antialiased; the same pixels as torchvision's resize.

    Called on torch directly because torchvision loses the memory format on the way: torch's code for bytes is fastest
    where a pixel's channels lie side by side, as decoders leave them, and the result is then laid out so as well.
    """
    return torch.nn.functional.interpolate(image_1CHW, (height, width), mode="bicubic", antialias=True)
