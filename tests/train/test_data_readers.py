"""Image folders, tar shards and parquet files give the same images in the same order, and the same training."""

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
from small_datasets import (
    AUGMENTATIONS,
    FORMATS,
    Photo,
    add,
    assert_refused,
    imagenet,
    load,
    make_photos,
    recipe,
    select_split,
)
from timm.data import ImageNetInfo
from trainable_cells import RESNET, numbers, train, trainable

from pld_grid.experiment.machine import MachineSettings
from pld_grid.train.data._image_split import ImageSplit

pytestmark = pytest.mark.slow

every_format = pytest.mark.parametrize("form", FORMATS)
PHOTOS = make_photos()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in every format."""
    folders = {form: tmp_path_factory.mktemp(form) for form in FORMATS}
    for form, folder in folders.items():
        FORMATS[form](folder, PHOTOS)
    return folders


# -- all formats -------------------------------------------------------------------------------------------------------


@every_format
def test_images_are_ordered_by_class_and_by_the_number_in_their_name(folders, form):
    for name, split in vars(load(folders[form])).items():
        assert isinstance(split, ImageSplit)
        expected = select_split(name, PHOTOS)
        assert split.target_N.tolist() == [photo.label for photo in expected]
        assert [split.reader.read(i) for i in range(len(split))] == [photo.data for photo in expected]
        assert all(photo.stem in split.reader.name(i) for i, photo in enumerate(expected))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_are_the_same_in_all_formats(folders, augmentation):
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
    """Trains a small ResNet for two epochs on a format with a number of loader processes; returns its numbers."""
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
        assert receipt.state == "finished"
        return numbers(receipt)

    return get


@pytest.fixture(scope="module")
def expected(trained: Callable[[str, int], list[Any]]) -> list[Any]:
    return trained("folders", 0)


@pytest.mark.parametrize(("form", "workers"), list(itertools.product(FORMATS, (0, 2)))[1:])
def test_training_gives_the_same_numbers_in_all_formats_and_with_loader_processes(trained, expected, form, workers):
    assert trained(form, workers) == expected


def _first_rows(split: ImageSplit) -> tuple[list[int], int]:
    split.damaged_N[1] = True
    images, target = split.batch(np.arange(3), 0, 1)
    return target.tolist(), int(images.sum())


def test_readers_in_spawned_processes_share_the_damaged_images(folders):
    splits = [load(folder).train for folder in folders.values()]
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        results = pool.map(_first_rows, splits)
    images, target = splits[0].batch(np.arange(3), 0, 1)
    assert results == [(target.tolist(), int(images.sum()))] * len(splits)
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
def test_a_folder_without_both_splits_raises(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    "layout", ["{split}/{number:04}.tar", "wds/imagenet_{split}-{number}.tar", "{split}.{number}.tar"]
)
def test_shards_are_discovered_by_their_names_and_folders(tmp_path, layout):
    for split, word in (("train", "train"), ("validation", "val")):
        for number in range(2):
            shard = tmp_path / layout.format(split=word, number=number)
            shard.parent.mkdir(exist_ok=True)
            with tarfile.open(shard, "w") as archive:
                for photo in select_split(split, PHOTOS)[number::2]:
                    add(archive, f"some/folder/{photo.stem}.JPG", photo.data)
                    add(archive, f"some/folder/{photo.stem}.cls", b"%d\n" % photo.label)
    for name, split in vars(load(tmp_path)).items():
        assert [split.reader.read(i) for i in range(12)] == [photo.data for photo in select_split(name, PHOTOS)]


def test_image_folders_take_precedence_over_archives(tmp_path):
    FORMATS["folders"](tmp_path, PHOTOS)
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(b"not read")
    assert load(tmp_path).train.reader.format == "image folders"


# -- labels ------------------------------------------------------------------------------------------------------------


@every_format
def test_another_number_of_classes_raises(folders, form):
    assert_refused(folders[form], "train has 3 classes, not 4$", classes=4)


@every_format
def test_a_class_without_validation_images_raises(tmp_path, form):
    FORMATS[form](tmp_path, [photo for photo in PHOTOS if (photo.split, photo.label) != ("validation", 1)])
    assert_refused(tmp_path, "validation has 2 classes, not 3$")


def test_splits_with_different_class_folders_raise(tmp_path):
    changed = [replace(p, synset="n03000685") if (p.split, p.label) == ("validation", 2) else p for p in PHOTOS]
    FORMATS["folders"](tmp_path, changed)
    assert_refused(tmp_path, "differ in their classes: n03000684, n03000685$")


@pytest.mark.parametrize("form", ["tar", "parquet"])
@pytest.mark.parametrize(("first", "labels"), [(1, "1 to 3"), (-1, "-1 to 1")])
def test_labels_that_do_not_start_at_zero_raise(tmp_path, form, first, labels):
    FORMATS[form](tmp_path, [replace(photo, label=photo.label + first) for photo in PHOTOS])
    assert_refused(tmp_path, f"train has labels from {labels}, not from 0 to 2$")


@every_format
def test_a_thousand_classes_in_another_order_than_imagenets_raise(tmp_path, form):
    """Published teachers identify classes by ImageNet's numbers, so other labels would go unnoticed."""
    synsets = ImageNetInfo().label_names()

    def write(folder: Path, names: list[str]) -> None:
        pairs = itertools.product(("train", "validation"), enumerate(names))
        FORMATS[form](folder, [Photo(split, name, label, f"{name}_1", b"") for split, (label, name) in pairs])

    write(tmp_path / "right", synsets)
    assert load(tmp_path / "right", 1000).train.target_N.tolist() == list(range(1000))
    wrong = synsets.copy()
    # Folders are sorted by name, so there one name is not ImageNet's.
    wrong[499:501] = ["n03788366", synsets[500]] if form == "folders" else [synsets[500], synsets[499]]
    write(tmp_path / "wrong", sorted(wrong) if form == "folders" else wrong)
    assert_refused(tmp_path / "wrong", "has the label of n[0-9]{8} in ImageNet-1K$", 1000)


# -- image folders -----------------------------------------------------------------------------------------------------


def test_a_split_without_images_raises(tmp_path):
    FORMATS["folders"](tmp_path, select_split("validation", PHOTOS))
    (tmp_path / "train" / "a").mkdir(parents=True)
    assert_refused(tmp_path, "Found 0 images in subfolders of .*train")


def test_validation_images_outside_class_folders_raise(tmp_path):
    FORMATS["folders"](tmp_path, select_split("train", PHOTOS))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(PHOTOS[0].data)
    assert_refused(tmp_path, "val: images lie in it directly, not in a folder for each class$")
