from pathlib import Path

import pytest
from front_door import FrontDoor


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> FrontDoor:
    """`pld-grid` in an empty folder."""
    return FrontDoor(tmp_path, monkeypatch, capfd)
