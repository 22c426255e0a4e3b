"""A real Ray cluster: `kill -9` of nodes, a raylet and a job's driver while one grid is trained."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos import LONG, LONG_PROFILE, Run, Witness, check_whole, kind
from counting import Count, Undisturbed, Watch
from living import command, kill, name
from ray_cluster import TOKEN, RayCluster, ray_cluster
from service import Service

from pld_grid.store import Store, claims, leases

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


def _is_driver(process: psutil.Process) -> bool:
    """Whether it runs a grid: Ray's shell around it has the same words in its command."""
    words = command(process)
    return Path(words[0]).name.startswith("python") and words[1:4] == ["-m", "pld_grid", "run"]


def _resources(cluster: RayCluster) -> dict[str, float]:
    """How many CPUs the cluster has, and how many are free."""
    command = [sys.executable, "-c", _RESOURCES, f"127.0.0.1:{cluster.port}"]
    found = subprocess.run(
        command, env=cluster.environment, check=True, capture_output=True, text=True, cwd=cluster.folder
    )
    return dict(json.loads(found.stdout.splitlines()[-1]))


def _leaked(cluster: RayCluster) -> list[dict[str, Any]]:
    """Placement groups and actors that are left; a job's own actor is Ray's, which ends it a moment later."""
    groups = [row for row in cluster.rows("placement_groups") if row["state"] != "REMOVED"]
    actors = [row for row in cluster.rows("actors") if row["state"] != "DEAD"]
    return groups + [row for row in actors if row["class_name"] != "JobSupervisor"]


class Runs:
    """Whose processes trained what, by the cells' claims."""

    def __init__(self, laptop: Laptop, witness: Witness) -> None:
        self.store, self.witness = Store(laptop.store), witness

    def logs(self) -> dict[str, list[claims.Entry]]:
        """The logs of the cells by their ids."""
        return {cell_id: claims.entries(self.store, cell_id) for cell_id in self.store.cell_ids()}

    def names(self) -> set[str]:
        """The runs that have claimed a cell so far."""
        return {entry.run for log in self.logs().values() for entry in log if entry.kind == "claimed"}

    def training(self) -> dict[int, str]:
        """Processes that have begun an epoch of a cell that is theirs now, and their runs."""
        begun = {(each.pid, each.cell_id) for each in self.witness.begun()}
        found = {}
        for cell_id, log in self.logs().items():
            beat = leases.read(self.store, log[-1].lease) if log and log[-1].kind == "claimed" else None
            if beat is not None and (beat.pid, cell_id) in begun:
                found[beat.pid] = log[-1].run
        return found


def test_a_grid_outlives_nodes_and_drivers(
    tmp_path: Path, shared: Path, cluster: RayCluster, witness: Witness, watch: Watch,
    undisturbed: Undisturbed, chance: random.Random, count: Count,
) -> None:  # fmt: skip
    laptop = Laptop(tmp_path / "laptop", cluster, shared)
    runs = Runs(laptop, witness)
    seen: set[psutil.Process] = set()

    def submitted(number: int) -> tuple[str, Run]:
        job = laptop.run("submit")[0].split()[0]
        assert job.endswith(f"-{number}")
        return job, watch(laptop.start("logs", "-f", job))

    def some_progress(following: Run) -> None:
        wanted = len(witness.begun()) + chance.randint(1, 3)
        following.wait_for(lambda: len(witness.begun()) >= wanted)
        seen.update(process for name in cluster.nodes for process in cluster.processes(name))

    def wait_until_it_trains(following: Run, node: str) -> None:
        def trains() -> bool:
            training = runs.training()
            return any(kind(each) == "trial" and each.pid in training for each in cluster.processes(node))

        following.wait_for(trains)

    def another_node(name: str) -> None:
        cluster.launch(name, "--num-cpus", "1", "--address", f"127.0.0.1:{cluster.port}")

    # Nodes come up while it trains.
    witness.slow(0.2)
    first, following = submitted(1)
    some_progress(following)
    wait_until_it_trains(following, "worker-2")
    (raylet,) = [process for process in cluster.processes("worker-2") if name(process) == "raylet"]
    assert kill(raylet)
    count.kill("raylet")
    another_node("worker-3")
    # It ends with its raylet.
    cluster.nodes.pop("worker-2").wait(timeout=60)
    some_progress(following)
    wait_until_it_trains(following, "worker-1")
    cluster.kill("worker-1")
    count.kill("node")
    another_node("worker-4")
    # By those that came later.
    some_progress(following)
    (driver,) = [process for process in cluster.processes("head") if _is_driver(process)]
    assert kill(driver)
    driver.wait(timeout=60)
    count.kill("driver on a cluster")
    assert following.end() == 1
    assert f"error: {first} failed" in following.said
    (before,) = runs.names()
    second, following = submitted(2)
    following.wait_for(lambda: set(runs.training().values()) - {before})
    # Students, too: between a teacher and them, a stop would find nobody.
    following.wait_for(lambda: len({each.cell_id for each in witness.begun()}) > 1)
    some_progress(following)
    # By Ray's own command, for somebody who does not know ours.
    stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", second]
    subprocess.run(stop, env=laptop.environment, check=True, capture_output=True, cwd=cluster.folder, timeout=300)
    count("ray job stop")
    assert following.end() == 0
    (stopped,) = runs.names() - {before}
    left = {cell_id for cell_id, log in runs.logs().items() if log[-1].run == stopped and log[-1].kind != "finished"}
    assert left
    for cell_id in left:
        progress = runs.store.progress(cell_id)
        assert (runs.logs()[cell_id][-1].kind, progress and progress.state) == ("released", "cancelled")
    third, following = submitted(3)
    some_progress(following)
    witness.slow(0)
    assert following.end() == 0, following.said
    assert "0 failed" in following.said
    listed = dict(line.split()[:2] for line in laptop.run("list")[0].splitlines()[1:])
    assert listed == {first: "failed", second: "stopped", third: "succeeded"}
    # Each of the three has trained.
    assert len(runs.names()) == 3
    witness.repeated()
    assert _resources(cluster) == {"all": 2, "free": 2}
    assert _leaked(cluster) == []
    trained = [process for process in seen if kind(process) != "other" or _is_driver(process)]
    check_whole(laptop, undisturbed(LONG_PROFILE, LONG), trained)
