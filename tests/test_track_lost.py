"""What MLflow calls running is running: drivers and workers that died, and runs that a lost answer made twice."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import METRICS, begin, finish, make_cell, make_epochs

from pld_grid.errors import TrackingError
from pld_grid.spec import Cell
from pld_grid.store import Store, leases
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Beat, Lease, Observer
from pld_grid.track import Mirrorer, Tracker, living, prepare_database, submission
from pld_grid.track.runs import create
from pld_grid.track.server import connect

DRIVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from cells import begin, make_cell
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.track import Tracker, living
store, cell = Store(sys.argv[1]), make_cell()
tracker = Tracker(store, sys.argv[2], sys.argv[4])
run = tracker.start_submission("run", profile="digits", cells={cell.cell_id: ["g"]}, trained=[cell.cell_id])
worker = Lease(store, "worker")
with living(store, run.submission_id), worker.held():
    assert Claims(store, worker).take(cell)
    begin(store, cell, 2)
    tracker.sync_all()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_submission_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    known = Tracker(store, "sqlite:///nowhere").start_submission("run", profile="digits", cells={}, trained=[])
    assert list(submission.load(store)) == [known]
    whole = store.read(submission.FOLDER, f"{known.submission_id}.json")
    assert whole is not None
    for damaged in (b"", b"[" * 200_000, whole[:-9], whole.replace(known.submission_id[:4].encode(), b"1999")):
        store.write(damaged, submission.FOLDER, f"{known.submission_id}.json")
        assert list(submission.load(store)) == []


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow for all tests here: each has an experiment of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    prepare_database(uri)
    return uri


@pytest.fixture
def tracker(tmp_path: Path, uri: str) -> Tracker:
    return Tracker(Store(tmp_path / "store"), uri, tmp_path.name)


def states(tracker: Tracker, kind: str) -> list[str]:
    """What MLflow says of the cells or the submissions, oldest first."""
    client = connect(tracker.tracking_uri)
    experiment = client.get_experiment_by_name(tracker.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run.info.status for run in found if f"pld_grid.{kind}_id" in run.data.tags]


def submit(tracker: Tracker, cell: Cell) -> submission.Submission:
    ids = [cell.cell_id]
    return tracker.start_submission("run", profile="digits", cells={cell.cell_id: ["g"]}, trained=ids)


def a_driver_is_killed(tracker: Tracker) -> None:
    told = [tracker.store.uri, tracker.tracking_uri, str(Path(__file__).parent), tracker.experiment]
    assert subprocess.run([sys.executable, "-c", DRIVER, *told]).returncode == -9


def beat_elsewhere(store: Store, lease_id: str, count: int = 1) -> None:
    """A sign of life of a process on another machine."""
    beat = Beat(machine="elsewhere", host="elsewhere", pid=1, born=1, count=count)
    store.write(beat.canonical.encode(), leases.FOLDER, f"{lease_id}.json")


# -- epochs ----------------------------------------------------------------------------------------------------------


def test_epochs_are_there_once_though_their_mirror_died_before_it_could_say_so_and_they_were_trained_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, store, client = make_cell(), tracker.store, connect(tracker.tracking_uri)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for first in (1, 3):
        begin(store, cell, first + 1)
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            # MLflow commits the metrics of a batch before its tags.
            killed.setattr(SqlAlchemyStore, "_set_tags", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            tracker.sync(cell.cell_id)
        # Its checkpoints were lost, too.
        store.remove(cell.cell_id, "checkpoints")
        again = [each.model_copy(update={"time": each.time + 60}) for each in make_epochs(first + 1)]
        begin(store, cell, first + 1, records=tuple(again))
        tracker = Tracker(store, tracker.tracking_uri, tracker.experiment)
        tracker.sync(cell.cell_id)
        mirror = store.mirror(cell.cell_id)
        assert mirror is not None
        for name in METRICS:
            assert [each.step for each in client.get_metric_history(mirror.run_id, name)] == list(range(1, first + 2))
        assert client.get_run(mirror.run_id).data.tags["pld_grid.logged_epoch"] == str(first + 1)


# -- drivers ---------------------------------------------------------------------------------------------------------


def test_a_killed_driver_is_ended_by_the_next_command(tracker: Tracker) -> None:
    a_driver_is_killed(tracker)
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["RUNNING"], ["RUNNING"])
    assert tracker.sync_all() == 2
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED"], ["KILLED"])
    assert [each.state for each in submission.load(tracker.store)] == ["lost"]
    assert tracker.sync_all() == 0
    assert [name for name in tracker.store.names(leases.FOLDER) if name != "worker.json"] == []
    # Its cell goes on under another driver, as the same run.
    cell = make_cell()
    with living(tracker.store, submit(tracker, cell).submission_id), Lease(tracker.store, "w").held() as worker:
        assert Claims(tracker.store, worker).take(cell)
        tracker.sync_all()
        assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED", "RUNNING"], ["RUNNING"])


def test_a_killed_driver_is_ended_though_its_lease_was_cleared_away(tracker: Tracker) -> None:
    a_driver_is_killed(tracker)
    # As the next run does while its mirror looks around.
    leases.forget(tracker.store)
    assert tracker.store.names(leases.FOLDER) == []
    assert tracker.sync_all() == 2
    assert (states(tracker, "submission"), states(tracker, "cell")) == (["FAILED"], ["KILLED"])


def test_a_driver_that_lives_is_left_alone(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.01)
    cell = make_cell()
    begin(tracker.store, cell, 1)
    started = submit(tracker, cell)
    another = Tracker(tracker.store, tracker.tracking_uri, tracker.experiment)
    with living(tracker.store, started.submission_id):
        another.sync_all()
        assert another.in_doubt
        assert states(tracker, "submission") == ["RUNNING"]
        # Nobody has begun with its cell.
        assert states(tracker, "cell") == ["KILLED"]
        tracker.end_submission(started, "finished")
    another.sync_all()
    assert not another.in_doubt
    assert states(tracker, "submission") == ["FINISHED"]


@pytest.mark.parametrize("dies", [True, False])
def test_a_driver_on_another_machine_is_watched_for_a_while(
    dies: bool, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LOOK", 0.01)
    monkeypatch.setattr(leases, "LAPSED", 0.1 if dies else 3600.0)
    cell, store = make_cell(), tracker.store
    begin(store, cell, 1)
    submission_id = submit(tracker, cell).submission_id
    beat_elsewhere(store, submission_id)
    over = threading.Event()

    def go_on() -> None:
        count = 1
        while not over.wait(0.01):
            beat_elsewhere(store, submission_id, count := count + 1)

    thread = threading.Thread(target=go_on)
    if not dies:
        thread.start()
    try:
        Tracker(store, tracker.tracking_uri, tracker.experiment).sync_all()
        assert states(tracker, "submission") == ["FAILED" if dies else "RUNNING"]
    finally:
        over.set()
        if not dies:
            thread.join()


def test_a_run_ends_another_machines_driver_that_dies_beside_it(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LAPSED", 0.0)
    cell = make_cell()
    elsewhere = submit(tracker, cell).submission_id
    beat_elsewhere(tracker.store, elsewhere)
    ours = Tracker(tracker.store, tracker.tracking_uri, tracker.experiment)
    mirror = Mirrorer(ours)
    mirror.start()
    started = submit(ours, cell)
    with living(tracker.store, started.submission_id):
        finish(tracker.store, cell)
        mirror.mark(cell.cell_id)
        ours.end_submission(started, "finished")
        mirror.mark(started.submission_id)
        assert mirror.close() == 0
    assert sorted(states(tracker, "submission")) == ["FAILED", "FINISHED"]


def test_who_ends_while_being_judged_is_believed(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    known = submit(tracker, make_cell())
    another = Tracker(tracker.store, tracker.tracking_uri, tracker.experiment)

    def ends(judged: submission.Submission, observer: Observer) -> bool:
        tracker.end_submission(known, "cancelled")
        return found(judged, observer)

    found: Callable[[submission.Submission, Observer], bool] = submission.lost
    monkeypatch.setattr(submission, "lost", ends)
    another.sync_all()
    assert states(tracker, "submission") == ["KILLED"]


# -- a run too many --------------------------------------------------------------------------------------------------


def test_a_run_that_a_late_request_makes_is_deleted_by_the_next_sync(tracker: Tracker) -> None:
    cell = make_cell()
    finish(tracker.store, cell)
    started = submit(tracker, cell)
    tracker.end_submission(started, "finished")
    tracker.sync_all()
    client, experiment = tracker._connection.get()
    # The first attempt of a client that has given up and asked again; one before and one after what became the run.
    for time in (1, 2_000_000_000_000):
        for tags in ({"pld_grid.cell_id": cell.cell_id}, {"pld_grid.submission_id": started.submission_id}):
            client.create_run(experiment, start_time=time, tags=tags)
    assert tracker.sync_all() == 2
    assert states(tracker, "cell") == ["FINISHED"]
    assert states(tracker, "submission") == ["FINISHED"]
    assert tracker.sync_all() == 0


def test_a_run_that_mlflow_does_not_show_is_an_error(tracker: Tracker) -> None:
    class Forgetful:
        def create_run(self, *_: object, **__: object) -> None:
            """Keeps nothing."""

        def search_runs(self, *_: object, **__: object) -> object:
            return tracker._connection.get()[0].search_runs(["0"])

    with pytest.raises(TrackingError, match="MLflow does not show the run mine that it has just made"):
        create(Forgetful(), "0", "pld_grid.cell_id", {"pld_grid.cell_id": "x"}, "mine", 1.0)


# -- the mirror's warnings -------------------------------------------------------------------------------------------


class Flapping:
    """MLflow as the mirror's thread sees it: every other item arrives, and each failure has a reason of its own."""

    in_doubt = False

    def __init__(self) -> None:
        self.calls = 0
        self.arrived = threading.Semaphore(0)

    def sync(self, item: str) -> None:
        self.calls += 1
        if self.calls % 2:
            raise TrackingError(f"MLflow: trouble {self.calls}") from OSError("reset")
        self.arrived.release()

    def reachable(self) -> bool:
        return self.calls % 4 == 1


def test_a_server_that_comes_and_goes_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pld_grid.track.mirrorer.INTERVAL", 0.0)
    flapping = Flapping()
    mirror = Mirrorer(flapping, replay=False)
    mirror.start()
    for number in range(50):
        mirror.mark(str(number))
    for _ in range(50):
        assert flapping.arrived.acquire(timeout=60)
    assert mirror.close() == 0
    assert caplog.messages == ["MLflow: trouble 1; training goes on, and what MLflow lacks stays in the store"]


def test_an_end_waits_as_long_as_something_arrives(tmp_path: Path) -> None:
    class Slow:
        in_doubt = False

        def __init__(self) -> None:
            self.answer = threading.Semaphore(0)

        def sync(self, item: str) -> None:
            self.answer.acquire()

        def reachable(self) -> bool:
            return True

    slow = Slow()
    mirror = Mirrorer(slow, replay=False)
    mirror.start()
    for number in range(3):
        mirror.mark(str(number))
    slow.answer.release()
    # One arrives, then nothing more for longer than the patience lasts.
    assert mirror.close(timeout=3600, patience=0.1) in (2, 3)
    slow.answer.release(5)
    assert mirror.close(timeout=3600) == 0
