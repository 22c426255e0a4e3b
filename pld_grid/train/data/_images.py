"""A split of encoded images: decoded, cut to size and augmented when asked for; what happens to damaged ones.

Evaluation is the paper's (section 5): the shorter side to ceil(size / crop) pixels, bicubic, then the centre.

How images are decoded and resized was chosen by benchmarks/data.py. JPEGs are always decoded whole: libjpeg's scaled
decoding would save time only where twice the final size still fits into a crop, which an image of ImageNet's usual
500x375 pixels never offers, and would make other pixels there.
"""

import io
import logging
import math
import warnings

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import io as torchvision_io
from torchvision.transforms.v2 import functional as F

from pld_grid.errors import listing
from pld_grid.reading import one_line
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._reader import MOST_BYTES, Reader
from pld_grid.train.data._split import DRAWS, DataError, Indices, augment, resize
from pld_grid.train.randomness import uniforms

_log = logging.getLogger(__name__)
# Damaged training images that are put up with: one in so many of the split, or a few where that is more.
TOLERATED_ONE_IN, TOLERATED_FEW = 10_000, 3
# What Pillow is asked to read: among its other formats is PostScript, which it has Ghostscript run.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Pixels of the largest image that is decoded; ImageNet's has 71 million. A few bytes may promise billions.
MOST_PIXELS = 2**27


class Damaged(ValueError):
    """An image file that cannot be decoded."""


class ImageSplit:
    """Images of a reader, decoded when asked for.

    Damaged training images are counted, over all loader processes of the split, and named in the log. The next image
    that can be decoded takes the place of a damaged one, with its own label: by the readers' order mostly of the same
    class, and a real image, where a grey one would teach something. It is the same one in every epoch and format. More
    damaged images than are tolerated raise DataError; so does any damaged validation image, which would change what is
    measured, and any file that cannot be read at all, which another try may find.
    """

    def __init__(self, reader: Reader, dataset: Dataset, recipe: Recipe, train: bool) -> None:
        self.reader, self.dataset, self.recipe, self.train = reader, dataset.name, recipe, train
        self.size, self.target_N = dataset.image_size, torch.from_numpy(reader.target_N)
        self.tolerated = min(max(TOLERATED_FEW, len(self) // TOLERATED_ONE_IN), len(self) - 1)
        # Shared with the loader's processes: each marks what it meets.
        self.damaged_N: Tensor = torch.zeros(len(self), dtype=torch.bool)
        self.damaged_N.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.target_N)

    def batch(self, indices: Indices, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """See `Split.batch`."""
        draws = uniforms(seed, epoch, indices, DRAWS) if self.train else None
        images, targets = [], []
        for row, index in enumerate(indices):
            image, target = self._image(int(index))
            images.append(self._centre(image) if draws is None else self._augmented(image, draws[row : row + 1]))
            targets.append(target)
        return torch.cat(images), torch.stack(targets)

    def damage(self, index: int) -> str:
        """What is wrong with an image and which one it is, or an empty text."""
        try:
            decode(self.reader.read(index))
        except (Damaged, OSError) as error:
            return one_line(f"{self.reader.name(index)} ({error})")
        return ""

    def _image(self, index: int) -> tuple[Tensor, Tensor]:
        """The image (1, 3, H, W) and its label; of a damaged training image, the next one's."""
        while True:
            try:
                pixels_HWC = decode(self.reader.read(index))
                break
            except OSError as error:
                raise self._error(f"{self.reader.name(index)} cannot be read: {error}") from None
            except Damaged as error:
                if not self.train:
                    raise self._error(f"damaged validation image {self.reader.name(index)}: {error}") from None
                self._note(index, error)
                index = (index + 1) % len(self)
        # A batch of one before the channels move to the front: that keeps strides by which torch knows the layout.
        return pixels_HWC[None].permute(0, 3, 1, 2), self.target_N[index]

    def _note(self, index: int, error: Damaged) -> None:
        if not self.damaged_N[index]:
            self.damaged_N[index] = True
            name = one_line(self.reader.name(index))
            _log.warning("%s: damaged training image %s: %s; the next one takes its place", self.dataset, name, error)
        found = self.damaged_N.nonzero().flatten().tolist()
        if len(found) > self.tolerated:
            names = listing((self.reader.name(i) for i in found), 6)
            raise self._error(f"{len(found)} training images are damaged, {self.tolerated} are tolerated: {names}")

    def _error(self, message: str) -> DataError:
        return DataError(one_line(f"dataset {self.dataset}: {message}"))

    def _augmented(self, image_1CHW: Tensor, draws_1D: npt.NDArray[np.float64]) -> Tensor:
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
        Damaged: neither can decode it, or it is too large.
    """
    if len(data) > MOST_BYTES:
        raise Damaged(f"it has more than {MOST_BYTES} bytes")
    try:
        with warnings.catch_warnings():
            # Pillow's own limit is a warning first; here is another one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise Damaged(f"{opened.width}x{opened.height} pixels are more than {MOST_PIXELS}")
        if opened.format in ("JPEG", "MPO"):
            pixels_HWC = _decode_jpeg(data)
            if pixels_HWC is not None:
                return pixels_HWC
        return torch.from_numpy(np.array(opened.convert("RGB")))
    except (MemoryError, Damaged):
        raise
    except UnidentifiedImageError:
        # Its own text shows where the bytes lie in memory.
        raise Damaged(f"its {len(data)} bytes are no image") from None
    # Which errors Pillow has for damaged bytes is not documented: OSError and SyntaxError are not all of them.
    except Exception as error:
        raise Damaged(" ".join(str(error).split()) or type(error).__name__) from None


def _decode_jpeg(data: bytes) -> Tensor | None:
    """The pixels of a JPEG, (H, W, 3); None if torchvision refuses it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pixels_CHW: Tensor = torchvision_io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), "RGB")
        return pixels_CHW.permute(1, 2, 0)
    except (RuntimeError, ValueError, AttributeError):
        return None
