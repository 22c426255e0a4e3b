"""CIFAR-100 from a local folder, in torchvision's layout (`cifar-100-python/`); nothing is downloaded."""

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR100
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.cell import Augmentation, Dataset, Recipe
from pld_grid.experiment.registry import DatasetInfo
from pld_grid.train.data._split import ArraySplit, DataError, Splits
from pld_grid.util.text import one_line

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

INFO = DatasetInfo(
    name="cifar100",
    num_classes=100,
    channels=3,
    needs_folder=True,
    train_size=50_000,
    validation_size=10_000,
    validation_per_class=100,
    largest_image=512,
)


def load(dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
    """Return the official splits (50,000 / 10,000 images). Raise DataError if the folder does not contain them."""

    def load_split(train: bool, augmentation: Augmentation | None) -> ArraySplit:
        try:
            data = CIFAR100(str(folder), train=train, download=False)
        except (RuntimeError, OSError, EOFError):
            message = f"dataset cifar100: {folder} does not hold CIFAR-100 whole: cifar-100-python/"
            raise DataError(one_line(message)) from None
        images = torch.from_numpy(np.asarray(data.data)).permute(0, 3, 1, 2)
        if images.shape[-1] != dataset.image_size:
            size = [dataset.image_size, dataset.image_size]
            images = F.resize(images, size, InterpolationMode.BICUBIC, antialias=True)
        return ArraySplit(images, torch.tensor(data.targets), augmentation)

    return Splits(train=load_split(True, recipe.augmentation), validation=load_split(False, None))
