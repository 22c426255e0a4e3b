"""Pickles that would run code when loaded, in every place where the package reads an untrusted file."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from cells import finish, make_measured
from huggingface_hub import constants
from loopback_server import QuietHandler, serve
from pyarrow import parquet
from small_datasets import FORMATS, add, load, make_photos
from trainable_cells import distilled, numbers, teacher, train, trainable

from pld_grid.experiment.cell import Model, Pretrained
from pld_grid.store import Manifest, Store, sha256
from pld_grid.train.data import DataError
from pld_grid.train.models import Teacher, build_model
from pld_grid.train.weights import WeightsError, check_weights

pytestmark = pytest.mark.slow

NAME = "test_resnet.r160_in1k"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that a trap creates; fails if it exists after the test."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()
    marker.unlink()
    yield marker
    assert not marker.exists(), "code from a file was run"


def _pickle(marker: Path) -> bytes:
    return pickle.dumps(Trap(marker))


def _torch_save(marker: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Trap(marker), "optimizer": Trap(marker)}, file)
    return file.getvalue()


def _legacy_torch_save(marker: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Trap(marker)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


TRAPS = {"plain": _pickle, "torch": _torch_save, "legacy torch": _legacy_torch_save}
traps = pytest.mark.parametrize("make", TRAPS.values(), ids=TRAPS)


# -- published weights -------------------------------------------------------------------------------------------------


@traps
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".bin", ".pt", ".pkl", ".safetensors"])
def test_pickled_weights_in_a_folder_raise(tmp_path, marker, make, suffix):
    (tmp_path / f"{NAME}{suffix}").write_bytes(make(marker))
    model = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k"))
    cell = make_measured(student=model)
    for read in (
        lambda: check_weights([cell], str(tmp_path)),
        lambda: build_model(model, cell.dataset, 0, str(tmp_path)),
        lambda: Teacher(cell, Store(tmp_path / "store"), str(tmp_path)),
    ):
        with pytest.raises(WeightsError, match="pickle") as error:
            read()
        assert f"{NAME}{suffix}" in str(error.value)
        assert str(error.value).isprintable()


@pytest.fixture
def hub(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with pickles only; yields the paths of the requests."""
    requests: list[str] = []

    class Hub(QuietHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if self.path.endswith((".bin", ".pth", ".pt")):
                self.send(_torch_save(marker), ETag='"0123"', X_Repo_Commit="0" * 40)
            else:
                self.send(b"", 404, ETag='"0123"', X_Repo_Commit="0" * 40, X_Error_Code="EntryNotFound")

        do_HEAD = do_GET

    with serve(Hub) as url:
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield requests


def test_only_safetensors_are_requested_from_the_hub(hub):
    model = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k"))
    with pytest.raises(WeightsError, match=rf"weights {NAME}: timm/{NAME} gives no model\.safetensors: ") as error:
        build_model(model, make_measured().dataset, 0)
    assert str(error.value).isprintable()
    files = [path for path in hub if "/resolve/" in path]
    assert files
    assert all(path.endswith("/model.safetensors") for path in files), files


# -- the store ---------------------------------------------------------------------------------------------------------


@traps
def test_a_pickled_checkpoint_with_a_valid_checksum_is_not_loaded(tmp_path, marker, make):
    cell, payload = trainable(epochs=2), make(marker)
    manifest = Manifest(
        cell_id=cell.cell_id,
        spec_version=cell.spec_version,
        epoch=1,
        sha256=sha256(payload),
        parameters=1,
        started=1.0,
        epochs=(),
    )
    store = Store(tmp_path / "store")
    store.write_cell(cell)
    store.save_checkpoint(manifest, payload)
    receipt = train(tmp_path / "store", cell)[cell.cell_id]
    if receipt is not None:
        # The checkpoint was quarantined, and the cell trained from the start.
        assert numbers(receipt) == numbers(train(tmp_path / "other", cell)[cell.cell_id])
        return
    progress = store.record(cell.cell_id)
    assert progress.state == "failed"
    assert progress.reason.isprintable()


@traps
def test_pickled_teacher_weights_with_a_valid_checksum_raise(tmp_path, marker, make):
    store = Store(tmp_path / "store")
    finish(store, teacher(), weights=make(marker))
    with pytest.raises(WeightsError, match=f"weights of test_resnet in cell {teacher().cell_id}: not those") as error:
        Teacher(teacher(), store)
    assert str(error.value).isprintable()
    with pytest.raises(WeightsError):
        train(tmp_path / "store", distilled())


# -- datasets ----------------------------------------------------------------------------------------------------------

PHOTOS = make_photos()


def _save_object_array(index: Path, marker: Path) -> None:
    with np.load(index, allow_pickle=False) as saved:
        stamp, rows = saved["stamp"], len(saved["index"])
    np.savez(index, stamp=stamp, index=np.array([Trap(marker)] * rows, dtype=object))


def _save_pickles_in_a_zip(index: Path, marker: Path) -> None:
    with zipfile.ZipFile(index, "w") as archive:
        for name in ("stamp", "index"):
            archive.writestr(f"{name}.npy", _pickle(marker))


@pytest.mark.parametrize(
    "replace", [_save_object_array, _save_pickles_in_a_zip, lambda index, marker: index.write_bytes(_pickle(marker))]
)
def test_a_pickled_index_of_shards_is_rebuilt(tmp_path, marker, replace):
    FORMATS["tar"](tmp_path, PHOTOS)
    expected = load(tmp_path).train.reader.target_N
    indexes = sorted(tmp_path.rglob("*.npz"))
    assert indexes
    for index in indexes:
        replace(index, marker)
    assert np.array_equal(load(tmp_path).train.reader.target_N, expected)


def test_pickles_in_parquet_metadata_are_not_loaded(tmp_path, marker):
    """Old versions of Arrow unpickled the type named in a file's metadata."""
    FORMATS["parquet"](tmp_path, PHOTOS)
    expected = load(tmp_path).train.reader.target_N
    for file in sorted(tmp_path.rglob("*.parquet")):
        table = parquet.read_table(file)
        metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": _pickle(marker)}
        fields = [field.with_metadata(metadata) if field.name == "label" else field for field in table.schema]
        parquet.write_table(pa.table(table.columns, schema=pa.schema(fields, table.schema.metadata)), file)
    try:
        actual = load(tmp_path).train.reader.target_N
    except DataError as error:
        assert str(error).isprintable()
    else:
        assert np.array_equal(actual, expected)


def test_tar_members_are_neither_extracted_nor_followed(tmp_path):
    data = tmp_path / "data"
    FORMATS["tar"](data, PHOTOS)
    for info in data.glob("*info.json"):
        info.unlink()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"not yours")
    photo = PHOTOS[0].data
    with tarfile.open(data / "imagenet1k-train-0.tar", "w") as archive:
        for name in ("../../outside", "/tmp/pld-grid-outside", "inside"):
            add(archive, f"{name}.jpg", photo)
            add(archive, f"{name}.json", json.dumps({"label": 0}).encode())
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.jpg")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
            add(archive, f"link{kind.decode()}.cls", b"0")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"imagenet1k-train-0\.tar: link. has no image"):
        load(data)
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/pld-grid-outside.jpg").exists()
