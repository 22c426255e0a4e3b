"""scikit-learn's handwritten digits (1,797 real 8x8 images, part of the package), resized.

The split is fixed: in each class, every fifth image in the package's order is for validation (1,442 / 355 images).
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.catalogue import DatasetInfo
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._split import ArraySplit, Splits

INFO = DatasetInfo(name="digits", num_classes=10, channels=1, needs_folder=False)


def load(dataset: Dataset, recipe: Recipe, folder: Path | None = None) -> Splits:
    """Both splits, bilinearly resized to `dataset.image_size`; `folder` is not used."""
    # Not at the top: a second of imports, which those who only ask for INFO need not wait for.
    from sklearn.datasets import load_digits

    del folder
    digits = load_digits()
    target = np.asarray(digits.target)
    # Pixels are counts 0..16.
    images = torch.from_numpy(np.asarray(digits.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    size = [dataset.image_size, dataset.image_size]
    images = F.resize(images, size, InterpolationMode.BILINEAR, antialias=True)
    held_out = np.zeros(len(target), dtype=bool)
    for label in range(INFO.num_classes):
        held_out[np.flatnonzero(target == label)[4::5]] = True
    labels = torch.from_numpy(target.astype(np.int64))
    return Splits(
        train=ArraySplit(images[~held_out], labels[~held_out], recipe.augmentation),
        validation=ArraySplit(images[held_out], labels[held_out]),
    )
