"""Commands of containers as processes of this machine: started, asked whether they are healthy, and ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from living import family, kill_all
from recipes import ROOT
from service import PATIENCE, isolated


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """A container's: its commands on the path, a home of its own, no reports home, and what it is given."""
    home.mkdir(exist_ok=True)
    kept = isolated(home)
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0", **more}


def substituted(command: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """The command with other hosts, ports, files. Each change must be needed: the command is the one that is tested."""
    text = "\0".join(command)
    for old, new in changes.items():
        assert old in text, f"{old} is not in {command}"
        text = text.replace(old, new)
    return text.split("\0")


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, folder: Path = ROOT, user: str | None = None,
    stop: int = signal.SIGTERM,
) -> Iterator["subprocess.Popen[bytes]"]:  # fmt: skip
    """A container's main process; it and all that it started are gone afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, user=user, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process, stop)


def _end(process: "subprocess.Popen[bytes]", stop: int) -> None:
    started = family(process)
    # Once the main process has ended, the container takes the rest with it.
    process.send_signal(stop)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    process.kill()
    kill_all(started)
    process.wait()


def ask(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """A health check, once."""
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def wait_until_healthy(
    process: "subprocess.Popen[bytes]", command: Sequence[str], environment: Mapping[str, str], log: Path
) -> None:
    """Asks, as Docker and Kubernetes do, until the answer is yes. Fails if the process ends or takes too long."""
    until = time.monotonic() + PATIENCE
    while (answer := ask(command, environment)).returncode != 0:
        assert process.poll() is None, f"it ended: {log.read_text()}"
        assert time.monotonic() < until, f"{answer.stderr}\n{log.read_text()}"
        time.sleep(0.5)
