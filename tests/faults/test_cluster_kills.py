"""A real Ray cluster: `kill -9` of nodes, a raylet and a job's driver while one grid is trained."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chaos import LONG, LONG_PROFILE, Run, Witness, check_whole, kill, kind
from counting import Count, Undisturbed, Watch
from ray_cluster import TOKEN, RayCluster, ray_cluster
from service import Service

_RESOURCES = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({"all": ray.cluster_resources().get("CPU", 0), "free": ray.available_resources().get("CPU", 0)}))
"""


class Laptop(Service):
    """Submits to a cluster; results are in a place that all nodes reach."""

    def __init__(self, folder: Path, cluster: RayCluster, shared: Path) -> None:
        super().__init__(folder, profile=LONG_PROFILE, grid=LONG)
        self.shared = shared
        self.environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_API_SERVER_ADDRESS": cluster.dashboard,
            "PLD_GRID_STORE": str(self.store),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
        }

    @property
    def store(self) -> Path:
        return self.shared / "store"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.shared / 'mlflow.db'}"


@pytest.fixture
def shared(tmp_path: Path, database: Path) -> Path:
    """A place that all nodes and laptops reach."""
    (tmp_path / "shared").mkdir()
    shutil.copy(database, tmp_path / "shared" / "mlflow.db")
    return tmp_path / "shared"


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


@pytest.fixture
def cluster(witness: Witness) -> Iterator[RayCluster]:
    """A head and two workers."""
    with ray_cluster(workers=("H100", "A10G"), environment=witness.environment) as running:
        yield running


def _processes(cluster: RayCluster, text: str, *, of: str) -> list[psutil.Process]:
    """A node's processes that have a text in their command."""
    return [process for process in cluster.processes(of) if text in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _resources(cluster: RayCluster) -> dict[str, float]:
    """How many CPUs the cluster has, and how many are free."""
    command = [sys.executable, "-c", _RESOURCES, f"127.0.0.1:{cluster.port}"]
    found = subprocess.run(
        command, env=cluster.environment, check=True, capture_output=True, text=True, cwd=cluster.folder
    )
    return dict(json.loads(found.stdout.splitlines()[-1]))


def test_a_grid_outlives_nodes_and_drivers(
    tmp_path: Path, shared: Path, cluster: RayCluster, witness: Witness, watch: Watch,
    undisturbed: Undisturbed, chance: random.Random, count: Count,
) -> None:  # fmt: skip
    laptop = Laptop(tmp_path / "laptop", cluster, shared)
    seen: set[psutil.Process] = set()

    def submitted(number: int) -> tuple[str, Run]:
        job = laptop.run("submit")[0].split()[0]
        assert job.endswith(f"-{number}")
        return job, watch(laptop.start("logs", "-f", job))

    def some_progress(following: Run) -> None:
        wanted = len(witness.begun()) + chance.randint(1, 8)
        following.wait_for(lambda: len(witness.begun()) >= wanted, within=400)
        seen.update(process for name in cluster.nodes for process in cluster.processes(name))

    def another_node(name: str) -> None:
        cluster.start(name, "--num-cpus", "1", "--address", f"127.0.0.1:{cluster.port}")

    # Nodes come up while it trains.
    witness.slow(0.2)
    _, following = submitted(1)
    some_progress(following)
    kill(_processes(cluster, "raylet/raylet", of="worker-2")[0])
    count.kill("raylet")
    # It ends with its raylet.
    cluster.nodes.pop("worker-2").wait(timeout=60)
    another_node("worker-3")
    some_progress(following)
    cluster.kill("worker-1")
    count.kill("node")
    another_node("worker-4")
    some_progress(following)
    kill(_processes(cluster, "pld_grid run", of="head")[0])
    count.kill("driver on a cluster")
    following.end()
    job, following = submitted(2)
    some_progress(following)
    # By Ray's own command, for somebody who does not know ours.
    stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", job]
    subprocess.run(stop, env=laptop.environment, check=True, capture_output=True, cwd=cluster.folder, timeout=300)
    count("ray job stop")
    following.end()
    witness.slow(0)
    _, following = submitted(3)
    assert following.end(within=600) == 0, following.said
    assert "0 failed" in following.said
    witness.repeated()
    assert _resources(cluster) == {"all": 2, "free": 2}
    trained = [process for process in seen if kind(process) != "other" or "pld_grid run" in _command(process)]
    check_whole(laptop, undisturbed(LONG_PROFILE, LONG), trained)
