"""Augmentation of uint8 images: random crops and flips, given the random numbers.

Shape suffixes: N images, C channels, H and W pixels, D = `draws_per_image`; 1CHW is a batch of one image.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pld_grid.experiment.cell import Augmentation

Draws = npt.NDArray[np.float64]
# How often a random resized crop is drawn until it fits into the image, as in torchvision's `RandomResizedCrop`.
CROP_TRIES = 10


def draws_per_image(augmentation: Augmentation) -> int:
    """Return how many uniform numbers in [0, 1) an image needs.

    They are: row, column, area and aspect ratio of the crop, the flip, then area and aspect ratio of every further try.
    """
    return 5 + 2 * (CROP_TRIES - 1) * (augmentation.crop == "random_resized")


def augment(images_NCHW: Tensor, size: int, augmentation: Augmentation, draws_ND: Draws) -> Tensor:
    """Return augmented images; image n uses the random numbers of row n.

    Args:
        images_NCHW: uint8 pixels.
        size: Height and width after a random resized crop; other augmentations keep the images' size.
        augmentation: Which crop and flip.
        draws_ND: Uniform numbers in [0, 1).
    """
    if augmentation.crop == "padded":
        images_NCHW = _padded_crop(images_NCHW, augmentation.padding, draws_ND)
    elif augmentation.crop == "random_resized":
        pairs = zip(torch.split(images_NCHW, 1), draws_ND, strict=True)
        images_NCHW = torch.cat([random_resized_crop(image, size, augmentation, draws) for image, draws in pairs])
    if augmentation.horizontal_flip:
        # One by one, because `torch.where` on bytes takes longer than resizing them.
        flips = zip(torch.split(images_NCHW, 1), draws_ND[:, 4] < 0.5, strict=True)
        images_NCHW = torch.cat([image.flip(-1) if flip else image for image, flip in flips])
    return images_NCHW


def _padded_crop(images_NCHW: Tensor, padding: int, draws_ND: Draws) -> Tensor:
    """Pad with zeros and cut out a window of the old size at a random place."""
    n, channels, height, width = images_NCHW.shape
    padded = torch.nn.functional.pad(images_NCHW, (padding,) * 4)
    top, left = torch.from_numpy((draws_ND[:, :2] * (2 * padding + 1)).astype(np.int64)).unbind(1)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    sample = torch.arange(n)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def random_resized_crop(image_1CHW: Tensor, size: int, augmentation: Augmentation, draws_D: Draws) -> Tensor:
    """Resize a random part of an image (area and aspect ratio as in Inception) to (1, C, size, size).

    The distribution is that of torchvision's `RandomResizedCrop`. All tries are drawn in advance, so that the number of
    draws does not depend on the image.
    """
    height, width = image_1CHW.shape[-2:]
    crop_height, crop_width = _crop_shape(height, width, augmentation, np.append(draws_D[2:4], draws_D[5:]))
    if (crop_height, crop_width) == (0, 0):
        crop_height, crop_width = _fallback_shape(height, width, augmentation.ratio)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
    else:
        top = int(draws_D[0] * (height - crop_height + 1))
        left = int(draws_D[1] * (width - crop_width + 1))
    return resize(image_1CHW[:, :, top : top + crop_height, left : left + crop_width], size, size)


def _crop_shape(height: int, width: int, augmentation: Augmentation, draws: Draws) -> tuple[int, int]:
    """Return height and width of the first try that fits into the image; (0, 0) if none does.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        augmentation: Has the ranges of area and aspect ratio.
        draws: Area and aspect ratio of each try.
    """
    low, high = augmentation.scale
    log_low, log_high = np.log(augmentation.ratio)
    for area_draw, ratio_draw in draws.reshape(-1, 2):
        area = height * width * (low + (high - low) * area_draw)
        ratio = float(np.exp(log_low + (log_high - log_low) * ratio_draw))
        crop_height, crop_width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < crop_height <= height and 0 < crop_width <= width:
            return crop_height, crop_width
    return 0, 0


def _fallback_shape(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the largest part of an image whose aspect ratio is in a range."""
    narrowest, widest = ratio
    if width < narrowest * height:
        return min(max(round(width / narrowest), 1), height), width
    if width > widest * height:
        return height, min(max(round(height * widest), 1), width)
    return height, width


def resize(image_1CHW: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 pixels to (1, C, height, width), bicubic with antialiasing; same pixels as torchvision's resize.

    torchvision would lose the memory format on the way: torch's code for bytes is fastest if a pixel's channels are
    adjacent, as decoders leave them, and the result then has the same layout.
    """
    return torch.nn.functional.interpolate(image_1CHW, (height, width), mode="bicubic", antialias=True)
