"""The two ways to list runs: from an embedded database, and by MLflow's client."""

import time

import pytest
from cells import begin, finish, make_cell, make_distilled, make_parent_run

from pld_grid.store import Store
from pld_grid.track import mlflow_internals
from pld_grid.track.database import upgrade_database
from pld_grid.track.mirrored_records import load_records
from pld_grid.track.mlflow_client import connect
from pld_grid.track.runs import ExperimentRuns, RunInfo
from pld_grid.track.tracker import Tracker
from pld_grid.track.tracking_uri import EXPERIMENT
from pld_grid.util.errors import TrackingError

pytestmark = pytest.mark.slow

DELETED = 2  # of MLflow's ViewType


@pytest.fixture
def mirrored(store: Store, uri: str, tracker: Tracker) -> tuple[Store, str]:
    """Return a store and its MLflow, which also has foreign, deleted and duplicate runs."""
    done, going = make_distilled(seed=1), make_cell(seed=2)
    finish(store, done)
    begin(store, going, 2)
    submission = tracker.parent_runs.start(make_parent_run([done.cell_id, going.cell_id], trained=[]))
    tracker.parent_runs.end(submission, "finished")
    for item in (submission.submission_id, done.cell_id, going.cell_id):
        tracker.sync(item)
    client = connect(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    tags = {"pld_grid.cell_id": done.cell_id}
    client.create_run(experiment, start_time=1, tags=tags)
    client.delete_run(client.create_run(experiment, start_time=2, tags=tags).info.run_id)
    client.create_run(experiment, start_time=3, run_name="somebody else's")
    client.create_run(client.create_experiment("another"), start_time=4, tags=tags)
    return store, uri


def test_list_runs_from_database_equals_client(mirrored):
    _, uri = mirrored
    client = connect(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = ExperimentRuns(client, uri, experiment)
    by_client = [run for run in map(RunInfo.from_run, runs.search()) if run.tags]
    assert len(by_client) == 4
    assert runs.list_runs() == by_client


def test_mlflow_internals_missing_part_is_named(monkeypatch):
    import mlflow.store.db.utils

    monkeypatch.delattr(mlflow.store.db.utils, "create_sqlalchemy_engine")
    expected = "differs from 3.17, with which pld_grid is tested: cannot import name 'create_sqlalchemy_engine'"
    with pytest.raises(TrackingError, match=expected):
        upgrade_database("postgresql://localhost/mlflow")


@pytest.mark.parametrize("layout", ["as expected", "another"])
def test_load_records_with_unknown_tables_uses_client(layout, mirrored, monkeypatch):
    if layout == "another":
        monkeypatch.setattr(mlflow_internals, "_LIST_RUNS", "SELECT nothing FROM nowhere WHERE ? = ?")
    store, uri = mirrored
    tracker = Tracker(store, uri)
    assert load_records(uri) == store.report_records(sorted(store.cell_ids()), tracker.address)
    # One cell has a duplicate run, which the next sync deletes.
    (duplicate,) = tracker.outdated()
    assert tracker.sync_all() == 1
    assert load_records(uri)[duplicate].run_id == store.report_records([duplicate])[duplicate].run_id
    assert tracker.outdated() == []
    # Its status is not RUNNING even among the deleted runs.
    client = connect(uri)
    deleted = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], run_view_type=DELETED)
    assert [run.info.status for run in deleted if run.info.start_time == 1] == ["KILLED"]


def test_load_records_unreachable_database_raises_within_seconds():
    began = time.monotonic()
    with pytest.raises(TrackingError, match="onnection refused"):
        load_records("postgresql://127.0.0.1:1/x")
    # MLflow itself would retry for two minutes.
    assert time.monotonic() - began < 60
