"""Where nothing may be missing, a test that skips itself has failed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "faults/test_one.py": "import pytest\n\ndef test_it():\n    pytest.skip('no disk')",
    "browser/test_two.py": "import pytest\n\npytest.skip('no Chromium', allow_module_level=True)",
    "cluster/test_three.py": "import pytest\n\n@pytest.mark.skipif(True, reason='no server')\ndef test_it(): ...",
    "docker/test_four.py": "import pytest\n\n@pytest.mark.xfail\ndef test_it():\n    assert False",
    "train/test_five.py": "import pytest\n\ndef test_it():\n    pytest.skip('no GPU')",
}


@pytest.mark.parametrize(
    ("strict", "ends"), [("", "4 skipped, 1 xfailed"), ("1", "1 failed, 1 skipped, 1 xfailed, 2 errors")]
)
def test_what_may_not_be_skipped_fails(tmp_path: Path, strict: str, ends: str) -> None:
    for name, text in TESTS.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", tmp_path],
        # It uses what lies beside it.
        env=os.environ | {"PLD_GRID_NO_SKIPS": strict, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert ends in found.stdout, found.stdout
    assert ("no disk, but PLD_GRID_NO_SKIPS is set" in found.stdout) == bool(strict)
