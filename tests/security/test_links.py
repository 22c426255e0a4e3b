"""Links that lead out of the store, a submitted folder, or a dataset."""

import os
import uuid
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, stop
from small_datasets import FORMATS, load, make_photos

from pld_grid.service import job_submission
from pld_grid.store import Store
from pld_grid.util.errors import StoreError

CELL = make_cell()


def _everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the store with the files of a cell."""
    other = Store(tmp_path / "other")
    begin(other, CELL, 1)
    finish(other, CELL)
    begin(other, CELL, 2)
    stop(other, CELL, "failed", "x")
    return tmp_path / "other" / CELL.cell_id


def test_cell_that_is_a_link_is_not_read_written_or_removed(tmp_path, outside):
    before = _everything(outside)
    store = Store(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / CELL.cell_id).symlink_to(outside, target_is_directory=True)
    for use in (
        lambda: store.receipt(CELL),
        lambda: store.load_checkpoint(CELL),
        lambda: store.record(CELL.cell_id),
        lambda: begin(store, CELL, 3),
        lambda: finish(store, CELL),
        lambda: stop(store, CELL, "failed"),
        lambda: store.clear_status(CELL.cell_id),
        lambda: store.remove(CELL.cell_id),
    ):
        with pytest.raises(StoreError, match=f"{CELL.cell_id} .*link") as refused:
            use()
        assert str(refused.value).isprintable()
        assert _everything(outside) == before
    assert (tmp_path / "store" / CELL.cell_id).is_symlink()


@pytest.mark.parametrize("name", ["checkpoints", "receipt.json", "weights.safetensors", "status.json"])
def test_link_inside_a_cell_is_not_read(tmp_path, outside, name):
    before = _everything(outside)
    store = Store(tmp_path / "store")
    begin(store, CELL, 1)
    place = tmp_path / "store" / CELL.cell_id / name
    if place.is_dir():
        place.rename(tmp_path / "away")
    place.unlink(missing_ok=True)
    place.symlink_to(outside / name)
    with pytest.raises(StoreError, match="link"):
        (store.load_checkpoint if name == "checkpoints" else store.read)(
            *((CELL,) if name == "checkpoints" else (CELL.cell_id, name))
        )
    assert _everything(outside) == before


def test_store_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    receipt = finish(Store(tmp_path / "store"), CELL)
    assert Store(tmp_path / "store").receipt(CELL) == receipt
    assert (tmp_path / "disk" / CELL.cell_id / "receipt.json").is_file()


def test_list_shipped_files_skips_links(tmp_path):
    here, secret = tmp_path / "here", tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("mine")
    (here / "grids").mkdir(parents=True)
    (here / "grids" / "a.yaml").write_text("cells: {}")
    (here / "key").symlink_to(secret / "key")
    (here / "keys").symlink_to(secret, target_is_directory=True)
    os.link(secret / "key", here / "own")
    assert {str(path) for path in job_submission.list_shipped_files(here)} == {"grids/a.yaml", "own"}


def test_dataset_index_is_not_written_through_links(tmp_path, monkeypatch):
    """The links have all names that the writer of the shard index may use."""
    mine, data = tmp_path / "mine", tmp_path / "data"
    mine.write_text("mine")
    FORMATS["tar"](data, make_photos())
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    index = ".pld_grid-index-train"
    for name in (f"{index}.npz", f"{index}.{os.getpid()}", f".{index}.npz.00000000.tmp"):
        (data / name).symlink_to(mine)
    load(data)
    assert mine.read_text() == "mine"


def test_dataset_links_are_followed_for_reading(tmp_path):
    """A user may read whatever their run reads."""
    FORMATS["folders"](tmp_path / "disk", make_photos())
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / name).symlink_to(next(p for p in (tmp_path / "disk").iterdir() if p.name.startswith(name[:3])))
    before = _everything(tmp_path / "disk")
    assert len(load(data).train.reader.target_N) == len(load(tmp_path / "disk").train.reader.target_N) > 0
    assert _everything(tmp_path / "disk") == before
