"""Real servers, started once for all tests that ask for them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers

sys.path.append(str(Path(__file__).parents[1] / "faults"))  # how processes are changed


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL of these tests' own."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(postgres: servers.Postgres) -> Iterator[servers.MlflowServer]:
    """An `mlflow server` on PostgreSQL with authentication and one allowed name."""
    with servers.mlflow_server(postgres) as server:
        yield server
