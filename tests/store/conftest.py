"""The store of every test here: in a local folder, and on an object store."""

import uuid
from pathlib import Path

import pytest

from pld_grid.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")
