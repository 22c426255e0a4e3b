"""Damaged images are counted over all processes, logged and replaced by the next one; too many fail the cell."""

import io
import itertools
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_datasets import AUGMENTATIONS, FORMATS, Photo, damage, imagenet, load, make_photos, recipe, select_split
from torch.utils.data import DataLoader
from trainable_cells import RESNET, numbers, train, trainable

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.machine import MachineSettings
from pld_grid.train.data import DataError, Splits
from pld_grid.train.data._image_split import DamagedImage, ImageSplit, decode
from pld_grid.train.loader import Loader
from pld_grid.train.randomness import epoch_order

LOGGER = logging.getLogger("pld_grid.train.data._image_split")
PHOTOS = make_photos()
every_format = pytest.mark.parametrize("form", FORMATS)


def make_png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(data, "PNG")
    return data.getvalue()


def write_and_load(folder: Path, form: str, photos: list[Photo], augmentation: str = "none") -> Splits:
    FORMATS[form](folder, photos)
    return load(folder, augmentation=augmentation)


def make_oversized_jpeg(width: int, height: int) -> bytes:
    """Returns a JPEG of 64x48 whose header declares another size."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48)).save(data, "JPEG")
    start = data.getvalue().index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data.getvalue()[:start] + size + data.getvalue()[start + 4 :]


def make_large_png() -> bytes:
    data = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(data, "PNG")
    return data.getvalue()


VALID = PHOTOS[0].data
UNDECODABLE = {
    "empty": b"",
    "cut": VALID[: len(VALID) // 2],
    "cut in its header": VALID[:20],
    "text": b"<html>not found</html>",
    "zeros": bytes(len(VALID)),
    "a PNG, cut": make_png()[:60],
    "a PNG with another checksum": make_png().replace(b"IDAT", b"IDAU"),
    "TIFF in name only": b"II*\0" + bytes(8),
    "JPEG of 400 million pixels": make_oversized_jpeg(20_000, 20_000),
    "JPEG of 144 million pixels": make_oversized_jpeg(12_000, 12_000),
    "JPEG of 4 billion pixels": make_oversized_jpeg(65_500, 65_500),
    "PNG of 144 million pixels": make_large_png(),
}


@pytest.mark.parametrize("content", UNDECODABLE.values(), ids=UNDECODABLE)
def test_decode_of_invalid_bytes_raises_damaged_image(content):
    with pytest.raises(DamagedImage) as error:
        decode(content)
    assert str(error.value)


def test_decode_of_a_large_image_does_not_warn(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(make_png()).shape == (32, 32, 3)


def test_decode_of_postscript_does_not_run_ghostscript():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(script)) as image:
        assert image.format == "EPS"
    with pytest.raises(DamagedImage, match=f"its {len(script)} bytes are no image"):
        decode(script)


@every_format
def test_files_above_the_size_limit_are_damaged(tmp_path, form, monkeypatch):
    split = write_and_load(tmp_path, form, PHOTOS).train
    for module in ("_folder_reader", "_image_split", "_parquet_reader", "_tar_reader"):
        monkeypatch.setattr(f"pld_grid.train.data.{module}.MAX_IMAGE_BYTES", 100)
    assert len(split.reader.read(0)) == 101
    assert split.describe_damage(0).endswith("(it has more than 100 bytes)")


def test_a_pipe_in_place_of_an_image_raises(tmp_path):
    splits = write_and_load(tmp_path, "folders", PHOTOS)
    pipe = tmp_path / splits.train.reader.name(3)
    pipe.unlink()
    os.mkfifo(pipe)
    assert splits.train.describe_damage(3).endswith(f"{pipe.name} ([Errno 22] it is not a regular file: '{pipe}')")
    with pytest.raises(DataError, match=f"{pipe.name} cannot be read: .*it is not a regular file"):
        splits.train.batch(np.array([3]), 0, 1)


@every_format
@pytest.mark.parametrize("augmentation", ["none", "random_resized"])
def test_a_damaged_training_image_is_replaced_by_the_next(tmp_path, form, augmentation, caplog):
    intact = write_and_load(tmp_path / "intact", form, PHOTOS, augmentation).train
    # Two in a row, the first of them the last of its class; and the last image of the split.
    bad = (3, 4, 11)
    split = write_and_load(tmp_path / "damaged", form, damage(PHOTOS, "train", bad), augmentation).train
    images, target = split.batch(np.arange(12), 3, 2)
    # The index determines the crop, so a replacement has the same pixels only without augmentation.
    replaced = [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    expected, labels = intact.batch(np.arange(12), 3, 2)
    others = [i for i in range(12) if i not in bad]
    assert torch.equal(images[others], expected[others])
    assert target.tolist() == labels[replaced].tolist()
    if augmentation == "none":
        assert torch.equal(images, expected[replaced])
    assert torch.equal(split.batch(np.arange(12), 3, 2)[0], images)
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    for number, message in zip(bad, messages, strict=True):
        assert message.startswith("imagenet: damaged training image ")
        assert select_split("train", PHOTOS)[number].stem in message


@every_format
def test_more_damaged_images_than_tolerated_raise_with_their_names(tmp_path, form):
    split = write_and_load(tmp_path, form, damage(PHOTOS, "train", (0, 1, 2, 6), b"")).train
    split.batch(np.arange(6), 0, 1)
    with pytest.raises(DataError) as error:
        split.batch(np.arange(12), 0, 1)
    message = str(error.value)
    assert message.startswith("dataset imagenet: 4 training images are damaged, 3 are tolerated: ")
    assert all(select_split("train", PHOTOS)[number].stem in message for number in (0, 1, 2, 6))


def test_a_split_of_damaged_images_only_raises(tmp_path):
    small = make_photos(numbers=(1,))
    split = write_and_load(tmp_path, "folders", damage(small, "train", range(3), b"")).train
    with pytest.raises(DataError, match="3 training images are damaged, 2 are tolerated: "):
        split.batch(np.array([0]), 0, 1)


def test_one_damaged_image_in_ten_thousand_is_tolerated(tmp_path):
    reader = write_and_load(tmp_path, "folders", PHOTOS).train.reader
    reader.target_N = np.repeat(np.arange(3), 427_056)
    assert ImageSplit(reader, imagenet(), recipe(3), train=True).max_damaged == 128


@pytest.mark.parametrize(("form", "workers"), [*((form, 0) for form in FORMATS), ("folders", 1)])
def test_a_damaged_validation_image_raises(tmp_path, form, workers):
    splits = write_and_load(tmp_path, form, damage(PHOTOS, "validation", (5,)))
    validation = Loader(splits, recipe(3), seed=0, workers=workers).validation_batches()
    with pytest.raises(DataError) as error:
        list(validation)
    message = str(error.value)
    assert message.startswith("dataset imagenet: damaged validation image ")
    assert select_split("validation", PHOTOS)[5].stem in message
    assert message.isprintable()


@every_format
def test_missing_files_raise_and_are_not_counted_as_damaged(tmp_path, form):
    split = write_and_load(tmp_path, form, PHOTOS).train
    for file in list(tmp_path.rglob("*")):
        if file.is_file() and "train" in str(file.relative_to(tmp_path)):
            file.unlink()
    with pytest.raises(DataError, match=r"^dataset imagenet: .* cannot be read: .*No such file"):
        split.batch(np.array([2]), 0, 1)
    assert not split.damaged_N.any()


# -- with loader processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A log file that loader processes also write to."""
    file = tmp_path / "damage.log"
    handler = logging.FileHandler(file)
    LOGGER.addHandler(handler)
    yield file
    LOGGER.removeHandler(handler)
    handler.close()


def make_cell(**changes: object) -> Cell:
    small = recipe(3, batch_size=6, micro_batch_size=3, augmentation=AUGMENTATIONS["random_resized"])
    return trainable(student=RESNET, dataset=imagenet(), recipe=small, **changes)


def test_training_with_few_damaged_images_gives_the_same_numbers_with_loader_processes(tmp_path, log):
    FORMATS["tar"](tmp_path / "data", damage(PHOTOS, "train", (2, 7), b""))
    cell = make_cell(epochs=3)
    results = []
    for workers in (0, 2):
        machine = MachineSettings(loader_workers=workers)
        folder = tmp_path / f"store{workers}"
        results.append(numbers(train(folder, cell, data_folder=str(tmp_path / "data"), machine=machine)[cell.cell_id]))
    assert results[0] == results[1]
    assert results[0][0] == "finished"
    lines = log.read_text().splitlines()
    # Once per training, in however many processes and epochs.
    for number in (2, 7):
        assert sum(select_split("train", PHOTOS)[number].stem in line for line in lines) == 2
    assert len(lines) == 4


def test_damaged_images_are_counted_over_all_loader_processes(tmp_path):
    photos = make_photos(numbers=range(1, 9))
    # The processes take turns at batches: two damaged images for each of them, none next to another.
    batches = epoch_order(0, 1, 24).reshape(-1, 3)
    first, second = batches[0::2].ravel().tolist(), batches[1::2].ravel().tolist()
    pairs = itertools.product(itertools.combinations(first, 2), itertools.combinations(second, 2))
    spread = (a + b for a, b in pairs if all((i - j) % 24 > 1 for i, j in itertools.permutations(a + b, 2)))
    FORMATS["folders"](tmp_path / "data", damage(photos, "train", next(spread), b""))
    cell = make_cell(epochs=1)
    with pytest.raises(DataError) as error:
        train(tmp_path, cell, data_folder=str(tmp_path / "data"), machine=MachineSettings(loader_workers=2))
    assert str(error.value).startswith("dataset imagenet: 4 training images are damaged, 3 are tolerated: ")


class _RaisingDataset(torch.utils.data.Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise DataError("what: is\twrong")


def test_data_error_of_a_loader_process_is_one_line():
    with pytest.raises(DataError) as error:
        list(DataLoader(_RaisingDataset(), batch_size=None, sampler=[0], num_workers=1))
    assert str(error.value) == "what: is\twrong"
