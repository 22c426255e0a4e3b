"""Runs and syncs while MLflow fails in every way: training is not delayed, and each metric is logged once."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cells import finish, make_cell, make_parent_run
from cli_process import PROFILE, RETRY_TIMEOUT_SECONDS, contents, rest, wait_for, wait_for_line
from mlflow_clients import CELLS, GRID, Client, assert_mirrored, assert_synced, mlflow_lines
from mlflow_proxy import DELAYED, DONE, REFUSED, Proxy, proxy
from mlflow_servers import MlflowServer

from pld_grid.service import report_writer
from pld_grid.service.workspace import Workspace
from pld_grid.store import Store
from pld_grid.track.tracker import Tracker
from pld_grid.util.errors import TrackingError

REQUESTS = 12  # at least as many as a cell takes
NEVER = 3600.0  # seconds: longer than any client waits
SLOW = 10.0  # seconds: clients wait longer
SHORT, TOO_LATE = 0.5, 1.3  # seconds of a client's timeout, and of the answer's delay
GOES_ON = "training goes on, and what MLflow lacks stays in the store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[MlflowServer]:
    """Start a healthy `mlflow server`; every test has an experiment of its own."""
    folder = tmp_path_factory.mktemp("server")
    with MlflowServer(folder, f"sqlite:///{shutil.copy(database, folder / 'server.db')}", {}).running() as server:
        yield server


@pytest.fixture
def faulty(server: MlflowServer) -> Iterator[Proxy]:
    """Start a proxy that injects faults in front of the server."""
    with proxy(server.uri, delay=NEVER) as started:
        yield started


@pytest.fixture
def client(tmp_path: Path, faulty: Proxy) -> Client:
    """Return a user's folder, where no run has been started yet."""
    return Client(tmp_path, faulty.uri)


@pytest.mark.parametrize("fault", ["slow", "403"])
def test_run_slow_or_refusing_mlflow_does_not_delay_training(fault, client, server, faulty, undisturbed, count):
    faulty.always(fault)
    _, err = client.run("run")
    assert f"{CELLS} cells trained" in err
    *outage, ended = mlflow_lines(err)
    assert ended == (
        f"MLflow at {faulty.uri} lacks {CELLS + 1} runs; they are kept in the store: `pld-grid sync` logs them later."
    )
    # A short run may end before the first request times out.
    assert len(outage) == 1 or (fault == "slow" and not outage)
    assert all(line.endswith(GOES_ON) and (fault == "slow" or "403" in line) for line in outage)
    assert client.numbers() == undisturbed(PROFILE, GRID)
    # The server recovers after one slow answer.
    faulty.delay = SLOW
    faulty.choose = partial(next, iter(["slow"]), None)
    assert_synced(client)
    assert_mirrored(Store(client.store), client.folder.name, server.database)
    count(f"MLflow {fault}")
    count("MLflow slow")


def test_run_all_faults_lose_nothing(client, server, faulty, undisturbed, count, chance):
    faulty.delay = SLOW
    # The first answer arrives during training.
    faulty.choose = partial(next, iter(["slow"]), "500")
    process = client.start("run")
    wait_for_line(process, f"; {GOES_ON}")
    faulty.at_random(chance, 0.4, (*REFUSED, *DONE))
    err = rest(process)
    assert process.returncode == 0, err
    assert f"{CELLS} cells trained" in err
    # No second warning of the outage; at most one line for each other error, and one with the number of missing runs.
    lines = [line.partition(" is not mirrored: ") for line in mlflow_lines(err)]
    refused = [(item, reason) for item, separator, reason in lines if separator]
    for known in zip(*refused, strict=True):
        assert len(known) == len(set(known)), err
    others = [line for line, separator, _ in lines if not separator]
    assert len(others) <= 1, err
    assert all(" lacks " in line for line in others), err
    assert client.numbers() == undisturbed(PROFILE, GRID)
    # While the faults go on, each `sync` fails in one line or succeeds.
    attempts = 0
    while attempts < 3 or len(faulty.suffered) <= 5:
        attempts += 1
        process = client.start("sync")
        out, err = process.communicate(timeout=RETRY_TIMEOUT_SECONDS)
        assert (process.returncode, bool(out), err.count("\n")) in {(0, True, 0), (3, False, 1)}, out + err
    suffered = faulty.suffered.copy()
    faulty.always(None)
    assert_synced(client)
    assert_mirrored(Store(client.store), client.folder.name, server.database)
    # Reports from MLflow and from the store are equal.
    grid = client.load_grid()
    workspace = Workspace(str(client.store), faulty.uri, client.folder.name)
    for source in ("store", "mlflow"):
        report_writer.write_report([grid], client.folder / source, workspace, source=source)
    assert contents(client.folder / "store") == contents(client.folder / "mlflow")
    for fault, number in suffered.items():
        count(f"MLflow {fault}", number)


@pytest.mark.parametrize("fault", [*REFUSED, *DONE, *DELAYED])
def test_sync_every_fault_leaves_one_run_and_each_metric_once(fault, tmp_path, server, faulty, count, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    if fault in DELAYED:
        faulty.delay = TOO_LATE
        # MLflow accepts only whole seconds.
        monkeypatch.setattr("mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.type", float)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SHORT))
    store = Store(tmp_path / "store")
    tracker = Tracker(store, faulty.uri, tmp_path.name)
    cells = [make_cell(seed=seed) for seed in range(REQUESTS)]
    ids = [cell.cell_id for cell in cells]
    submission = tracker.parent_runs.start(make_parent_run(ids))
    tracker.parent_runs.end(submission, "finished")
    for before, cell in enumerate(cells):
        finish(store, cell)
        # The n-th request fails, and so does its repetition.
        coming = iter([None] * before + [fault] * 2)
        faulty.choose = partial(next, coming, None)
        with contextlib.suppress(TrackingError):
            tracker.sync_all()
    assert faulty.suffered[fault] >= REQUESTS
    faulty.always(None)
    monkeypatch.undo()
    # The server executes requests whose clients have given up.
    assert faulty.wait_until_done()
    tracker.sync_all()
    # A new tracker knows only what the store has.
    assert Tracker(store, faulty.uri, tmp_path.name).sync_all() == 0
    assert_mirrored(store, tmp_path.name, server.database)
    count(f"MLflow {fault}", faulty.suffered[fault])


def test_ctrl_c_unresponsive_server_does_not_delay_exit(client, faulty, count):
    faulty.always("slow")
    (client.folder / "losses.yaml").write_text("cells: {student: small, epochs: 500, loss: ce}\n")
    process = client.start("run")
    wait_for(process, lambda: faulty.suffered["slow"] and list(client.store.glob("*/checkpoints/*.json")))
    process.send_signal(signal.SIGINT)
    err = rest(process)
    assert process.returncode == 130, err
    assert "checkpoints are kept" in err
    assert "Traceback" not in err
    assert faulty.waiting > 0
    count("MLflow slow")
