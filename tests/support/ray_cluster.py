"""A real Ray cluster on loopback: a head and workers, each started with `ray start`."""

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
from cli_process import RETRY_TIMEOUT_SECONDS, isolated
from live_processes import kill_all, list_descendants
from ports import free_port

TOKEN = "a-token-for-tests-of-64-characters-------------------------------"


@dataclass
class RayCluster:
    """The nodes by name ("head", "worker-1", ...), each a process of `ray start --block`."""

    folder: Path
    environment: dict[str, str]
    port: int
    dashboard_port: int
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def dashboard(self) -> str:
        """The URL to which jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def worker_options(self) -> tuple[str, ...]:
        """Options of a worker with one CPU."""
        return ("--num-cpus", "1", "--address", f"127.0.0.1:{self.port}")

    def start(self, name: str, *flags: str) -> None:
        """Start a node and wait until it is alive."""
        self.launch(name, *flags)
        self.wait_for(name)

    def launch(self, name: str, *flags: str) -> None:
        """Start a node with its own folder, without waiting for it."""
        options = [
            "--block",
            "--disable-usage-stats",
            "--node-ip-address",
            "127.0.0.1",
            "--temp-dir",
            str(self.folder / name),
        ]
        options += ["--object-store-memory", "100000000", "--dashboard-agent-listen-port", str(free_port())]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-name", name, *options, *flags]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, name: str) -> None:
        """Wait until a started node is alive."""
        deadline = time.monotonic() + RETRY_TIMEOUT_SECONDS
        while name not in self.alive():
            assert self.nodes[name].poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline, f"{name} did not come up: {(self.folder / f'{name}.log').read_text()}"
            time.sleep(0.2)

    def alive(self) -> set[str]:
        """Return the names of the nodes that the head lists as alive."""
        try:
            return {row["node_name"] for row in self.rows("nodes") if row["state"] == "ALIVE"}
        except (OSError, KeyError, TypeError):
            return set()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the head's "nodes", "actors" or "placement_groups". Raises OSError if it does not answer."""
        url = f"{self.dashboard}/api/v0/{table}?limit=10000"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as response:
            rows: list[dict[str, Any]] = json.load(response)["data"]["result"]["result"]
        return rows

    def processes(self, name: str) -> list[psutil.Process]:
        """Return all processes of a node."""
        node = self.nodes[name]
        return [psutil.Process(node.pid), *list_descendants(node)] if node.poll() is None else []

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once."""
        kill_all(self.processes(name))
        self.nodes.pop(name).wait()

    def close(self) -> None:
        """Stop every node and kill what is left."""
        processes = [process for name in self.nodes for process in self.processes(name)]
        for name in reversed(self.nodes):
            self.nodes[name].terminate()
        psutil.wait_procs(processes, timeout=20)
        kill_all(processes)
        for node in self.nodes.values():
            node.wait()


@contextlib.contextmanager
def ray_cluster(workers: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[RayCluster]:
    """Start a head without CPUs and a worker with one CPU for each kind of accelerator; they require a token."""
    # Ray's sockets need short paths.
    folder = Path(tempfile.mkdtemp(prefix="pldray-", dir="/tmp"))
    (folder / "home").mkdir()
    variables = isolated(folder / "home") | (environment or {})
    variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # A job's command starts with `python`.
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    cluster = RayCluster(folder, variables, free_port(), free_port())
    try:
        options = f"--head --num-cpus 0 --port {cluster.port} --dashboard-host 127.0.0.1"
        options += f" --dashboard-port {cluster.dashboard_port} --ray-client-server-port {free_port()}"
        cluster.start("head", *options.split())
        for number, kind in enumerate(workers, 1):
            # The resource that Ray adds itself on a node with such an accelerator.
            accelerator = json.dumps({f"accelerator_type:{kind}": 1})
            cluster.launch(f"worker-{number}", *cluster.worker_options, "--resources", accelerator)
        for name in list(cluster.nodes):
            cluster.wait_for(name)
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
