"""ImageNet-1K from image folders: `train/<class>/*` and `validation/<class>/*` (or `val/`).

Evaluation is the paper's (section 5): the shorter side to ceil(size / crop) pixels, bicubic, then the centre.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.readers import create_reader
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pld_grid.catalogue import DatasetInfo
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._split import DRAWS, DataError, Indices, Splits, random_resized_crop
from pld_grid.train.randomness import uniforms

INFO = DatasetInfo(name="imagenet", num_classes=1000, channels=3, needs_folder=True)


class FolderSplit:
    """Images in a folder per class, decoded when asked for."""

    def __init__(self, folder: Path, dataset: Dataset, recipe: Recipe, train: bool) -> None:
        try:
            self.reader = create_reader("", root=str(folder), split="")
        except (RuntimeError, OSError, AssertionError) as error:
            raise DataError(f"dataset {dataset.name}: {folder}: {error}") from None
        classes = len(self.reader.class_to_idx)
        if classes != dataset.num_classes:
            raise DataError(f"dataset {dataset.name}: {folder} has {classes} classes, not {dataset.num_classes}")
        self.size, self.recipe, self.train = dataset.image_size, recipe, train

    def __len__(self) -> int:
        return len(self.reader)

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """See `Split.batch`."""
        draws = uniforms(seed, epoch, indices, DRAWS) if self.train else None
        images, targets = [], []
        for row, index in enumerate(indices):
            image, target = self._decode(int(index))
            images.append(self._centre(image) if draws is None else self._augmented(image, draws[row]))
            targets.append(target)
        return torch.stack(images), torch.tensor(targets)

    def _decode(self, index: int) -> tuple[Tensor, int]:
        file, target = self.reader[index]
        with file:
            data = file.read()
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"damaged image {self.reader.filename(index)}: {error}") from None
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), int(target)

    def _augmented(self, image_CHW: Tensor, draws_D: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Tensor:
        augmentation = self.recipe.augmentation
        if augmentation.crop == "random_resized":
            image_CHW = random_resized_crop(image_CHW, self.size, augmentation, draws_D)
        else:
            image_CHW = self._centre(image_CHW)
        flip = augmentation.horizontal_flip and draws_D[4] < 0.5
        return image_CHW.flip(-1) if flip else image_CHW

    def _centre(self, image_CHW: Tensor) -> Tensor:
        rounded = math.ceil if self.recipe.resize_rounding == "ceil" else math.floor
        shorter = rounded(self.size / self.recipe.evaluation_crop)
        image_CHW = F.resize(image_CHW, [shorter], InterpolationMode.BICUBIC, antialias=True)
        return F.center_crop(image_CHW, [self.size, self.size])


def load(dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
    """Both splits. Raises DataError if a folder is missing or its classes are not 1,000."""
    assert folder is not None
    validation = next((folder / n for n in ("validation", "val") if (folder / n).is_dir()), None)
    if validation is None or not (folder / "train").is_dir():
        raise DataError(f"dataset imagenet: {folder} needs the folders train/ and validation/ (or val/)")
    return Splits(
        train=FolderSplit(folder / "train", dataset, recipe, train=True),
        validation=FolderSplit(validation, dataset, recipe, train=False),
    )
