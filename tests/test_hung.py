"""Which processes are ended as hung."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pld_grid.schedule.watch import end_worker
from pld_grid.store import Store, leases

LIVING = """
import sys
from pld_grid.store import Store
from pld_grid.store.leases import Lease
Lease(Store(sys.argv[1]), "theirs").beat()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("named", "ended"), [("ray::ImplicitFunc.train", True), ("python", False)])
def test_only_workers_of_ray_are_ended(tmp_path: Path, named: str, ended: bool) -> None:
    """A beat may be anybody's who can write into the store, and name any process."""
    with subprocess.Popen(
        [named, "-c", LIVING, str(tmp_path)],
        executable=sys.executable,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # by its name, it would not find its packages
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            beat = leases.read(Store(tmp_path), "theirs")
            assert beat is not None
            assert beat.pid == process.pid
            assert not end_worker(beat.model_copy(update={"machine": "elsewhere"}))
            assert end_worker(beat)
            if ended:
                assert process.wait(timeout=60) == -9
            assert leases.gone(beat) == ended
        finally:
            process.kill()
