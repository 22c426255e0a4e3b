"""Runs of cells whose results were archived or quarantined."""

import io
from pathlib import Path
from unittest.mock import Mock

import pytest
from cells import STARTED, begin, finish, make_cell
from rich.console import Console

from pld_grid.service import mirroring, planner
from pld_grid.service.workspace import Workspace
from pld_grid.store import EpochRecord, Receipt
from pld_grid.store.records import Records
from pld_grid.track.mirrored_records import load_records
from pld_grid.track.mlflow_client import connect
from pld_grid.track.parent_runs import ParentRuns
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import StoreFull

pytestmark = pytest.mark.slow

CELL = make_cell()


def other_numbers(receipt: Receipt) -> tuple[EpochRecord, ...]:
    """Return the epochs of another training of the cell, as on another device."""
    return tuple(
        each.model_copy(
            update={"metrics": {name: value + 10 for name, value in each.metrics.items()}, "time": STARTED + 500}
        )
        for each in receipt.epochs
    )


def test_sync_archived_and_retrained_cell_shows_only_its_current_result(store, uri):
    def assert_equal_records(outdated: int) -> Records:
        # A new tracker knows only what MLflow has.
        tracker = Tracker(store, uri)
        assert tracker.sync_all() == outdated
        assert tracker.sync_all() == 0
        records = load_records(uri, cell_ids=[CELL.cell_id])
        assert records == store.report_records([CELL.cell_id])
        return records

    earlier = finish(store, CELL)
    assert_equal_records(1)
    run = store.mirror(CELL.cell_id)
    archived = store.archive_cell(CELL.cell_id).rpartition("/")[2]
    # The driver is killed before the next training has any result.
    store.write_cell(CELL)
    assert assert_equal_records(1) == {}
    # All epochs of the next training are logged, the first ones too.
    epochs = other_numbers(earlier)
    begin(store, CELL, 1, records=epochs[:1])
    assert_equal_records(1)
    finish(store, CELL, epochs=epochs, metrics=epochs[-1].metrics)
    assert assert_equal_records(1) != {}
    history = connect(uri).get_metric_history(run.run_id, "top1")
    expected = [(each.epoch, each.metrics["top1"]) for each in (*earlier.epochs, *epochs)]
    assert sorted((each.step, each.value) for each in history) == sorted(expected)
    # Renamed back, the earlier results are the cell's again.
    store.archive_cell(CELL.cell_id)
    Path(store.path(archived)).rename(store.path(CELL.cell_id))
    assert assert_equal_records(1)[CELL.cell_id].epochs == earlier.epochs
    restored = connect(uri).get_metric_history(run.run_id, "top1")
    assert {each.value for each in restored} == {value for _, value in expected}


def test_sync_cell_retrained_after_damage_shows_its_new_result(store, uri):
    tracker = Tracker(store, uri)
    earlier = finish(store, CELL)
    tracker.sync_all()
    store.write(b"other weights", CELL.cell_id, "weights.safetensors")
    store.check_weights(CELL)
    # MLflow is down while the cell is retrained.
    epochs = other_numbers(earlier)
    finish(store, CELL, epochs=epochs, metrics=epochs[-1].metrics, weights=b"new weights")
    assert tracker.sync_all() == 1
    assert load_records(uri, cell_ids=[CELL.cell_id]) == store.report_records([CELL.cell_id])
    assert tracker.sync_all() == 0


def test_mirroring_full_store_keeps_the_first_error(store, uri, monkeypatch, profile, grid):
    del profile
    made = grid("cells: {student: ResNet-50, loss: ce}")  # type: ignore[operator]
    workspace = Workspace(str(store.root), uri, "full")
    plan = planner.plan([made], workspace)

    monkeypatch.setattr(ParentRuns, "end", Mock(side_effect=StoreFull("no space left")))
    console = Console(file=io.StringIO())
    with pytest.raises(ZeroDivisionError), mirroring.mirror_to_mlflow([made], plan, store, workspace, console):
        raise ZeroDivisionError
