"""Whether a dataset is what it should be, before anything is trained on it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pld_grid.catalogue import DatasetInfo
from pld_grid.errors import listing
from pld_grid.reading import one_line
from pld_grid.spec import Dataset
from pld_grid.train.data._images import ImageSplit
from pld_grid.train.data._split import Split, Splits


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `problem` is one line, empty if all is well."""

    what: str
    found: str
    expected: str = ""
    problem: str = ""


def inspect_splits(
    splits: Splits, info: DatasetInfo, dataset: Dataset, sample: int | None, workers: int
) -> Iterator[Finding]:
    """See `pld_grid.train.data.inspect`."""
    parts = {"train": splits.train, "validation": splits.validation}
    for name, split in parts.items():
        if isinstance(split, ImageSplit):
            yield Finding(f"{name} format", split.reader.format)
    for name, split in parts.items():
        yield _number(f"{name} classes", int(torch.bincount(split.target_N).count_nonzero()), dataset.num_classes)
    for name, split, size in zip(parts, parts.values(), (info.train_size, info.validation_size), strict=True):
        yield _number(f"{name} images", len(split), size)
    if info.validation_per_class is not None:
        yield _per_class(splits.validation.target_N, dataset.num_classes, info.validation_per_class)
    for name, split in parts.items():
        yield _readable(name, split, sample, workers)


def _number(what: str, found: int, expected: int | None) -> Finding:
    if expected is None or found == expected:
        return Finding(what, f"{found:,}", "" if expected is None else f"{expected:,}")
    return Finding(what, f"{found:,}", f"{expected:,}", f"{what}: {found:,}, expected {expected:,}")


def _per_class(target_N: torch.Tensor, classes: int, expected: int) -> Finding:
    what, counts = "validation images per class", torch.bincount(target_N, minlength=classes)
    low, high = int(counts.min()), int(counts.max())
    odd = counts.ne(expected).nonzero().flatten().tolist()
    problem = f"{what}: expected {expected}, class {odd[0]} has {counts[odd[0]]}" if odd else ""
    problem += f"; {len(odd) - 1:,} more classes differ" if len(odd) > 1 else ""
    return Finding(what, f"{low}" if low == high else f"{low} to {high}", f"{expected}", problem)


class _Damage(TorchDataset[str]):
    """What is wrong with an image, in whichever process asks."""

    def __init__(self, split: ImageSplit) -> None:
        self.split = split

    def __getitem__(self, index: int) -> str:
        return self.split.damage(index)


def _readable(name: str, split: Split, sample: int | None, workers: int) -> Finding:
    what, size = f"{name} images that can be read", len(split)
    if not isinstance(split, ImageSplit):
        # Loading it was reading it.
        return Finding(what, f"{size:,} of {size:,}")
    indices = np.linspace(0, size - 1, min(size, sample or size)).round().astype(int).tolist()
    loader = DataLoader(_Damage(split), batch_size=None, sampler=indices, num_workers=workers)
    damaged = [damage for damage in loader if damage]
    problem = f"{name}: {len(damaged)} of {len(indices)} images are damaged: {listing(damaged, 6)}" if damaged else ""
    return Finding(what, f"{len(indices) - len(damaged):,} of {len(indices):,}", problem=one_line(problem))
