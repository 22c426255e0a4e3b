"""Live reports: what is read again, which cells are queued, when following ends, and uploads to MLflow."""

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
from cells import begin, finish, make_distilled, make_parent_run, stop
from cli_process import isolated, wait_for_line
from paths import SUPPORT
from ports import free_port

from pld_grid.service.live_report import LiveRecords, Publisher, refresh_in_background
from pld_grid.store import Mirror, Store, leases
from pld_grid.store.leases import Heartbeat, Lease
from pld_grid.store.records import CellRecord
from pld_grid.track import parent_runs
from pld_grid.track.parent_runs import ParentRun, load_active_parent_runs, load_latest_parent_run
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import StoreError

CELLS = [make_distilled(seed=seed) for seed in range(3)]
IDS = [cell.cell_id for cell in CELLS]


class Counting(Store):
    """A store that counts reads by file."""

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri)
        self.reads: Counter[str] = Counter()

    def read(self, *parts: str) -> bytes | None:
        self.reads["/".join(parts)] += 1
        return super().read(*parts)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    return Counting(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")


def submit(store: Store, *, trained: list[str] = IDS) -> ParentRun:
    """A submission as `run` makes it; no MLflow is contacted."""
    tracker = Tracker(store, "sqlite:///nowhere.db")
    return tracker.parent_runs.start(make_parent_run(IDS, trained=trained))


def states(records: dict[str, CellRecord]) -> list[str]:
    return [records[i].state if i in records else "not run" for i in IDS]


def wait_until(event: threading.Event) -> None:
    assert event.wait(60), "the event did not happen"


# -- queued cells --------------------------------------------------------------------------------------------------


def test_cells_are_queued_while_their_run_lives(store):
    live = LiveRecords(store, CELLS)
    started = submit(store, trained=IDS[:2])
    assert states(live.read()) == ["not run"] * 3
    assert not live.active
    with Lease(store, started.submission_id).keep_alive():
        assert [each.submission_id for each in load_active_parent_runs(store)] == [started.submission_id]
        assert states(live.read()) == ["queued", "queued", "not run"]
        assert live.active
        begin(store, CELLS[0], 1)
        assert states(live.read()) == ["unfinished", "queued", "not run"]
        Tracker(store, "sqlite:///nowhere.db").parent_runs.end(started, "cancelled")
        # It no longer trains, but its results are still on their way to MLflow.
        assert states(live.read()) == ["unfinished", "not run", "not run"]
        assert live.active
    assert load_active_parent_runs(store) == []
    live.read()
    assert not live.active


def test_run_for_other_cells_is_ignored(store):
    with Lease(store, submit(store, trained=IDS[:1]).submission_id).keep_alive():
        live = LiveRecords(store, CELLS[1:])
        assert live.read() == {}
        assert not live.active


def test_driver_that_died_elsewhere_counts_until_its_lease_expires(store, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_TTL_SECONDS", 0.0)
    beat = Heartbeat(machine="elsewhere", host="elsewhere", pid=1, start_ticks=1, count=1)
    store.write(beat.canonical.encode(), leases.FOLDER, f"{submit(store).submission_id}.json")
    live = LiveRecords(store, CELLS)
    assert states(live.read()) == ["queued"] * 3
    # No sign of life since.
    assert states(live.read()) == ["not run"] * 3
    assert not live.active


def test_newest_prefers_the_run_of_most_cells(store):
    assert load_latest_parent_run(store, IDS) is None
    first = submit(store)
    later = first.model_copy(update={"submission_id": "29990101-000000-00000000", "cells": {IDS[0]: ("g",)}})
    parent_runs.write(store, later)
    # Grids share teachers: a later submission of other grids, which wanted one of these cells, is not meant.
    assert load_latest_parent_run(store, IDS) == load_latest_parent_run(store, IDS[1:]) == first
    assert load_latest_parent_run(store, IDS[:1]) == later


# -- reading again ---------------------------------------------------------------------------------------------------


def test_read_again_reads_only_changed_cells(store):
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


def test_read_again_sees_a_later_mlflow_run(store):
    finish(store, CELLS[0])
    live = LiveRecords(store, CELLS, "http://a")
    for _ in range(2):
        assert live.read()[IDS[0]].run_id == ""
    store.write_mirror(
        IDS[0], Mirror(tracking_uri="http://a", run_id="r", experiment_id="1", epochs=3, state="finished")
    )
    record = live.read()[IDS[0]]
    assert (record.run_id, record.experiment_id) == ("r", "1")


# -- following -------------------------------------------------------------------------------------------------------


def test_show_changes_ends_with_the_run(store):
    seen: list[list[str]] = []
    live = LiveRecords(store, CELLS)
    run = Lease(store, submit(store).submission_id).keep_alive()
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
    while not live.show_changes(lambda records: seen.append(states(records))):
        next(steps)()
    assert seen == [
        ["queued"] * 3,
        ["unfinished", "queued", "queued"],
        ["finished", "queued", "queued"],
        ["finished", "diverged", "queued"],
        ["finished", "diverged", "failed"],
    ]
    assert list(steps) == []


WATCHER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from cells import make_distilled
from pld_grid.store import Store
from pld_grid.service.live_report import LiveRecords
live = LiveRecords(Store(sys.argv[1]), [make_distilled(seed=seed) for seed in range(3)])
def on_change(records):
    print(" ".join(sorted(record.state for record in records.values())) or "nothing", file=sys.stderr, flush=True)
while not live.show_changes(on_change):
    time.sleep(0.02)
"""


def test_show_changes_in_another_process_sees_cells_finish(tmp_path):
    store = Store(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER, store.uri, str(SUPPORT)],
        env=isolated(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_line(process, "nothing")
        with Lease(store, submit(store).submission_id).keep_alive():
            wait_for_line(process, "queued queued queued")
            for cell, seen in zip(CELLS, ("finished queued queued", "finished finished queued"), strict=False):
                finish(store, cell)
                wait_for_line(process, seen)
            finish(store, CELLS[2])
            wait_for_line(process, "finished finished finished")
            assert process.poll() is None
        assert process.wait(60) == 0


def test_refresh_in_background_refreshes_after_changes(tmp_path):
    store, seen, changed = Store(tmp_path), [], threading.Event()

    def refresh(records: dict[str, CellRecord]) -> None:
        seen.append(states(records))
        changed.set()

    with refresh_in_background(LiveRecords(store, CELLS), refresh, lambda: seen.append(["the end"]), 0.001):
        wait_until(changed)
        changed.clear()
        finish(store, CELLS[0])
        wait_until(changed)
    assert seen[0] == ["not run"] * 3
    assert seen[-2:] == [["finished", "not run", "not run"], ["the end"]]


def test_refresh_in_background_refreshes_once_more_after_an_exception(tmp_path):
    store, seen = Store(tmp_path), []
    live = LiveRecords(store, CELLS)
    with (
        pytest.raises(KeyboardInterrupt),
        refresh_in_background(live, lambda records: seen.append(states(records)), interval=3600),
    ):
        finish(store, CELLS[0])
        raise KeyboardInterrupt
    assert seen == [["finished", "not run", "not run"]]


def test_refresh_in_background_logs_an_error_once_and_tries_again(tmp_path, caplog):
    tries = threading.Semaphore(0)

    def refresh(_: object) -> None:
        tries.release()
        raise StoreError("reports/digits: no space left")

    with refresh_in_background(LiveRecords(Store(tmp_path), CELLS), refresh, interval=0.001):
        for _ in range(3):
            assert tries.acquire(timeout=60)
    assert caplog.messages == ["the report is not up to date: reports/digits: no space left"]
    assert caplog.records[0].exc_info is None


def test_refresh_in_background_stops_waiting_after_its_timeout(tmp_path):
    begun, allowed = threading.Event(), threading.Event()

    def refresh(_: object) -> None:
        begun.set()
        allowed.wait()

    with refresh_in_background(LiveRecords(Store(tmp_path), CELLS), refresh, interval=0.001, timeout=0.001) as thread:
        wait_until(begun)
    assert thread.is_alive()
    allowed.set()
    thread.join(60)
    assert not thread.is_alive()


# -- in MLflow -------------------------------------------------------------------------------------------------------


def download_page(uri: str, folder: Path) -> str | None:
    """Return the report's page that the one submission's run has."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("pld_grid")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    if not runs or not client.list_artifacts(runs[0].info.run_id, "report"):
        return None
    return Path(client.download_artifacts(runs[0].info.run_id, "report/index.html", str(folder))).read_text()


def test_publisher_uploads_once_per_interval_and_on_flush(tmp_path, database):
    store, uri = Store(tmp_path / "store"), f"sqlite:///{shutil.copy(database, tmp_path / 'mlflow.db')}"
    tracker = Tracker(store, uri)
    publisher = Publisher(tracker, IDS, interval=10**9)
    publisher.flush()
    publisher.update({"index.html": b"no run asked for it"})
    assert download_page(uri, tmp_path) is None
    submit(store)
    publisher = Publisher(tracker, IDS, interval=10**9)
    for text in (b"1 of 3", b"2 of 3", b"3 of 3"):
        publisher.update({"index.html": text})
        assert download_page(uri, tmp_path) == "1 of 3"
    publisher.flush()
    assert download_page(uri, tmp_path) == "3 of 3"


def test_publisher_logs_that_mlflow_is_away_once(tmp_path, caplog):
    store = Store(tmp_path / "store")
    submit(store)
    uri = f"http://127.0.0.1:{free_port()}"
    publisher = Publisher(Tracker(store, uri), IDS, interval=0)
    caplog.set_level(logging.WARNING, "pld_grid")
    for _ in range(2):
        publisher.update({"index.html": b"1"})
    assert caplog.messages == [f"MLflow at {uri}: cannot be reached (connection refused); the report is in its folder"]
