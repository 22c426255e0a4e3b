"""An `mlflow server` whose PostgreSQL restarts, and processes that race to create a schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import finish, make_cell
from cli_process import PROFILE, RETRY_TIMEOUT_SECONDS, Service, rest, wait_for, wait_for_line
from mlflow_clients import CELLS, GRID, Client, assert_mirrored, assert_synced, mlflow_lines
from mlflow_servers import MlflowServer, upgrade_database
from postgres_server import Postgres
from postgres_server import postgres as running_postgres

from pld_grid.store import Store

RACERS = 16  # on sqlite; half on PostgreSQL


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL for these tests."""
    with running_postgres() as started:
        yield started


@pytest.fixture
def server(tmp_path: Path, postgres: Postgres) -> Iterator[MlflowServer]:
    """Start an `mlflow server` with a database in it."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder, postgres.create("lost"), {"PGPASSWORD": postgres.password})
    upgrade_database(server.database, server.environment)
    with server.running() as started:
        yield started


def test_run_database_restarts_lose_nothing(tmp_path, postgres, server, undisturbed, count):
    client = Client(tmp_path / "client", server.uri)
    process = client.start("run")
    wait_for(process, lambda: list(client.store.glob("*/mirror.json")))
    postgres.stop()
    outputs = [wait_for_line(process, "training goes on, and what MLflow lacks stays in the store")]
    # The server keeps running with broken connections.
    postgres.start()
    outputs += rest(process).splitlines()
    assert process.returncode == 0
    assert f"{CELLS} cells trained" in "\n".join(outputs)
    assert len(mlflow_lines("\n".join(outputs))) <= 2
    assert client.numbers() == undisturbed(PROFILE, GRID)
    assert_synced(client)
    uri = postgres.uri("lost", postgres.password)
    assert_mirrored(Store(client.store), "client", uri)

    # Both stop and start again, with a `sync` in between.
    postgres.stop()
    _, err = client.run("sync", code=3)
    assert err.startswith(f"error: MLflow at {server.uri}: ")
    assert err.count("\n") == 1
    server.kill()
    postgres.start()
    server.start()
    assert client.run("sync")[0] == "MLflow is up to date\n"
    assert_mirrored(Store(client.store), "client", uri)
    count("PostgreSQL restarted", 2)
    count("MLflow server killed")


def race(service: Service, uri: str, racers: int, *, password: str = "") -> list[tuple[str, str]]:
    """Run `sync` in half of the processes and `db upgrade` in the others; return their outputs."""
    finish(Store(service.store), make_cell())
    service.environment |= {"MLFLOW_TRACKING_URI": uri, "PGPASSWORD": password}
    commands = [("sync",), ("db", "upgrade")] * (racers // 2)
    started = [service.start(*command) for command in commands]
    outputs = [process.communicate(timeout=RETRY_TIMEOUT_SECONDS) for process in started]
    assert [(process.returncode, err) for process, (_, err) in zip(started, outputs, strict=True)] == [(0, "")] * racers
    return outputs


def test_sync_processes_race_for_fresh_sqlite(tmp_path, count):
    service = Service(tmp_path)
    outputs = race(service, service.tracking_uri, RACERS)
    assert sum(out == "1 runs brought up to date\n" for out, _ in outputs) >= 1
    # Only the first process creates the schema, whichever command it runs.
    assert sum("schema made" in out for out, _ in outputs) <= 1
    assert_mirrored(Store(service.store), "pld_grid", service.tracking_uri)
    assert sorted(path.name for path in (tmp_path / ".pld_grid").glob("mlflow.db*.tmp")) == []
    count("fresh sqlite opened at once", RACERS)


def test_sync_processes_race_for_fresh_postgresql(tmp_path, postgres, count):
    uri = postgres.create("fresh")
    outputs = race(Service(tmp_path), uri, RACERS // 2, password=postgres.password)
    assert sum(out == "1 runs brought up to date\n" for out, _ in outputs) >= 1
    assert sum("schema made" in out for out, _ in outputs) <= 1
    ((_,),) = postgres.query("fresh", "SELECT version_num FROM alembic_version")
    assert_mirrored(Store(tmp_path / ".pld_grid" / "store"), "pld_grid", postgres.uri("fresh", postgres.password))
    count("fresh PostgreSQL opened at once", RACERS // 2)
