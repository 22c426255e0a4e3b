"""Splits of a dataset: images by index, as micro-batches of uint8 pixels. Normalization happens on the device.

Shape suffixes: N images, C channels, H and W pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pld_grid.experiment.cell import Augmentation
from pld_grid.train.data._augmentation import augment, draws_per_image
from pld_grid.train.randomness import uniforms
from pld_grid.util.errors import PldGridError

Indices = npt.NDArray[np.int64]


class DataError(PldGridError, ValueError):
    """The data is missing, damaged or not what the profile declares."""

    def __init__(self, message: str) -> None:
        if message.startswith("Caught DataError in DataLoader worker"):
            # torch passes an error of a loader process as the text of its traceback, whose last line is the message.
            message = message.rstrip().rpartition("\n")[2].removeprefix(f"{__name__}.DataError: ")
        super().__init__(message)


class Split(Protocol):
    """One split of a dataset. `target_N` holds the labels of all its images, int64."""

    target_N: Tensor

    def __len__(self) -> int:
        """Return the number of images."""

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64; random only in (seed, epoch, index)."""


@dataclass(frozen=True)
class Splits:
    """Augmented training images and validation images, prepared as the recipe says."""

    train: Split
    validation: Split


class ArraySplit:
    """A split that fits in memory.

    Args:
        images_NCHW: uint8 pixels at the final size.
        target_N: The labels.
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
            draws_ND = uniforms(seed, epoch, indices, draws_per_image(self.augmentation))
            images_NCHW = augment(images_NCHW, images_NCHW.shape[-1], self.augmentation, draws_ND)
        return images_NCHW, self.target_N[index_N]
