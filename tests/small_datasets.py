"""Small datasets of real image files, in every format that is read, with ImageNet's own names."""

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

from pld_grid.spec import Augmentation, Dataset, Recipe
from pld_grid.train import data
from pld_grid.train.data import DataError, Splits

SYNSETS = ("n01440764", "n02102040", "n03000684")
# As strings "10" comes before "9"; readers order by numbers.
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
    """The small ImageNet that lies in a folder."""
    return data.load(imagenet(classes), recipe(3, augmentation=AUGMENTATIONS[augmentation]), folder)


def refused(folder: Path, message: str, classes: int = len(SYNSETS)) -> None:
    """Loading is refused in one line."""
    with pytest.raises(DataError, match=message) as caught:
        load(folder, classes)
    assert str(caught.value).startswith("dataset imagenet: ")
    assert str(caught.value).isprintable()


@dataclass(frozen=True)
class Photo:
    """An image file, not yet written: its split, its class by name and number, its file name without the ending."""

    split: str
    synset: str
    label: int
    stem: str
    data: bytes


def photos(numbers: Sequence[int] = NUMBERS, seed: int = 0) -> list[Photo]:
    """Real JPEGs of several shapes and kinds in three classes, in the order that all readers promise."""
    draws = np.random.default_rng(seed)
    made = []
    for split, (label, synset), number in itertools.product(("train", "validation"), enumerate(SYNSETS), numbers):
        height, width = (int(side) for side in draws.integers(30, 90, 2))
        coarse = draws.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        # Real ImageNet has grey images and CMYK ones too.
        mode = ("RGB", "L", "CMYK", "RGB")[len(made) % 4]
        file = io.BytesIO()
        image.convert(mode).save(file, "JPEG")
        stem = f"{synset}_{number}" if split == "train" else f"ILSVRC2012_val_{100 * label + number:08}"
        made.append(Photo(split, synset, label, stem, file.getvalue()))
    return made


def of(split: str, made: Iterable[Photo]) -> list[Photo]:
    """The photos of a split."""
    return [photo for photo in made if photo.split == split]


def damage(made: list[Photo], split: str, numbers: Iterable[int], data: bytes | None = None) -> list[Photo]:
    """The same with images of a split replaced by `data`, or cut in half."""
    bad = [of(split, made)[number] for number in numbers]
    return [
        replace(photo, data=photo.data[: len(photo.data) // 2] if data is None else data) if photo in bad else photo
        for photo in made
    ]


def write_folders(folder: Path, made: Iterable[Photo]) -> None:
    for photo in made:
        file = folder / photo.split / photo.synset / f"{photo.stem}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo.data)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tar(folder: Path, made: Iterable[Photo], *, info: bool = True) -> None:
    """Two shards per split in timm's layout, shuffled: half of the labels in `.cls`, half in `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Any] = {}
    for split in ("train", "validation"):
        shuffled = of(split, made)
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


def table_of(made: Sequence[Photo], names: Sequence[str] = SYNSETS) -> pa.Table:
    """A table as Hugging Face's `datasets` writes one, down to the class names in its metadata."""
    rows = [{"bytes": photo.data, "path": f"{photo.stem}_{photo.synset}.JPEG"} for photo in made]
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": pa.array([photo.label for photo in made], pa.int64())})
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(folder: Path, made: Iterable[Photo]) -> None:
    """Two files per split, shuffled, with row groups of two images; and a split for testing, which has no labels."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        shuffled = of(split, made)
        random.Random(2).shuffle(shuffled)
        for part in range(2):
            file = folder / "data" / f"{split}-{part:05}-of-00002.parquet"
            parquet.write_table(table_of(shuffled[part::2]), file, row_group_size=2)
    unlabelled = [replace(photo, label=-1) for photo in of("validation", made)]
    parquet.write_table(table_of(unlabelled), folder / "data" / "test-00000-of-00001.parquet")


FORMATS = {"folders": write_folders, "tar": write_tar, "parquet": write_parquet}


def write_cifar100(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    """A few random images in CIFAR-100's own layout; torchvision is told their checksums."""
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
