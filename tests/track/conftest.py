"""A store, an MLflow database and the tracker between them."""

import shutil
from pathlib import Path

import pytest

from pld_grid.store import Store
from pld_grid.track.tracker import Tracker


@pytest.fixture
def uri(tmp_path: Path, database: Path) -> str:
    return f"sqlite:///{shutil.copy(database, tmp_path / 'mlflow.db')}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tracker(store: Store, uri: str) -> Tracker:
    return Tracker(store, uri)
