"""Tar shards and parquet files: one line for whatever is wrong with them, and the index of the shards."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from small_datasets import FORMATS, SYNSETS, add, load, of, photos, refused, table_of

from pld_grid.train.data import _tar as tar_module

MADE = photos()

# -- tar shards --------------------------------------------------------------------------------------------------------


def shards_with(folder: Path, **members: bytes) -> None:
    """Good shards, but for one training shard with these members; `__` in a name stands for a dot."""
    FORMATS["tar"](folder, MADE)
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
def test_samples_that_are_not_whole_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    shards_with(tmp_path, **members)
    refused(tmp_path, message)


def test_other_members_of_a_shard_do_not_matter(tmp_path: Path) -> None:
    photo = MADE[0]
    shards_with(tmp_path, README=b"x", __hidden=b"x", a__jpg=photo.data, a__cls=b"0", a__txt=b"x", b__seg__png=b"x")
    reader = load(tmp_path).train.reader
    assert len(reader.target_N) == 7
    assert photo.data in [reader.read(i) for i in range(7)]


def cut(shard: Path, where: int) -> None:
    shard.write_bytes(shard.read_bytes()[:where])


def overwrite(shard: Path, where: int) -> None:
    whole = bytearray(shard.read_bytes())
    whole[where : where + 512] = b"\xff" * 512
    shard.write_bytes(whole)


def first_member_ends(shard: Path) -> int:
    with tarfile.open(shard) as archive:
        return archive.getmembers()[1].offset


@pytest.mark.parametrize(
    "spoil",
    [
        lambda shard: cut(shard, first_member_ends(shard) - 100),
        lambda shard: cut(shard, first_member_ends(shard)),
        lambda shard: cut(shard, 0),
        lambda shard: overwrite(shard, 0),
        lambda shard: overwrite(shard, first_member_ends(shard)),
        lambda shard: shard.write_bytes(gzip.compress(shard.read_bytes())),
    ],
    ids=["cut in an image", "cut between images", "empty", "no header", "a damaged header", "compressed"],
)
def test_truncated_and_damaged_shards_are_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    FORMATS["tar"](tmp_path, MADE)
    spoil(tmp_path / "imagenet1k-validation-1.tar")
    refused(tmp_path, r"imagenet1k-validation-1\.tar: truncated or damaged shard: ")


def test_shards_that_info_does_not_agree_with_are_named(tmp_path: Path) -> None:
    FORMATS["tar"](tmp_path, MADE)
    file = tmp_path / "_info.json"
    info = json.loads(file.read_text())
    info["splits"]["train"]["shard_lengths"] = [6, 7]
    file.write_text(json.dumps(info))
    refused(tmp_path, r"train-1\.tar has 6 images, not the 7 of its _info\.json$")
    (tmp_path / "imagenet1k-train-1.tar").unlink()
    refused(tmp_path, r"shards of its _info\.json are missing: imagenet1k-train-1\.tar$")
    file.write_text('{"splits": []}')
    refused(tmp_path, r"_info\.json: not what timm writes: ")


def test_shards_in_several_folders_are_refused(tmp_path: Path) -> None:
    FORMATS["tar"](tmp_path / "a", MADE)
    FORMATS["tar"](tmp_path / "b", MADE)
    refused(tmp_path, "shards for train lie in several folders: .*a, .*b$")


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose contents were read."""
    names: list[str] = []
    contents = tar_module._contents

    def read(shard: Path) -> Any:
        names.append(shard.name)
        return contents(shard)

    monkeypatch.setattr(tar_module, "_contents", read)
    return names


def test_the_index_is_made_once_and_again_when_a_shard_changes(tmp_path: Path, scanned: list[str]) -> None:
    FORMATS["tar"](tmp_path, MADE)
    first = load(tmp_path)
    assert len(scanned) == 4
    again = load(tmp_path)
    assert len(scanned) == 4
    for old, new in zip(vars(first).values(), vars(again).values(), strict=True):
        assert [new.reader.name(i) for i in range(12)] == [old.reader.name(i) for i in range(12)]
        assert torch.equal(new.batch(np.arange(12), 0, 1)[0], old.batch(np.arange(12), 0, 1)[0])
    shard = tmp_path / "imagenet1k-train-0.tar"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    load(tmp_path)
    assert scanned[4:] == ["imagenet1k-train-0.tar", "imagenet1k-train-1.tar"]


def rewritten(index: Path, **changes: Any) -> None:
    """The index that is kept, with other arrays."""
    with np.load(index) as kept:
        arrays = {name: kept[name] for name in kept.files}
    with index.open("wb") as file:
        np.savez(file, **{name: array for name, array in (arrays | changes).items() if array is not None})


def endless(index: Path) -> None:
    """Its column of labels says that it has 10^12 of them."""
    rewritten(index, target=None)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(index, "a") as archive:
        archive.writestr("target.npy", head.getvalue())


def compressed(index: Path) -> None:
    with np.load(index) as kept:
        arrays = {name: kept[name] for name in kept.files}
    with index.open("wb") as file:
        np.savez_compressed(file, **arrays)


WHOLE = np.arange(12, dtype=np.int64)


@pytest.mark.parametrize(
    "spoil",
    [
        endless,
        compressed,
        lambda index: rewritten(index, target=None),
        lambda index: rewritten(index, target=WHOLE.astype(float)),
        lambda index: rewritten(index, target=WHOLE[:, None]),
        lambda index: rewritten(index, offset=WHOLE[1:]),
        lambda index: rewritten(index, shard=WHOLE),
        lambda index: rewritten(index, shard=WHOLE - 1),
        lambda index: rewritten(index, offset=WHOLE - 1),
        lambda index: rewritten(index, size=np.full(12, -1)),
        lambda index: rewritten(index, size=np.full(12, 10**6)),
        lambda index: rewritten(index, offset=np.full(12, 2**63 - 1)),
        lambda index: rewritten(index, name=np.array(["x"] * 12)),
        lambda index: rewritten(index, name=np.array(b"x")),
        lambda index: rewritten(index, **dict.fromkeys(("shard", "offset", "size", "target"), WHOLE[:0]),
                                name=np.array([], "S1")),
    ],
    ids=["endless", "compressed", "column missing", "real numbers", "two dimensions", "too short", "no such shard",
         "negative shard", "negative offset", "negative size", "large size", "large offset", "names as text",
         "one name", "empty"],
)  # fmt: skip
def test_an_index_of_something_else_is_made_anew(
    tmp_path: Path, scanned: list[str], spoil: Callable[[Path], None]
) -> None:
    FORMATS["tar"](tmp_path, MADE)
    first = load(tmp_path).train.reader
    spoil(tmp_path / ".pld_grid-index-train.npz")
    again = load(tmp_path).train.reader
    assert len(scanned) == 6
    assert [again.name(i) for i in range(12)] == [first.name(i) for i in range(12)]
    assert [again.read(i) for i in range(12)] == [first.read(i) for i in range(12)]
    load(tmp_path)
    assert len(scanned) == 6


def test_an_index_that_is_a_pipe_is_made_anew(tmp_path: Path, scanned: list[str]) -> None:
    FORMATS["tar"](tmp_path, MADE)
    os.mkfifo(tmp_path / ".pld_grid-index-train.npz")
    assert len(load(tmp_path).train) == 12
    assert len(scanned) == 4


def test_names_in_a_shard_need_not_be_text(tmp_path: Path) -> None:
    photo = MADE[0]
    shards_with(tmp_path, **{"\udcff__jpg": photo.data, "\udcff__cls": b"0"})
    for _ in ("made", "kept"):
        reader = load(tmp_path).train.reader
        names = [reader.name(i) for i in range(7)]
        assert reader.read(names.index("imagenet1k-train-0.tar: \udcff.jpg")) == photo.data


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_labels_start_at_nought(tmp_path: Path, form: str) -> None:
    odd = [replace(photo, label=photo.label or -1) for photo in MADE]
    FORMATS[form](tmp_path, odd)
    refused(tmp_path, "train has labels from -1 to 2, not from 0 to 2$")


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, scanned: list[str], content: bytes | None) -> None:
    FORMATS["tar"](tmp_path, MADE)
    load(tmp_path)
    index = tmp_path / ".pld_grid-index-train.npz"
    index.write_bytes(index.read_bytes()[:-9] if content is None else content)
    assert len(load(tmp_path).train) == 12
    assert len(scanned) == 6
    load(tmp_path)
    assert len(scanned) == 6


def test_where_nothing_can_be_written_the_index_is_made_each_time(
    tmp_path: Path, scanned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    FORMATS["tar"](tmp_path, MADE)
    for split in ("train", "validation"):
        # A folder of that name cannot be written either, which is the case for the superuser as well.
        (tmp_path / f".pld_grid-index-{split}.npz").mkdir()
    before = sorted(tmp_path.iterdir())
    for count in (4, 8):
        assert len(load(tmp_path).train) == 12
        assert len(scanned) == count
    assert "the index of the shards is not kept" in caplog.text
    assert sorted(tmp_path.iterdir()) == before


# -- parquet -----------------------------------------------------------------------------------------------------------


TRAIN = "data/train-00000-of-00002.parquet"
TABLE = table_of(of("train", MADE)[:6])
BARE = pa.array([{"bytes": photo.data} for photo in of("train", MADE)[:6]])


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
def test_parquet_files_with_other_columns_are_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    parquet.write_table(table, tmp_path / TRAIN)
    refused(tmp_path, f"{TRAIN}.*{message}")


@pytest.mark.parametrize("content", [b"", b"PAR1", None], ids=["empty", "garbage", "cut"])
def test_truncated_parquet_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    file = tmp_path / TRAIN
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    refused(tmp_path, f"{TRAIN}: truncated or damaged parquet file: ")


def test_images_without_paths_keep_their_order_within_a_class(tmp_path: Path) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    labels = [2, 0, 1, 2, 0, 1]
    parquet.write_table(pa.table({"image": BARE, "label": labels}), tmp_path / TRAIN, row_group_size=4)
    (tmp_path / TRAIN.replace("00000-", "00001-", 1)).unlink()
    reader = load(tmp_path).train.reader
    stored = of("train", MADE)[:6]
    assert [reader.read(i) for i in range(6)] == [stored[i].data for i in (1, 4, 2, 5, 0, 3)]
    assert reader.name(5) == f"{TRAIN}: row 3 of row group 0"


def test_parquet_files_with_other_class_names_are_refused(tmp_path: Path) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    for part in range(2):
        table = table_of(of("validation", MADE), names=("cat", *SYNSETS[1:]))
        parquet.write_table(table, tmp_path / "data" / f"validation-{part:05}-of-00002.parquet")
    refused(tmp_path, "differ in their classes: cat, n01440764$")


@pytest.mark.parametrize("names", [[1, "x"], [["x"]], "cat", {"a": 1}, None])
def test_class_names_that_are_none_do_not_matter(tmp_path: Path, names: Any) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    for file in (tmp_path / "data").glob("train-*"):
        features = json.dumps({"info": {"features": {"label": {"names": names}}}})
        table = parquet.read_table(file).replace_schema_metadata({"huggingface": features})
        parquet.write_table(table, file, row_group_size=2)
    assert load(tmp_path).train.reader.class_names == ()


def test_a_row_without_an_image_is_a_damaged_one(tmp_path: Path) -> None:
    FORMATS["parquet"](tmp_path, MADE)
    image = pa.array([None, {"bytes": None}], pa.struct([("bytes", pa.large_binary())]))
    parquet.write_table(pa.table({"image": image, "label": [0, 0]}), tmp_path / TRAIN)
    split = load(tmp_path).train
    assert [split.damage(i).endswith(f"row {i} of row group 0 (its 0 bytes are no image)") for i in (0, 1)]
    assert split.batch(np.array([0]), 0, 1)[1].tolist() == [0]
    assert split.damaged_N.nonzero().flatten().tolist() == [0, 1]
