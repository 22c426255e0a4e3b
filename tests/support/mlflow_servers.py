"""Real MLflow servers on loopback: without passwords, with passwords and on PostgreSQL, and `pld-grid ui`."""

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cli_process import Service, answer, isolated
from live_processes import describe_processes, have_exited, list_descendants, terminate
from ports import free_port, wait_for_server
from postgres_server import Postgres

# Jobs of the server and its telemetry have no place in tests.
SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

ADMIN = "admin"
USER = "researcher"

_AUTHENTICATION = """
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


def upgrade_database(uri: str, environment: Mapping[str, str]) -> None:
    """Create MLflow's schema with `pld-grid db upgrade`."""
    command = [sys.executable, "-m", "pld_grid", "db", "upgrade", "--tracking-uri", uri]
    subprocess.run(command, env=environment, check=True, capture_output=True)


class MlflowServer:
    """An `mlflow server` on loopback, which can be killed and started again at the same port.

    Args:
        folder: for its artifacts and its log.
        database: the URI of a database with MLflow's schema.
        environment: additional environment variables.
        options: additional options of `mlflow server`.
    """

    def __init__(self, folder: Path, database: str, environment: Mapping[str, str], *options: str) -> None:
        self.port = free_port()
        self.folder, self.database, self.uri = folder, database, f"http://127.0.0.1:{self.port}"
        self.artifacts, self.log = folder / "artifacts", folder / "server.log"
        (folder / "home").mkdir(exist_ok=True)
        self.environment = isolated(folder / "home") | environment | SETTINGS
        command = f"-m mlflow server --host 127.0.0.1 --port {self.port} --workers 1 --backend-store-uri".split()
        self._command = [sys.executable, *command, database, "--artifacts-destination", str(self.artifacts), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait for its first answer."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for_server(self._answers, self._process, self.log)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill it, if it is running."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Run it for the length of a block."""
        try:
            self.start()
            yield self
        finally:
            self.kill()

    def ask(self, path: str, content: dict[str, Any] | None = None, *, user: str = "", password: str = "") -> Any:
        """Return the answer of MLflow's REST API. Raises HTTPError."""
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.uri}/api/2.0/mlflow/{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def _answers(self, **credentials: str) -> bool:
        # /health answers earlier, and without a password.
        try:
            self.ask("experiments/get?experiment_id=0", **credentials)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read().decode()}") from error
        except OSError:
            return False
        return True


class ProtectedServer(MlflowServer):
    """An `mlflow server` on PostgreSQL with users, passwords and one allowed host name."""

    def __init__(self, folder: Path, postgres: Postgres, name: str) -> None:
        self.name = name
        self.user_password, self.admin_password, self.flask_key = (secrets.token_urlsafe(18) for _ in range(3))
        uri = postgres.create(name)
        (folder / "auth.ini").write_text(_AUTHENTICATION.format(database=uri, admin=ADMIN))
        environment = {
            "PGPASSWORD": postgres.password,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.admin_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.flask_key,
        }
        super().__init__(folder, uri, environment, "--app-name", "basic-auth", "--serve-artifacts", "--workers", "2")
        self._command += ["--allowed-hosts", f"127.0.0.1:{self.port}"]

    @property
    def credentials(self) -> dict[str, str]:
        """The environment variables with a client's credentials."""
        return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.user_password}

    @property
    def client_environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {"MLFLOW_TRACKING_URI": self.uri} | self.credentials

    def start(self) -> None:
        """Create its schema, start it, and create its user."""
        upgrade_database(self.database, self.environment)
        super().start()
        content = {"username": USER, "password": self.user_password}
        self.ask("users/create", content, user=ADMIN, password=self.admin_password)

    def _answers(self) -> bool:
        return super()._answers(user=ADMIN, password=self.admin_password)


@contextlib.contextmanager
def ui_server(service: Service) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `pld-grid ui` over the service's runs for the length of a block; yield its address and its process."""
    port = free_port()
    process = service.start("ui", "--port", str(port))
    try:
        address = f"http://127.0.0.1:{port}"
        answer(process, f"{address}/health")
        yield address, process
    finally:
        started = list_descendants(process)
        process.send_signal(signal.SIGINT)
        terminate(started)
        process.communicate()
        assert have_exited(started), describe_processes(started)
