"""Tar shards and parquet files: one-line errors for invalid ones, and the index of the shards."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from small_datasets import FORMATS, SYNSETS, add, assert_refused, load, make_photos, make_table, select_split

from pld_grid.train.data import _shard_index

PHOTOS = make_photos()

# -- tar shards --------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, **members: bytes) -> None:
    """Writes valid shards and one training shard with these members; `__` in a name stands for a dot."""
    FORMATS["tar"](folder, PHOTOS)
    (folder / "_info.json").unlink()
    with tarfile.open(folder / "imagenet1k-train-0.tar", "w") as archive:
        for name, content in members.items():
            add(archive, name.replace("__", "."), content)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a__jpg": b"x"}, r"train-0\.tar: a has no label: a number in \.cls, or as label in \.json$"),
        ({"a__jpg": b"x", "a__cls": b"dog"}, "a has no label"),
        ({"a__jpg": b"x", "a__json": b'{"class": 3}'}, "a has no label"),
        ({"a__jpg": b"x", "a__json": b"{"}, "a has no label"),
        ({"a__cls": b"1"}, r"train-0\.tar: a has no image \(jpg, jpeg, png, webp\)$"),
    ],
)
def test_a_sample_without_image_or_label_raises(tmp_path, members, message):
    write_shards(tmp_path, **members)
    assert_refused(tmp_path, message)


def test_other_members_of_a_shard_are_ignored(tmp_path):
    photo = PHOTOS[0]
    write_shards(tmp_path, README=b"x", __hidden=b"x", a__jpg=photo.data, a__cls=b"0", a__txt=b"x", b__seg__png=b"x")
    reader = load(tmp_path).train.reader
    assert len(reader.target_N) == 7
    assert photo.data in [reader.read(i) for i in range(7)]


def cut(shard: Path, where: int) -> None:
    shard.write_bytes(shard.read_bytes()[:where])


def overwrite(shard: Path, where: int) -> None:
    whole = bytearray(shard.read_bytes())
    whole[where : where + 512] = b"\xff" * 512
    shard.write_bytes(whole)


def find_second_member(shard: Path) -> int:
    with tarfile.open(shard) as archive:
        return archive.getmembers()[1].offset


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda shard: cut(shard, find_second_member(shard) - 100),
        lambda shard: cut(shard, find_second_member(shard)),
        lambda shard: cut(shard, 0),
        lambda shard: overwrite(shard, 0),
        lambda shard: overwrite(shard, find_second_member(shard)),
        lambda shard: shard.write_bytes(gzip.compress(shard.read_bytes())),
    ],
    ids=["cut in an image", "cut between images", "empty", "no header", "a damaged header", "compressed"],
)
def test_a_truncated_or_damaged_shard_raises(tmp_path, corrupt):
    FORMATS["tar"](tmp_path, PHOTOS)
    corrupt(tmp_path / "imagenet1k-validation-1.tar")
    assert_refused(tmp_path, r"imagenet1k-validation-1\.tar: truncated or damaged shard: ")


def test_shards_that_differ_from_info_json_raise(tmp_path):
    FORMATS["tar"](tmp_path, PHOTOS)
    file = tmp_path / "_info.json"
    info = json.loads(file.read_text())
    info["splits"]["train"]["shard_lengths"] = [6, 7]
    file.write_text(json.dumps(info))
    assert_refused(tmp_path, r"train-1\.tar has 6 images, not the 7 of its _info\.json$")
    (tmp_path / "imagenet1k-train-1.tar").unlink()
    assert_refused(tmp_path, r"shards of its _info\.json are missing: imagenet1k-train-1\.tar$")
    file.write_text('{"splits": []}')
    assert_refused(tmp_path, r"_info\.json: not what timm writes: ")


def test_shards_of_one_split_in_several_folders_raise(tmp_path):
    FORMATS["tar"](tmp_path / "a", PHOTOS)
    FORMATS["tar"](tmp_path / "b", PHOTOS)
    assert_refused(tmp_path, "shards for train lie in several folders: .*a, .*b$")


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were scanned."""
    names: list[str] = []
    contents = _shard_index._scan_shard

    def read(shard: Path) -> Any:
        names.append(shard.name)
        return contents(shard)

    monkeypatch.setattr(_shard_index, "_scan_shard", read)
    return names


def test_index_is_saved_and_rebuilt_when_a_shard_changes(tmp_path, scanned):
    FORMATS["tar"](tmp_path, PHOTOS)
    first = load(tmp_path)
    assert len(scanned) == 4
    second = load(tmp_path)
    assert len(scanned) == 4
    for old, new in zip(vars(first).values(), vars(second).values(), strict=True):
        assert [new.reader.name(i) for i in range(12)] == [old.reader.name(i) for i in range(12)]
        assert torch.equal(new.batch(np.arange(12), 0, 1)[0], old.batch(np.arange(12), 0, 1)[0])
    shard = tmp_path / "imagenet1k-train-0.tar"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    load(tmp_path)
    assert scanned[4:] == ["imagenet1k-train-0.tar", "imagenet1k-train-1.tar"]


def rewrite(file: Path, save: Callable[..., None] = np.savez, **columns: Any) -> None:
    """Saves an index again with other values in some columns, or without those that are None."""
    with np.load(file) as saved:
        index, stamp = saved["index"], saved["stamp"]
    arrays = {name: index[name] for name in index.dtype.names} | columns
    fields = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    changed = np.empty(len(index), [(name, array.dtype) for name, array in fields.items()])
    for name, array in fields.items():
        changed[name] = array
    with file.open("wb") as opened:
        save(opened, index=changed, stamp=stamp)


def rewrite_shape(file: Path, change: Callable[[Any], Any]) -> None:
    with np.load(file) as saved:
        index, stamp = saved["index"], saved["stamp"]
    np.savez(file, index=change(index), stamp=stamp)


def declare_a_huge_array(file: Path) -> None:
    """The header of the index declares 10^12 rows."""
    with np.load(file) as saved:
        index, stamp = saved["index"], saved["stamp"]
    np.savez(file, stamp=stamp)
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(index.dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("index.npy", header.getvalue())


def replace_with_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


NUMBERS = np.arange(12, dtype=np.int64)
CORRUPTIONS: dict[str, Callable[[Path], None]] = {
    "garbage": lambda file: file.write_bytes(b"garbage") and None,
    "empty": lambda file: file.write_bytes(b"") and None,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]) and None,
    "pipe": replace_with_a_pipe,
    "huge": declare_a_huge_array,
    "compressed": lambda file: rewrite(file, np.savez_compressed),
    "column missing": lambda file: rewrite(file, target=None),
    "real numbers": lambda file: rewrite(file, target=NUMBERS.astype(float)),
    "names as text": lambda file: rewrite(file, name=["x"] * 12),
    "two dimensions": lambda file: rewrite_shape(file, lambda index: index[:, None]),
    "no rows": lambda file: rewrite_shape(file, lambda index: index[:0]),
    "no such shard": lambda file: rewrite(file, shard=NUMBERS),
    "negative shard": lambda file: rewrite(file, shard=NUMBERS - 1),
    "negative offset": lambda file: rewrite(file, offset=NUMBERS - 1),
    "negative size": lambda file: rewrite(file, size=-1),
    "large size": lambda file: rewrite(file, size=10**6),
    "large offset": lambda file: rewrite(file, offset=2**63 - 1),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_an_invalid_index_is_rebuilt(tmp_path, scanned, corrupt):
    FORMATS["tar"](tmp_path, PHOTOS)
    first = load(tmp_path).train.reader
    corrupt(tmp_path / ".pld_grid-index-train.npz")
    second = load(tmp_path).train.reader
    assert len(scanned) == 6
    assert [second.name(i) for i in range(12)] == [first.name(i) for i in range(12)]
    assert [second.read(i) for i in range(12)] == [first.read(i) for i in range(12)]
    load(tmp_path)
    assert len(scanned) == 6


def test_file_names_in_a_shard_may_be_any_bytes(tmp_path):
    photo = PHOTOS[0]
    write_shards(tmp_path, **{"\udcff__jpg": photo.data, "\udcff__cls": b"0"})
    for _ in ("scanned", "saved"):
        reader = load(tmp_path).train.reader
        names = [reader.name(i) for i in range(7)]
        assert reader.read(names.index("imagenet1k-train-0.tar: \udcff.jpg")) == photo.data


def test_index_that_cannot_be_saved_is_rebuilt_each_time(tmp_path, scanned, caplog):
    FORMATS["tar"](tmp_path, PHOTOS)
    for split in ("train", "validation"):
        # A folder in its place prevents writing even for the superuser.
        (tmp_path / f".pld_grid-index-{split}.npz").mkdir()
    before = sorted(tmp_path.iterdir())
    for count in (4, 8):
        assert len(load(tmp_path).train) == 12
        assert len(scanned) == count
    assert "the index of the shards cannot be saved" in caplog.text
    assert sorted(tmp_path.iterdir()) == before


# -- parquet -----------------------------------------------------------------------------------------------------------


TRAIN = "data/train-00000-of-00002.parquet"
TABLE = make_table(select_split("train", PHOTOS)[:6])
BARE = pa.array([{"bytes": photo.data} for photo in select_split("train", PHOTOS)[:6]])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.drop_columns(["label"]), r"needs the columns image \(bytes and path\) and label; it has: image$"),
        (TABLE.rename_columns(["img", "label"]), "it has: img, label$"),
        (pa.table({"image": ["a.jpg"], "label": [1]}), "it has: image, label$"),
        (pa.table({"image": BARE, "label": ["dog"] * 6}), "label is string, not a whole number$"),
        (pa.table({"image": BARE, "label": [1, None, 0, 0, 0, 0]}), "some images have no label$"),
    ],
)
def test_a_parquet_file_with_other_columns_raises(tmp_path, table, message):
    FORMATS["parquet"](tmp_path, PHOTOS)
    parquet.write_table(table, tmp_path / TRAIN)
    assert_refused(tmp_path, f"{TRAIN}.*{message}")


def test_parquet_images_without_paths_keep_their_order_within_a_class(tmp_path):
    FORMATS["parquet"](tmp_path, PHOTOS)
    labels = [2, 0, 1, 2, 0, 1]
    parquet.write_table(pa.table({"image": BARE, "label": labels}), tmp_path / TRAIN, row_group_size=4)
    (tmp_path / TRAIN.replace("00000-", "00001-", 1)).unlink()
    reader = load(tmp_path).train.reader
    stored = select_split("train", PHOTOS)[:6]
    assert [reader.read(i) for i in range(6)] == [stored[i].data for i in (1, 4, 2, 5, 0, 3)]
    assert reader.name(5) == f"{TRAIN}: row 3 of row group 0"


def test_parquet_files_with_different_class_names_raise(tmp_path):
    FORMATS["parquet"](tmp_path, PHOTOS)
    for part in range(2):
        table = make_table(select_split("validation", PHOTOS), names=("cat", *SYNSETS[1:]))
        parquet.write_table(table, tmp_path / "data" / f"validation-{part:05}-of-00002.parquet")
    assert_refused(tmp_path, "differ in their classes: cat, n01440764$")


@pytest.mark.parametrize("names", [[1, "x"], [["x"]], "cat", {"a": 1}, None])
def test_invalid_class_names_in_parquet_metadata_are_ignored(tmp_path, names):
    FORMATS["parquet"](tmp_path, PHOTOS)
    for file in (tmp_path / "data").glob("train-*"):
        features = json.dumps({"info": {"features": {"label": {"names": names}}}})
        table = parquet.read_table(file).replace_schema_metadata({"huggingface": features})
        parquet.write_table(table, file, row_group_size=2)
    assert load(tmp_path).train.reader.class_names == ()


def test_a_parquet_row_without_an_image_is_damaged(tmp_path):
    FORMATS["parquet"](tmp_path, PHOTOS)
    image = pa.array([None, {"bytes": None}], pa.struct([("bytes", pa.large_binary())]))
    parquet.write_table(pa.table({"image": image, "label": [0, 0]}), tmp_path / TRAIN)
    split = load(tmp_path).train
    assert [split.describe_damage(i).endswith(f"row {i} of row group 0 (its 0 bytes are no image)") for i in (0, 1)]
    assert split.batch(np.array([0]), 0, 1)[1].tolist() == [0]
    assert split.damaged_N.nonzero().flatten().tolist() == [0, 1]
