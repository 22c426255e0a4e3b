import json
import logging
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import yaml
from cells import (
    METRICS,
    STARTED,
    begin,
    finish,
    make_cell,
    make_distilled,
    make_epochs,
    make_measured,
    make_parent_run,
    stop,
)
from cli_process import RETRY_TIMEOUT_SECONDS
from mlflow_servers import MlflowServer
from ports import free_port

from pld_grid.experiment.cell import Cell
from pld_grid.report.records_file import Origin, serialize_records
from pld_grid.report.records_file import load_records as load_records_file
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.track.background_sync import BackgroundSync
from pld_grid.track.database import upgrade_database
from pld_grid.track.mirrored_records import load_records
from pld_grid.track.mlflow_client import connect
from pld_grid.track.tracker import Tracker
from pld_grid.track.tracking_uri import EXPERIMENT, default_tracking_uri, ui_address, ui_command
from pld_grid.util.errors import InputError, TrackingError

pytestmark = pytest.mark.slow


def query(uri: str, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql).fetchall()


def find_runs(uri: str, cell: Cell) -> list:
    client = connect(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    return list(client.search_runs([experiment], f"tags.`pld_grid.cell_id` = '{cell.cell_id}'"))


def find_run(uri: str, cell: Cell):
    (run,) = find_runs(uri, cell)
    return run


def count_metrics(uri: str) -> Counter:
    """Count how often each (run, metric, epoch) was logged."""
    return Counter(query(uri, "SELECT run_uuid, key, step FROM metrics"))


# -- one run per cell ------------------------------------------------------------------------------------------------


def test_sync_finished_cell_logs_one_complete_run(store, uri, tracker):
    cell = make_distilled(seed=5)
    receipt = finish(store, cell, weights=b"the student")
    tracker.sync(cell.cell_id)

    run = find_run(uri, cell)
    assert run.info.status == "FINISHED"
    assert run.info.start_time == STARTED * 1000
    assert run.info.end_time == (STARTED + 99) * 1000
    assert run.info.run_name == (
        "mobilenetv4_conv_small <- resnet152 · pld tau=1 weights=teacher standardization=teacher · lamb · seed 5"
    )
    expected = {
        "student": "mobilenetv4_conv_small",
        "teacher": "resnet152",
        "teacher.cell_id": cell.teacher.cell_id,
        "dataset": "digits",
        "loss": "pld",
        "loss.tau": "1.0",
        "loss.weights": "teacher",
        "standardization": "teacher",
        "optimizer": "lamb",
        "learning_rate": "0.005",
        "optimizer.weight_decay": "0.02",
        "epochs": "3",
        "seed": "5",
        "batch_size": "64",
        "micro_batch_size": "32",
        "conventions.kd_temperature_scale": "tau^2",
    }
    assert expected.items() <= run.data.params.items()
    tags = {"cell_id": cell.cell_id, "state": "finished", "spec_version": "2", "commit": "0123abc", "epoch": "3"}
    assert {f"pld_grid.{name}": value for name, value in tags.items()}.items() <= run.data.tags.items()
    assert run.data.metrics == receipt.metrics

    client = connect(uri)
    history = client.get_metric_history(run.info.run_id, "top1")
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (epoch.epoch, int(epoch.time * 1000), epoch.metrics["top1"]) for epoch in receipt.epochs
    ]
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert {path.name for path in folder.iterdir()} == {"cell.yaml", "receipt.json", "weights.safetensors"}
    assert Cell.model_validate_json(json.dumps(yaml.safe_load((folder / "cell.yaml").read_text()))) == cell
    assert (folder / "weights.safetensors").read_bytes() == b"the student"
    assert json.loads((folder / "receipt.json").read_text())["weights_sha256"] == receipt.weights_sha256


def test_run_name_of_measurement_names_the_weights(store, uri, tracker):
    cell = make_measured()
    finish(store, cell, weights=None)
    tracker.sync(cell.cell_id)
    size = cell.dataset.image_size
    name = f"resnet152.gluon_in1k · published weights · {size} pixels, crop {cell.recipe.evaluation_crop:g}"
    assert find_run(uri, cell).info.run_name == name
    assert count_metrics(uri).total() == len(METRICS)


def test_sync_without_weights_logs_the_metrics(store, uri, tracker, caplog):
    cell = make_cell()
    finish(store, cell)
    store.remove(cell.cell_id, "weights.safetensors")
    tracker.sync(cell.cell_id)
    assert find_run(uri, cell).info.status == "FINISHED"
    assert "weights" in caplog.text


def test_sync_resumed_cell_continues_its_run(store, uri, tracker):
    cell = make_cell(epochs=4)
    statuses, ids = [], set()
    worker = Lease(store, "worker")
    claims = Claims(store, worker)

    def look() -> None:
        tracker.sync(cell.cell_id)
        statuses.append(find_run(uri, cell).info.status)
        ids.add(find_run(uri, cell).info.run_id)

    with worker.keep_alive():
        assert claims.acquire(cell)
        store.write_cell(cell)
        look()
        begin(store, cell, 2)
        look()
        claims.release_all()
        look()  # nobody trains it
        assert claims.acquire(cell)
        look()
    look()  # nor now: the worker's lease is gone
    stop(store, cell, "cancelled")
    look()
    store.clear_status(cell.cell_id)
    with worker.keep_alive():
        begin(store, cell, 3)
        look()
        stop(store, cell, "failed", "out of memory")
        look()
        store.clear_status(cell.cell_id)
        finish(store, cell)
        look()
    assert statuses == ["RUNNING", "RUNNING", "KILLED", "RUNNING", "KILLED", "KILLED", "RUNNING", "FAILED", "FINISHED"]
    assert len(ids) == 1
    assert set(count_metrics(uri).values()) == {1}
    assert count_metrics(uri).total() == 4 * len(METRICS)


# -- exactly once ----------------------------------------------------------------------------------------------------


def test_sync_repeated_adds_nothing(store, uri, tracker):
    cell = make_cell()
    finish(store, cell)
    tracker.sync(cell.cell_id)
    before = count_metrics(uri)
    tracker.sync(cell.cell_id)
    assert tracker.sync_all() == 0
    store.remove(cell.cell_id, "mirror.json")  # as if interrupted before it was written
    assert Tracker(store, uri).sync_all() == 1
    assert count_metrics(uri) == before
    assert set(before.values()) == {1}
    assert store.report_records([cell.cell_id])[cell.cell_id].run_id == find_run(uri, cell).info.run_id


def test_sync_interrupted_between_batches_logs_each_metric_once(store, uri, tracker):
    from mlflow.entities import Metric

    names = tuple(f"m{i}" for i in range(9))
    cell = make_cell(epochs=300)
    store.write_cell(cell)
    tracker.sync(cell.cell_id)
    epochs = make_epochs(300, names=names)
    first = [Metric(k, v, int(e.time * 1000), e.epoch) for e in epochs[:70] for k, v in e.metrics.items()]
    connect(uri).log_batch(find_run(uri, cell).info.run_id, metrics=first[:500])
    finish(store, cell, epochs=epochs)
    tracker.sync(cell.cell_id)
    assert count_metrics(uri).total() == 2700
    assert set(count_metrics(uri).values()) == {1}
    assert find_run(uri, cell).data.metrics == epochs[-1].metrics


def test_sync_epoch_retrained_after_damage_is_logged_once(store, uri, tracker):
    cell = make_cell(epochs=4)
    begin(store, cell, 2)
    begin(store, cell, 3)
    tracker.sync(cell.cell_id)
    store.remove(cell.cell_id, "checkpoints", "000003.json")
    store.remove(cell.cell_id, "mirror.json")
    tracker.sync(cell.cell_id)
    assert load_records(uri) == store.report_records([cell.cell_id])
    assert load_records(uri)[cell.cell_id].epoch == 2
    later = tuple(e.model_copy(update={"time": e.time + 50}) for e in make_epochs(4, first=3))
    finish(store, cell, epochs=make_epochs(2) + later)
    tracker.sync(cell.cell_id)
    assert set(count_metrics(uri).values()) == {1}
    assert count_metrics(uri).total() == 4 * len(METRICS)


def test_sync_deleted_run_is_created_again(store, uri, tracker):
    cell = make_cell()
    begin(store, cell, 2)
    tracker.sync(cell.cell_id)
    deleted = find_run(uri, cell).info.run_id
    connect(uri).delete_run(deleted)
    finish(store, cell)
    tracker.sync(cell.cell_id)
    assert find_run(uri, cell).info.run_id != deleted
    assert load_records(uri) == store.report_records([cell.cell_id])


def test_create_concurrent_drivers_agree_on_one_run(store, uri, tracker):
    cell = make_cell()
    tags = {"pld_grid.cell_id": cell.cell_id}
    with tracker._connection.open() as runs:
        # Each driver has searched, and found no run.
        one = runs.create("pld_grid.cell_id", tags, "one", STARTED).info.run_id
        two = runs.create("pld_grid.cell_id", tags, "two", STARTED - 1).info.run_id
        three = runs.create("pld_grid.cell_id", tags, "three", STARTED).info.run_id
    assert two == three != one
    finish(store, cell)
    tracker.sync(cell.cell_id)
    assert find_run(uri, cell).info.run_id == two


def test_sync_two_stores_share_a_run(tmp_path, uri):
    cell = make_cell()
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        finish(store, cell)
        tracker = Tracker(store, uri)
        tracker.parent_runs.start(make_parent_run([], cells={cell.cell_id: [name]}))
        tracker.sync(cell.cell_id)
    assert find_run(uri, cell).data.tags["pld_grid.grids"] == "one,two"
    assert set(count_metrics(uri).values()) == {1}


# -- records ---------------------------------------------------------------------------------------------------------


def write_cells_in_all_states(store: Store) -> list[Cell]:
    """Write a cell in every state, and one that has only started."""
    cells = [make_distilled(seed=seed) for seed in range(8)] + [make_measured()]
    finish(store, cells[0])
    epochs = make_epochs(2)
    finish(store, cells[1], weights=None, state="diverged", reason="loss is nan in epoch 3", epochs=epochs)
    begin(store, cells[2], 2)
    stop(store, cells[2], "failed", "RuntimeError: “odd” text,\n\ttwo lines ")
    stop(store, cells[3], "failed", "before any epoch")
    begin(store, cells[4], 1)
    stop(store, cells[4], "cancelled")
    begin(store, cells[5], 2)
    store.write_cell(cells[6])
    # Numbers that are sensitive to conversions, and a metric that is not measured in every epoch.
    odd = {"tiny": 5e-324, "third": 1 / 3, "large": 1e100, "minus": -0.0, "whole": 7.0}
    first, last = make_epochs(2)
    finish(store, cells[7], epochs=(first, last.model_copy(update={"metrics": odd})))
    finish(store, cells[8], weights=None)
    return cells


def test_load_records_equals_store_and_report(tmp_path, store, uri, tracker, caplog):
    cells = write_cells_in_all_states(store)
    ids = [cell.cell_id for cell in cells]
    assert tracker.sync_all() == len(cells)
    expected = store.report_records(ids, tracker.address)
    states = {record.state for record in expected.values()}
    assert states == {"finished", "diverged", "failed", "cancelled", "unfinished"}
    assert {r.cell_id for r in expected.values() if r.epochs} == {ids[i] for i in (0, 1, 7, 8)}
    assert {len(r.experiment_id) > 0 for r in expected.values()} == {True}
    mirrored = load_records(uri)
    assert mirrored == expected
    assert {k: repr(v.metrics) for k, v in mirrored.items()} == {k: repr(dict(v.metrics)) for k, v in expected.items()}
    (tmp_path / "records.jsonl").write_text(serialize_records(expected, Origin(grids=("g",), profile="digits")))
    assert load_records_file(tmp_path)[1] == expected
    assert list(load_records(uri, cell_ids=[ids[4], ids[6], ids[0]])) == [ids[4], ids[0]]
    assert load_records(uri, experiment="another") == {}
    assert tracker.sync_all() == 0
    assert caplog.text == ""


def test_load_records_without_receipt_has_no_epochs(store, uri, tracker, caplog):
    cells = [make_cell(seed=seed) for seed in range(4)]
    for cell in cells:
        finish(store, cell)
    tracker.sync_all()
    expected = store.report_records([cell.cell_id for cell in cells])
    copies = [receipt_path(uri, cell) for cell in cells]
    copies[0].unlink()
    copies[1].write_bytes(copies[2].read_bytes())
    copies[2].write_text("{")
    records = load_records(uri)
    assert records[cells[3].cell_id] == expected[cells[3].cell_id]
    for cell in cells[:3]:
        assert records[cell.cell_id] == replace(expected[cell.cell_id], epochs=(), provenance=None)
    assert [record.getMessage() for record in caplog.records] == [
        f"MLflow at {uri}: 3 of 4 finished runs have no receipt.json, or a wrong one; "
        "their epochs and devices are not known"
    ]


def receipt_path(uri: str, cell: Cell) -> Path:
    return Path(url2pathname(urlsplit(find_run(uri, cell).info.artifact_uri).path), "receipt.json")


def test_load_records_without_database_raises(tmp_path):
    with pytest.raises(TrackingError, match=r"there is no MLflow database .*/mlflow\.db"):
        load_records(f"sqlite:///{tmp_path}/mlflow.db")


# -- parent runs -----------------------------------------------------------------------------------------------------


def test_parent_run_is_parent_of_the_cells_it_trains(store, uri, tracker):
    old, new = make_cell(seed=1), make_cell(seed=2)
    first = tracker.parent_runs.start(make_parent_run([old.cell_id], name="first", cells={old.cell_id: ["a"]}))
    finish(store, old)
    tracker.sync(old.cell_id)
    tracker.sync(tracker.parent_runs.end(first, "failed").submission_id)
    # Another process reads everything from the store.
    tracker = Tracker(store, uri)
    cells = {old.cell_id: ["b"], new.cell_id: ["b", "c"]}
    second = make_parent_run([new.cell_id], name="second", cells=cells, summary={"cohorts": 1})
    tracker.parent_runs.start(second)
    finish(store, new)
    tracker.sync_all()
    client = connect(uri)

    def find_parent(cell: Cell):
        return client.get_run(find_run(uri, cell).data.tags["mlflow.parentRunId"])

    assert find_parent(old).info.run_name == "first"
    assert find_parent(old).info.status == "FAILED"
    assert find_parent(new).info.run_name == "second"
    assert find_parent(new).info.status == "RUNNING"
    params = {"grids": "b,c", "profile": "digits", "cells": "2", "to_train": "1", "cohorts": "1"}
    assert find_parent(new).data.params == params
    assert find_run(uri, old).data.tags["pld_grid.grids"] == "a,b"
    assert find_run(uri, new).data.tags["pld_grid.profile"] == "digits"
    for state, status in (("cancelled", "KILLED"), ("finished", "FINISHED")):
        tracker.parent_runs.end(second, state)
        assert tracker.sync_all() == 1
        assert find_parent(new).info.status == status
    assert set(load_records(uri)) == {old.cell_id, new.cell_id}


def test_log_report_uploads_to_the_parent_run(store, uri, tracker, tmp_path):
    cell = make_cell()
    started = tracker.parent_runs.start(make_parent_run([cell.cell_id]))
    finish(store, cell)
    tracker.sync_all()
    for text in (b"<p>1 of 2</p>", b"<p>2 of 2</p>"):
        tracker.log_report(started, {"index.html": text, "figures/a.csv": b"1\n"})
    parent = find_run(uri, cell).data.tags["mlflow.parentRunId"]
    folder = Path(connect(uri).download_artifacts(parent, "report", str(tmp_path)))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {"index.html": b"<p>2 of 2</p>", "figures/a.csv": b"1\n"}


# -- MLflow down -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, database: Path) -> Iterator[MlflowServer]:
    """Return a server that has not been started yet."""
    server = MlflowServer(tmp_path, f"sqlite:///{shutil.copy(database, tmp_path / 'server.db')}", {})
    yield server
    server.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that another process brings about."""
    end = time.monotonic() + RETRY_TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.05)


def train_epoch(store: Store, background: BackgroundSync, cells: list[Cell], epoch: int) -> None:
    """Leave the cells as after an epoch, of six, and request their sync."""
    for cell in cells:
        if epoch < 6:
            begin(store, cell, epoch)
        else:
            finish(store, cell)
        background.request_sync(cell.cell_id)


def start_background(tracker: Tracker) -> BackgroundSync:
    background = BackgroundSync(tracker)
    background.start()
    return background


def check_synced(store: Store, server: MlflowServer, cells: list[Cell]) -> None:
    """Check that each cell has one finished run with each metric once and all its files."""
    assert load_records(server.uri) == store.report_records([cell.cell_id for cell in cells])
    assert {record.state for record in load_records(server.uri).values()} == {"finished"}
    assert [len(find_runs(server.uri, cell)) for cell in cells] == [1] * len(cells)
    assert set(count_metrics(server.database).values()) == {1}
    assert count_metrics(server.database).total() == len(cells) * 6 * len(METRICS)
    run = find_run(server.uri, cells[0])
    assert run.data.tags["mlflow.parentRunId"]
    files = connect(server.uri).list_artifacts(run.info.run_id)
    assert {file.path for file in files} == {"cell.yaml", "receipt.json", "weights.safetensors"}
    assert Tracker(store, server.uri).sync_all() == 0


def test_background_sync_server_outages_lose_nothing(store, server, caplog, capfd):
    cells = [make_cell(seed=seed, epochs=6) for seed in range(4)]
    ids = [cell.cell_id for cell in cells]

    # The server is down throughout the first run.
    tracker = Tracker(store, server.uri)
    submission = tracker.parent_runs.start(make_parent_run(ids))
    background = start_background(tracker)
    background.request_sync(submission.submission_id)
    train_epoch(store, background, cells, 1)
    assert background.close(timeout=120) == 5
    assert len(caplog.records) == 1, caplog.text
    assert "training goes on" in caplog.text
    assert all(store.mirror(cell_id) is None for cell_id in ids)
    caplog.clear()

    # The next run starts while the server is down; the server starts, and is killed in the middle.
    background = start_background(Tracker(store, server.uri))
    train_epoch(store, background, cells, 2)
    wait_until(lambda: bool(caplog.records))
    server.start()
    wait_until(lambda: any(store.mirror(cell_id) for cell_id in ids))
    server.kill()
    for epoch in (3, 4):
        train_epoch(store, background, cells, epoch)
    assert all(store.record(cell_id).epochs[-1].epoch == 4 for cell_id in ids)
    server.start()
    for epoch in (5, 6):
        train_epoch(store, background, cells, epoch)
    assert background.close(timeout=240) == 0
    assert all(record.name.startswith("pld_grid") for record in caplog.records)
    check_synced(store, server, cells)

    # The server hangs: `close` waits only until its timeout.
    background = start_background(tracker)
    server.signal(signal.SIGSTOP)
    train_epoch(store, background, [make_cell(seed=4)], 1)
    assert background.close(timeout=1) == 1
    assert background._thread.is_alive()

    # The server is down at the end: one line reports it soon.
    server.kill()
    assert background.close(timeout=120) == 1
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TrackingError) as caught:
        Tracker(store, server.uri.replace("://", "://ada:s3cret@")).sync_all()
    assert str(caught.value) == f"MLflow at {server.uri}: cannot be reached (connection refused)"


def test_background_sync_unreadable_cell_does_not_block_others(store, uri, tracker, caplog):
    bad, good = make_cell(seed=1), make_cell(seed=2)
    finish(store, good)
    link = Path(store.path(bad.cell_id, "receipt.json"))
    link.parent.mkdir(parents=True)
    link.symlink_to("/etc/hostname")  # out of the store
    background = BackgroundSync(tracker)  # the bad one is among what it replays
    background.start()
    background.request_sync(bad.cell_id)
    background.request_sync(good.cell_id)
    assert background.close() == 1
    assert list(load_records(uri)) == [good.cell_id]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert bad.cell_id in caplog.text


# -- the embedded database -------------------------------------------------------------------------------------------


def test_upgrade_database_old_schema_is_upgraded_and_newer_refused(tmp_path):
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(InputError, match="is a server, and the schema is its database's"):
        upgrade_database("https://ada:s3cret@mlflow.example.org")
    engine = utils.create_sqlalchemy_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    config = utils._get_alembic_config(uri)
    older = ScriptDirectory.from_config(config).get_revision("head").down_revision
    command.upgrade(config, older)
    before, latest = upgrade_database(uri)
    assert before == older != latest
    assert upgrade_database(uri) == (latest, latest)
    assert query(uri, "SELECT version_num FROM alembic_version") == [(latest,)]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(TrackingError, match=r"its schema \(ffffffffffff\) is newer than MLflow 3"):
        upgrade_database(uri)
    with pytest.raises(TrackingError, match=r"its schema is another MLflow version's.*pld-grid db upgrade"):
        Tracker(Store(tmp_path / "store"), uri).sync_all()


def test_tracking_uri_ui_address_and_command(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    embedded = default_tracking_uri(tmp_path)
    assert embedded == f"sqlite:///{tmp_path}/mlflow.db"
    command, environment = ui_command(embedded, port=5123)
    assert command[1:8] == ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", "5123"]
    assert environment == {"MLFLOW_BACKEND_STORE_URI": embedded}
    assert ui_address(embedded, port=5123) == "http://127.0.0.1:5123"
    assert ui_address("https://ada:s3cret@mlflow.example.org/") == "https://mlflow.example.org"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert ui_command(default_tracking_uri(tmp_path)) is None


def test_sync_incomplete_answer_is_retried_later(store, uri, tracker, monkeypatch):
    from mlflow.entities import Experiment

    cell = make_cell()
    finish(store, cell)
    with monkeypatch.context() as ill, pytest.raises(TrackingError, match="is incomplete"):
        ill.setattr("mlflow.MlflowClient.get_experiment_by_name", lambda *_: Experiment("", "", "", ""))
        tracker.sync(cell.cell_id)
    tracker.sync(cell.cell_id)
    assert find_run(uri, cell).info.status == "FINISHED"


def test_sync_deleted_experiment_raises(store, uri, tracker):
    cell = make_cell()
    finish(store, cell)
    tracker.sync(cell.cell_id)
    connect(uri).delete_experiment(find_run(uri, cell).info.experiment_id)
    with pytest.raises(TrackingError, match="was deleted; restore it, or name another one"):
        Tracker(store, uri).sync(cell.cell_id)


def test_request_sync_does_not_wait_for_mlflow(tracker, monkeypatch):
    answers, asked = threading.Event(), threading.Event()

    def blocking_sync(this: Tracker, item: str) -> None:
        asked.set()
        assert answers.wait(RETRY_TIMEOUT_SECONDS)

    monkeypatch.setattr(Tracker, "sync", blocking_sync)
    background = BackgroundSync(tracker)
    background.start()
    background.request_sync("first")
    assert asked.wait(RETRY_TIMEOUT_SECONDS)
    # Request more items while the first sync is blocked.
    for item in ("second", "third", "first"):
        background.request_sync(item)
    assert background.pending() == 3
    answers.set()
    assert background.close(timeout=RETRY_TIMEOUT_SECONDS) == 0


def test_tracking_error_is_one_line_without_password(store):
    port = free_port()
    tracker = Tracker(store, f"http://ada:s3cret@127.0.0.1:{port}")
    with pytest.raises(TrackingError) as caught:
        tracker.sync_all()
    assert str(caught.value) == f"MLflow at http://127.0.0.1:{port}: cannot be reached (connection refused)"
