"""What a group does with a cluster: Table 7 is submitted, stopped, submitted again, and is the table of a laptop."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import TOKEN, RayCluster, ray_cluster
from servers import MlflowServer
from service import PATIENCE, isolated, rest, wait_for

from pld_grid.store import Store

ROOT = Path(__file__).parents[2]
GRID = ["grids/table07.yaml", "--profile", "digits"]
TABLE = ["table07.csv", "table07.md"]


@pytest.fixture
def cluster(mlflow_server: MlflowServer) -> Iterator[RayCluster]:
    """A head and two workers, whose environment has MLflow's user and password."""
    with ray_cluster(workers=("H100", "A10G"), environment=mlflow_server.credentials) as running:
        yield running


def _start(folder: Path, environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pld_grid", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    process = _start(folder, environment, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return out


def _folder(path: Path) -> Path:
    """What somebody has who works from a clone."""
    shutil.copytree(ROOT / "grids", path / "grids")
    shutil.copytree(ROOT / "reports" / "paper", path / "reports" / "paper")
    (path / "home").mkdir()
    return path


def test_table_7_is_the_same_from_a_cluster_that_was_stopped_midway(
    tmp_path: Path, cluster: RayCluster, mlflow_server: MlflowServer
) -> None:
    laptop, shared = _folder(tmp_path / "laptop"), tmp_path / "shared"
    environment = isolated(laptop / "home") | mlflow_server.environment
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": cluster.dashboard}
    environment["PLD_GRID_STORE"] = str(shared)

    job = _run(laptop, environment, "submit", *GRID).split()[0]
    following = _start(laptop, environment, "logs", "-f", job)
    store = Store(shared)

    def underway() -> bool:
        """The teacher is finished, and students have checkpoints."""
        found = [store.progress(cell) for cell in store.cell_ids()]
        return sum(progress is not None and bool(progress.epochs) for progress in found) > 5

    wait_for(following, underway)
    assert _run(laptop, environment, "stop", job) == f"{job} stopped\n"
    rest(following)
    states = [progress.state for cell in store.cell_ids() if (progress := store.progress(cell)) is not None]
    assert "cancelled" in states
    assert set(states) <= {"cancelled", "finished"}

    again = _run(laptop, environment, "submit", *GRID).split()[0]
    assert again == job.removesuffix("-1") + "-2"
    said = _run(laptop, environment, "logs", "-f", again)
    trained = re.search(r"(\d+) cells trained .* (\d+) were finished before", said)
    assert trained is not None, said
    assert int(trained[1]) + int(trained[2]) == 13
    assert int(trained[2]) == states.count("finished")
    assert mlflow_server.user_password not in said

    _run(laptop, environment, "report", *GRID, "--from", "mlflow", "--out", "tables")
    alone = _folder(tmp_path / "alone")
    _run(alone, isolated(alone / "home"), "run", *GRID, "--report", "tables")
    for name in TABLE:
        assert (laptop / "tables" / name).read_bytes() == (alone / "tables" / name).read_bytes()
