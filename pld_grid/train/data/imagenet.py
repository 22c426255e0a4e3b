"""ImageNet-1K from image folders: `train/<class>/*` and `validation/<class>/*` (or `val/`).

Evaluation is the paper's (section 5): the shorter side to ceil(size / crop) pixels, bicubic, then the centre.

How images are decoded and resized was chosen by benchmarks/data.py. JPEGs are always decoded whole: libjpeg's scaled
decoding would save time only where twice the final size still fits into a crop, which an image of ImageNet's usual
500x375 pixels never offers, and would make other pixels there.
"""

import io
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.readers import create_reader
from torch import Tensor
from torchvision import io as torchvision_io
from torchvision.transforms.v2 import functional as F

from pld_grid.catalogue import DatasetInfo
from pld_grid.errors import listing
from pld_grid.reading import one_line
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._split import DRAWS, DataError, Indices, Splits, augment, resize
from pld_grid.train.randomness import uniforms

INFO = DatasetInfo(name="imagenet", num_classes=1000, channels=3, needs_folder=True)


class FolderSplit:
    """Images in a folder per class, decoded when asked for."""

    def __init__(self, folder: Path, dataset: Dataset, recipe: Recipe, train: bool) -> None:
        try:
            self.reader = create_reader("", root=str(folder), split="")
        except (RuntimeError, OSError, AssertionError) as error:
            raise DataError(one_line(f"dataset {dataset.name}: {folder}: {error}")) from None
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
            image, target = self._image(int(index))
            images.append(self._centre(image) if draws is None else self._augmented(image, draws[row : row + 1]))
            targets.append(target)
        return torch.cat(images), torch.tensor(targets)

    def _image(self, index: int) -> tuple[Tensor, int]:
        file, target = self.reader[index]
        with file:
            data = file.read()
        try:
            pixels_HWC = decode(data)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise DataError(one_line(f"dataset imagenet: damaged image {self._name(index)}: {error}")) from None
        # A batch of one before the channels move to the front: that keeps strides by which torch knows the layout.
        return pixels_HWC[None].permute(0, 3, 1, 2), int(target)

    def _name(self, index: int) -> str:
        return str(self.reader.filename(index, absolute=True))

    def _augmented(self, image_1CHW: Tensor, draws_1D: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> Tensor:
        augmentation = self.recipe.augmentation
        if augmentation.crop != "random_resized":
            image_1CHW = self._centre(image_1CHW)
        return augment(image_1CHW, self.size, augmentation, draws_1D)

    def _centre(self, image_1CHW: Tensor) -> Tensor:
        rounded = math.ceil if self.recipe.resize_rounding == "ceil" else math.floor
        shorter = rounded(self.size / self.recipe.evaluation_crop)
        sides = image_1CHW.shape[-2:]
        # The longer side is rounded down, as torchvision does.
        height, width = (shorter * side // min(sides) for side in sides)
        cropped: Tensor = F.center_crop(resize(image_1CHW, height, width), [self.size, self.size])
        return cropped


def decode(data: bytes) -> Tensor:
    """The pixels of an image file, (H, W, 3) uint8.

    torchvision reads JPEGs faster than Pillow and to the same pixels. Pillow reads what torchvision refuses (there is
    a PNG among ImageNet's JPEGs) and everything where torchvision no longer decodes: it has announced to leave that to
    TorchCodec.

    Raises:
        OSError, SyntaxError or ValueError: Pillow's, for a damaged file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels_CHW: Tensor = torchvision_io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), "RGB")
        return pixels_CHW.permute(1, 2, 0)
    except (RuntimeError, ValueError, AttributeError):
        return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def load(dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
    """Both splits. Raises DataError if a folder is missing or the classes are not the same 1,000."""
    assert folder is not None
    validation = next((folder / n for n in ("validation", "val") if (folder / n).is_dir()), None)
    if validation is None or not (folder / "train").is_dir():
        raise DataError(f"dataset imagenet: {folder} needs the folders train/ and validation/ (or val/)")
    splits = [FolderSplit(f, dataset, recipe, train=f is not validation) for f in (folder / "train", validation)]
    # A class that only one of them has would shift all labels after it.
    odd = splits[0].reader.class_to_idx.keys() ^ splits[1].reader.class_to_idx.keys()
    if odd:
        raise DataError(
            f"dataset imagenet: {folder / 'train'} and {validation} differ in their classes: {listing(odd, 6)}"
        )
    return Splits(train=splits[0], validation=splits[1])
