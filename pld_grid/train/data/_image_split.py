"""A split of encoded images, which are decoded, cropped and augmented when requested; handling of damaged images.

Evaluation follows the paper (section 5): the shorter side is resized to ceil(size / crop) pixels, bicubic, and the
centre is cut out.

benchmarks/data.py compares ways to decode and resize. JPEGs are always decoded at full size: libjpeg's scaled decoding
would save time only if twice the final size still fits into a crop, which a typical ImageNet image of 500x375 pixels
never offers, and would give other pixels.
"""

import io
import logging
import math
import warnings

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import io as torchvision_io
from torchvision.transforms.v2 import functional as F

from pld_grid.experiment.cell import Dataset, Recipe
from pld_grid.train.data._augmentation import Draws, augment, draws_per_image, resize
from pld_grid.train.data._reader import MAX_IMAGE_BYTES, Reader
from pld_grid.train.data._split import DataError, Indices
from pld_grid.train.randomness import uniforms
from pld_grid.util.text import join_names, one_line

_log = logging.getLogger(__name__)
# A split may have one damaged training image in so many, and always a few.
MAX_DAMAGED_ONE_IN, MAX_DAMAGED_FEW = 10_000, 3
# The formats that Pillow may open. Its others include PostScript, for which it runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# ImageNet's largest image has 71 million pixels; a file of a few bytes can declare billions.
MAX_PIXELS = 2**27


class DamagedImage(ValueError):
    """An image file cannot be decoded."""


class ImageSplit:
    """The images of a reader, decoded on request.

    Damaged training images are counted over all loader processes of the split and named in the log. The next image
    that can be decoded replaces a damaged one, with its own label: it is the same image in every epoch and format, and
    mostly of the same class. DataError is raised for more damaged images than are tolerated; for any damaged
    validation image, because a replacement would change what is measured; and for any file that cannot be read at all,
    because a retry may succeed.
    """

    def __init__(self, reader: Reader, dataset: Dataset, recipe: Recipe, train: bool) -> None:
        self.reader, self.dataset, self.recipe, self.train = reader, dataset.name, recipe, train
        self.size, self.target_N = dataset.image_size, torch.from_numpy(reader.target_N)
        self.max_damaged = min(max(MAX_DAMAGED_FEW, len(self) // MAX_DAMAGED_ONE_IN), len(self) - 1)
        # Shared with the loader processes, each of which marks the damaged images that it reads.
        self.damaged_N: Tensor = torch.zeros(len(self), dtype=torch.bool)
        self.damaged_N.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.target_N)

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """See `Split.batch`."""
        draws = uniforms(seed, epoch, indices, draws_per_image(self.recipe.augmentation)) if self.train else None
        images, targets = [], []
        for row, index in enumerate(indices):
            image, target = self._load_image(int(index))
            images.append(self._center_crop(image) if draws is None else self._augment(image, draws[row : row + 1]))
            targets.append(target)
        return torch.cat(images), torch.stack(targets)

    def describe_damage(self, index: int) -> str:
        """Return which image it is and why it cannot be decoded, or an empty string if it can."""
        try:
            decode(self.reader.read(index))
        except (DamagedImage, OSError) as error:
            return one_line(f"{self.reader.name(index)} ({error})")
        return ""

    def _load_image(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image (1, 3, H, W) and its label; for a damaged training image, those of the next one."""
        while True:
            try:
                pixels_HWC = decode(self.reader.read(index))
                break
            except OSError as error:
                raise self._error(f"{self.reader.name(index)} cannot be read: {error}") from None
            except DamagedImage as error:
                if not self.train:
                    raise self._error(f"damaged validation image {self.reader.name(index)}: {error}") from None
                self._record_damage(index, error)
                index = (index + 1) % len(self)
        # The batch dimension comes before the permutation, so that torch still recognizes the channels-last layout.
        return pixels_HWC[None].permute(0, 3, 1, 2), self.target_N[index]

    def _record_damage(self, index: int, error: DamagedImage) -> None:
        if not self.damaged_N[index]:
            self.damaged_N[index] = True
            name = one_line(self.reader.name(index))
            _log.warning("%s: damaged training image %s: %s; using the next image instead", self.dataset, name, error)
        damaged = self.damaged_N.nonzero().flatten().tolist()
        if len(damaged) > self.max_damaged:
            names = join_names((self.reader.name(i) for i in damaged), 6)
            raise self._error(f"{len(damaged)} training images are damaged, {self.max_damaged} are tolerated: {names}")

    def _error(self, message: str) -> DataError:
        return DataError(one_line(f"dataset {self.dataset}: {message}"))

    def _augment(self, image_1CHW: Tensor, draws_1D: Draws) -> Tensor:
        augmentation = self.recipe.augmentation
        if augmentation.crop != "random_resized":
            image_1CHW = self._center_crop(image_1CHW)
        return augment(image_1CHW, self.size, augmentation, draws_1D)

    def _center_crop(self, image_1CHW: Tensor) -> Tensor:
        rounding = math.ceil if self.recipe.resize_rounding == "ceil" else math.floor
        shorter = rounding(self.size / self.recipe.evaluation_crop)
        sides = image_1CHW.shape[-2:]
        # The longer side is rounded down, as torchvision does.
        height, width = (shorter * side // min(sides) for side in sides)
        cropped: Tensor = F.center_crop(resize(image_1CHW, height, width), [self.size, self.size])
        return cropped


def decode(data: bytes) -> Tensor:
    """Return the pixels of an image file, (H, W, 3) uint8.

    torchvision decodes JPEGs faster than Pillow and to the same pixels. Pillow decodes images that torchvision refuses
    (one of ImageNet's JPEGs is a PNG), and all images once torchvision leaves decoding to TorchCodec, as announced.

    Raises:
        DamagedImage: Neither can decode it, or it is too large.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise DamagedImage(f"it has more than {MAX_IMAGE_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            # Below Pillow's own limit, which raises, it only warns; MAX_PIXELS replaces the warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise DamagedImage(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        if image.format in ("JPEG", "MPO"):
            pixels_HWC = _decode_jpeg(data)
            if pixels_HWC is not None:
                return pixels_HWC
        return torch.from_numpy(np.array(image.convert("RGB")))
    except (MemoryError, DamagedImage):
        raise
    except UnidentifiedImageError:
        # Pillow's message would show a memory address.
        raise DamagedImage(f"its {len(data)} bytes are no image") from None
    # Pillow does not document its errors for damaged bytes; OSError and SyntaxError are only some of them.
    except Exception as error:
        raise DamagedImage(" ".join(str(error).split()) or type(error).__name__) from None


def _decode_jpeg(data: bytes) -> Tensor | None:
    """Return the pixels of a JPEG, (H, W, 3), or None if torchvision cannot decode it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels_CHW: Tensor = torchvision_io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), "RGB")
        return pixels_CHW.permute(1, 2, 0)
    except (RuntimeError, ValueError, AttributeError):
        return None
