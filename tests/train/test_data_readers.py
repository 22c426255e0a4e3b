"""Image folders, tar shards and parquet files: the same images in the same order, and the same training on them."""

import itertools
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from small_datasets import AUGMENTATIONS, FORMATS, Photo, add, imagenet, load, of, photos, recipe, refused
from timm.data import ImageNetInfo
from trainable import RESNET, numbers, train, trainable

from pld_grid.machine import MachineSettings
from pld_grid.train.data._images import ImageSplit

every_format = pytest.mark.parametrize("form", FORMATS)
MADE = photos()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in every format."""
    made = {form: tmp_path_factory.mktemp(form) for form in FORMATS}
    for form, folder in made.items():
        FORMATS[form](folder, MADE)
    return made


# -- what all formats promise ------------------------------------------------------------------------------------------


@every_format
def test_images_are_numbered_by_class_and_by_the_number_in_their_name(folders: dict[str, Path], form: str) -> None:
    for name, split in vars(load(folders[form])).items():
        assert isinstance(split, ImageSplit)
        expected = of(name, MADE)
        assert split.target_N.tolist() == [photo.label for photo in expected]
        assert [split.reader.read(i) for i in range(len(split))] == [photo.data for photo in expected]
        assert all(photo.stem in split.reader.name(i) for i, photo in enumerate(expected))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_all_formats_give_the_same_batches(folders: dict[str, Path], augmentation: str) -> None:
    indices = np.random.default_rng(0).permutation(12)
    for split in ("train", "validation"):
        expected, *others = (
            getattr(load(folder, augmentation=augmentation), split).batch(indices, 3, 2) for folder in folders.values()
        )
        for images, target in others:
            assert torch.equal(images, expected[0])
            assert torch.equal(target, expected[1])


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Any]]:
    """The numbers of a small ResNet after two epochs on a format, with so many loader processes."""
    cell = trainable(
        student=RESNET,
        dataset=imagenet(),
        recipe=recipe(3, batch_size=6, micro_batch_size=3, augmentation=AUGMENTATIONS["random_resized"]),
        epochs=2,
    )

    def get(form: str, workers: int) -> list[Any]:
        folder = tmp_path_factory.mktemp("store")
        machine = MachineSettings(loader_workers=workers)
        receipt = train(folder, cell, data_folder=str(folders[form]), machine=machine)[cell.cell_id]
        assert receipt is not None
        assert receipt.state == "finished"
        return numbers(receipt)

    return get


@pytest.fixture(scope="module")
def expected(trained: Callable[[str, int], list[Any]]) -> list[Any]:
    return trained("folders", 0)


@pytest.mark.parametrize(("form", "workers"), list(itertools.product(FORMATS, (0, 2)))[1:])
def test_a_cell_has_the_same_numbers_in_every_format_and_with_any_number_of_workers(
    trained: Callable[[str, int], list[Any]], expected: list[Any], form: str, workers: int
) -> None:
    assert trained(form, workers) == expected


def _first_rows(split: ImageSplit) -> tuple[list[int], int]:
    split.damaged_N[1] = True
    images, target = split.batch(np.arange(3), 0, 1)
    return target.tolist(), int(images.sum())


def test_readers_work_in_spawned_processes_and_share_what_is_damaged(folders: dict[str, Path]) -> None:
    splits = [load(folder).train for folder in folders.values()]
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(_first_rows, splits)
    images, target = splits[0].batch(np.arange(3), 0, 1)
    assert found == [(target.tolist(), int(images.sum()))] * len(splits)
    assert all(split.damaged_N.nonzero().tolist() == [[1]] for split in splits)


# -- which format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.jpg"], r"needs the folders train/ and validation/ \(or val/\).*; it holds: train$"),
        (["val/a/1.jpg"], "it holds: val$"),
        (["x-train-0.tar"], r"it holds: x-train-0\.tar$"),
        (["data/train-0.parquet", "data/test-0.parquet"], "it holds: data$"),
        (["constraint-0.tar", "interval-0.tar"], "it holds: constraint-0.tar, interval-0.tar$"),
        ([], "it holds: nothing$"),
    ],
)
def test_folders_without_both_splits(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "layout", ["{split}/{number:04}.tar", "wds/imagenet_{split}-{number}.tar", "{split}.{number}.tar"]
)
def test_shards_are_found_by_their_names_and_their_folders(tmp_path: Path, layout: str) -> None:
    for split, word in (("train", "train"), ("validation", "val")):
        for number in range(2):
            shard = tmp_path / layout.format(split=word, number=number)
            shard.parent.mkdir(exist_ok=True)
            with tarfile.open(shard, "w") as archive:
                for photo in of(split, MADE)[number::2]:
                    add(archive, f"some/folder/{photo.stem}.JPG", photo.data)
                    add(archive, f"some/folder/{photo.stem}.cls", b"%d\n" % photo.label)
    for name, split in vars(load(tmp_path)).items():
        assert [split.reader.read(i) for i in range(12)] == [photo.data for photo in of(name, MADE)]


def test_image_folders_come_before_the_archives_they_were_unpacked_from(tmp_path: Path) -> None:
    FORMATS["folders"](tmp_path, MADE)
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(b"not looked at")
    assert load(tmp_path).train.reader.format == "image folders"


# -- labels ------------------------------------------------------------------------------------------------------------


@every_format
def test_another_number_of_classes_is_refused(folders: dict[str, Path], form: str) -> None:
    refused(folders[form], "train has 3 classes, not 4$", classes=4)


@every_format
def test_a_class_that_validation_lacks_is_refused(tmp_path: Path, form: str) -> None:
    FORMATS[form](tmp_path, [photo for photo in MADE if (photo.split, photo.label) != ("validation", 1)])
    refused(tmp_path, "validation has 2 classes, not 3$")


def test_folders_with_different_classes_are_refused(tmp_path: Path) -> None:
    odd = [replace(p, synset="n03000685") if (p.split, p.label) == ("validation", 2) else p for p in MADE]
    FORMATS["folders"](tmp_path, odd)
    refused(tmp_path, "differ in their classes: n03000684, n03000685$")


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_labels_that_begin_with_one_are_refused(tmp_path: Path, form: str) -> None:
    FORMATS[form](tmp_path, [replace(photo, label=photo.label + 1) for photo in MADE])
    refused(tmp_path, "train has labels from 1 to 3, not from 0 to 2$")


@every_format
def test_a_thousand_classes_must_be_imagenets_in_its_order(tmp_path: Path, form: str) -> None:
    """A published teacher knows classes by ImageNet's numbers: other labels would go unnoticed."""
    synsets = ImageNetInfo().label_names()

    def write(folder: Path, names: list[str]) -> None:
        pairs = itertools.product(("train", "validation"), enumerate(names))
        FORMATS[form](folder, [Photo(split, name, label, f"{name}_1", b"") for split, (label, name) in pairs])

    write(tmp_path / "right", synsets)
    assert load(tmp_path / "right", 1000).train.target_N.tolist() == list(range(1000))
    wrong = synsets.copy()
    # In folders the names' order decides, so one of them is not ImageNet's.
    wrong[499:501] = ["n03788366", synsets[500]] if form == "folders" else [synsets[500], synsets[499]]
    write(tmp_path / "wrong", sorted(wrong) if form == "folders" else wrong)
    refused(tmp_path / "wrong", "has the label of n[0-9]{8} in ImageNet-1K$", 1000)


# -- image folders -----------------------------------------------------------------------------------------------------


def test_a_split_without_images(tmp_path: Path) -> None:
    FORMATS["folders"](tmp_path, of("validation", MADE))
    (tmp_path / "train" / "a").mkdir(parents=True)
    refused(tmp_path, "Found 0 images in subfolders of .*train")


def test_validation_images_that_were_not_sorted_into_classes(tmp_path: Path) -> None:
    FORMATS["folders"](tmp_path, of("train", MADE))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(MADE[0].data)
    refused(tmp_path, "val: images lie in it directly, not in a folder for each class$")
