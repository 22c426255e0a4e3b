"""The two ways of reading all runs: an embedded database at once, and MLflow's client."""

import time
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, make_distilled

from pld_grid.errors import TrackingError
from pld_grid.records import from_store
from pld_grid.store import Store
from pld_grid.track import EXPERIMENT, Tracker, records, runs
from pld_grid.track.runs import brief, stream, survey
from pld_grid.track.server import connect

DELETED = 2  # of MLflow's ViewType


@pytest.fixture
def mirrored(tmp_path: Path) -> tuple[Store, str]:
    """A store and its MLflow, which also has runs that are not the store's, are deleted, or are there twice."""
    store, uri = Store(tmp_path / "store"), f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(store, uri)
    done, going = make_distilled(seed=1), make_cell(seed=2)
    finish(store, done)
    begin(store, going, 2)
    wanted = {cell.cell_id: ["mine"] for cell in (done, going)}
    submission = tracker.start_submission("mine", profile="digits", cells=wanted, trained=[], summary={})
    tracker.end_submission(submission, "finished")
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


def test_a_database_tells_what_the_client_does(mirrored: tuple[Store, str]):
    _, uri = mirrored
    client = connect(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    by_client = [run for run in map(brief, stream(client, experiment)) if run.tags]
    assert len(by_client) == 4
    assert list(survey(uri, client, experiment)) == by_client


@pytest.mark.parametrize("layout", ["as expected", "another"])
def test_records_do_not_depend_on_the_way(layout: str, mirrored: tuple[Store, str], monkeypatch: pytest.MonkeyPatch):
    if layout == "another":
        monkeypatch.setattr(runs, "_BRIEFS", "SELECT nothing FROM nowhere WHERE experiment_id = ?")
    store, uri = mirrored
    tracker = Tracker(store, uri)
    assert records(uri) == from_store(store, sorted(store.cell_ids()), tracker.address)
    # One has a run too many, which the next sync deletes.
    (doubled,) = tracker.outdated()
    assert tracker.sync_all() == 1
    assert records(uri)[doubled].run_id == from_store(store, [doubled])[doubled].run_id
    assert tracker.outdated() == []
    # Nowhere is it called running.
    client = connect(uri)
    deleted = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], run_view_type=DELETED)
    assert [run.info.status for run in deleted if run.info.start_time == 1] == ["KILLED"]


def test_a_database_that_is_away_is_told_of_within_seconds():
    began = time.monotonic()
    with pytest.raises(TrackingError, match="onnection refused"):
        records("postgresql://127.0.0.1:1/x")
    # MLflow would try for two minutes.
    assert time.monotonic() - began < 60
