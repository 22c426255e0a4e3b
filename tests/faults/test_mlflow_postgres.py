"""An `mlflow server` that loses its PostgreSQL, and many processes that make one schema at the same time."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from cells import finish, make_cell
from counting import Count, Undisturbed
from mlflow_clients import CELLS, GRID, Client, check, said_of_mlflow, synced
from mlflow_proxy import PlainServer, plain_server
from restartable import Restartable
from service import PATIENCE, PROFILE, Service, isolated, rest, wait_for, wait_for_line

from pld_grid.store import Store

RACERS = 16  # on sqlite; a database server has less to fear


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL for these tests; whatever runs of it at the end is ended."""
    with servers.postgres() as started:
        yield started
        Restartable(started).stop()


@pytest.fixture
def server(tmp_path: Path, postgres: servers.Postgres) -> Iterator[PlainServer]:
    """An `mlflow server` on it."""
    database = postgres.create("lost")
    password = {"PGPASSWORD": postgres.password}
    (tmp_path / "server" / "home").mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "pld_grid", "db", "upgrade", "--tracking-uri", database],
        env=isolated(tmp_path / "server" / "home") | password, check=True, capture_output=True,
    )  # fmt: skip
    with plain_server(tmp_path / "server", database, password) as started:
        yield started


def test_a_server_loses_its_database_while_a_grid_runs(
    tmp_path: Path, postgres: servers.Postgres, server: PlainServer, undisturbed: Undisturbed, count: Count
) -> None:
    database = Restartable(postgres)
    client = Client(tmp_path / "client", server.uri)
    process = client.start("run")
    wait_for(process, lambda: list(client.store.glob("*/mirror.json")))
    database.stop()
    said = [wait_for_line(process, "training goes on, and what MLflow lacks stays in the store")]
    # The server lives on, with connections that are gone.
    database.start()
    said += rest(process).splitlines()
    assert process.returncode == 0
    assert f"{CELLS} cells trained" in "\n".join(said)
    assert len(said_of_mlflow("\n".join(said))) <= 2
    assert client.numbers() == undisturbed(PROFILE, GRID)
    synced(client)
    uri = postgres.uri("lost", postgres.password)
    check(Store(client.store), "client", uri)

    # Both go, and come back; somebody asks in between.
    database.stop()
    _, err = client.run("sync", code=3)
    assert err.startswith(f"error: MLflow at {server.uri}: ")
    assert err.count("\n") == 1
    server.kill()
    database.start()
    server.start()
    assert client.run("sync")[0] == "MLflow is up to date\n"
    check(Store(client.store), "client", uri)
    count("PostgreSQL restarted", 2)
    count("MLflow server killed")


def race(service: Service, uri: str, racers: int, *, password: str = "") -> list[tuple[str, str]]:
    """Half of the processes mirror a store with a finished cell, the others make the schema; what they say."""
    finish(Store(service.store), make_cell())
    service.environment |= {"MLFLOW_TRACKING_URI": uri, "PGPASSWORD": password}
    commands = [("sync",), ("db", "upgrade")] * (racers // 2)
    started = [service.start(*command) for command in commands]
    said = [process.communicate(timeout=PATIENCE) for process in started]
    assert [(process.returncode, err) for process, (_, err) in zip(started, said, strict=True)] == [(0, "")] * racers
    return said


def test_sixteen_processes_open_a_fresh_sqlite_store(tmp_path: Path, count: Count) -> None:
    service = Service(tmp_path)
    said = race(service, service.tracking_uri, RACERS)
    assert sum(out == "1 runs brought up to date\n" for out, _ in said) >= 1
    # Whoever comes first makes the schema, be it to mirror or not.
    assert sum("schema made" in out for out, _ in said) <= 1
    check(Store(service.store), "pld_grid", service.tracking_uri)
    assert sorted(path.name for path in (tmp_path / ".pld_grid").glob("mlflow.db*.tmp")) == []
    count("fresh sqlite opened at once", RACERS)


def test_several_processes_open_a_fresh_postgresql(tmp_path: Path, postgres: servers.Postgres, count: Count) -> None:
    uri = postgres.create("fresh")
    said = race(Service(tmp_path), uri, RACERS // 2, password=postgres.password)
    assert sum(out == "1 runs brought up to date\n" for out, _ in said) >= 1
    assert sum("schema made" in out for out, _ in said) <= 1
    ((_,),) = postgres.query("fresh", "SELECT version_num FROM alembic_version")
    check(Store(tmp_path / ".pld_grid" / "store"), "pld_grid", postgres.uri("fresh", postgres.password))
    count("fresh PostgreSQL opened at once", RACERS // 2)
