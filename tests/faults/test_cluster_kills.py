"""SIGKILLs of nodes, a raylet and a job's driver on a real Ray cluster while it trains a grid."""

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
from cli_process import Service, run_python
from fault_counts import Count, Watch
from live_processes import kill, process_command, process_name
from process_kills import LONG, LONG_PROFILE, Recorder, Run, check_results, classify_process
from ray_cluster import TOKEN, RayCluster, ray_cluster

from pld_grid.store import Store, claims, leases

_RESOURCES = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({"all": ray.cluster_resources().get("CPU", 0), "free": ray.available_resources().get("CPU", 0)}))
"""


class Laptop(Service):
    """Submits to a cluster; results are in a folder that all nodes share."""

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
    """A folder that all nodes and laptops share."""
    (tmp_path / "shared").mkdir()
    shutil.copy(database, tmp_path / "shared" / "mlflow.db")
    return tmp_path / "shared"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "witness")


@pytest.fixture
def cluster(recorder: Recorder) -> Iterator[RayCluster]:
    """A head and two workers."""
    with ray_cluster(workers=("H100", "A10G"), environment=recorder.environment) as running:
        yield running


def _is_driver(process: psutil.Process) -> bool:
    """Return whether a process runs a grid; the command of Ray's shell around it contains the same words."""
    words = process_command(process)
    return Path(words[0]).name.startswith("python") and words[1:4] == ["-m", "pld_grid", "run"]


def _resources(cluster: RayCluster) -> dict[str, float]:
    """Return how many CPUs the cluster has, and how many are free."""
    printed = run_python(_RESOURCES, f"127.0.0.1:{cluster.port}", folder=cluster.folder, **cluster.environment)
    return dict(json.loads(printed.splitlines()[-1]))


def _leaked(cluster: RayCluster) -> list[dict[str, Any]]:
    """Return the placement groups and actors that are left, without Ray's own actor of a job, which ends later."""
    groups = [row for row in cluster.rows("placement_groups") if row["state"] != "REMOVED"]
    actors = [row for row in cluster.rows("actors") if row["state"] != "DEAD"]
    return groups + [row for row in actors if row["class_name"] != "JobSupervisor"]


class Runs:
    """Which run's processes trained which cells, according to the claims."""

    def __init__(self, laptop: Laptop, recorder: Recorder) -> None:
        self.store, self.recorder = Store(laptop.store), recorder

    def logs(self) -> dict[str, list[claims.Entry]]:
        """Return the claim logs, by cell id."""
        return {cell_id: claims.read_log(self.store, cell_id) for cell_id in self.store.cell_ids()}

    def names(self) -> set[str]:
        """Return the runs that have claimed a cell so far."""
        return {entry.run for log in self.logs().values() for entry in log if entry.kind == "claimed"}

    def training(self) -> dict[int, str]:
        """Return the runs of processes that hold a claim and have started an epoch of its cell, by process id."""
        started = {(each.pid, each.cell_id) for each in self.recorder.epochs_started()}
        runs = {}
        for cell_id, log in self.logs().items():
            heartbeat = leases.read_heartbeat(self.store, log[-1].lease) if log and log[-1].kind == "claimed" else None
            if heartbeat is not None and (heartbeat.pid, cell_id) in started:
                runs[heartbeat.pid] = log[-1].run
        return runs


class Jobs:
    """Submits the grid as jobs to a cluster, and kills nodes and drivers while they train."""

    def __init__(
        self, laptop: Laptop, cluster: RayCluster, recorder: Recorder, watch: Watch, chance: random.Random, count: Count
    ) -> None:
        self.laptop, self.cluster, self.recorder = laptop, cluster, recorder
        self.watch, self.chance, self.count = watch, chance, count
        self.runs = Runs(laptop, recorder)
        self.seen: set[psutil.Process] = set()

    def submit(self, number: int) -> tuple[str, Run]:
        """Submit a job; return its id and the command that follows its output."""
        job = self.laptop.run("submit")[0].split()[0]
        assert job.endswith(f"-{number}")
        return job, self.watch(self.laptop.start("logs", "-f", job))

    def wait_for_progress(self, following: Run) -> None:
        """Wait until some more epochs have started."""
        wanted = len(self.recorder.epochs_started()) + self.chance.randint(1, 3)
        following.wait_for(lambda: len(self.recorder.epochs_started()) >= wanted)
        self.seen.update(process for name in self.cluster.nodes for process in self.cluster.processes(name))

    def wait_until_node_trains(self, following: Run, node: str) -> None:
        """Wait until a trial on a node has started an epoch."""

        def trains() -> bool:
            training = self.runs.training()
            processes = self.cluster.processes(node)
            return any(classify_process(each) == "trial" and each.pid in training for each in processes)

        following.wait_for(trains)

    def replace_node(self, killed: str, added: str) -> None:
        """Launch a node for one that was killed."""
        self.count.kill(killed)
        self.cluster.launch(added, *self.cluster.worker_options)

    def kill_nodes_and_driver(self, following: Run) -> None:
        """Kill a raylet, a node and the job's driver in turn, with progress in between."""
        self.wait_for_progress(following)
        self.wait_until_node_trains(following, "worker-2")
        (raylet,) = [each for each in self.cluster.processes("worker-2") if process_name(each) == "raylet"]
        assert kill(raylet)
        self.replace_node("raylet", "worker-3")
        # The node ends with its raylet.
        self.cluster.nodes.pop("worker-2").wait(timeout=60)
        self.wait_for_progress(following)
        self.wait_until_node_trains(following, "worker-1")
        self.cluster.kill("worker-1")
        self.replace_node("node", "worker-4")
        # Now the nodes train that joined later.
        self.wait_for_progress(following)
        (driver,) = [process for process in self.cluster.processes("head") if _is_driver(process)]
        assert kill(driver)
        driver.wait(timeout=60)
        self.count.kill("driver on a cluster")

    def stop_with_ray(self, job: str) -> None:
        """Stop a job with Ray's own command."""
        stop = [sys.executable, "-m", "ray.scripts.scripts", "job", "stop", job]
        environment, folder = self.laptop.environment, self.cluster.folder
        subprocess.run(stop, env=environment, check=True, capture_output=True, cwd=folder, timeout=300)
        self.count("ray job stop")

    def check_released(self, run: str) -> None:
        """Check that a stopped run has released its unfinished cells."""
        logs = self.runs.logs()
        left = {cell_id for cell_id, log in logs.items() if log[-1].run == run and log[-1].kind != "finished"}
        assert left
        for cell_id in left:
            progress = self.runs.store.record(cell_id)
            assert (logs[cell_id][-1].kind, progress and progress.state) == ("released", "cancelled")


@pytest.fixture
def jobs(
    tmp_path: Path,
    shared: Path,
    cluster: RayCluster,
    recorder: Recorder,
    watch: Watch,
    chance: random.Random,
    count: Count,
) -> Jobs:
    return Jobs(Laptop(tmp_path / "laptop", cluster, shared), cluster, recorder, watch, chance, count)


def test_grid_on_a_cluster_whose_nodes_and_drivers_are_killed_gives_the_same_numbers(jobs, undisturbed):
    cluster, recorder, runs = jobs.cluster, jobs.recorder, jobs.runs
    # Nodes join during the training.
    recorder.slow_down(0.2)
    first, following = jobs.submit(1)
    jobs.kill_nodes_and_driver(following)
    assert following.end() == 1
    assert f"error: {first} failed" in following.output
    (before,) = runs.names()
    second, following = jobs.submit(2)
    following.wait_for(lambda: set(runs.training().values()) - {before})
    # Wait for students: between the teacher and the students, nothing would be running.
    following.wait_for(lambda: len({each.cell_id for each in recorder.epochs_started()}) > 1)
    jobs.wait_for_progress(following)
    jobs.stop_with_ray(second)
    assert following.end() == 0
    (stopped,) = runs.names() - {before}
    jobs.check_released(stopped)
    third, following = jobs.submit(3)
    jobs.wait_for_progress(following)
    recorder.slow_down(0)
    assert following.end() == 0, following.output
    assert "0 failed" in following.output
    listed = dict(line.split()[:2] for line in jobs.laptop.run("list")[0].splitlines()[1:])
    assert listed == {first: "failed", second: "stopped", third: "succeeded"}
    # Each of the three has trained.
    assert len(runs.names()) == 3
    recorder.count_repeated_epochs()
    assert _resources(cluster) == {"all": 2, "free": 2}
    assert _leaked(cluster) == []
    trained = [process for process in jobs.seen if classify_process(process) != "other" or _is_driver(process)]
    check_results(jobs.laptop, undisturbed(LONG_PROFILE, LONG), trained)
