"""The contract of every dataset, run over all that are discovered in all formats, and what is special about each."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_datasets import AUGMENTATIONS, FORMATS, imagenet, make_photos, recipe, write_cifar100
from torchvision.datasets import CIFAR100

from pld_grid.experiment.cell import Dataset
from pld_grid.train import data
from pld_grid.train.data import DataError, Splits
from pld_grid.util.errors import PldGridError

Load = Callable[..., Splits]
Write = Callable[[Path, pytest.MonkeyPatch], Dataset]


def write_nothing(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
    return Dataset(name="digits", num_classes=10, channels=1, image_size=16)


def imagenet_writer(form: str) -> Write:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> Dataset:
        FORMATS[form](folder, make_photos())
        return imagenet()

    return write


# A new dataset needs an entry here, which writes a small one.
WRITERS: dict[str, Write] = {
    "cifar100": write_cifar100,
    "digits": write_nothing,
    **{f"imagenet {form}": imagenet_writer(form) for form in FORMATS},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Dataset, Path]]]:
    """Writes a small dataset once; returns its description and folder."""
    prepared: dict[str, tuple[Dataset, Path]] = {}
    with pytest.MonkeyPatch.context() as patch:

        def get(name: str) -> tuple[Dataset, Path]:
            if name not in prepared:
                folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
                prepared[name] = WRITERS[name](folder, patch), folder
            return prepared[name]

        yield get


@pytest.fixture
def load(prepared: Callable[[str], tuple[Dataset, Path]]) -> Load:
    def get(name: str, augmentation: str = "none", **changes: Any) -> Splits:
        dataset, folder = prepared(name)
        return data.load(dataset, recipe(dataset.channels, augmentation=AUGMENTATIONS[augmentation], **changes), folder)

    return get


every_dataset = pytest.mark.parametrize("name", WRITERS)
every_augmentation = pytest.mark.parametrize("augmentation", AUGMENTATIONS)


@pytest.mark.parametrize("name", data.available())
def test_info_of_a_dataset_is_valid(name):
    info = data.get_module(name).INFO
    assert info.name == name
    assert info.num_classes >= 2
    assert info.channels in (1, 3)


def test_every_discovered_dataset_is_tested():
    assert {name.partition(" ")[0] for name in WRITERS} == set(data.available())


@every_dataset
@every_augmentation
def test_batch_holds_uint8_pixels_and_labels(load, prepared, name, augmentation):
    dataset, _ = prepared(name)
    for split in vars(load(name, augmentation)).values():
        assert len(split) > 4
        assert torch.equal(split.target_N, split.batch(np.arange(len(split)), 0, 1)[1])
        images, target = split.batch(np.arange(5), 0, 1)
        assert images.shape == (5, dataset.channels, dataset.image_size, dataset.image_size)
        assert images.dtype == torch.uint8
        assert target.shape == (5,)
        assert target.dtype == torch.int64
        assert 0 <= int(target.min()) <= int(target.max()) < dataset.num_classes
        assert images.float().std() > 1


@every_dataset
@every_augmentation
def test_batch_row_depends_only_on_seed_epoch_and_index(load, name, augmentation):
    split = load(name, augmentation).train
    indices = np.random.default_rng(1).permutation(len(split))[:12]
    images, target = split.batch(indices, 3, 2)
    for order in (slice(None, None, -1), slice(2, 9), slice(5, 6), np.array([4, 4, 0])):
        some_images, some_target = split.batch(np.ascontiguousarray(indices[order]), 3, 2)
        at = torch.from_numpy(np.arange(len(indices))[order].copy())
        assert torch.equal(some_images, images[at])
        assert torch.equal(some_target, target[at])
    assert torch.equal(load(name, augmentation).train.batch(indices, 3, 2)[0], images)


@every_dataset
@every_augmentation
def test_augmentation_changes_with_seed_and_epoch(load, name, augmentation):
    split = load(name, augmentation).train
    images, target = split.batch(np.arange(12), 3, 2)
    for seed, epoch in ((4, 2), (3, 3)):
        others, labels = split.batch(np.arange(12), seed, epoch)
        assert torch.equal(labels, target)
        assert torch.equal(others, images) == (augmentation == "none")


@every_dataset
@every_augmentation
def test_validation_is_never_augmented(load, name, augmentation):
    split, plain = load(name, augmentation).validation, load(name).validation
    indices = np.arange(len(split))
    images, target = split.batch(indices, 0, 1)
    for other in (split.batch(indices, 5, 9), plain.batch(indices, 0, 1)):
        assert torch.equal(other[0], images)
        assert torch.equal(other[1], target)


@every_dataset
def test_load_without_a_valid_folder_raises_one_line(prepared, tmp_path, name):
    dataset, _ = prepared(name)
    if not data.get_module(dataset.name).INFO.needs_folder:
        data.load(dataset, recipe(dataset.channels), None)
        return
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for folder, expected in {
        None: f"dataset {dataset.name} needs a data folder",
        tmp_path / "missing": f"dataset {dataset.name}: no such folder: {tmp_path / 'missing'}",
        tmp_path / "file": f"dataset {dataset.name}: no such folder: {tmp_path / 'file'}",
        tmp_path / "empty": f"dataset {dataset.name}: ",
    }.items():
        with pytest.raises(DataError) as caught:
            data.load(dataset, recipe(dataset.channels), folder)
        assert str(caught.value).startswith(expected)
        assert str(caught.value).isprintable()
        assert isinstance(caught.value, PldGridError)
        if folder is not None:
            assert str(folder) in str(caught.value)


def test_get_module_of_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match='unknown dataset "digit"; valid: cifar100, digits, imagenet'):
        data.get_module("digit")


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_validation_has_a_fifth_of_each_class(load):
    splits = load("digits")
    assert (len(splits.train), len(splits.validation)) == (1442, 355)
    labels = [split.batch(np.arange(len(split)), 0, 1)[1] for split in (splits.train, splits.validation)]
    for label in range(10):
        train, validation = (int((target == label).sum()) for target in labels)
        assert abs(validation - (train + validation) / 5) < 1
    counts = torch.bincount(labels[1])
    assert int(counts.max() - counts.min()) <= 2


def test_digits_splits_together_hold_each_image_once(prepared):
    dataset = Dataset(name="digits", num_classes=10, channels=1, image_size=8)
    splits = data.load(dataset, recipe(1))
    batches = [split.batch(np.arange(len(split)), 0, 1) for split in (splits.train, splits.validation)]
    rows = [
        bytes(image.numpy().tobytes()) + bytes([int(label)])
        for images, target in batches
        for image, label in zip(images, target, strict=True)
    ]
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    expected = [image.tobytes() + bytes([int(label)]) for image, label in zip(pixels, digits.target, strict=True)]
    assert sorted(rows) == sorted(expected)
    assert int(batches[0][0].max()) == 255


# -- CIFAR-100 ---------------------------------------------------------------------------------------------------------


def test_cifar100_batch_equals_the_files(load, prepared):
    _, folder = prepared("cifar100")
    for split, file in zip(vars(load("cifar100")).values(), ("train", "test"), strict=True):
        content = pickle.loads((folder / CIFAR100.base_folder / file).read_bytes())
        images, target = split.batch(np.arange(len(split)), 0, 1)
        assert np.array_equal(images.numpy().reshape(len(split), -1), content["data"])
        assert target.tolist() == content["fine_labels"]


def test_cifar100_of_another_size_is_resized(prepared):
    dataset, folder = prepared("cifar100")
    splits = data.load(dataset.model_copy(update={"image_size": 20}), recipe(3), folder)
    assert splits.train.batch(np.arange(2), 0, 1)[0].shape == (2, 3, 20, 20)


def test_damaged_cifar100_raises(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        dataset = write_cifar100(tmp_path, patch)
        file = tmp_path / CIFAR100.base_folder / "test"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"^dataset cifar100: .* does not hold CIFAR-100 whole: "):
            data.load(dataset, recipe(3), tmp_path)
