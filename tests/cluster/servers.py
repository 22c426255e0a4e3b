"""A real PostgreSQL and a real `mlflow server` in front of it, on loopback, with passwords that nothing may tell."""

import base64
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from service import PATIENCE, isolated

ROLE = "mlflow"
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


def postgres_programs() -> Path:
    """The folder of Debian's newest PostgreSQL; without one, tests skip themselves."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent


@dataclass
class Postgres:
    """A cluster whose server listens on loopback, where it wants a password, and on a socket, where it wants none."""

    programs: Path
    folder: Path
    port: int
    account: str | None
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @property
    def log(self) -> Path:
        """Everything that the server says."""
        return self.folder / "log"

    @property
    def password_hash(self) -> str:
        """What the server itself keeps of the role's password."""
        return self.run("psql", "-Atc", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'").strip()

    def uri(self, database: str, password: str = "") -> str:
        """As MLflow takes it; without a password, PGPASSWORD has to be set."""
        return f"postgresql://{ROLE}{':' if password else ''}{password}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str, database: str = "postgres") -> str:
        """What one of PostgreSQL's programs prints, run as its superuser."""
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(
            [self.programs / program, *where, *arguments, database], check=True, text=True, capture_output=True
        ).stdout

    def create(self, database: str) -> str:
        """A new database of the role's; its URI, without the password."""
        self.run("psql", "-c", f"CREATE DATABASE {database} OWNER {ROLE}")
        return self.uri(database)

    def query(self, database: str, sql: str) -> list[list[str]]:
        """Rows of text."""
        lines = self.run("psql", "-Atc", sql, database=database).splitlines()
        return [line.split("|") for line in lines]


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A new PostgreSQL with one role, in a folder of its own; it ends and goes with the block."""
    programs = postgres_programs()
    # It refuses to run as root; and the socket's path must be short.
    account = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pldpg-", dir="/tmp"))
    server = None
    try:
        if account is not None:
            owner = pwd.getpwnam(account)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        here = Postgres(programs, folder, free_port(), account)
        as_owner: dict[str, Any] = {"cwd": folder}
        if account is not None:
            as_owner |= {"user": account, "group": owner.pw_gid, "extra_groups": []}
        made = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "--no-sync", "--encoding=UTF8"]
        made += ["--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"]
        subprocess.run(made, check=True, capture_output=True, **as_owner)
        flags = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "log_connections": "on"}
        command = [programs / "postgres", "-D", folder / "data", "-k", folder, "-h", "127.0.0.1", "-p", str(here.port)]
        command += [part for name, value in flags.items() for part in ("-c", f"{name}={value}")]
        with here.log.open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, **as_owner)
        _wait(lambda: _ready(here), server, here.log)
        sql = f"CREATE ROLE {ROLE} LOGIN PASSWORD '{here.password}'"
        # Through standard input: arguments can be read by all, and errors repeat them.
        where = ["-h", str(folder), "-p", str(here.port), "-U", "postgres"]
        subprocess.run([programs / "psql", *where], input=sql, text=True, check=True, capture_output=True)
        yield here
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # it ends sessions and shuts down
            server.wait()
        shutil.rmtree(folder)


def _ready(server: Postgres) -> bool:
    try:
        return server.run("psql", "-Atc", "SELECT 1") == "1\n"
    except subprocess.CalledProcessError:
        return False


@dataclass
class MlflowServer:
    """An `mlflow server` that wants a user and a password, and goes by one name."""

    folder: Path
    port: int
    database: str
    log: Path
    user_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    flask_key: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @property
    def uri(self) -> str:
        """Where it is, by the name that it goes by."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def artifacts(self) -> Path:
        """Where it keeps what runs upload."""
        return self.folder / "artifacts"

    @property
    def credentials(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": self.user_password}

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs to mirror there."""
        return {"MLFLOW_TRACKING_URI": self.uri} | self.credentials

    def ask(self, path: str, content: dict[str, Any] | None = None, *, user: str, password: str) -> Any:
        """The answer of MLflow's REST API. Raises HTTPError."""
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.uri}/api/2.0/mlflow/{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@contextlib.contextmanager
def mlflow_server(database: Postgres, name: str = "mlflow") -> Iterator[MlflowServer]:
    """A server in front of a new database, whose schema `pld-grid db upgrade` has made; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="pldmlflow-", dir="/tmp"))
    process = None
    try:
        uri = database.create(name)
        server = MlflowServer(folder, free_port(), name, folder / "log")
        (folder / "home").mkdir()
        (folder / "auth.ini").write_text(_AUTHENTICATION.format(database=uri, admin=ADMIN))
        environment = isolated(folder / "home") | {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "PGPASSWORD": database.password,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": server.admin_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": server.flask_key,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts",
            "--artifacts-destination", str(server.artifacts), "--host", "127.0.0.1", "--port", str(server.port),
            "--allowed-hosts", f"127.0.0.1:{server.port}", "--workers", "2",
        ]  # fmt: skip
        upgrade = [sys.executable, "-m", "pld_grid", "db", "upgrade"]
        with server.log.open("wb") as log:
            subprocess.run(upgrade, env=environment, cwd=folder, stdout=log, stderr=log, check=True)
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        _wait(lambda: _answers(server), process, server.log)
        content = {"username": USER, "password": server.user_password}
        server.ask("users/create", content, user=ADMIN, password=server.admin_password)
        yield server
    finally:
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder)


def _answers(server: MlflowServer) -> bool:
    # Not /health, which answers before, and to anybody.
    try:
        server.ask("experiments/get?experiment_id=0", user=ADMIN, password=server.admin_password)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error}: {error.read().decode()}") from error
    except OSError:
        return False
    return True


def _wait(happened: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """For a server, which gives no event to wait for."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
