"""PLD_GRID_NO_SKIPS turns skipped tests into failures."""

import os
import shutil
import subprocess
import sys

import pytest
from paths import SUPPORT

pytestmark = pytest.mark.slow

TESTS = {
    "faults/test_one.py": "import pytest\n\ndef test_it():\n    pytest.skip('no disk')",
    "browser/test_two.py": "import pytest\n\npytest.skip('no Chromium', allow_module_level=True)",
    "cluster/test_three.py": "import pytest\n\n@pytest.mark.skipif(True, reason='no server')\ndef test_it(): ...",
    "docker/test_four.py": "import pytest\n\n@pytest.mark.xfail\ndef test_it():\n    assert False",
    "train/test_five.py": "import pytest\n\ndef test_it():\n    pytest.skip('no GPU')",
}
OPTIONS = ("-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-o", "markers=faults")


@pytest.mark.parametrize(
    ("strict", "summary"), [("", "4 skipped, 1 xfailed"), ("1", "1 failed, 1 skipped, 1 xfailed, 2 errors")]
)
def test_no_skips_fails_skipped_tests_of_some_folders(tmp_path, strict, summary):
    for name, text in TESTS.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    shutil.copy(SUPPORT.parent / "conftest.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, tmp_path],
        # The copied conftest imports the package, and modules beside the original.
        env=os.environ
        | {"PLD_GRID_NO_SKIPS": strict, "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, SUPPORT.parents[1])))},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert summary in done.stdout, done.stdout
    assert ("no disk, but PLD_GRID_NO_SKIPS is set" in done.stdout) == bool(strict)
