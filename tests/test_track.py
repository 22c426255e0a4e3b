import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import yaml
from cells import METRICS, STARTED, begin, finish, make_cell, make_distilled, make_epochs, make_measured, stop
from ports import free_port
from service import PATIENCE

from pld_grid.errors import InputError, TrackingError
from pld_grid.records import from_store, with_stale
from pld_grid.report.frozen import Origin, dump, load
from pld_grid.spec import Cell
from pld_grid.store import Store
from pld_grid.store.claims import Claims
from pld_grid.store.leases import Lease
from pld_grid.track import (
    EXPERIMENT,
    Mirrorer,
    Tracker,
    default_tracking_uri,
    finished,
    prepare_database,
    public_uri,
    records,
    ui_address,
    ui_command,
    upgrade_database,
)
from pld_grid.track.runs import create
from pld_grid.track.server import passing, reporting


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the schema alone: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(tmp_path: Path, fresh_database: Path) -> str:
    return f"sqlite:///{shutil.copy(fresh_database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tracker(store: Store, uri: str) -> Tracker:
    return Tracker(store, uri)


def query(uri: str, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql).fetchall()


def runs_of(uri: str, cell: Cell) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`pld_grid.cell_id` = '{cell.cell_id}'"))


def run_of(uri: str, cell: Cell):
    (run,) = runs_of(uri, cell)
    return run


def rows(uri: str) -> Counter:
    """How often each (run, metric, epoch) was logged."""
    return Counter(query(uri, "SELECT run_uuid, key, step FROM metrics"))


def test_importing_it_loads_no_mlflow():
    code = "import sys, pld_grid.track; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- one run per cell ------------------------------------------------------------------------------------------------


def test_a_finished_cell_has_one_run_with_everything(store: Store, uri: str, tracker: Tracker):
    from mlflow import MlflowClient

    cell = make_distilled(seed=5)
    receipt = finish(store, cell, weights=b"the student")
    tracker.sync(cell.cell_id)

    run = run_of(uri, cell)
    assert run.info.status == "FINISHED"
    assert run.info.start_time == STARTED * 1000
    assert run.info.end_time == (STARTED + 99) * 1000
    assert run.info.run_name == (
        "mobilenetv4_conv_small <- resnet152 · pld tau=1 weights=teacher standardization=teacher · lamb · seed 5"
    )
    expected = {
        "student": "mobilenetv4_conv_small", "teacher": "resnet152", "teacher.cell_id": cell.teacher.cell_id,
        "dataset": "digits", "loss": "pld", "loss.tau": "1.0", "loss.weights": "teacher", "standardization": "teacher",
        "optimizer": "lamb", "learning_rate": "0.005", "optimizer.weight_decay": "0.02", "epochs": "3", "seed": "5",
        "batch_size": "64", "micro_batch_size": "32", "conventions.kd_temperature_scale": "tau^2",
    }  # fmt: skip
    assert expected.items() <= run.data.params.items()
    tags = {"cell_id": cell.cell_id, "state": "finished", "spec_version": "1", "commit": "0123abc", "epoch": "3"}
    assert {f"pld_grid.{name}": value for name, value in tags.items()}.items() <= run.data.tags.items()
    assert run.data.metrics == receipt.metrics

    client = MlflowClient(uri)
    history = client.get_metric_history(run.info.run_id, "top1")
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (epoch.epoch, int(epoch.time * 1000), epoch.metrics["top1"]) for epoch in receipt.epochs
    ]
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert {path.name for path in folder.iterdir()} == {"cell.yaml", "receipt.json", "weights.safetensors"}
    assert Cell.model_validate_json(json.dumps(yaml.safe_load((folder / "cell.yaml").read_text()))) == cell
    assert (folder / "weights.safetensors").read_bytes() == b"the student"
    assert json.loads((folder / "receipt.json").read_text())["weights_sha256"] == receipt.weights_sha256


def test_a_run_name_says_what_a_measurement_is(store: Store, uri: str, tracker: Tracker):
    cell = make_measured()
    finish(store, cell, weights=None)
    tracker.sync(cell.cell_id)
    size = cell.dataset.image_size
    name = f"resnet152.gluon_in1k · published weights · {size} pixels, crop {cell.recipe.evaluation_crop:g}"
    assert run_of(uri, cell).info.run_name == name
    assert rows(uri).total() == len(METRICS)


def test_missing_weights_do_not_hide_the_numbers(
    store: Store, uri: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
):
    cell = make_cell()
    finish(store, cell)
    store.remove(cell.cell_id, "weights.safetensors")
    tracker.sync(cell.cell_id)
    assert run_of(uri, cell).info.status == "FINISHED"
    assert "weights" in caplog.text


def test_a_resumed_cell_continues_its_run(store: Store, uri: str, tracker: Tracker):
    cell = make_cell(epochs=4)
    statuses, ids = [], set()
    worker = Lease(store, "worker")
    claims = Claims(store, worker)

    def look() -> None:
        tracker.sync(cell.cell_id)
        statuses.append(run_of(uri, cell).info.status)
        ids.add(run_of(uri, cell).info.run_id)

    with worker.held():
        assert claims.take(cell)
        store.write_cell(cell)
        look()
        begin(store, cell, 2)
        look()
        claims.release_all()
        look()  # nobody trains it
        assert claims.take(cell)
        look()
    look()  # nor now: the worker's lease is gone
    stop(store, cell, "cancelled")
    look()
    store.clear_status(cell.cell_id)
    with worker.held():
        begin(store, cell, 3)
        look()
        stop(store, cell, "failed", "out of memory")
        look()
        store.clear_status(cell.cell_id)
        finish(store, cell)
        look()
    assert statuses == [
        "RUNNING", "RUNNING", "KILLED", "RUNNING", "KILLED", "KILLED", "RUNNING", "FAILED", "FINISHED",
    ]  # fmt: skip
    assert len(ids) == 1
    assert set(rows(uri).values()) == {1}
    assert rows(uri).total() == 4 * len(METRICS)


# -- exactly once ----------------------------------------------------------------------------------------------------


def test_syncing_again_adds_nothing(store: Store, uri: str, tracker: Tracker):
    cell = make_cell()
    finish(store, cell)
    tracker.sync(cell.cell_id)
    before = rows(uri)
    tracker.sync(cell.cell_id)
    assert tracker.sync_all() == 0
    store.remove(cell.cell_id, "mirror.json")  # as if interrupted before it was written
    assert Tracker(store, uri).sync_all() == 1
    assert rows(uri) == before
    assert set(before.values()) == {1}
    assert from_store(store, [cell.cell_id])[cell.cell_id].run_id == run_of(uri, cell).info.run_id


def test_many_metrics_go_in_several_batches_and_survive_an_interruption_between_them(
    store: Store, uri: str, tracker: Tracker
):
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    names = tuple(f"m{i}" for i in range(9))
    cell = make_cell(epochs=300)
    store.write_cell(cell)
    tracker.sync(cell.cell_id)
    epochs = make_epochs(300, names=names)
    first = [Metric(k, v, int(e.time * 1000), e.epoch) for e in epochs[:70] for k, v in e.metrics.items()]
    MlflowClient(uri).log_batch(run_of(uri, cell).info.run_id, metrics=first[:500])
    finish(store, cell, epochs=epochs)
    tracker.sync(cell.cell_id)
    assert rows(uri).total() == 2700
    assert set(rows(uri).values()) == {1}
    assert run_of(uri, cell).data.metrics == epochs[-1].metrics


def test_an_epoch_trained_again_after_a_damaged_checkpoint_is_not_logged_again(
    store: Store, uri: str, tracker: Tracker
):
    cell = make_cell(epochs=4)
    begin(store, cell, 2)
    begin(store, cell, 3)
    tracker.sync(cell.cell_id)
    store.remove(cell.cell_id, "checkpoints", "000003.json")
    store.remove(cell.cell_id, "mirror.json")
    tracker.sync(cell.cell_id)
    assert records(uri) == from_store(store, [cell.cell_id])
    assert records(uri)[cell.cell_id].epoch == 2
    later = tuple(e.model_copy(update={"time": e.time + 50}) for e in make_epochs(4, first=3))
    finish(store, cell, epochs=make_epochs(2) + later)
    tracker.sync(cell.cell_id)
    assert set(rows(uri).values()) == {1}
    assert rows(uri).total() == 4 * len(METRICS)


def test_a_run_deleted_by_the_user_is_made_anew_when_its_cell_goes_on(store: Store, uri: str, tracker: Tracker):
    from mlflow import MlflowClient

    cell = make_cell()
    begin(store, cell, 2)
    tracker.sync(cell.cell_id)
    deleted = run_of(uri, cell).info.run_id
    MlflowClient(uri).delete_run(deleted)
    finish(store, cell)
    tracker.sync(cell.cell_id)
    assert run_of(uri, cell).info.run_id != deleted
    assert records(uri) == from_store(store, [cell.cell_id])


def test_two_drivers_that_both_create_a_run_agree_on_one(store: Store, uri: str, tracker: Tracker):
    cell = make_cell()
    tags = {"pld_grid.cell_id": cell.cell_id}
    with reporting(uri):
        # Each of them looked, and found none.
        one = create(*tracker._connection.get(), "pld_grid.cell_id", tags, "one", STARTED).info.run_id
        two = create(*tracker._connection.get(), "pld_grid.cell_id", tags, "two", STARTED - 1).info.run_id
        three = create(*tracker._connection.get(), "pld_grid.cell_id", tags, "three", STARTED).info.run_id
    assert two == three != one
    finish(store, cell)
    tracker.sync(cell.cell_id)
    assert run_of(uri, cell).info.run_id == two


def test_two_stores_share_a_cells_run(tmp_path: Path, uri: str):
    cell = make_cell()
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        finish(store, cell)
        tracker = Tracker(store, uri)
        tracker.start_submission(name, profile="digits", cells={cell.cell_id: [name]}, trained=[])
        tracker.sync(cell.cell_id)
    assert run_of(uri, cell).data.tags["pld_grid.grids"] == "one,two"
    assert set(rows(uri).values()) == {1}


# -- records ---------------------------------------------------------------------------------------------------------


def leave_one_of_each(store: Store) -> list[Cell]:
    """A cell in every state, and one that has only begun."""
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
    # Numbers that a careless conversion changes; and a metric that is not measured in every epoch.
    odd = {"tiny": 5e-324, "third": 1 / 3, "large": 1e100, "minus": -0.0, "whole": 7.0}
    first, last = make_epochs(2)
    finish(store, cells[7], epochs=(first, last.model_copy(update={"metrics": odd})))
    finish(store, cells[8], weights=None)
    return cells


def test_records_from_mlflow_equal_those_from_the_store(store: Store, uri: str, tracker: Tracker):
    cells = leave_one_of_each(store)
    assert tracker.sync_all() == len(cells)
    ids = [cell.cell_id for cell in cells]
    expected = from_store(store, ids)
    assert len(expected) == 8
    assert {record.state for record in expected.values()} == {
        "finished", "diverged", "failed", "cancelled", "unfinished",
    }  # fmt: skip
    found = records(uri)
    assert found == expected
    assert {k: repr(v.metrics) for k, v in found.items()} == {k: repr(dict(v.metrics)) for k, v in expected.items()}
    assert list(records(uri, cell_ids=[ids[4], ids[6], ids[0]])) == [ids[4], ids[0]]
    assert records(uri, experiment="another") == {}
    assert tracker.sync_all() == 0


def test_the_store_mlflow_and_a_reports_own_file_give_equal_records(
    tmp_path: Path, store: Store, uri: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
):
    cells = leave_one_of_each(store)
    tracker.sync_all()
    expected = from_store(store, [cell.cell_id for cell in cells], tracker.address)
    assert {r.cell_id for r in expected.values() if r.epochs} == {cells[i].cell_id for i in (0, 1, 7, 8)}
    assert {len(r.experiment_id) > 0 for r in expected.values()} == {True}
    assert records(uri) == expected
    (tmp_path / "records.jsonl").write_text(dump(expected, Origin(grids=("g",), profile="digits")))
    assert load(tmp_path)[1] == expected
    assert caplog.text == ""


def test_a_run_without_its_receipt_gives_a_record_without_epochs(
    store: Store, uri: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
):
    cells = [make_cell(seed=seed) for seed in range(4)]
    for cell in cells:
        finish(store, cell)
    tracker.sync_all()
    expected = from_store(store, [cell.cell_id for cell in cells])
    copies = [receipt_of(uri, cell) for cell in cells]
    copies[0].unlink()
    copies[1].write_bytes(copies[2].read_bytes())
    copies[2].write_text("{")
    found = records(uri)
    assert found[cells[3].cell_id] == expected[cells[3].cell_id]
    for cell in cells[:3]:
        assert found[cell.cell_id] == replace(expected[cell.cell_id], epochs=(), provenance=None)
    assert [record.getMessage() for record in caplog.records] == [
        f"MLflow at {uri}: 3 of 4 finished runs have no receipt.json, or a wrong one; "
        "their epochs and devices are not known"
    ]


def receipt_of(uri: str, cell: Cell) -> Path:
    return Path(url2pathname(urlsplit(run_of(uri, cell).info.artifact_uri).path), "receipt.json")


def test_a_mirror_of_before_experiments_were_noted_is_brought_up_to_date(store: Store, uri: str, tracker: Tracker):
    cell = make_cell()
    finish(store, cell)
    tracker.sync(cell.cell_id)
    new = store.mirror(cell.cell_id)
    assert new is not None
    before, written = rows(uri), receipt_of(uri, cell).stat().st_mtime_ns
    store.write_mirror(cell.cell_id, new.model_copy(update={"experiment_id": ""}))
    assert Tracker(store, uri).sync_all() == 1
    assert store.mirror(cell.cell_id) == new
    assert (rows(uri), receipt_of(uri, cell).stat().st_mtime_ns) == (before, written)


def test_what_mlflow_has_of_earlier_spec_versions_is_stale(store: Store, uri: str, tracker: Tracker):
    done, going = make_distilled(seed=1), make_cell(seed=2)
    finish(store, done)
    begin(store, going, 2)
    tracker.sync_all()
    wanted = [
        cell.model_copy(
            update={
                "spec_version": 2,
                "teacher": cell.teacher and cell.teacher.model_copy(update={"spec_version": 2}),
            }
        )
        for cell in (done, going)
    ]
    found = records(uri, cell_ids=[cell.cell_id for cell in wanted])
    assert found == {}
    found = with_stale(found, wanted, partial(finished, uri, EXPERIMENT))
    assert [(record.cell_id, record.state, record.reason) for record in found.values()] == [
        (wanted[0].cell_id, "stale", f"finished under spec version 1 as {done.cell_id}; this version is 2")
    ]


def test_records_without_a_database_say_so(tmp_path: Path):
    with pytest.raises(TrackingError, match=r"there is no MLflow database .*/mlflow\.db"):
        records(f"sqlite:///{tmp_path}/mlflow.db")


# -- submissions -----------------------------------------------------------------------------------------------------


def test_a_submission_is_the_parent_of_the_cells_that_it_trains(store: Store, uri: str, tracker: Tracker):
    from mlflow import MlflowClient

    old, new = make_cell(seed=1), make_cell(seed=2)
    first = tracker.start_submission("first", profile="digits", cells={old.cell_id: ["a"]}, trained=[old.cell_id])
    finish(store, old)
    tracker.sync(old.cell_id)
    tracker.sync(tracker.end_submission(first, "failed").submission_id)
    # Another process: all that it knows comes from the store.
    tracker = Tracker(store, uri)
    second = tracker.start_submission(
        "second", profile="digits", cells={old.cell_id: ["b"], new.cell_id: ["b", "c"]}, trained=[new.cell_id],
        summary={"cohorts": 1},
    )  # fmt: skip
    finish(store, new)
    tracker.sync_all()
    client = MlflowClient(uri)

    def parent_of(cell: Cell):
        return client.get_run(run_of(uri, cell).data.tags["mlflow.parentRunId"])

    assert parent_of(old).info.run_name == "first"
    assert parent_of(old).info.status == "FAILED"
    assert parent_of(new).info.run_name == "second"
    assert parent_of(new).info.status == "RUNNING"
    params = {"grids": "b,c", "profile": "digits", "cells": "2", "to_train": "1", "cohorts": "1"}
    assert parent_of(new).data.params == params
    assert run_of(uri, old).data.tags["pld_grid.grids"] == "a,b"
    assert run_of(uri, new).data.tags["pld_grid.profile"] == "digits"
    for state, status in (("cancelled", "KILLED"), ("finished", "FINISHED")):
        tracker.end_submission(second, state)
        assert tracker.sync_all() == 1
        assert parent_of(new).info.status == status
    assert set(records(uri)) == {old.cell_id, new.cell_id}


def test_a_report_is_kept_with_its_submission(store: Store, uri: str, tracker: Tracker, tmp_path: Path):
    from mlflow import MlflowClient

    cell = make_cell()
    started = tracker.start_submission("run", profile="digits", cells={cell.cell_id: ["g"]}, trained=[cell.cell_id])
    finish(store, cell)
    tracker.sync_all()
    for text in (b"<p>1 of 2</p>", b"<p>2 of 2</p>"):
        tracker.log_report(started.submission_id, {"index.html": text, "figures/a.csv": b"1\n"})
    parent = run_of(uri, cell).data.tags["mlflow.parentRunId"]
    folder = Path(MlflowClient(uri).download_artifacts(parent, "report", str(tmp_path)))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"index.html": b"<p>2 of 2</p>", "figures/a.csv": b"1\n"}
    with pytest.raises(TrackingError, match="has no submission 20260101-000000-00000000"):
        tracker.log_report("20260101-000000-00000000", {"index.html": b""})


# -- MLflow away -----------------------------------------------------------------------------------------------------


class Server:
    """A real `mlflow server` on loopback, which can be killed and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.database = f"sqlite:///{shutil.copy(database, folder / 'server.db')}"
        self.command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database, "--artifacts-destination",
            str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self.healthy)

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, fresh_database: Path) -> Iterator[Server]:
    server = Server(tmp_path, fresh_database)
    yield server
    server.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what another process does, which gives no event to wait for."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_cell_trained_again_shows_its_own_epochs_and_the_earlier_ones_once_they_are_back(
    store: Store, tracker: Tracker, uri: str
) -> None:
    from mlflow import MlflowClient

    cell = make_cell()
    earlier = finish(store, cell)
    tracker.sync_all()

    def shown() -> list[float]:
        mirror = store.mirror(cell.cell_id)
        assert mirror is not None
        assert from_store(store, [cell.cell_id]) == records(uri, EXPERIMENT, [cell.cell_id])
        return [each.value for each in MlflowClient(uri).get_metric_history(mirror.run_id, "top1")]

    before = [each.metrics["top1"] for each in earlier.epochs]
    assert sorted(shown()) == sorted(before)
    kept = store.set_cell_aside(cell.cell_id).rpartition("/")[2]
    epochs = tuple(
        each.model_copy(update={"metrics": {name: value + 10 for name, value in each.metrics.items()}})
        for each in earlier.epochs
    )
    again = finish(store, cell, epochs=epochs, metrics=epochs[-1].metrics)
    assert tracker.sync_all() == 1
    assert sorted(shown()) == sorted(before + [each.metrics["top1"] for each in again.epochs])
    # Under their old name the earlier results are the cell's again.
    store.set_cell_aside(cell.cell_id)
    Path(store.path(kept)).rename(store.path(cell.cell_id))
    assert tracker.sync_all() == 1
    assert set(shown()) == set(before) | {each.metrics["top1"] for each in again.epochs}


def test_nothing_is_lost_while_the_server_is_away(
    store: Store, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    cells = [make_cell(seed=seed, epochs=6) for seed in range(4)]
    ids = [cell.cell_id for cell in cells]

    def train(mirrorer: Mirrorer, epoch: int) -> None:
        for cell in cells:
            if epoch < 6:
                begin(store, cell, epoch)
            else:
                finish(store, cell)
            mirrorer.mark(cell.cell_id)

    # Away at the start, and all the time.
    tracker = Tracker(store, server.uri)
    submission = tracker.start_submission("run", profile="digits", cells={key: ["g"] for key in ids}, trained=ids)
    mirrorer = Mirrorer(tracker)
    mirrorer.start()
    mirrorer.mark(submission.submission_id)
    train(mirrorer, 1)
    assert mirrorer.close(timeout=120) == 5
    assert len(caplog.records) == 1, caplog.text
    assert "training goes on" in caplog.text
    assert all(store.mirror(cell_id) is None for cell_id in ids)
    caplog.clear()

    # The next run begins while it is still away; it comes back, and is killed in the middle.
    mirrorer = Mirrorer(Tracker(store, server.uri))
    mirrorer.start()
    train(mirrorer, 2)
    wait_until(lambda: bool(caplog.records))
    server.start()
    wait_until(lambda: any(store.mirror(cell_id) for cell_id in ids))
    server.kill()
    train(mirrorer, 3)
    train(mirrorer, 4)
    assert all(store.progress(cell_id).epochs[-1].epoch == 4 for cell_id in ids)
    server.start()
    train(mirrorer, 5)
    train(mirrorer, 6)
    assert mirrorer.close(timeout=240) == 0
    assert all(record.name.startswith("pld_grid") for record in caplog.records)

    assert records(server.uri) == from_store(store, ids)
    assert {record.state for record in records(server.uri).values()} == {"finished"}
    assert [len(runs_of(server.uri, cell)) for cell in cells] == [1] * 4
    assert set(rows(server.database).values()) == {1}
    assert rows(server.database).total() == 4 * 6 * len(METRICS)
    run = run_of(server.uri, cells[0])
    assert run.data.tags["mlflow.parentRunId"]
    from mlflow import MlflowClient

    files = MlflowClient(server.uri).list_artifacts(run.info.run_id)
    assert {file.path for file in files} == {"cell.yaml", "receipt.json", "weights.safetensors"}
    assert Tracker(store, server.uri).sync_all() == 0

    # It hangs: the wait for it is bounded, too.
    last = make_cell(seed=4)
    cells = [last]
    mirrorer = Mirrorer(tracker, replay=False)
    mirrorer.start()
    server.signal(signal.SIGSTOP)
    train(mirrorer, 1)
    assert mirrorer.close(timeout=1) == 1
    # Its thread still waits for the server.
    assert mirrorer._thread.is_alive()

    # Away at the end: reported in one line, soon.
    server.kill()
    assert mirrorer.close(timeout=120) == 1
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TrackingError) as caught:
        Tracker(store, server.uri).sync_all()
    assert str(caught.value) == f"MLflow at {server.uri}: cannot be reached (connection refused)"


def test_who_trains_waits_for_no_mirror(tracker: Tracker, monkeypatch: pytest.MonkeyPatch):
    answers, asked = threading.Event(), threading.Event()

    def held_up(this: Tracker, item: str) -> None:
        asked.set()
        assert answers.wait(PATIENCE)

    monkeypatch.setattr(Tracker, "sync", held_up)
    mirrorer = Mirrorer(tracker, replay=False)
    mirrorer.start()
    mirrorer.mark("first")
    assert asked.wait(PATIENCE)
    # Marks while MLflow is asked, or it would wait for what only comes afterwards.
    for item in ("second", "third", "first"):
        mirrorer.mark(item)
    assert mirrorer.pending() == 3
    answers.set()
    assert mirrorer.close(timeout=PATIENCE) == 0


def test_one_bad_cell_does_not_hold_up_the_others(
    store: Store, uri: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
):
    bad, good = make_cell(seed=1), make_cell(seed=2)
    finish(store, good)
    link = Path(store.path(bad.cell_id, "receipt.json"))
    link.parent.mkdir(parents=True)
    link.symlink_to("/etc/hostname")  # out of the store
    mirrorer = Mirrorer(tracker)  # the bad one is among what it replays
    mirrorer.start()
    mirrorer.mark(bad.cell_id)
    mirrorer.mark(good.cell_id)
    assert mirrorer.close() == 1
    assert list(records(uri)) == [good.cell_id]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert bad.cell_id in caplog.text


# -- the embedded database -------------------------------------------------------------------------------------------

RACE = """
import sys
from pld_grid.store import Store
from pld_grid.track import Tracker
store, uri, own, shared = sys.argv[1:]
sys.stdin.readline()  # all begin together
tracker = Tracker(Store(store), uri)
tracker.sync(own)
tracker.sync(shared)
"""


def test_sixteen_processes_race_for_a_fresh_database(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    store = Store(tmp_path / "store")
    shared, *own = [make_cell(seed=seed) for seed in range(17)]
    for cell in (shared, *own):
        finish(store, cell)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, store.uri, uri, cell.cell_id, shared.cell_id],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for cell in own
    ]  # fmt: skip
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    errors = [racer.communicate(timeout=PATIENCE)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 16, errors
    assert errors == [""] * 16
    assert query(uri, "PRAGMA integrity_check") == [("ok",)]
    assert query(uri, "PRAGMA journal_mode") == [("wal",)]
    assert query(uri, f"SELECT count(*) FROM experiments WHERE name = '{EXPERIMENT}'") == [(1,)]
    assert [len(runs_of(uri, cell)) for cell in (shared, *own)] == [1] * 17
    assert set(rows(uri).values()) == {1}
    assert records(uri) == from_store(store, [cell.cell_id for cell in (shared, *own)])
    assert sorted(path.name for path in (tmp_path / "new").glob("*.tmp")) == []


def test_an_old_schema_is_brought_up_to_date_and_a_newer_one_left_alone(tmp_path: Path):
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


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
    assert public_uri("postgresql://ada:s3cret@db:5432/mlflow") == "postgresql://db:5432/mlflow"
    assert public_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    # Whatever SQLAlchemy and libpq take as a password.
    assert (
        public_uri("postgresql://ada:it's/a@b#c@db/mlflow?sslmode=require") == "postgresql://db/mlflow?sslmode=require"
    )
    assert public_uri("postgresql:///mlflow?user=ada&password=s3cret") == "postgresql:///mlflow?user=ada&password=***"
    assert public_uri(f"sqlite:///{tmp_path}/a@b.db") == f"sqlite:///{tmp_path}/a@b.db"


def test_an_error_is_one_line_without_the_password(store: Store):
    port = free_port()
    tracker = Tracker(store, f"http://ada:s3cret@127.0.0.1:{port}")
    with pytest.raises(TrackingError) as caught:
        tracker.sync_all()
    assert str(caught.value) == f"MLflow at http://127.0.0.1:{port}: cannot be reached (connection refused)"


def test_an_answer_without_an_experiment_says_nothing_of_it(
    store: Store, uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

    cell = make_cell()
    finish(store, cell)
    with monkeypatch.context() as ill, pytest.raises(TrackingError, match="its answer is not whole") as caught:
        ill.setattr(MlflowClient, "get_experiment_by_name", lambda *_: Experiment("", "", "", ""))
        tracker.sync(cell.cell_id)
    assert passing(caught.value)
    tracker.sync(cell.cell_id)
    assert run_of(uri, cell).info.status == "FINISHED"


def test_a_deleted_experiment_is_not_written_to(store: Store, uri: str, tracker: Tracker):
    from mlflow import MlflowClient

    cell = make_cell()
    finish(store, cell)
    tracker.sync(cell.cell_id)
    MlflowClient(uri).delete_experiment(run_of(uri, cell).info.experiment_id)
    with pytest.raises(TrackingError, match="was deleted; restore it, or name another one"):
        Tracker(store, uri).sync(cell.cell_id)
