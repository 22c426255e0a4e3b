"""The datasets: one file per dataset, discovered by its name. To add a dataset, add one file here.

A dataset module defines `INFO` (a `DatasetInfo`) and `load(dataset, recipe, folder) -> Splits`. Files that start with
an underscore define no dataset.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from pld_grid.experiment.cell import Dataset, Recipe
from pld_grid.experiment.registry import DatasetInfo
from pld_grid.train.data._inspection import Check, inspect_splits
from pld_grid.train.data._split import DataError, Split, Splits
from pld_grid.util.atomic_files import is_folder

__all__ = ["Check", "DataError", "Split", "Splits", "available", "check_folder", "get_module", "inspect", "load"]


class DatasetModule(Protocol):
    """The interface of a dataset file."""

    INFO: DatasetInfo

    def load(self, dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
        """Return both splits. Raise DataError if the data is missing, damaged or of another kind."""


def available() -> tuple[str, ...]:
    """Return the names of all datasets, sorted: the file stems that do not start with an underscore."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def get_module(name: str) -> DatasetModule:
    """Return the module of a dataset. Raise ValueError if the name is unknown."""
    if name not in available():
        raise ValueError(f'unknown dataset "{name}"; valid: {", ".join(available())}')
    return cast(DatasetModule, importlib.import_module(f"{__name__}.{name}"))


def check_folder(dataset: Dataset, folder: Path | None) -> None:
    """Raise DataError if the dataset needs a folder and the folder is missing; read no image."""
    if not get_module(dataset.name).INFO.needs_folder:
        return
    if folder is None:
        raise DataError(f"dataset {dataset.name} needs a data folder (--data-dir)")
    if not is_folder(folder):
        raise DataError(f"dataset {dataset.name}: no such folder: {folder}")


def load(dataset: Dataset, recipe: Recipe, folder: Path | None = None) -> Splits:
    """Load a dataset's splits.

    Args:
        dataset: Which images, and their size.
        recipe: How training images are augmented and validation images are cropped.
        folder: Where the images are, for datasets that are not part of a Python package.

    Raises:
        DataError: The folder is missing or does not contain the dataset.
    """
    check_folder(dataset, folder)
    return get_module(dataset.name).load(dataset, recipe, folder)


def inspect(
    dataset: Dataset, recipe: Recipe, folder: Path | None, sample: int | None = 1000, workers: int = 0
) -> list[Check]:
    """Compare a dataset with its published classes and sizes, and decode its images.

    Args:
        dataset: Which images, and their size.
        recipe: As for `load`.
        folder: As for `load`.
        sample: How many images of each split to decode, evenly spread over the classes; None decodes all.
        workers: Number of processes that decode; with 0, this process decodes.

    Raises:
        DataError: The dataset cannot be loaded.
    """
    info = get_module(dataset.name).INFO
    return list(inspect_splits(load(dataset, recipe, folder), info, dataset.num_classes, sample, workers))
