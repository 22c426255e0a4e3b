"""A real PostgreSQL on loopback, with a password that must not leak; it can be stopped and started at any moment."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, wait_for_server

ROLE = "mlflow"


def postgres_programs() -> Path:
    """Return the folder of Debian's newest PostgreSQL; skip the test if there is none."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return programs[-1].parent


@dataclass
class Postgres:
    """A PostgreSQL cluster on loopback, with a password, and on a socket, without one."""

    programs: Path
    folder: Path
    port: int
    owner: dict[str, Any]
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    _server: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "log"

    @property
    def password_hash(self) -> str:
        """The hash of the role's password that the server stores."""
        return self.run("psql", "-Atc", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'").strip()

    def uri(self, database: str, password: str = "") -> str:
        """Return the URI for MLflow; without a password, PGPASSWORD must be set."""
        return f"postgresql://{ROLE}{':' if password else ''}{password}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str, database: str = "postgres", sql: str | None = None) -> str:
        """Run one of PostgreSQL's programs as its superuser, with SQL at standard input; return its output."""
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(
            [self.programs / program, *where, *arguments, database],
            input=sql,
            check=True,
            text=True,
            capture_output=True,
        ).stdout

    def create(self, database: str) -> str:
        """Create a database that belongs to the role; return its URI without the password."""
        self.run("psql", "-c", f"CREATE DATABASE {database} OWNER {ROLE}")
        return self.uri(database)

    def query(self, database: str, sql: str) -> list[list[str]]:
        """Return rows of text."""
        lines = self.run("psql", "-Atc", sql, database=database).splitlines()
        return [line.split("|") for line in lines]

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        flags = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "log_connections": "on"}
        command = [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder]
        command += ["-h", "127.0.0.1", "-p", str(self.port)]
        command += [part for name, value in flags.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, **self.owner)
        wait_for_server(self._accepts_connections, self._server, self.log)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """Stop the server, by default at once; clients lose their connections."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait()
            self._server = None

    def _accepts_connections(self) -> bool:
        try:
            return self.run("psql", "-Atc", "SELECT 1") == "1\n"
        except subprocess.CalledProcessError:
            return False


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a new PostgreSQL with one role for the length of a block."""
    # The socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pldpg-", dir="/tmp"))
    owner: dict[str, Any] = {"cwd": folder}
    # PostgreSQL refuses to run as root.
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        owner |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    server = Postgres(postgres_programs(), folder, free_port(), owner)
    try:
        create = [server.programs / "initdb", "-D", folder / "data", "-U", "postgres", "--no-sync", "--encoding=UTF8"]
        create += ["--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"]
        subprocess.run(create, check=True, capture_output=True, **owner)
        server.start()
        # By standard input: all users can read arguments, and errors repeat them.
        server.run("psql", sql=f"CREATE ROLE {ROLE} LOGIN PASSWORD '{server.password}'")
        yield server
    finally:
        server.stop(signal.SIGINT)  # it ends sessions and shuts down
        shutil.rmtree(folder)
