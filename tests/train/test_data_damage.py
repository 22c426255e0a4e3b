"""Damaged images: counted over all processes, named in a log, replaced by the next one; too many fail the cell."""

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
from small_datasets import AUGMENTATIONS, FORMATS, Photo, damage, imagenet, load, of, photos, recipe
from torch.utils.data import DataLoader
from trainable import RESNET, numbers, train, trainable

from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell
from pld_grid.train.data import DataError, Splits
from pld_grid.train.data._images import Damaged, ImageSplit, decode
from pld_grid.train.loader import Loader
from pld_grid.train.randomness import epoch_order

LOGGER = logging.getLogger("pld_grid.train.data._images")
MADE = photos()
every_format = pytest.mark.parametrize("form", FORMATS)


def png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(data, "PNG")
    return data.getvalue()


def written(folder: Path, form: str, made: list[Photo], augmentation: str = "none") -> Splits:
    FORMATS[form](folder, made)
    return load(folder, augmentation=augmentation)


def bomb(width: int, height: int) -> bytes:
    """A JPEG of 64x48 whose header says another size; all its other pixels are grey."""
    data = io.BytesIO()
    Image.new("RGB", (64, 48)).save(data, "JPEG")
    begun = data.getvalue().index(b"\xff\xc0")
    return data.getvalue().replace(
        data.getvalue()[begun : begun + 9],
        data.getvalue()[begun : begun + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big"),
    )


def sheet() -> bytes:
    data = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(data, "PNG")
    return data.getvalue()


WHOLE = MADE[0].data
BROKEN = {
    "empty": b"",
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut in its header": WHOLE[:20],
    "text": b"<html>not found</html>",
    "zeros": bytes(len(WHOLE)),
    "a PNG, cut": png()[:60],
    "a PNG with another checksum": png().replace(b"IDAT", b"IDAU"),
    "TIFF in name only": b"II*\0" + bytes(8),
    "JPEG of 400 million pixels": bomb(20_000, 20_000),
    "JPEG of 144 million pixels": bomb(12_000, 12_000),
    "JPEG of 4 billion pixels": bomb(65_500, 65_500),
    "PNG of 144 million pixels": sheet(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_whatever_cannot_be_decoded_is_damaged(content: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        decode(content)
    assert str(caught.value)


def test_large_images_are_no_matter_for_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(png()).shape == (32, 32, 3)


def test_ghostscript_is_not_asked() -> None:
    """Pillow would have it run what is in such a file."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(script)) as opened:
        assert opened.format == "EPS"
    with pytest.raises(Damaged, match=f"its {len(script)} bytes are no image"):
        decode(script)


@every_format
def test_files_without_end_are_damaged(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = written(tmp_path, form, MADE).train
    for module in ("_folders", "_images", "_parquet", "_tar"):
        monkeypatch.setattr(f"pld_grid.train.data.{module}.MOST_BYTES", 100)
    assert len(split.reader.read(0)) == 101
    assert split.damage(0).endswith("(it has more than 100 bytes)")


def test_a_pipe_among_images_is_named(tmp_path: Path) -> None:
    splits = written(tmp_path, "folders", MADE)
    pipe = tmp_path / splits.train.reader.name(3)
    pipe.unlink()
    os.mkfifo(pipe)
    assert splits.train.damage(3).endswith(f"{pipe.name} ([Errno 22] it is not a regular file: '{pipe}')")
    with pytest.raises(DataError, match=f"{pipe.name} cannot be read: .*it is not a regular file"):
        splits.train.batch(np.array([3]), 0, 1)


@every_format
@pytest.mark.parametrize("augmentation", ["none", "random_resized"])
def test_the_next_image_takes_the_place_of_a_damaged_one(
    tmp_path: Path, form: str, augmentation: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = written(tmp_path / "whole", form, MADE, augmentation).train
    # Two in a row, the first of which is the last of its class; and the last of all.
    bad = (3, 4, 11)
    split = written(tmp_path / "bad", form, damage(MADE, "train", bad), augmentation).train
    images, target = split.batch(np.arange(12), 3, 2)
    # An image's place decides its crop: with another image there, only a plain one has the same pixels.
    standing = [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    expected, labels = whole.batch(np.arange(12), 3, 2)
    kept = [i for i in range(12) if i not in bad]
    assert torch.equal(images[kept], expected[kept])
    assert target.tolist() == labels[standing].tolist()
    if augmentation == "none":
        assert torch.equal(images, expected[standing])
    assert torch.equal(split.batch(np.arange(12), 3, 2)[0], images)
    named = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert len(named) == len(bad)
    for number, message in zip(bad, named, strict=True):
        assert message.startswith("imagenet: damaged training image ")
        assert of("train", MADE)[number].stem in message


@every_format
def test_more_damaged_images_than_are_tolerated_are_refused_by_name(tmp_path: Path, form: str) -> None:
    split = written(tmp_path, form, damage(MADE, "train", (0, 1, 2, 6), b"")).train
    split.batch(np.arange(6), 0, 1)
    with pytest.raises(DataError) as caught:
        split.batch(np.arange(12), 0, 1)
    message = str(caught.value)
    assert message.startswith("dataset imagenet: 4 training images are damaged, 3 are tolerated: ")
    assert all(of("train", MADE)[number].stem in message for number in (0, 1, 2, 6))


def test_a_split_without_one_good_image_is_refused(tmp_path: Path) -> None:
    small = photos(numbers=(1,))
    split = written(tmp_path, "folders", damage(small, "train", range(3), b"")).train
    with pytest.raises(DataError, match="3 training images are damaged, 2 are tolerated: "):
        split.batch(np.array([0]), 0, 1)


def test_of_many_images_one_in_ten_thousand_is_tolerated(tmp_path: Path) -> None:
    reader = written(tmp_path, "folders", MADE).train.reader
    reader.target_N = np.repeat(np.arange(3), 427_056)
    assert ImageSplit(reader, imagenet(), recipe(3), train=True).tolerated == 128


@pytest.mark.parametrize(("form", "workers"), [*((form, 0) for form in FORMATS), ("folders", 1)])
def test_a_damaged_validation_image_is_refused_at_once(tmp_path: Path, form: str, workers: int) -> None:
    splits = written(tmp_path, form, damage(MADE, "validation", (5,)))
    validation = Loader(splits, recipe(3), seed=0, workers=workers).validation()
    with pytest.raises(DataError) as caught:
        list(validation)
    message = str(caught.value)
    assert message.startswith("dataset imagenet: damaged validation image ")
    assert of("validation", MADE)[5].stem in message
    assert message.isprintable()


@every_format
def test_files_that_are_gone_are_not_taken_for_damaged_images(tmp_path: Path, form: str) -> None:
    split = written(tmp_path, form, MADE).train
    for file in list(tmp_path.rglob("*")):
        if file.is_file() and "train" in str(file.relative_to(tmp_path)):
            file.unlink()
    with pytest.raises(DataError, match=r"^dataset imagenet: .* cannot be read: .*No such file"):
        split.batch(np.array([2]), 0, 1)
    assert not split.damaged_N.any()


# -- with loader processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A log file that loader processes write to as well."""
    file = tmp_path / "damage.log"
    handler = logging.FileHandler(file)
    LOGGER.addHandler(handler)
    yield file
    LOGGER.removeHandler(handler)
    handler.close()


def cell_of(**changes: object) -> Cell:
    small = recipe(3, batch_size=6, micro_batch_size=3, augmentation=AUGMENTATIONS["random_resized"])
    return trainable(student=RESNET, dataset=imagenet(), recipe=small, **changes)


def test_a_cell_with_few_damaged_images_ends_with_the_same_numbers_in_any_number_of_processes(
    tmp_path: Path, log: Path
) -> None:
    FORMATS["tar"](tmp_path / "data", damage(MADE, "train", (2, 7), b""))
    cell = cell_of(epochs=3)
    found = []
    for workers in (0, 2):
        machine = MachineSettings(loader_workers=workers)
        folder = tmp_path / f"store{workers}"
        found.append(numbers(train(folder, cell, data_folder=str(tmp_path / "data"), machine=machine)[cell.cell_id]))
    assert found[0] == found[1]
    assert found[0][0] == "finished"
    lines = log.read_text().splitlines()
    # Once in the first training and once in the second, whichever process met it in however many epochs.
    for number in (2, 7):
        assert sum(of("train", MADE)[number].stem in line for line in lines) == 2
    assert len(lines) == 4


def test_damaged_images_are_counted_over_all_loader_processes(tmp_path: Path) -> None:
    made = photos(numbers=range(1, 9))
    # The loader deals out batches in turn: two damaged images for each of two processes, none next to another.
    batches = epoch_order(0, 1, 24).reshape(-1, 3)
    mine, yours = batches[0::2].ravel().tolist(), batches[1::2].ravel().tolist()
    pairs = itertools.product(itertools.combinations(mine, 2), itertools.combinations(yours, 2))
    spread = (a + b for a, b in pairs if all((i - j) % 24 > 1 for i, j in itertools.permutations(a + b, 2)))
    FORMATS["folders"](tmp_path / "data", damage(made, "train", next(spread), b""))
    cell = cell_of(epochs=1)
    with pytest.raises(DataError) as caught:
        train(tmp_path, cell, data_folder=str(tmp_path / "data"), machine=MachineSettings(loader_workers=2))
    assert str(caught.value).startswith("dataset imagenet: 4 training images are damaged, 3 are tolerated: ")


class _Raises(torch.utils.data.Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise DataError("what: is\twrong")


def test_an_error_of_a_loader_process_is_one_line() -> None:
    with pytest.raises(DataError) as caught:
        list(DataLoader(_Raises(), batch_size=None, sampler=[0], num_workers=1))
    assert str(caught.value) == "what: is\twrong"
