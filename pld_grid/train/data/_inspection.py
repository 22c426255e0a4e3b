"""Checks of a dataset before a training: classes, sizes, and whether its images can be decoded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pld_grid.experiment.registry import DatasetInfo
from pld_grid.train.data._image_split import ImageSplit
from pld_grid.train.data._split import Split, Splits
from pld_grid.util.text import join_names, one_line


@dataclass(frozen=True)
class Check:
    """One property of a dataset. `problem` is one line, or empty if the property is as expected."""

    name: str
    actual: str
    expected: str = ""
    problem: str = ""


def inspect_splits(
    splits: Splits, info: DatasetInfo, num_classes: int, sample: int | None, workers: int
) -> Iterator[Check]:
    """Yield the checks of both splits; see `pld_grid.train.data.inspect`."""
    by_name = {"train": splits.train, "validation": splits.validation}
    for name, split in by_name.items():
        if isinstance(split, ImageSplit):
            yield Check(f"{name} format", split.reader.format)
    for name, split in by_name.items():
        yield _check_count(f"{name} classes", int(torch.bincount(split.target_N).count_nonzero()), num_classes)
    yield _check_count("train images", len(splits.train), info.train_size)
    yield _check_count("validation images", len(splits.validation), info.validation_size)
    if info.validation_per_class is not None:
        yield _check_class_sizes(splits.validation.target_N, num_classes, info.validation_per_class)
    for name, split in by_name.items():
        yield _check_images(name, split, sample, workers)


def _check_count(name: str, actual: int, expected: int | None) -> Check:
    if expected is None:
        return Check(name, f"{actual:,}")
    problem = f"{name}: {actual:,}, expected {expected:,}" if actual != expected else ""
    return Check(name, f"{actual:,}", f"{expected:,}", problem)


def _check_class_sizes(target_N: torch.Tensor, classes: int, expected: int) -> Check:
    name, sizes = "validation images per class", torch.bincount(target_N, minlength=classes)
    low, high = int(sizes.min()), int(sizes.max())
    different = sizes.ne(expected).nonzero().flatten().tolist()
    problem = ""
    if different:
        problem = f"{name}: expected {expected}, class {different[0]} has {sizes[different[0]]}"
    if len(different) > 1:
        problem += f"; {len(different) - 1:,} more classes differ"
    return Check(name, f"{low}" if low == high else f"{low} to {high}", f"{expected}", problem)


def _check_images(name: str, split: Split, sample: int | None, workers: int) -> Check:
    size, damaged = len(split), list[str]()
    # Other splits have read all their images when they were loaded.
    if isinstance(split, ImageSplit):
        indices = np.linspace(0, size - 1, min(size, sample or size)).round().astype(int).tolist()
        size = len(indices)
        # Without a batch size, the loader's processes call `collate_fn` with one index after the other.
        describe: Any = split.describe_damage
        damages = DataLoader(indices, batch_size=None, collate_fn=describe, num_workers=workers)
        damaged = [damage for damage in damages if damage]
    problem = f"{name}: {len(damaged)} of {size} images are damaged: {join_names(damaged, 6)}" if damaged else ""
    return Check(f"{name} images that can be read", f"{size - len(damaged):,} of {size:,}", problem=one_line(problem))
