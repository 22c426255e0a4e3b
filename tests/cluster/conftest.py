"""Real servers, started once for all tests that use them."""

from collections.abc import Iterator

import postgres_server
import pytest
from mlflow_servers import ProtectedServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Postgres]:
    """A PostgreSQL server for these tests."""
    with postgres_server.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory, postgres: postgres_server.Postgres
) -> Iterator[ProtectedServer]:
    """An `mlflow server` on PostgreSQL with authentication and one allowed name."""
    with ProtectedServer(tmp_path_factory.mktemp("mlflow"), postgres, "mlflow").running() as server:
        yield server
