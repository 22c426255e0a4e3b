"""Run every command of the images, the compose file and the manifests outside a container.

Only hosts, ports, paths and sizes are replaced, and every text to replace must occur in the command.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_process import PROFILE, RETRY_TIMEOUT_SECONDS
from container_processes import environment, run_check, running, substitute, wait_until_healthy
from docker_files import (
    compose,
    find_manifest,
    health_command,
    job_submit_command,
    last_instruction,
    parse_exec_form,
    ray_start_command,
    read_dockerfile,
)
from ports import free_port

from pld_grid.store import Store

pytestmark = pytest.mark.ray

TOKEN = "a-token-for-tests-of-64-characters-------------------------------"
PASSWORD = "it's a password"
# Two waves: the teacher, then its student.
GRID = "cells: {teacher: big, student: small, epochs: 1, loss: pld}\n"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for the files of containers. The sockets of Ray and PostgreSQL need short paths."""
    path = Path(tempfile.mkdtemp(prefix="pldc-", dir="/tmp"))
    path.chmod(0o755)
    (path / "secrets").mkdir()
    (path / "secrets" / "ray_auth_token").write_text(TOKEN)
    (path / "secrets" / "postgres_password").write_text(PASSWORD)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def services() -> Any:
    """The services of the compose file, with a small object store, and a proxy's name for MLflow."""
    secrets = {"RAY_AUTH_TOKEN": TOKEN, "POSTGRES_PASSWORD": PASSWORD}
    sizes = {"OBJECT_STORE_BYTES": "100000000", "WORKER_CPUS": "2", "MLFLOW_PUBLIC_HOST": "mlflow.example.org"}
    return compose({**secrets, **sizes})["services"]


def _variables(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables that a service sets itself; it passes the others on from the host."""
    return {name: value for name, value in service["environment"].items() if value is not None}


# --- MLflow and its database


@dataclass
class Database:
    """A database for MLflow: its URI and its server process (None for sqlite)."""

    uri: str
    process: "subprocess.Popen[bytes] | None"


def _postgres_programs() -> Path | None:
    """Return the folder of Debian's newest PostgreSQL, or None if it or Python's driver is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return programs[-1].parent if programs and importlib.util.find_spec("psycopg") else None


@contextlib.contextmanager
def _postgres(programs: Path, folder: Path, service: dict[str, Any]) -> Iterator[Database]:
    """Run a server as the postgres image does, from the service's variables and with its health check."""
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.getuid() == 0 else None
    data, variables = folder / "postgres", service["environment"]
    data.mkdir()
    if user:
        shutil.chown(data, user)
    password = substitute([variables["POSTGRES_PASSWORD_FILE"]], {"/run/secrets": str(folder / "secrets")})[0]
    name, port = variables["POSTGRES_USER"], str(free_port())
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", name, "--pwfile", password, "--auth=scram-sha-256", "--no-sync"],
        check=True,
        capture_output=True,
        user=user,
        cwd=folder,
    )
    # The image trusts connections from its own loopback; this server does not.
    around = environment(folder / "home", {"PGPORT": port, "PGPASSWORD": PASSWORD})
    around["PATH"] = f"{programs}{os.pathsep}{around['PATH']}"
    health = service["healthcheck"]["test"][1:]
    assert run_check(health, around).returncode != 0
    flags = ["-D", str(data), "-p", port, "-k", str(data), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    log = folder / "postgres.log"
    command = [str(programs / "postgres"), *flags]
    # As the image is stopped: SIGTERM would wait until MLflow closes its connections.
    with running(command, around, log, folder=folder, user=user, stop=signal.SIGINT) as process:
        first = substitute(health, {f"--dbname={variables['POSTGRES_DB']}": "--dbname=postgres"})
        wait_until_healthy(process, first, around, log)
        # Without its database it is not healthy yet.
        assert run_check(health, around).returncode != 0
        made = substitute(first, {"select 1": f"create database {variables['POSTGRES_DB']}"})
        assert run_check(made, around).returncode == 0
        assert run_check(health, around).returncode == 0
        yield Database(f"postgresql://{name}@127.0.0.1:{port}/{variables['POSTGRES_DB']}", process)


@pytest.fixture(scope="module")
def database(folder: Path, services: dict[str, Any]) -> Iterator[Database]:
    """The PostgreSQL of the compose file if it is installed, else sqlite."""
    programs = _postgres_programs()
    if programs is None:
        yield Database(f"sqlite:///{folder / 'mlflow.db'}", None)
        return
    with _postgres(programs, folder, services["postgres"]) as server:
        yield server


def _service_command(service: dict[str, Any], changes: dict[str, str], folder: Path) -> list[str]:
    return substitute(service["command"], {"/run/secrets": str(folder / "secrets"), **changes})


URI = "postgresql://mlflow@postgres:5432/mlflow"


@pytest.fixture(scope="module")
def schema(folder: Path, services: dict[str, Any], database: Database) -> str:
    """The output of the command that creates the schema."""
    done = subprocess.run(
        _service_command(services["mlflow-schema"], {URI: database.uri}, folder),
        env=environment(folder / "home", {}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RETRY_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mlflow(folder: Path, services: dict[str, Any], database: Database, schema: str) -> Iterator[str]:
    """The URL of the compose file's MLflow server, once its health check succeeds."""
    service, port = services["mlflow"], free_port()
    url = f"http://127.0.0.1:{port}"
    changes = {
        URI: database.uri,
        "--host 0.0.0.0": "--host 127.0.0.1",
        "--port 5000": f"--port {port}",
        # Outside a container the service has no host name.
        "mlflow:5000,127.0.0.1:5000": f"127.0.0.1:{port}",
        "/var/lib/pld_grid/mlartifacts": str(folder / "mlartifacts"),
    }
    health = substitute(service["healthcheck"]["test"][1:], {"http://mlflow:5000": url})
    around = environment(folder / "home", _variables(service))
    assert run_check(health, around).returncode == 1
    log = folder / "mlflow.log"
    with running(_service_command(service, changes, folder), around, log) as process:
        wait_until_healthy(process, health, around, log)
        yield url


def _get(url: str, host: str | None = None, body: bytes | None = None, method: str | None = None) -> bytes:
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as response:
        return bytes(response.read())


def test_mlflow_serves_artifacts_from_its_volume(mlflow, folder):
    _get(f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/some/file.txt", body=b"what a run kept", method="PUT")
    assert (folder / "mlartifacts" / "some" / "file.txt").read_bytes() == b"what a run kept"
    assert _get(f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/some/file.txt") == b"what a run kept"


def test_mlflow_accepts_the_host_name_of_a_proxy(mlflow):
    search = f"{mlflow}/api/2.0/mlflow/experiments/search"
    assert b"Default" in _get(search, "mlflow.example.org", b'{"max_results": 1}')


def test_health_check_with_a_refused_host_name_fails(mlflow, services, folder):
    strange = mlflow.replace("127.0.0.1", "localhost")
    assert _get(f"{strange}/health") == b"OK"
    command = substitute(services["mlflow"]["healthcheck"]["test"][1:], {"http://mlflow:5000": strange})
    done = run_check(command, environment(folder / "home", {}))
    assert done.returncode == 1
    assert "403" in done.stderr


# --- Ray


@dataclass
class Node:
    """A container that is a Ray node: its command, its variables and its health check."""

    command: list[str]
    variables: dict[str, str]
    health: list[str]


def _compose_node(service: dict[str, Any]) -> Node:
    return Node(service["command"], _variables(service), service["healthcheck"]["test"][1:])


def _kuberay_nodes() -> dict[str, Node]:
    cluster = find_manifest("RayCluster")["spec"]
    nodes = {}
    for name, group in (("head", cluster["headGroupSpec"]), ("worker", cluster["workerGroupSpecs"][0])):
        container = group["template"]["spec"]["containers"][0]
        variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        # KubeRay adds these from the secret, because of authOptions.
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        probe = container.get("readinessProbe")
        # KubeRay's default probe equals the image's health check.
        health = probe["exec"]["command"] if probe else _image_node().health
        nodes[name] = Node(ray_start_command(group, head=name == "head"), variables, health)
    return nodes


def _image_node() -> Node:
    _, stages = read_dockerfile()
    command, health = last_instruction(stages, "cpu", "CMD"), last_instruction(stages, "cpu", "HEALTHCHECK")
    assert command and health
    return Node(parse_exec_form(command), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, health_command(health))


@dataclass
class Cluster:
    """A running head with its optional worker, and the health check of the head."""

    dashboard: str
    environment: dict[str, str]
    health: list[str]


def _replace_flags(command: list[str], own: dict[str, object]) -> list[str]:
    """Return the command with other flags, because all nodes share one loopback interface here."""
    kept = [part for part in command if part.partition("=")[0] not in own]
    return [*kept, *(f"{name}={value}" for name, value in own.items())]


@contextlib.contextmanager
def _node(node: Node, own: dict[str, object], changes: dict[str, str], folder: Path) -> Iterator[Cluster]:
    """Run a node, and check that it is unhealthy before it starts and after it ends."""
    agent = free_port()
    own = {
        **own,
        "--node-ip-address": "127.0.0.1",
        "--object-store-memory": 100_000_000,
        "--dashboard-agent-listen-port": agent,
        "--metrics-export-port": free_port(),
    }
    health = substitute(node.health, {"127.0.0.1:52365": f"127.0.0.1:{agent}"})
    health = [part.replace("127.0.0.1:8265", f"127.0.0.1:{own.get('--dashboard-port')}") for part in health]
    around = environment(folder / "home", node.variables | {k: v for k, v in changes.items() if k in node.variables})
    log = folder / f"{'head' if '--head' in node.command else 'worker'}.log"
    assert run_check(health, around).returncode == 1
    with running(_replace_flags(node.command, own), around, log, folder=folder) as process:
        wait_until_healthy(process, health, around, log)
        yield Cluster(f"http://127.0.0.1:{own.get('--dashboard-port')}", around, health)
    assert run_check(health, around).returncode == 1


@contextlib.contextmanager
def _cluster(head: Node, worker: Node | None, folder: Path, mlflow: str = "") -> Iterator[Cluster]:
    folder.mkdir()
    (folder / "tiny.yaml").write_text(PROFILE)
    (folder / "losses.yaml").write_text(GRID)
    changes = {
        "RAY_AUTH_TOKEN_PATH": str(folder.parent / "secrets" / "ray_auth_token"),
        "PLD_GRID_STORE": str(folder / "store"),
        "MLFLOW_TRACKING_URI": mlflow,
    }
    port = free_port()
    own: dict[str, object] = {
        "--port": port,
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": free_port(),
        "--ray-client-server-port": free_port(),
        "--temp-dir": folder / "ray",
    }
    with contextlib.ExitStack() as nodes:
        running_head = nodes.enter_context(_node(head, own, changes, folder))
        if worker is not None:
            nodes.enter_context(_node(worker, {"--address": f"127.0.0.1:{port}"}, changes, folder))
        yield running_head


def _resources(cluster: Cluster) -> list[dict[str, float]]:
    """Return the resources of each node, the head first."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/nodes?detail=1", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        rows = json.load(response)["data"]["result"]["result"]
    return [row["resources_total"] for row in sorted(rows, key=lambda row: not row["is_head_node"])]


def _wrong_token(cluster: Cluster) -> dict[str, str]:
    kept = {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_TOKEN_PATH"}
    return kept | {"RAY_AUTH_TOKEN": "another-token-of-64-characters-----------------------------------"}


def test_image_command_starts_a_healthy_head(folder):
    with _cluster(_image_node(), None, folder / "i") as cluster:
        assert run_check(cluster.health, cluster.environment).returncode == 0
    assert run_check(cluster.health, cluster.environment).returncode == 1


def test_image_command_without_a_token_refuses_to_start(folder):
    node = _image_node()
    around = environment(folder / "nobody", {"RAY_AUTH_MODE": node.variables["RAY_AUTH_MODE"]})
    done = subprocess.run(
        node.command, env=around, cwd=folder, capture_output=True, text=True, timeout=RETRY_TIMEOUT_SECONDS
    )
    assert done.returncode != 0
    assert "RAY_AUTH_TOKEN" in done.stdout + done.stderr


def test_compose_worker_joins_the_head(folder, services):
    nodes = _compose_node(services["head"]), _compose_node(services["worker"])
    with _cluster(*nodes, folder / "c") as cluster:
        head, worker = _resources(cluster)
        assert "CPU" not in head
        assert worker["CPU"] == 2
        wrong = run_check(cluster.health, _wrong_token(cluster))
        assert wrong.returncode == 1
        assert re.search("40[13]", wrong.stderr)


def test_rayjob_trains_its_grid_on_the_worker_and_logs_to_mlflow(folder, mlflow):
    nodes, job = _kuberay_nodes(), find_manifest("RayJob")
    with _cluster(nodes["head"], nodes["worker"], folder / "k", mlflow) as cluster:
        head, worker = _resources(cluster)
        assert "CPU" not in head
        assert worker["GPU"] == 1
        submit = substitute(
            job_submit_command(job, cluster.dashboard, "tiny"),
            {"grids/table07.yaml": "losses.yaml", "--profile\0cifar100": "--profile\0tiny.yaml"},
        )
        log = folder / "k" / "job.log"
        with log.open("wb") as output:
            code = subprocess.run(
                submit,
                env=cluster.environment,
                cwd=folder / "k",
                stdout=output,
                stderr=output,
                timeout=RETRY_TIMEOUT_SECONDS,
            ).returncode
        assert code == 0, log.read_text()
    assert "2 cells trained" in log.read_text()
    store = Store(str(folder / "k" / "store"))
    assert [store.receipt(cell) is not None for cell in store.cell_ids()] == [True] * 2
    experiments = json.loads(_get(f"{mlflow}/api/2.0/mlflow/experiments/search", body=b'{"max_results": 9}'))
    ids = [each["experiment_id"] for each in experiments["experiments"] if each["name"] == "pld_grid"]
    query = json.dumps({"experiment_ids": ids, "max_results": 9}).encode()
    runs = json.loads(_get(f"{mlflow}/api/2.0/mlflow/runs/search", body=query))["runs"]
    assert [run["info"]["status"] for run in runs] == ["FINISHED"] * 3


# --- The last test, because it stops the database.


def test_health_check_of_mlflow_without_its_database_fails(mlflow, services, database, folder):
    if database.process is None:
        pytest.skip("sqlite cannot be stopped")
    command = substitute(services["mlflow"]["healthcheck"]["test"][1:], {"http://mlflow:5000": mlflow})
    around = environment(folder / "home", {})
    assert run_check(command, around).returncode == 0
    database.process.send_signal(signal.SIGINT)
    database.process.wait()
    assert run_check(command, around).returncode == 1
    assert _get(f"{mlflow}/health") == b"OK"
