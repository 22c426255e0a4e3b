"""Runs of killed drivers and workers end, and duplicate runs are deleted."""

import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from cells import METRICS, begin, finish, make_cell, make_epochs, make_parent_run
from paths import SUPPORT

from pld_grid.experiment.cell import Cell
from pld_grid.store import Store, leases
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Heartbeat, Lease
from pld_grid.track import parent_runs
from pld_grid.track.background_sync import BackgroundSync
from pld_grid.track.mlflow_client import connect
from pld_grid.track.parent_runs import ParentRun
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import TrackingError

pytestmark = pytest.mark.slow

DRIVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from cells import begin, make_cell, make_parent_run
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.track.tracker import Tracker
store, cell = Store(sys.argv[1]), make_cell()
tracker = Tracker(store, sys.argv[2])
run = tracker.parent_runs.start(make_parent_run([cell.cell_id]))
worker = Lease(store, "worker")
with Lease(store, run.submission_id).keep_alive(), worker.keep_alive():
    assert Claims(store, worker).acquire(cell)
    begin(store, cell, 2)
    tracker.sync_all()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_load_damaged_parent_run_is_skipped(tmp_path):
    store = Store(tmp_path)
    known = Tracker(store, "sqlite:///nowhere").parent_runs.start(make_parent_run([]))
    assert list(parent_runs.load(store)) == [known]
    whole = store.read(parent_runs.FOLDER, f"{known.submission_id}.json")
    for damaged in (b"", b"[" * 200_000, whole[:-9], whole.replace(known.submission_id[:4].encode(), b"1999")):
        store.write(damaged, parent_runs.FOLDER, f"{known.submission_id}.json")
        assert list(parent_runs.load(store)) == []


def states(tracker: Tracker, kind: str) -> list[str]:
    """Return MLflow's states of the cells or parent runs, oldest first."""
    client = connect(tracker.tracking_uri)
    experiment = client.get_experiment_by_name(tracker.experiment)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run.info.status for run in runs if f"pld_grid.{kind}_id" in run.data.tags]


def submit(tracker: Tracker, cell: Cell) -> ParentRun:
    return tracker.parent_runs.start(make_parent_run([cell.cell_id]))


def kill_driver(tracker: Tracker) -> None:
    arguments = [tracker.store.uri, tracker.tracking_uri, str(SUPPORT)]
    assert subprocess.run([sys.executable, "-c", DRIVER, *arguments]).returncode == -9


def write_remote_heartbeat(store: Store, lease_id: str, count: int = 1) -> None:
    """Write the heartbeat of a process on another machine."""
    last = Heartbeat(machine="elsewhere", host="elsewhere", pid=1, start_ticks=1, count=count)
    store.write(last.canonical.encode(), leases.FOLDER, f"{lease_id}.json")


# -- epochs ----------------------------------------------------------------------------------------------------------


def test_sync_killed_between_metrics_and_tags_logs_retrained_epochs_once(tracker, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    cell, store, client = make_cell(), tracker.store, connect(tracker.tracking_uri)
    for last in (2, 4):
        begin(store, cell, last)
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            # MLflow commits the metrics of a batch before its tags.
            killed.setattr(SqlAlchemyStore, "_set_tags", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            tracker.sync(cell.cell_id)
        # The checkpoints are lost, too, and the epochs are trained again at another time.
        store.remove(cell.cell_id, "checkpoints")
        retrained = [epoch.model_copy(update={"time": epoch.time + 60}) for epoch in make_epochs(last)]
        begin(store, cell, last, records=tuple(retrained))
        tracker = Tracker(store, tracker.tracking_uri)
        tracker.sync(cell.cell_id)
        run_id = store.mirror(cell.cell_id).run_id
        for name in METRICS:
            assert [each.step for each in client.get_metric_history(run_id, name)] == list(range(1, last + 1))
        assert client.get_run(run_id).data.tags["pld_grid.logged_epoch"] == str(last)


# -- drivers ---------------------------------------------------------------------------------------------------------


def test_sync_ends_parent_run_of_killed_driver(tracker):
    kill_driver(tracker)
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["RUNNING"], ["RUNNING"])
    assert tracker.sync_all() == 2
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED"], ["KILLED"])
    assert [each.state for each in parent_runs.load(tracker.store)] == ["lost"]
    assert tracker.sync_all() == 0
    assert [name for name in tracker.store.names(leases.FOLDER) if name != "worker.json"] == []
    # Another driver continues the cell in the same run.
    cell = make_cell()
    with (
        Lease(tracker.store, submit(tracker, cell).submission_id).keep_alive(),
        Lease(tracker.store, "w").keep_alive() as worker,
    ):
        assert Claims(tracker.store, worker).acquire(cell)
        tracker.sync_all()
        assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED", "RUNNING"], ["RUNNING"])


def test_sync_ends_parent_run_without_lease(tracker):
    kill_driver(tracker)
    # As the next run does when it starts.
    leases.remove_dead(tracker.store)
    assert tracker.store.names(leases.FOLDER) == []
    assert tracker.sync_all() == 2
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED"], ["KILLED"])


def test_sync_leaves_live_driver_alone(tracker, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    cell = make_cell()
    begin(tracker.store, cell, 1)
    started = submit(tracker, cell)
    another = Tracker(tracker.store, tracker.tracking_uri)
    with Lease(tracker.store, started.submission_id).keep_alive():
        another.sync_all()
        assert another.parent_runs.undecided
        assert states(tracker, "submission") == ["RUNNING"]
        # No process has claimed its cell.
        assert states(tracker, "cell") == ["KILLED"]
        tracker.parent_runs.end(started, "finished")
    another.sync_all()
    assert not another.parent_runs.undecided
    assert states(tracker, "submission") == ["FINISHED"]


@pytest.mark.parametrize("dies", [True, False])
def test_sync_observes_remote_driver_before_ending_it(dies, tracker, monkeypatch):
    monkeypatch.setattr(parent_runs, "POLL_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(leases, "LEASE_TTL_SECONDS", 0.1 if dies else 3600.0)
    cell, store = make_cell(), tracker.store
    begin(store, cell, 1)
    submission_id = submit(tracker, cell).submission_id
    write_remote_heartbeat(store, submission_id)
    over = threading.Event()

    def go_on() -> None:
        count = 1
        while not over.wait(0.01):
            write_remote_heartbeat(store, submission_id, count := count + 1)

    thread = threading.Thread(target=go_on)
    if not dies:
        thread.start()
    try:
        Tracker(store, tracker.tracking_uri).sync_all()
        assert states(tracker, "submission") == ["FAILED" if dies else "RUNNING"]
    finally:
        over.set()
        if not dies:
            thread.join()


def test_background_sync_ends_remote_driver_killed_meanwhile(tracker, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_TTL_SECONDS", 0.0)
    cell = make_cell()
    elsewhere = submit(tracker, cell).submission_id
    write_remote_heartbeat(tracker.store, elsewhere)
    ours = Tracker(tracker.store, tracker.tracking_uri)
    mirror = BackgroundSync(ours)
    mirror.start()
    started = submit(ours, cell)
    with Lease(tracker.store, started.submission_id).keep_alive():
        finish(tracker.store, cell)
        mirror.request_sync(cell.cell_id)
        ours.parent_runs.end(started, "finished")
        mirror.request_sync(started.submission_id)
        assert mirror.close() == 0
    assert sorted(states(tracker, "submission")) == ["FAILED", "FINISHED"]


def test_sync_driver_that_ends_meanwhile_keeps_its_state(tracker, monkeypatch):
    known = submit(tracker, make_cell())
    another = Tracker(tracker.store, tracker.tracking_uri)

    def end_meanwhile(lease_id: str) -> bool:
        tracker.parent_runs.end(known, "cancelled")
        return expired(lease_id)

    observer = another.parent_runs.observer
    expired = observer.expired
    monkeypatch.setattr(observer, "expired", end_meanwhile)
    another.sync_all()
    assert states(tracker, "submission") == ["KILLED"]


# -- duplicate runs --------------------------------------------------------------------------------------------------


def test_sync_deletes_duplicate_runs(tracker):
    cell = make_cell()
    finish(tracker.store, cell)
    started = submit(tracker, cell)
    tracker.parent_runs.end(started, "finished")
    tracker.sync_all()
    client = connect(tracker.tracking_uri)
    experiment = client.get_experiment_by_name(tracker.experiment).experiment_id
    # As if a client had repeated its request after a timeout: one run is older than the valid one, and one newer.
    for time in (1, 2_000_000_000_000):
        for tags in ({"pld_grid.cell_id": cell.cell_id}, {"pld_grid.submission_id": started.submission_id}):
            client.create_run(experiment, start_time=time, tags=tags)
    assert tracker.sync_all() == 2
    assert states(tracker, "cell") == ["FINISHED"]
    assert states(tracker, "submission") == ["FINISHED"]
    assert tracker.sync_all() == 0


# -- background sync -------------------------------------------------------------------------------------------


class FakeTracker:
    """Syncs an item when `answers` is released; raises what `fails` returns for the number of the call."""

    parent_runs = SimpleNamespace(undecided=False)

    def __init__(self, fails: Callable[[int], Exception | None] = lambda _: None) -> None:
        self.calls = 0
        self.fails = fails
        self.answers = threading.Semaphore(0)
        self.called = threading.Semaphore(0)

    def outdated(self) -> list[str]:
        return []

    def sync(self, item: str) -> None:
        self.calls += 1
        self.called.release()
        if (error := self.fails(self.calls)) is not None:
            raise error
        self.answers.acquire()

    def reachable(self) -> bool:
        return self.calls % 4 == 1


@pytest.mark.parametrize(
    ("error", "warnings"),
    [
        (TrackingError("MLflow: down"), ["MLflow: down; training goes on, and what MLflow lacks stays in the store"]),
        (RuntimeError("unexpected"), [f"{number} is not mirrored: unexpected" for number in range(20)]),
    ],
)
def test_background_sync_warns_once_and_retries(error, warnings, caplog, monkeypatch):
    monkeypatch.setattr("pld_grid.track.background_sync.INTERVAL_SECONDS", 0.0)
    tracker = FakeTracker(fails=lambda call: error if call % 2 == 1 else None)
    tracker.answers.release(20)
    background = BackgroundSync(tracker)
    background.start()
    for number in range(20):
        background.request_sync(str(number))
    for _ in range(40):
        assert tracker.called.acquire(timeout=60)
    assert background.close() == 0
    assert set(caplog.messages) <= set(warnings)
    assert len(caplog.messages) == len(set(caplog.messages)) > 0


def test_background_sync_close_waits_while_items_are_synced():
    tracker = FakeTracker()
    background = BackgroundSync(tracker)
    background.start()
    background.request_sync("0")
    assert tracker.called.acquire(timeout=60)
    # More items are requested, the first one again, while MLflow does not answer.
    for item in "120":
        background.request_sync(item)
    assert background.pending() == 3
    tracker.answers.release()
    # One sync ends, then none for longer than the idle timeout.
    assert background.close(timeout=3600, idle_timeout=0.1) == 3
    tracker.answers.release(5)
    assert background.close(timeout=3600) == 0
