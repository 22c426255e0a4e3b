"""Links out of the store, out of a folder that is submitted, and out of a dataset."""

import os
import uuid
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, stop
from small_datasets import FORMATS, load, photos

from pld_grid import jobs
from pld_grid.errors import StoreError
from pld_grid.processes import Process
from pld_grid.store import Store

CELL = make_cell()


def _everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else's, that looks as a cell's does."""
    other = Store(tmp_path / "other")
    begin(other, CELL, 1)
    finish(other, CELL)
    begin(other, CELL, 2)
    stop(other, CELL, "failed", "x")
    return tmp_path / "other" / CELL.cell_id


def test_a_cell_that_is_a_link_is_neither_read_nor_written_nor_removed(tmp_path: Path, outside: Path) -> None:
    before = _everything(outside)
    store = Store(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / CELL.cell_id).symlink_to(outside, target_is_directory=True)
    for use in (
        lambda: store.receipt(CELL),
        lambda: store.load_checkpoint(CELL),
        lambda: store.progress(CELL.cell_id),
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
def test_nor_is_a_link_inside_a_cell(tmp_path: Path, outside: Path, name: str) -> None:
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


def test_a_store_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    receipt = finish(Store(tmp_path / "store"), CELL)
    assert Store(tmp_path / "store").receipt(CELL) == receipt
    assert (tmp_path / "disk" / CELL.cell_id / "receipt.json").is_file()


def test_links_are_not_submitted(tmp_path: Path) -> None:
    here, secret = tmp_path / "here", tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("mine")
    (here / "grids").mkdir(parents=True)
    (here / "grids" / "a.yaml").write_text("cells: {}")
    (here / "key").symlink_to(secret / "key")
    (here / "keys").symlink_to(secret, target_is_directory=True)
    os.link(secret / "key", here / "own")
    assert {str(path) for path in jobs.shipped_files(here)} == {"grids/a.yaml", "own"}


def test_nothing_is_written_through_a_datasets_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links of the names that the index of the shards is written under, whichever its writer would take."""
    mine, data = tmp_path / "mine", tmp_path / "data"
    mine.write_text("mine")
    FORMATS["tar"](data, photos())
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    index = ".pld_grid-index-train"
    for name in (f"{index}.npz", f"{index}.{os.getpid()}", f".{index}.npz.{Process.own().mark}.00000000.tmp"):
        (data / name).symlink_to(mine)
    load(data)
    assert mine.read_text() == "mine"


def test_a_datasets_links_are_followed_as_people_link_their_disks(tmp_path: Path) -> None:
    """Reading is all that is done: whoever starts a run may read what it reads."""
    FORMATS["folders"](tmp_path / "disk", photos())
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / name).symlink_to(next(p for p in (tmp_path / "disk").iterdir() if p.name.startswith(name[:3])))
    before = _everything(tmp_path / "disk")
    assert len(load(data).train.reader.target_N) == len(load(tmp_path / "disk").train.reader.target_N) > 0
    assert _everything(tmp_path / "disk") == before
