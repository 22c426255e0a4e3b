"""A real Ray cluster on loopback: a head and workers, each started as `ray start` on a machine of its own would be."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from living import family, kill_all
from ports import free_port
from service import PATIENCE, isolated

TOKEN = "a-token-for-tests-of-64-characters-------------------------------"


@dataclass
class RayCluster:
    """Nodes by name ("head", "worker-1", ...), each the `ray start --block` that holds it."""

    folder: Path
    environment: dict[str, str]
    port: int
    dashboard_port: int
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start(self, name: str, *flags: str) -> None:
        """Starts a node and waits until the head counts it."""
        self.launch(name, *flags)
        self.wait_for(name)

    def launch(self, name: str, *flags: str) -> None:
        """Starts a node, with files of its own as on a machine of its own, and waits for nothing."""
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
            "--node-ip-address", "127.0.0.1", "--node-name", name, "--object-store-memory", "100000000",
            "--dashboard-agent-listen-port", str(free_port()), "--temp-dir", str(self.folder / name), *flags,
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, name: str) -> None:
        """Waits until the head counts a node that was started."""
        until = time.monotonic() + PATIENCE
        while name not in self.alive():
            assert self.nodes[name].poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < until, f"{name} did not come up: {(self.folder / f'{name}.log').read_text()}"
            time.sleep(0.2)

    def alive(self) -> set[str]:
        """Names of the nodes that the head counts as alive."""
        try:
            return {row["node_name"] for row in self.rows("nodes") if row["state"] == "ALIVE"}
        except (OSError, KeyError, TypeError):
            return set()

    def rows(self, what: str) -> list[dict[str, Any]]:
        """What the head knows of its "nodes", "actors" or "placement_groups". Raises OSError if it does not answer."""
        url = f"{self.dashboard}/api/v0/{what}?limit=10000"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as response:
            found: list[dict[str, Any]] = json.load(response)["data"]["result"]["result"]
        return found

    def processes(self, name: str) -> list[psutil.Process]:
        """All processes of a node."""
        node = self.nodes[name]
        return [psutil.Process(node.pid), *family(node)] if node.poll() is None else []

    def kill(self, name: str) -> None:
        """A node's machine loses power: all its processes at once."""
        kill_all(self.processes(name))
        self.nodes.pop(name).wait()

    def close(self) -> None:
        """Ends every node and checks that nothing is left."""
        left = [process for name in self.nodes for process in self.processes(name)]
        for name in reversed(self.nodes):
            self.nodes[name].terminate()
        psutil.wait_procs(left, timeout=20)
        kill_all(left)
        for node in self.nodes.values():
            node.wait()


@contextlib.contextmanager
def ray_cluster(workers: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[RayCluster]:
    """A head without CPUs for trials, and a worker with one CPU for each kind of accelerator; it wants a token."""
    # Ray's sockets need short paths.
    folder = Path(tempfile.mkdtemp(prefix="pldray-", dir="/tmp"))
    (folder / "home").mkdir()
    kept = isolated(folder / "home") | (environment or {})
    kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # A job's command begins with `python`.
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    cluster = RayCluster(folder, kept, free_port(), free_port())
    try:
        cluster.start(
            "head", "--head", "--num-cpus", "0", "--port", str(cluster.port),
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(cluster.dashboard_port),
            "--ray-client-server-port", str(free_port()),
        )  # fmt: skip
        for number, kind in enumerate(workers, 1):
            cluster.launch(
                f"worker-{number}", "--num-cpus", "1", "--address", f"127.0.0.1:{cluster.port}",
                # As Ray finds it out by itself where there is one.
                "--resources", json.dumps({f"accelerator_type:{kind}": 1}),
            )  # fmt: skip
        for name in list(cluster.nodes):
            cluster.wait_for(name)
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
