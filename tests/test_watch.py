"""Reports while cells train: what is read again, what is queued, when it ends, and what MLflow gets of it."""

import logging
import shutil
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import begin, finish, make_cell, make_distilled, stop
from ports import free_port
from service import isolated, wait_for_line

from pld_grid.errors import StoreError
from pld_grid.records import Record
from pld_grid.store import Store, leases
from pld_grid.store.leases import Beat
from pld_grid.track import Tracker, alive, living, newest, prepare_database, submission
from pld_grid.watch import LiveRecords, Publisher, Refresher, follow

CELLS = [make_distilled(seed=seed) for seed in range(3)]
IDS = [cell.cell_id for cell in CELLS]


class Counting(Store):
    """A store that counts what is read."""

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri)
        self.reads: Counter[str] = Counter()

    def read(self, *parts: str) -> bytes | None:
        self.reads["/".join(parts)] += 1
        return super().read(*parts)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")


def submit(store: Store, *, trained: list[str] = IDS) -> submission.Submission:
    """A submission as `run` makes it; no MLflow is contacted."""
    tracker = Tracker(store, "sqlite:///nowhere.db")
    return tracker.start_submission("run", profile="digits", cells={i: ["g"] for i in IDS}, trained=trained)


def states(records: dict[str, Record]) -> list[str]:
    return [records[i].state if i in records else "not run" for i in IDS]


def wait_until(happened: threading.Event) -> None:
    assert happened.wait(60), "it did not happen"


# -- what is queued --------------------------------------------------------------------------------------------------


def test_cells_wait_for_a_run_that_lives(store: Counting):
    live = LiveRecords(store, CELLS)
    started = submit(store, trained=IDS[:2])
    assert states(live.read()) == ["not run"] * 3
    assert not live.going_on
    with living(store, started.submission_id):
        assert [each.submission_id for each in alive(store)] == [started.submission_id]
        assert states(live.read()) == ["queued", "queued", "not run"]
        assert live.going_on
        begin(store, CELLS[0], 1)
        assert states(live.read()) == ["unfinished", "queued", "not run"]
        Tracker(store, "sqlite:///nowhere.db").end_submission(started, "cancelled")
        # It no longer trains, but its results are still on their way to MLflow.
        assert states(live.read()) == ["unfinished", "not run", "not run"]
        assert live.going_on
    assert alive(store) == []
    live.read()
    assert not live.going_on


def test_a_run_for_other_cells_is_none_of_ours(store: Counting):
    with living(store, submit(store, trained=IDS[:1]).submission_id):
        live = LiveRecords(store, CELLS[1:])
        assert live.read() == {}
        assert not live.going_on


def test_a_driver_that_died_on_another_machine_is_waited_for_a_while(store: Counting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "LAPSED", 0.0)
    beat = Beat(machine="elsewhere", host="elsewhere", pid=1, born=1, count=1)
    store.write(beat.canonical.encode(), leases.FOLDER, f"{submit(store).submission_id}.json")
    live = LiveRecords(store, CELLS)
    assert states(live.read()) == ["queued"] * 3
    # No sign of life since.
    assert states(live.read()) == ["not run"] * 3
    assert not live.going_on


def test_the_newest_submission_of_most_cells(store: Counting):
    assert newest(store, IDS) is None
    first = submit(store)
    later = first.model_copy(update={"submission_id": "29990101-000000-00000000", "cells": {IDS[0]: ("g",)}})
    submission.write(store, later)
    # Grids share teachers: a later submission of other grids, which wanted one of these cells, is not meant.
    assert newest(store, IDS) == newest(store, IDS[1:]) == first
    assert newest(store, IDS[:1]) == later


# -- reading again ---------------------------------------------------------------------------------------------------


def test_only_what_changed_is_read_again(store: Counting):
    finish(store, CELLS[0])
    begin(store, CELLS[1], 1)
    live = LiveRecords(store, CELLS)
    assert states(live.read()) == ["finished", "unfinished", "not run"]
    live.read()  # two readings settle it
    store.reads.clear()
    assert states(live.read()) == ["finished", "unfinished", "not run"]
    assert store.reads == {}
    begin(store, CELLS[1], 2)
    records = live.read()
    assert records[IDS[1]].epoch == 2
    stop(store, CELLS[1], "failed", "out of memory")
    assert live.read()[IDS[1]].reason == "out of memory"
    store.clear_status(IDS[1])
    receipt = finish(store, CELLS[1])
    assert live.read()[IDS[1]].epochs == receipt.epochs
    assert not any(name.startswith(IDS[0]) for name in store.reads)
    store.remove(IDS[0], "receipt.json")  # its weights were damaged, say
    assert states(live.read()) == ["not run", "finished", "not run"]


def test_a_run_that_mlflow_got_later_is_seen(store: Counting):
    from pld_grid.store import Mirror

    finish(store, CELLS[0])
    live = LiveRecords(store, CELLS, "http://a")
    for _ in range(2):
        assert live.read()[IDS[0]].run_id == ""
    store.write_mirror(
        IDS[0], Mirror(tracking_uri="http://a", run_id="r", experiment_id="1", epochs=3, state="finished")
    )
    record = live.read()[IDS[0]]
    assert (record.run_id, record.experiment_id) == ("r", "1")


def test_stale_results_show_until_there_is_another(store: Counting):
    finish(store, CELLS[0].teacher)
    old = make_cell(seed=9)
    new = old.model_copy(update={"spec_version": 2})
    finish(store, old)
    live = LiveRecords(store, [new])
    assert live.read()[new.cell_id].state == "stale"
    begin(store, new, 1)
    assert live.read()[new.cell_id].state == "unfinished"


# -- following -------------------------------------------------------------------------------------------------------


def test_following_ends_with_the_run(store: Counting):
    seen: list[list[str]] = []
    live = LiveRecords(store, CELLS)
    run = living(store, submit(store).submission_id)
    run.__enter__()
    steps: Iterator[object] = iter(
        [
            lambda: begin(store, CELLS[0], 1),
            lambda: None,
            lambda: finish(store, CELLS[0]),
            lambda: finish(store, CELLS[1], weights=None, state="diverged"),
            lambda: stop(store, CELLS[2], "failed"),
            lambda: run.__exit__(None, None, None),
        ]
    )
    follow(live, lambda records: seen.append(states(records)), pause=lambda _: next(steps)())
    assert seen == [
        ["queued"] * 3,
        ["unfinished", "queued", "queued"],
        ["finished", "queued", "queued"],
        ["finished", "diverged", "queued"],
        ["finished", "diverged", "failed"],
    ]
    assert list(steps) == []


WATCHER = """
import sys
sys.path.insert(0, sys.argv[2])
from cells import make_distilled
from pld_grid.store import Store
from pld_grid.watch import LiveRecords, follow
live = LiveRecords(Store(sys.argv[1]), [make_distilled(seed=seed) for seed in range(3)])
def tell(records):
    print(" ".join(sorted(record.state for record in records.values())) or "nothing", file=sys.stderr, flush=True)
follow(live, tell, 0.02)
"""


def test_another_process_sees_cells_finish(tmp_path: Path):
    store = Store(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER, store.uri, str(Path(__file__).parent)],
        env=isolated(tmp_path), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for_line(process, "nothing")
        with living(store, submit(store).submission_id):
            wait_for_line(process, "queued queued queued")
            for cell, seen in zip(CELLS, ("finished queued queued", "finished finished queued"), strict=False):
                finish(store, cell)
                wait_for_line(process, seen)
            finish(store, CELLS[2])
            wait_for_line(process, "finished finished finished")
            assert process.poll() is None
        assert process.wait(60) == 0


def test_a_run_is_refreshed_beside_it(tmp_path: Path):
    store, seen, changed = Store(tmp_path), [], threading.Event()

    def refresh(records: dict[str, Record]) -> None:
        seen.append(states(records))
        changed.set()

    with Refresher(LiveRecords(store, CELLS), refresh, lambda: seen.append(["the end"]), 0.001):
        wait_until(changed)
        changed.clear()
        finish(store, CELLS[0])
        wait_until(changed)
    assert seen[0] == ["not run"] * 3
    assert seen[-2:] == [["finished", "not run", "not run"], ["the end"]]


def test_a_run_that_is_stopped_leaves_a_last_report(tmp_path: Path):
    store, seen = Store(tmp_path), []
    live = LiveRecords(store, CELLS)
    with pytest.raises(KeyboardInterrupt), Refresher(live, lambda found: seen.append(states(found)), interval=3600):
        finish(store, CELLS[0])
        raise KeyboardInterrupt
    assert seen == [["finished", "not run", "not run"]]


def test_a_report_that_cannot_be_written_is_told_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tries = threading.Semaphore(0)

    def refresh(_: object) -> None:
        tries.release()
        raise StoreError("reports/digits: no space left")

    with Refresher(LiveRecords(Store(tmp_path), CELLS), refresh, interval=0.001):
        for _ in range(3):
            assert tries.acquire(timeout=60)
    assert caplog.messages == ["the report is not up to date: reports/digits: no space left"]
    assert caplog.records[0].exc_info is None


def test_a_report_that_takes_too_long_holds_nobody_up(tmp_path: Path):
    begun, allowed = threading.Event(), threading.Event()

    def refresh(_: object) -> None:
        begun.set()
        allowed.wait()

    with Refresher(LiveRecords(Store(tmp_path), CELLS), refresh, interval=0.001, timeout=0.001) as refresher:
        wait_until(begun)
    assert refresher._thread.is_alive()
    allowed.set()
    refresher._thread.join(60)
    assert not refresher._thread.is_alive()


# -- in MLflow -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare_database(f"sqlite:///{path}")
    return path


def page_in(uri: str, folder: Path) -> str | None:
    """The page that the one submission's run has."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pld_grid")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    if not runs or not client.list_artifacts(runs[0].info.run_id, "report"):
        return None
    return Path(client.download_artifacts(runs[0].info.run_id, "report/index.html", str(folder))).read_text()


def test_a_report_goes_to_mlflow_now_and_then(tmp_path: Path, fresh_database: Path):
    store, uri = Store(tmp_path / "store"), f"sqlite:///{shutil.copy(fresh_database, tmp_path / 'mlflow.db')}"
    tracker = Tracker(store, uri)
    publisher = Publisher(tracker, IDS, interval=10**9)
    publisher.flush()
    publisher.offer({"index.html": b"nobody asked for it"})
    assert page_in(uri, tmp_path) is None
    submit(store)
    publisher = Publisher(tracker, IDS, interval=10**9)
    for text in (b"1 of 3", b"2 of 3", b"3 of 3"):
        publisher.offer({"index.html": text})
        assert page_in(uri, tmp_path) == "1 of 3"
    publisher.flush()
    assert page_in(uri, tmp_path) == "3 of 3"


def test_that_mlflow_is_away_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = Store(tmp_path / "store")
    submit(store)
    uri = f"http://127.0.0.1:{free_port()}"
    publisher = Publisher(Tracker(store, uri), IDS, interval=0)
    caplog.set_level(logging.WARNING, "pld_grid")
    for _ in range(2):
        publisher.offer({"index.html": b"1"})
    assert caplog.messages == [f"MLflow at {uri}: cannot be reached (connection refused); the report is in its folder"]
