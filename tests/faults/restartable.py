"""A PostgreSQL that can be stopped in the middle of everything and started again."""

import os
import pwd
import signal
import subprocess
from typing import Any

import psutil
import servers


class Restartable:
    """Stops and starts a server of `servers.postgres`."""

    def __init__(self, postgres: servers.Postgres) -> None:
        self.postgres = postgres

    def stop(self) -> None:
        """Ends it at once; clients lose their connections."""
        pid = int((self.postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
        server = psutil.Process(pid)
        os.kill(pid, signal.SIGQUIT)
        server.wait(60)

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        here = self.postgres
        owner: dict[str, Any] = {"cwd": here.folder}
        if here.account is not None:
            entry = pwd.getpwnam(here.account)
            owner |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        where = f"-k {here.folder} -h 127.0.0.1 -p {here.port}"
        command = [here.programs / "pg_ctl", "-D", here.folder / "data", "-l", here.folder / "log2", "-o", where, "-w"]
        subprocess.run([*command, "start"], check=True, stdout=subprocess.DEVNULL, timeout=120, **owner)
