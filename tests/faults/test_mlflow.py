"""A grid runs while MLflow is ill: nobody waits, nothing is lost, everything arrives once."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from cells import finish, make_cell
from counting import Count, Undisturbed
from mlflow_clients import CELLS, GRID, Client, check, said_of_mlflow, synced
from mlflow_proxy import DELAYED, DONE, REFUSED, Fault, PlainServer, Proxy, plain_server, proxy
from service import PATIENCE, PROFILE, contents, rest, wait_for, wait_for_line

from pld_grid import api
from pld_grid.errors import TrackingError
from pld_grid.store import Store
from pld_grid.track import Tracker

REQUESTS = 12  # at least as many as a cell takes
NEVER = 3600.0  # seconds that no client waits
SLOW = 10.0  # seconds that clients do wait
SHORT, TOO_LATE = 0.5, 1.3  # seconds that one waits, and those that an answer to it takes
GOES_ON = "training goes on, and what MLflow lacks stays in the store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[PlainServer]:
    """A healthy `mlflow server`; every test has an experiment of its own."""
    folder = tmp_path_factory.mktemp("server")
    with plain_server(folder, f"sqlite:///{shutil.copy(database, folder / 'server.db')}") as server:
        yield server


@pytest.fixture
def ill(server: PlainServer) -> Iterator[Proxy]:
    """What stands before the server."""
    with proxy(server.uri, delay=NEVER) as started:
        yield started


@pytest.fixture
def client(tmp_path: Path, ill: Proxy) -> Client:
    """Somebody who has not begun yet."""
    return Client(tmp_path, ill.uri)


@pytest.mark.parametrize("fault", ["slow", "403"])
def test_a_grid_does_not_wait_for_mlflow(
    fault: Fault, client: Client, server: PlainServer, ill: Proxy, undisturbed: Undisturbed, count: Count
) -> None:
    ill.always(fault)
    _, err = client.run("run")
    assert f"{CELLS} cells trained" in err
    *outage, ended = said_of_mlflow(err)
    assert ended == (
        f"MLflow at {ill.uri} lacks {CELLS + 1} runs; they are kept in the store: `pld-grid sync` logs them later."
    )
    # A short run need not learn that a server will never answer.
    assert len(outage) == 1 or (fault == "slow" and not outage)
    assert all(line.endswith(GOES_ON) and (fault == "slow" or "403" in line) for line in outage)
    assert client.numbers() == undisturbed(PROFILE, GRID)
    # It gets well, by way of an answer that is awaited.
    ill.delay = SLOW
    ill.choose = partial(next, iter(["slow"]), None)
    synced(client)
    check(Store(client.store), client.folder.name, server.database)
    count(f"MLflow {fault}")
    count("MLflow slow")


def test_faults_of_all_kinds_while_a_grid_runs(
    client: Client, server: PlainServer, ill: Proxy, undisturbed: Undisturbed, count: Count, chance: Random
) -> None:
    ill.delay = SLOW
    # The first answer comes while the grid trains.
    ill.choose = partial(next, iter(["slow"]), "500")
    process = client.start("run")
    wait_for_line(process, f"; {GOES_ON}")
    ill.at_random(chance, 0.4, (*REFUSED, *DONE))
    err = rest(process)
    assert process.returncode == 0, err
    assert f"{CELLS} cells trained" in err
    # Nothing more of the outage; how much it lacks; what it refused while there, each thing and each reason once.
    said = [line.partition(" is not mirrored: ") for line in said_of_mlflow(err)]
    refused = [(item, reason) for item, found, reason in said if found]
    for known in zip(*refused, strict=True):
        assert len(known) == len(set(known)), err
    others = [line for line, found, _ in said if not found]
    assert len(others) <= 1, err
    assert all(" lacks " in line for line in others), err
    assert client.numbers() == undisturbed(PROFILE, GRID)
    # While it is still ill, in many ways: each attempt is one line, or brings something there.
    attempts = 0
    while attempts < 3 or len(ill.suffered) <= 5:
        attempts += 1
        process = client.start("sync")
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, bool(out), err.count("\n")) in {(0, True, 0), (3, False, 1)}, out + err
    suffered = ill.suffered.copy()
    ill.always(None)
    synced(client)
    check(Store(client.store), client.folder.name, server.database)
    # MLflow tells what the store does.
    grid = api.load_grid(client.folder / "losses.yaml", str(client.folder / "tiny.yaml"))
    workspace = api.Workspace(str(client.store), ill.uri, client.folder.name)
    for source in ("store", "mlflow"):
        api.report([grid], client.folder / source, workspace, source=source)
    assert contents(client.folder / "store") == contents(client.folder / "mlflow")
    for fault, number in suffered.items():
        count(f"MLflow {fault}", number)


@pytest.mark.parametrize("fault", [*REFUSED, *DONE, *DELAYED])
def test_every_fault_in_the_middle_leaves_one_run_and_one_of_each_metric(
    fault: Fault,
    tmp_path: Path,
    server: PlainServer,
    ill: Proxy,
    count: Count,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    if fault in DELAYED:
        ill.delay = TOO_LATE
        # MLflow itself takes whole seconds.
        monkeypatch.setattr("mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.type", float)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SHORT))
    store = Store(tmp_path / "store")
    tracker = Tracker(store, ill.uri, tmp_path.name)
    cells = [make_cell(seed=seed) for seed in range(REQUESTS)]
    ids = [cell.cell_id for cell in cells]
    submission = tracker.start_submission("run", profile="digits", cells={i: ["g"] for i in ids}, trained=ids)
    tracker.end_submission(submission, "finished")
    for before, cell in enumerate(cells):
        finish(store, cell)
        # Each request in its turn fails, and so does its repetition.
        coming = iter([None] * before + [fault] * 2)
        ill.choose = partial(next, coming, None)
        with contextlib.suppress(TrackingError):
            tracker.sync_all()
    assert ill.suffered[fault] >= REQUESTS
    ill.always(None)
    monkeypatch.undo()
    # What was given up is done all the same.
    assert ill.all_done()
    tracker.sync_all()
    # Another one, which knows nothing but the store.
    assert Tracker(store, ill.uri, tmp_path.name).sync_all() == 0
    check(store, tmp_path.name, server.database)
    count(f"MLflow {fault}", ill.suffered[fault])


def test_ctrl_c_is_not_held_up_by_a_server_that_never_answers(client: Client, ill: Proxy, count: Count) -> None:
    ill.always("slow")
    (client.folder / "losses.yaml").write_text("cells: {student: small, epochs: 500, loss: ce}\n")
    process = client.start("run")
    wait_for(process, lambda: ill.suffered["slow"] and list(client.store.glob("*/checkpoints/*.json")))
    process.send_signal(signal.SIGINT)
    err = rest(process)
    assert process.returncode == 130, err
    assert "checkpoints are kept" in err
    assert "Traceback" not in err
    assert ill.waiting > 0
    count("MLflow slow")
