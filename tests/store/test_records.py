"""Records from the store: what they take from a receipt, and receipts of another spec version."""

import logging
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, make_distilled, make_epochs

from pld_grid.experiment.cell import SPEC_VERSION
from pld_grid.store import Mirror, Store
from pld_grid.util.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_record_of_a_receipt_has_all_epochs_and_the_provenance(store):
    done, bad, going = (make_distilled(seed=seed) for seed in range(3))
    receipts = [finish(store, done), finish(store, bad, weights=None, state="diverged", epochs=make_epochs(2))]
    begin(store, going, 2)
    for cell, receipt in zip((done, bad), receipts, strict=True):
        record = store.report_record(cell.cell_id)
        assert (record.epochs, record.provenance) == (receipt.epochs, receipt.provenance)
        assert (record.commit, record.metrics) == (receipt.provenance.commit, receipt.epochs[-1].metrics)
    record = store.report_record(going.cell_id)
    assert (record.state, record.epoch, record.epochs, record.provenance) == ("unfinished", 2, (), None)


def test_record_names_the_run_only_in_the_mlflow_that_has_it(store):
    cell = make_cell()
    finish(store, cell)
    store.write_mirror(
        cell.cell_id, Mirror(tracking_uri="http://a", run_id="r", experiment_id="7", epochs=3, state="finished")
    )
    for tracking_uri, expected in ((None, ("r", "7")), ("http://a", ("r", "7")), ("http://b", ("", ""))):
        record = store.report_records([cell.cell_id], tracking_uri)[cell.cell_id]
        assert (record.run_id, record.experiment_id) == expected


def test_receipt_of_another_spec_version_is_not_read_and_is_reported(store, caplog):
    cell = make_cell().model_copy(update={"spec_version": SPEC_VERSION + 1})
    finish(store, cell)
    with caplog.at_level(logging.WARNING):
        assert store.receipt(cell) is store.record(cell.cell_id) is None
    message = f"the receipt of cell {cell.cell_id} has spec version 3; this version of pld_grid only reads 2"
    assert message in caplog.messages[0]
    with pytest.raises(StoreError, match="has a receipt of another version of pld_grid"):
        store.check_receipt(cell)
    # The file stays, for the version that wrote it.
    assert store.read(cell.cell_id, "receipt.json") is not None
