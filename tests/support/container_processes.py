"""Run the commands of containers as processes of this machine, check their health, and end them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cli_process import RETRY_TIMEOUT_SECONDS, isolated
from docker_files import ROOT
from live_processes import kill_all, list_descendants


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return a container's environment: its commands on the path, its own home, no telemetry, and `more`."""
    home.mkdir(exist_ok=True)
    kept = isolated(home)
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0", **more}


def substitute(command: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """Return the command with other hosts, ports and files. Every text to replace must occur in the command."""
    text = "\0".join(command)
    for old, new in changes.items():
        assert old in text, f"{old} is not in {command}"
        text = text.replace(old, new)
    return text.split("\0")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    folder: Path = ROOT,
    user: str | None = None,
    stop: int = signal.SIGTERM,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a container's main process; end it and all its descendants afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, user=user, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process, stop)


def _end(process: "subprocess.Popen[bytes]", stop: int) -> None:
    started = list_descendants(process)
    # A container ends its other processes once the main process has ended.
    process.send_signal(stop)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    process.kill()
    kill_all(started)
    process.wait()


def run_check(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a health check once."""
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=RETRY_TIMEOUT_SECONDS
    )


def wait_until_healthy(
    process: "subprocess.Popen[bytes]", command: Sequence[str], environment: Mapping[str, str], log: Path
) -> None:
    """Repeat a health check until it succeeds. Fails if the process ends or takes too long."""
    until = time.monotonic() + RETRY_TIMEOUT_SECONDS
    while (answer := run_check(command, environment)).returncode != 0:
        assert process.poll() is None, f"the process ended: {log.read_text()}"
        assert time.monotonic() < until, f"{answer.stderr}\n{log.read_text()}"
        time.sleep(0.5)
