"""Small datasets of real image files in every supported format, with ImageNet's own names."""

import hashlib
import io
import itertools
import json
import pickle
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from torchvision.datasets import CIFAR100

from pld_grid.experiment.cell import Augmentation, Dataset, Recipe
from pld_grid.train import data
from pld_grid.train.data import DataError, Splits

SYNSETS = ("n01440764", "n02102040", "n03000684")
# Readers sort numbers numerically: 9 before 10.
NUMBERS = (2, 9, 10, 100)
AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(horizontal_flip=True),
    "padded": Augmentation(crop="padded", padding=2, horizontal_flip=True),
    "random_resized": Augmentation(crop="random_resized", horizontal_flip=True),
}


def recipe(channels: int, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 4, "mean": [0.5] * channels, "std": [0.5] * channels}
    return Recipe.model_validate(fields | changes)


def imagenet(classes: int = len(SYNSETS), size: int = 24) -> Dataset:
    return Dataset(name="imagenet", num_classes=classes, channels=3, image_size=size)


def load(folder: Path, classes: int = len(SYNSETS), augmentation: str = "none") -> Splits:
    """Loads the small ImageNet from a folder."""
    return data.load(imagenet(classes), recipe(3, augmentation=AUGMENTATIONS[augmentation]), folder)


def assert_refused(folder: Path, message: str, classes: int = len(SYNSETS)) -> None:
    """Loading raises DataError with one line."""
    with pytest.raises(DataError, match=message) as error:
        load(folder, classes)
    assert str(error.value).startswith("dataset imagenet: ")
    assert str(error.value).isprintable()


@dataclass(frozen=True)
class Photo:
    """An image file to write: its split, its class as name and label, its file name without extension, its bytes."""

    split: str
    synset: str
    label: int
    stem: str
    data: bytes


def make_photos(numbers: Sequence[int] = NUMBERS, seed: int = 0) -> list[Photo]:
    """JPEGs of several shapes and color modes in three classes, in the order of all readers."""
    draws = np.random.default_rng(seed)
    photos = []
    for split, (label, synset), number in itertools.product(("train", "validation"), enumerate(SYNSETS), numbers):
        height, width = (int(side) for side in draws.integers(30, 90, 2))
        coarse = draws.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        # ImageNet has grey and CMYK images too.
        mode = ("RGB", "L", "CMYK", "RGB")[len(photos) % 4]
        file = io.BytesIO()
        image.convert(mode).save(file, "JPEG")
        stem = f"{synset}_{number}" if split == "train" else f"ILSVRC2012_val_{100 * label + number:08}"
        photos.append(Photo(split, synset, label, stem, file.getvalue()))
    return photos


def select_split(split: str, photos: Iterable[Photo]) -> list[Photo]:
    """Returns the photos of a split."""
    return [photo for photo in photos if photo.split == split]


def damage(photos: list[Photo], split: str, indices: Iterable[int], data: bytes | None = None) -> list[Photo]:
    """Returns the photos with the bytes of some of them replaced by `data`, or cut in half."""
    damaged = [select_split(split, photos)[index] for index in indices]
    return [
        replace(photo, data=photo.data[: len(photo.data) // 2] if data is None else data) if photo in damaged else photo
        for photo in photos
    ]


def write_folders(folder: Path, photos: Iterable[Photo]) -> None:
    for photo in photos:
        file = folder / photo.split / photo.synset / f"{photo.stem}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo.data)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tar(folder: Path, photos: Iterable[Photo], *, info: bool = True) -> None:
    """Two shards per split in timm's layout, shuffled: half of the labels in `.cls`, half in `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Any] = {}
    for split in ("train", "validation"):
        shuffled = select_split(split, photos)
        random.Random(1).shuffle(shuffled)
        shards = {f"imagenet1k-{split}-{shard}.tar": shuffled[shard::2] for shard in range(2)}
        for name, content in shards.items():
            with tarfile.open(folder / name, "w") as archive:
                for place, photo in enumerate(content):
                    if place % 2:
                        add(archive, f"{photo.stem}.cls", str(photo.label).encode())
                    add(archive, f"{photo.stem}.jpg", photo.data)
                    add(archive, f"{photo.stem}.json", json.dumps({"label": photo.label, "width": 9}).encode())
        splits[split] = {
            "name": split,
            "num_samples": len(shuffled),
            "filenames": list(shards),
            "shard_lengths": [len(content) for content in shards.values()],
        }
    if info:
        (folder / "_info.json").write_text(json.dumps({"splits": splits}))


def make_table(photos: Sequence[Photo], names: Sequence[str] = SYNSETS) -> pa.Table:
    """Builds a table as Hugging Face's `datasets` writes it, with class names in its metadata."""
    rows = [{"bytes": photo.data, "path": f"{photo.stem}_{photo.synset}.JPEG"} for photo in photos]
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": pa.array([photo.label for photo in photos], pa.int64())})
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(folder: Path, photos: Iterable[Photo]) -> None:
    """Two files per split, shuffled, with row groups of two images; and a test split without labels."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        shuffled = select_split(split, photos)
        random.Random(2).shuffle(shuffled)
        for part in range(2):
            file = folder / "data" / f"{split}-{part:05}-of-00002.parquet"
            parquet.write_table(make_table(shuffled[part::2]), file, row_group_size=2)
    unlabelled = [replace(photo, label=-1) for photo in select_split("validation", photos)]
    parquet.write_table(make_table(unlabelled), folder / "data" / "test-00000-of-00001.parquet")


FORMATS = {"folders": write_folders, "tar": write_tar, "parquet": write_parquet}


def write_cifar100(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    """Writes a few random images in CIFAR-100's own layout, and patches torchvision's checksums."""
    draws = np.random.default_rng(0)
    inner = folder / CIFAR100.base_folder
    inner.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        (inner / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((inner / name).read_bytes()).hexdigest()

    def images(count: int) -> dict[str, Any]:
        pixels = draws.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "fine_labels": [i * 7 % 100 for i in range(count)]}

    patch.setattr(CIFAR100, "train_list", [["train", write("train", images(24))]])
    patch.setattr(CIFAR100, "test_list", [["test", write("test", images(9))]])
    meta = {**CIFAR100.meta, "md5": write("meta", {"fine_label_names": [f"class {i}" for i in range(100)]})}
    patch.setattr(CIFAR100, "meta", meta)
    return Dataset(name="cifar100", num_classes=100, channels=3, image_size=32)
