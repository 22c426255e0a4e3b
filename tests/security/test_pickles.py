"""A pickle that would run code when it is opened, in all places where a file of somebody else's is read."""

import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from cells import finish, make_measured
from huggingface_hub import constants
from pyarrow import parquet
from small_datasets import FORMATS, add, load, photos
from trainable import distilled, numbers, teacher, train, trainable

from pld_grid.spec import Model, Pretrained
from pld_grid.store import Manifest, Store, sha256
from pld_grid.train.data import DataError
from pld_grid.train.models import Teacher, build_model
from pld_grid.train.weights import WeightsError, check_weights

NAME = "test_resnet.r160_in1k"


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> object:
        return Path.touch, (self.sprung,)


@pytest.fixture
def sprung(tmp_path: Path) -> Iterator[Path]:
    """The file that a trap leaves; that it can is seen before the test, that it has not after it."""
    place = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(place)))
    assert place.exists()
    place.unlink()
    yield place
    assert not place.exists(), "code from a file was run"


def _plain(sprung: Path) -> bytes:
    return pickle.dumps(Trap(sprung))


def _as_torch_saves(sprung: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Trap(sprung), "optimizer": Trap(sprung)}, file)
    return file.getvalue()


def _as_torch_saved_once(sprung: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Trap(sprung)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


TRAPS = {"plain": _plain, "torch": _as_torch_saves, "torch's old format": _as_torch_saved_once}
traps = pytest.mark.parametrize("make", TRAPS.values(), ids=TRAPS)


# -- published weights -------------------------------------------------------------------------------------------------


@traps
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".bin", ".pt", ".pkl", ".safetensors"])
def test_weights_in_a_folder(tmp_path: Path, sprung: Path, make: Callable[[Path], bytes], suffix: str) -> None:
    (tmp_path / f"{NAME}{suffix}").write_bytes(make(sprung))
    model = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k"))
    cell = make_measured(student=model)
    for read in (
        lambda: check_weights([cell], str(tmp_path)),
        lambda: build_model(model, cell.dataset, 0, str(tmp_path)),
        lambda: Teacher(cell, Store(tmp_path / "store"), str(tmp_path)),
    ):
        with pytest.raises(WeightsError, match="pickle") as refused:
            read()
        assert f"{NAME}{suffix}" in str(refused.value)
        assert str(refused.value).isprintable()


@pytest.fixture
def hub(sprung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that has nothing but pickles; the paths that it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path.endswith((".bin", ".pth", ".pt"))
            content = _as_torch_saves(sprung) if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"0123"')
            self.send_header("X-Repo-Commit", "0" * 40)
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{at}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_hub_that_has_only_pickles_is_asked_for_safetensors_alone(hub: list[str]) -> None:
    model = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k"))
    with pytest.raises(WeightsError, match=rf"weights {NAME}: timm/{NAME} gives no model\.safetensors: ") as refused:
        build_model(model, make_measured().dataset, 0)
    assert str(refused.value).isprintable()
    files = [path for path in hub if "/resolve/" in path]
    assert files
    assert all(path.endswith("/model.safetensors") for path in files), files


# -- the store ---------------------------------------------------------------------------------------------------------


@traps
def test_a_checkpoint_with_a_right_checksum(tmp_path: Path, sprung: Path, make: Callable[[Path], bytes]) -> None:
    cell, payload = trainable(epochs=2), make(sprung)
    manifest = Manifest(
        cell_id=cell.cell_id, spec_version=cell.spec_version, epoch=1, sha256=sha256(payload), parameters=1,
        started=1.0, epochs=(),
    )  # fmt: skip
    store = Store(tmp_path / "store")
    store.write_cell(cell)
    store.save_checkpoint(manifest, payload)
    receipt = train(tmp_path / "store", cell)[cell.cell_id]
    if receipt is not None:
        # Set aside, and trained from the start.
        assert numbers(receipt) == numbers(train(tmp_path / "other", cell)[cell.cell_id])
        return
    progress = store.progress(cell.cell_id)
    assert progress is not None
    assert progress.state == "failed"
    assert progress.reason.isprintable()


@traps
def test_a_teachers_weights_with_a_right_checksum(tmp_path: Path, sprung: Path, make: Callable[[Path], bytes]) -> None:
    store = Store(tmp_path / "store")
    finish(store, teacher(), weights=make(sprung))
    with pytest.raises(WeightsError, match=f"weights of test_resnet in cell {teacher().cell_id}: not those") as refused:
        Teacher(teacher(), store)
    assert str(refused.value).isprintable()
    with pytest.raises(WeightsError):
        train(tmp_path / "store", distilled())


# -- datasets ----------------------------------------------------------------------------------------------------------

MADE = photos()


def test_an_index_of_shards_that_holds_objects(tmp_path: Path, sprung: Path) -> None:
    FORMATS["tar"](tmp_path, MADE)
    expected = load(tmp_path).train.reader.target_N
    for index in sorted(tmp_path.rglob("*.npz")):
        with np.load(index, allow_pickle=False) as kept:
            columns = {name: kept[name] for name in kept.files}
        columns["target"] = np.array([Trap(sprung)] * len(columns["target"]), dtype=object)
        np.savez(index, **columns)
    assert list(tmp_path.rglob("*.npz"))
    assert np.array_equal(load(tmp_path).train.reader.target_N, expected)


def test_an_index_of_shards_that_is_a_pickle(tmp_path: Path, sprung: Path) -> None:
    FORMATS["tar"](tmp_path, MADE)
    expected = load(tmp_path).train.reader.target_N
    for index in sorted(tmp_path.rglob("*.npz")):
        index.write_bytes(_plain(sprung))
    assert np.array_equal(load(tmp_path).train.reader.target_N, expected)
    for index in sorted(tmp_path.rglob("*.npz")):
        with zipfile.ZipFile(index, "w") as archive:
            for name in ("stamp", "target", "offset", "size", "shard", "name"):
                archive.writestr(f"{name}.npy", _plain(sprung))
    assert np.array_equal(load(tmp_path).train.reader.target_N, expected)


def test_a_parquet_file_whose_types_are_pickles(tmp_path: Path, sprung: Path) -> None:
    """Arrow once unpickled the type that a file's metadata names."""
    FORMATS["parquet"](tmp_path, MADE)
    expected = load(tmp_path).train.reader.target_N
    for file in sorted(tmp_path.rglob("*.parquet")):
        table = parquet.read_table(file)
        metadata = {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": _plain(sprung),
        }
        fields = [field.with_metadata(metadata) if field.name == "label" else field for field in table.schema]
        parquet.write_table(pa.table(table.columns, schema=pa.schema(fields, table.schema.metadata)), file)
    try:
        found = load(tmp_path).train.reader.target_N
    except DataError as error:
        assert str(error).isprintable()
    else:
        assert np.array_equal(found, expected)


def test_a_shard_is_read_in_place_wherever_its_members_say_they_belong(tmp_path: Path) -> None:
    data = tmp_path / "data"
    FORMATS["tar"](data, MADE)
    for info in data.glob("*info.json"):
        info.unlink()
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"not yours")
    photo = MADE[0].data
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
