"""ImageNet-1K from a local folder, in whichever of these formats lies there (the first one that is whole):

- image folders: `train/<class>/*` and `validation/<class>/*` (or `val/`);
- WebDataset tar shards: `imagenet1k-train-0000.tar`, `imagenet1k-validation-00.tar` and so on;
- Hugging Face parquet: `data/train-00000-of-00294.parquet`, `data/validation-00000-of-00014.parquet` and so on.

Shards and parquet files may lie in the folder or one below; `train` and `validation` (or `val`) are looked for in the
file's name, then in its folder's. The format changes no number: see `_reader` for the order, `_images` for the pixels.
"""

import re
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo

from pld_grid.catalogue import DatasetInfo
from pld_grid.errors import listing
from pld_grid.reading import one_line
from pld_grid.spec import Dataset, Recipe
from pld_grid.train.data._folders import FolderReader
from pld_grid.train.data._images import ImageSplit
from pld_grid.train.data._parquet import ParquetReader
from pld_grid.train.data._reader import Reader
from pld_grid.train.data._split import DataError, Splits
from pld_grid.train.data._tar import TarReader

INFO = DatasetInfo(
    name="imagenet",
    num_classes=1000,
    channels=3,
    needs_folder=True,
    train_size=1_281_167,
    validation_size=50_000,
    validation_per_class=50,
)

# The word for a split, and a class of ImageNet, in a file's name.
_SPLIT = re.compile(r"(?<![a-z])(?:(train)|validation|val)(?![a-z])")
_SYNSET = re.compile(r"(?<![a-z])n\d{8}(?!\d)")


def load(dataset: Dataset, recipe: Recipe, folder: Path | None) -> Splits:
    """Both splits. Raises DataError if one is missing, damaged as a whole, or has other classes than the dataset."""
    assert folder is not None
    try:
        train, validation = readers = _readers(folder)
        for split, reader in zip(("train", "validation"), readers, strict=True):
            _check_labels(f"{folder}: {split}", reader, dataset.num_classes)
        # A class that only one of them has would shift all labels after it.
        odd = set(train.class_names) ^ set(validation.class_names)
        if odd and train.class_names and validation.class_names:
            raise DataError(f"{folder}: train and validation differ in their classes: {listing(odd, 6)}")
    except (DataError, OSError) as error:
        raise DataError(one_line(f"dataset {dataset.name}: {error}")) from None
    return Splits(
        train=ImageSplit(train, dataset, recipe, train=True),
        validation=ImageSplit(validation, dataset, recipe, train=False),
    )


def _readers(folder: Path) -> tuple[Reader, Reader]:
    """Training and validation images, in the first format that has both."""
    train, validation = folder / "train", folder / "validation"
    if not validation.is_dir():
        validation = folder / "val"
    if train.is_dir() and validation.is_dir() and any(child.is_dir() for child in train.iterdir()):
        return FolderReader(train), FolderReader(validation)
    shards = _files(folder, ".tar")
    if len(shards) == 2:
        return TarReader(shards["train"], "train"), TarReader(shards["validation"], "validation")
    files = _files(folder, ".parquet")
    if len(files) == 2:
        return ParquetReader(files["train"], folder), ParquetReader(files["validation"], folder)
    raise DataError(
        f"{folder} needs the folders train/ and validation/ (or val/) with a folder per class, or tar shards or "
        f"parquet files with train and validation (or val) in their names; it holds: "
        f"{listing((child.name for child in folder.iterdir()), 6) or 'nothing'}"
    )


def _files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """The files of that ending, in the folder or one below, by split."""
    found: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob(f"*{ending}"), *folder.glob(f"*/*{ending}")]):
        named = (_SPLIT.search(part.lower()) for part in reversed(file.relative_to(folder).parts))
        word = next(filter(None, named), None)
        if word is not None and not file.name.startswith("."):
            # Nobody may ever write into a pipe.
            if not file.is_file():
                raise DataError(f"{file} is not a regular file")
            found.setdefault("train" if word[1] else "validation", []).append(file)
    return found


def _check_labels(split: str, reader: Reader, num_classes: int) -> None:
    """Raises DataError unless labels are 0 .. num_classes - 1 and, where files name their class, ImageNet's."""
    labels, first = np.unique(reader.target_N, return_index=True)
    if len(labels) != num_classes:
        raise DataError(f"{split} has {len(labels)} classes, not {num_classes}")
    if (labels[0], labels[-1]) != (0, num_classes - 1):
        raise DataError(f"{split} has labels from {labels[0]} to {labels[-1]}, not from 0 to {num_classes - 1}")
    synsets = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
    if num_classes != len(synsets):
        return
    # Published teachers know the classes by these numbers.
    for synset, index in zip(synsets, first.tolist(), strict=True):
        named = _SYNSET.search(reader.name(index))
        if named is not None and named[0] != synset:
            raise DataError(f"{split}: {reader.name(index)} has the label of {synset} in ImageNet-1K")
