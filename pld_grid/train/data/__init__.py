"""The datasets: one file each, found by its name. A new dataset is one new file here.

A dataset module defines `INFO` (a `DatasetInfo`) and `load(dataset, recipe, folder) -> Splits`.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from pld_grid.catalogue import DatasetInfo
from pld_grid.files import is_folder
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._check import Finding, inspect_splits
from pld_grid.train.data._split import DataError, Split, Splits

__all__ = ["DataError", "Finding", "Split", "Splits", "available", "check", "dataset_module", "inspect", "load"]


class DatasetModule(Protocol):
    """What a dataset file offers."""

    INFO: DatasetInfo

    def load(self, dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
        """Both splits. Raises DataError if the data is missing or not what it should be."""


def available() -> tuple[str, ...]:
    """The names of all datasets, sorted: the file stems that do not start with an underscore."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def dataset_module(name: str) -> DatasetModule:
    """The module of a dataset. Raises ValueError for an unknown name."""
    if name not in available():
        raise ValueError(f'unknown dataset "{name}"; valid: {", ".join(available())}')
    return cast(DatasetModule, importlib.import_module(f"{__name__}.{name}"))


def check(dataset: Dataset, folder: Path | None) -> None:
    """Raises DataError if the dataset needs a folder and that is missing; reads no image."""
    if not dataset_module(dataset.name).INFO.needs_folder:
        return
    if folder is None:
        raise DataError(f"dataset {dataset.name} needs a data folder (--data-dir)")
    if not is_folder(folder):
        raise DataError(f"dataset {dataset.name}: no such folder: {folder}")


def load(dataset: Dataset, recipe: Recipe, folder: Path | None = None) -> Splits:
    """Loads a dataset's splits.

    Args:
        folder: where the data lies, for datasets that are not part of a package.

    Raises:
        DataError: the folder is missing or does not hold the dataset.
    """
    check(dataset, folder)
    return dataset_module(dataset.name).load(dataset, recipe, folder)


def inspect(
    dataset: Dataset, recipe: Recipe, folder: Path | None, sample: int | None = 1000, workers: int = 0
) -> list[Finding]:
    """What a dataset is, beside what it should be: classes, sizes, and whether images can be decoded.

    Args:
        sample: how many images of each split to decode, evenly spread over the classes; None: all.
        workers: processes that decode; 0: this one.

    Raises:
        DataError: the dataset cannot be loaded.
    """
    info = dataset_module(dataset.name).INFO
    return list(inspect_splits(load(dataset, recipe, folder), info, dataset, sample, workers))
