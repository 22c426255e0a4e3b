"""ImageNet-1K from a local folder, in the first of these formats that has both splits there:

- image folders: `train/<class>/*` and `validation/<class>/*` (or `val/`);
- WebDataset tar shards: `imagenet1k-train-0000.tar`, `imagenet1k-validation-00.tar` and so on;
- Hugging Face parquet: `data/train-00000-of-00294.parquet`, `data/validation-00000-of-00014.parquet` and so on.

Shards and parquet files may lie in the folder or in a subfolder; the split is the word `train`, `validation` or `val`
in the file's name, else in its folder's. All formats give the same numbers: see `_reader` for the order of the images
and `_image_split` for their pixels.
"""

import re
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo

from pld_grid.experiment.cell import Dataset, Recipe
from pld_grid.experiment.registry import DatasetInfo
from pld_grid.train.data._folder_reader import FolderReader
from pld_grid.train.data._image_split import ImageSplit
from pld_grid.train.data._parquet_reader import ParquetReader
from pld_grid.train.data._reader import Reader
from pld_grid.train.data._split import DataError, Splits
from pld_grid.train.data._tar_reader import TarReader
from pld_grid.util.text import join_names, one_line

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

INFO = DatasetInfo(
    name="imagenet",
    num_classes=1000,
    channels=3,
    needs_folder=True,
    train_size=1_281_167,
    validation_size=50_000,
    validation_per_class=50,
)

# The split and the class (a WordNet id) in a file's name.
_SPLIT = re.compile(r"(?<![a-z])(?:(train)|validation|val)(?![a-z])")
_SYNSET = re.compile(r"(?<![a-z])n\d{8}(?!\d)")


def load(dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
    """Return both splits. Raise DataError if one is missing, cannot be read, or has other classes than the dataset."""
    assert folder is not None
    try:
        train, validation = readers = _open_readers(folder)
        for split, reader in zip(("train", "validation"), readers, strict=True):
            _check_labels(f"{folder}: {split}", reader, dataset.num_classes)
        # A class of one split only would shift all labels after it.
        unshared = set(train.class_names) ^ set(validation.class_names)
        if unshared and train.class_names and validation.class_names:
            raise DataError(f"{folder}: train and validation differ in their classes: {join_names(unshared, 6)}")
    except (DataError, OSError) as error:
        raise DataError(one_line(f"dataset {dataset.name}: {error}")) from None
    return Splits(
        train=ImageSplit(train, dataset, recipe, train=True),
        validation=ImageSplit(validation, dataset, recipe, train=False),
    )


def _open_readers(folder: Path) -> tuple[Reader, Reader]:
    """Return the training and validation images, in the first format that has both."""
    train, validation = folder / "train", folder / "validation"
    if not validation.is_dir():
        validation = folder / "val"
    if train.is_dir() and validation.is_dir() and any(child.is_dir() for child in train.iterdir()):
        return FolderReader(train), FolderReader(validation)
    shards = _find_files(folder, ".tar")
    if len(shards) == 2:
        return TarReader(shards["train"], "train"), TarReader(shards["validation"], "validation")
    files = _find_files(folder, ".parquet")
    if len(files) == 2:
        return ParquetReader(files["train"], folder), ParquetReader(files["validation"], folder)
    raise DataError(
        f"{folder} needs the folders train/ and validation/ (or val/) with a folder per class, or tar shards or "
        f"parquet files with train and validation (or val) in their names; it holds: "
        f"{join_names((child.name for child in folder.iterdir()), 6) or 'nothing'}"
    )


def _find_files(folder: Path, extension: str) -> dict[str, list[Path]]:
    """Return the files with that extension by split, in the folder and its subfolders."""
    files: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob(f"*{extension}"), *folder.glob(f"*/*{extension}")]):
        words = (_SPLIT.search(part.lower()) for part in reversed(file.relative_to(folder).parts))
        word = next(filter(None, words), None)
        if word is not None and not file.name.startswith("."):
            # Reading a pipe could block for ever.
            if not file.is_file():
                raise DataError(f"{file} is not a regular file")
            files.setdefault("train" if word[1] else "validation", []).append(file)
    return files


def _check_labels(split: str, reader: Reader, num_classes: int) -> None:
    """Raise DataError unless labels are 0 .. num_classes - 1 and, where file names contain the class, ImageNet's."""
    labels, first = np.unique(reader.target_N, return_index=True)
    if len(labels) != num_classes:
        raise DataError(f"{split} has {len(labels)} classes, not {num_classes}")
    if (labels[0], labels[-1]) != (0, num_classes - 1):
        raise DataError(f"{split} has labels from {labels[0]} to {labels[-1]}, not from 0 to {num_classes - 1}")
    synsets = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    if num_classes != len(synsets):
        return
    # Published teachers identify the classes by these numbers.
    for synset, index in zip(synsets, first.tolist(), strict=True):
        match = _SYNSET.search(reader.name(index))
        if match is not None and match[0] != synset:
            raise DataError(f"{split}: {reader.name(index)} has the label of {synset} in ImageNet-1K")
