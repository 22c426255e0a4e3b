"""Servers that tests start on loopback: a free port, and the wait for the first answer."""

import contextlib
import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli_process import RETRY_TIMEOUT_SECONDS

# Below Linux's ephemeral ports (32768 on), which Ray's processes are given, and above Ray's workers (10002 to 19999).
_PORTS = range(20_000, 32_000)
_random = random.SystemRandom()


def free_port() -> int:
    """Return a port on loopback on which nothing listens now."""
    while True:
        port = _random.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as server:
            server.bind(("127.0.0.1", port))
            return port


def wait_for_server(answers: Callable[[], bool], process: "subprocess.Popen[Any]", log: Path) -> None:
    """Wait until a server answers; fail with its log if it ends before."""
    deadline = time.monotonic() + RETRY_TIMEOUT_SECONDS
    while not answers():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
