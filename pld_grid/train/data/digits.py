"""scikit-learn's handwritten digits (1,797 real 8x8 images that its package contains), resized.

The split is fixed: in each class, every fifth image in the package's order is for validation (1,442 / 355 images).
"""

from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.cell import Dataset, Recipe
from pld_grid.experiment.registry import DatasetInfo
from pld_grid.train.data._split import ArraySplit, Splits

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

INFO = DatasetInfo(
    name="digits",
    num_classes=10,
    channels=1,
    needs_folder=False,
    train_size=1442,
    validation_size=355,
    largest_image=512,
)


def load(dataset: Dataset, recipe: Recipe, folder: Path | None = None) -> Splits:
    """Return both splits, bilinearly resized to `dataset.image_size`; `folder` is not used."""
    del folder
    # Read as `load_digits` does, because importing scikit-learn takes each loader process over a second.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    digits = np.loadtxt(str(file), delimiter=",")
    pixels, target = digits[:, :-1].reshape(-1, 8, 8), digits[:, -1].astype(np.int64)
    # Pixels are counts from 0 to 16.
    images = torch.from_numpy(pixels * (255 / 16)).round().to(torch.uint8)[:, None]
    size = [dataset.image_size, dataset.image_size]
    images = F.resize(images, size, InterpolationMode.BILINEAR, antialias=True)
    is_validation = np.zeros(len(target), dtype=bool)
    for label in range(INFO.num_classes):
        is_validation[np.flatnonzero(target == label)[4::5]] = True
    labels = torch.from_numpy(target)
    return Splits(
        train=ArraySplit(images[~is_validation], labels[~is_validation], recipe.augmentation),
        validation=ArraySplit(images[is_validation], labels[is_validation]),
    )
