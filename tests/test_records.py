"""Records from the store: what they hold of a receipt, and results of earlier spec versions."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, make_distilled, make_epochs, make_measured, stop

from pld_grid.records import Record, earlier_ids, finished_in, from_store, read_record, with_stale
from pld_grid.spec import Cell
from pld_grid.store import Mirror, Store, sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def of_version(cell: Cell, version: int) -> Cell:
    """The same cell, and teacher, under another spec version."""
    teacher = of_version(cell.teacher, version) if cell.teacher else None
    return cell.model_copy(update={"spec_version": version, "teacher": teacher})


def finish_before(store: Store, cell: Cell, version: int, **changes: object) -> str:
    """Leaves a result of a version that today's models do not read; returns its id."""
    content = cell.model_dump(mode="json") | {"spec_version": version}
    if content["teacher"]:
        content["teacher"]["spec_version"] = version
    old = sha256(json.dumps(content | changes, sort_keys=True, separators=(",", ":")).encode())[:16]
    body = json.dumps({"state": "finished", "cell": content | changes}, sort_keys=True, separators=(",", ":"))
    store.write(f'{{"sha256":"{sha256(body.encode())}","content":{body}}}\n'.encode(), old, "receipt.json")
    return old


def stale_in(store: Store, *cells: Cell) -> dict[str, Record]:
    found = from_store(store, [cell.cell_id for cell in cells])
    return {
        cell_id: record
        for cell_id, record in with_stale(found, cells, lambda ids: finished_in(store, ids)).items()
        if record.state == "stale"
    }


def test_a_receipt_tells_all_epochs_and_where_they_were_trained(store: Store):
    done, bad, going = (make_distilled(seed=seed) for seed in range(3))
    receipts = [finish(store, done), finish(store, bad, weights=None, state="diverged", epochs=make_epochs(2))]
    begin(store, going, 2)
    for cell, receipt in zip((done, bad), receipts, strict=True):
        record = read_record(store, cell.cell_id)
        assert record is not None
        assert (record.epochs, record.provenance) == (receipt.epochs, receipt.provenance)
        assert (record.commit, record.metrics) == (receipt.provenance.commit, receipt.epochs[-1].metrics)
    record = read_record(store, going.cell_id)
    assert record is not None
    assert (record.state, record.epoch, record.epochs, record.provenance) == ("unfinished", 2, (), None)


def test_a_run_counts_in_the_mlflow_that_it_is_in(store: Store):
    cell = make_cell()
    finish(store, cell)
    store.write_mirror(
        cell.cell_id, Mirror(tracking_uri="http://a", run_id="r", experiment_id="7", epochs=3, state="finished")
    )
    for mirrored_in, expected in ((None, ("r", "7")), ("http://a", ("r", "7")), ("http://b", ("", ""))):
        record = from_store(store, [cell.cell_id], mirrored_in)[cell.cell_id]
        assert (record.run_id, record.experiment_id) == expected


@pytest.mark.parametrize(
    "cell", [make_cell(), make_distilled(), make_measured()], ids=["plain", "distilled", "measured"]
)
def test_ids_of_earlier_versions_are_those_that_the_cell_had(cell: Cell):
    old = of_version(cell, 1)
    assert earlier_ids(of_version(cell, 3))[old.cell_id] == 1
    assert sorted(earlier_ids(of_version(cell, 3)).values()) == [0, 1, 2]


def test_a_result_of_an_earlier_version_is_stale(store: Store):
    cell = make_distilled()
    old = finish_before(store, cell, 0)
    reason = f"finished under spec version 0 as {old}; this version is 1"
    assert stale_in(store, cell) == {
        cell.cell_id: Record(cell.cell_id, "stale", reason, 0, {}, None, "", ""),
    }
    finish(store, cell)
    assert stale_in(store, cell) == {}
    # Of several, the latest.
    newer = of_version(cell, 2)
    assert stale_in(store, newer)[newer.cell_id].reason == (
        f"finished under spec version 1 as {cell.cell_id}; this version is 2"
    )


def test_what_differs_in_more_or_has_no_result_is_not_stale(store: Store):
    cell = make_distilled()
    finish_before(store, cell, 0, seed=4)
    finish_before(store, cell, 0, colour="red")
    assert stale_in(store, cell) == {}
    diverged, begun, stopped = (make_cell(seed=seed) for seed in (1, 2, 3))
    finish(store, diverged, weights=None, state="diverged")
    begin(store, begun, 2)
    stop(store, stopped, "failed", "out of memory")
    assert stale_in(store, *(of_version(each, 2) for each in (diverged, begun, stopped))) == {}


def test_a_damaged_receipt_of_an_earlier_version_is_not_stale(store: Store):
    cell = make_cell()
    old = finish_before(store, cell, 0)
    data = store.read(old, "receipt.json") or b""
    store.write(data[:-9], old, "receipt.json")
    assert stale_in(store, cell) == {}


def test_nothing_is_looked_for_while_every_cell_has_a_record(store: Store):
    def look(ids: Collection[str]) -> Collection[str]:
        raise AssertionError(f"asked for {ids}")

    cell = make_cell()
    stop(store, cell, "failed")
    found = from_store(store, [cell.cell_id])
    assert with_stale(found, [cell], look) == found
