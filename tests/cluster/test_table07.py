"""Table 7 on a cluster: submitted, stopped and submitted again, it equals the table of a local run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import RETRY_TIMEOUT_SECONDS, isolated, rest, start_cli, wait_for
from mlflow_servers import ProtectedServer
from paths import ROOT
from ray_cluster import TOKEN, RayCluster, ray_cluster

from pld_grid.store import Store

pytestmark = pytest.mark.ray

GRID = ["grids/table07.yaml", "--profile", "digits"]
TABLE = ["table07.csv", "table07.md"]


@pytest.fixture
def cluster(mlflow_server: ProtectedServer) -> Iterator[RayCluster]:
    """A head and two workers with MLflow's user and password in their environment."""
    with ray_cluster(workers=("H100", "A10G"), environment=mlflow_server.credentials) as running:
        yield running


def _run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    process = start_cli(folder, environment, *arguments)
    out, err = process.communicate(timeout=RETRY_TIMEOUT_SECONDS)
    assert process.returncode == 0, f"exit {process.returncode}\n{out}\n{err}"
    return out


def _make_folder(path: Path) -> Path:
    """Copy the files of a clone that `pld-grid` needs."""
    shutil.copytree(ROOT / "grids", path / "grids")
    shutil.copytree(ROOT / "reports" / "paper", path / "reports" / "paper")
    (path / "home").mkdir()
    return path


def test_table_7_after_a_stop_on_a_cluster_equals_the_local_table(tmp_path, cluster, mlflow_server):
    laptop, shared = _make_folder(tmp_path / "laptop"), tmp_path / "shared"
    environment = isolated(laptop / "home") | mlflow_server.client_environment
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": cluster.dashboard}
    environment["PLD_GRID_STORE"] = str(shared)

    job = _run(laptop, environment, "submit", *GRID).split()[0]
    following = start_cli(laptop, environment, "logs", "-f", job)
    store = Store(shared)

    def underway() -> bool:
        """Return whether the teacher is finished and students have checkpoints."""
        records = [store.record(cell) for cell in store.cell_ids()]
        return sum(record is not None and bool(record.epochs) for record in records) > 5

    wait_for(following, underway)
    assert _run(laptop, environment, "stop", job) == f"{job} stopped\n"
    rest(following)
    states = [progress.state for cell in store.cell_ids() if (progress := store.record(cell)) is not None]
    assert "cancelled" in states
    assert set(states) <= {"cancelled", "finished"}

    again = _run(laptop, environment, "submit", *GRID).split()[0]
    assert again == job.removesuffix("-1") + "-2"
    log = _run(laptop, environment, "logs", "-f", again)
    trained = re.search(r"(\d+) cells trained .* (\d+) were finished before", log)
    assert trained is not None, log
    assert int(trained[1]) + int(trained[2]) == 13
    assert int(trained[2]) == states.count("finished")
    assert mlflow_server.user_password not in log

    _run(laptop, environment, "report", *GRID, "--from", "mlflow", "--out", "tables")
    alone = _make_folder(tmp_path / "alone")
    _run(alone, isolated(alone / "home"), "run", *GRID, "--report", "tables")
    for name in TABLE:
        assert (laptop / "tables" / name).read_bytes() == (alone / "tables" / name).read_bytes()
