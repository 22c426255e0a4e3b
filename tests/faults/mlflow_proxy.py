"""An MLflow server that answers badly: a proxy with real sockets in front of a real `mlflow server`."""

import contextlib
import http.client
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ports import free_port
from service import PATIENCE, isolated

Fault = Literal["dropped", "slow", "late", "500", "403", "429", "502", "lost", "cut", "half", "empty"]

# What a request meets. In those of the second line it is done all the same, and only its answer is spoilt; what is
# late is done when its client may have given up.
REFUSED: tuple[Fault, ...] = ("dropped", "500", "403", "429")
DONE: tuple[Fault, ...] = ("502", "lost", "cut", "half", "empty")
DELAYED: tuple[Fault, ...] = ("slow", "late")

_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class Proxy:
    """Passes requests on to a server, each with the fault that `choose` names, if any.

    Args:
        upstream: the server's URI.
        delay: seconds that what is slow or late takes.

    Attributes:
        suffered: how many requests met each fault.
        passed: how many met none.
        waiting: how many wait just now; they do so until `delay` is over, be the client still there or not.
    """

    def __init__(self, upstream: str, delay: float) -> None:
        self.upstream = urlsplit(upstream)
        self.delay = delay
        self.suffered: Counter[Fault] = Counter()
        self.passed = 0
        self.waiting = 0
        self.choose: Callable[[], Fault | None] = lambda: None
        self.over = threading.Event()
        self._lock = threading.Condition()
        self._under_way = 0
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.up()

    @property
    def uri(self) -> str:
        """Where clients find it, whether it is up or down."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listens; after `down` at the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), partial(_Handler, self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuses every connection."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def close(self) -> None:
        """Ends it, and whatever still waits."""
        self.over.set()
        if self._server is not None:
            self.down()

    def always(self, fault: Fault | None) -> None:
        """From now on every request meets this fault."""
        self.choose = lambda: fault

    def at_random(self, chance: random.Random, share: float, faults: tuple[Fault, ...]) -> None:
        """From now on a share of the requests meets a fault, each kind in bursts, as outages are."""

        def bursts() -> Iterator[Fault | None]:
            while True:
                # All kinds before any comes again.
                for fault in chance.sample(faults, len(faults)):
                    while chance.random() > share:
                        yield from itertools.repeat(None, chance.randint(1, 4))
                    yield from itertools.repeat(fault, chance.randint(1, 4))

        coming = bursts()
        self.choose = lambda: next(coming)

    def wait(self) -> None:
        """Lets a request wait."""
        with self._lock:
            self.waiting += 1
        self.over.wait(self.delay)
        with self._lock:
            self.waiting -= 1

    @contextlib.contextmanager
    def taken(self) -> Iterator[Fault | None]:
        """A request from its arrival to its end; what it meets, which is counted."""
        fault = self._next_fault()
        try:
            yield fault
        finally:
            with self._lock:
                self._under_way -= 1
                self._lock.notify_all()

    def all_done(self) -> bool:
        """Waits for the end of all requests that have come, those among them that nobody waits for any more."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._under_way, PATIENCE)

    def _next_fault(self) -> Fault | None:
        with self._lock:
            self._under_way += 1
            fault = self.choose()
            if fault is None:
                self.passed += 1
            else:
                self.suffered[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: Proxy, *connection: Any) -> None:
        self.proxy = proxy
        super().__init__(*connection)

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.proxy.taken() as fault:
            if fault == "dropped":
                self._hang_up()
            elif fault in ("500", "403", "429"):
                headers = {"Content-Type": "text/html"} | ({"Retry-After": "3600"} if fault == "429" else {})
                self._send(int(fault), headers, b"<html>\n<p>It is not well.</p></html>\n")
            else:
                if fault == "late":
                    self.proxy.wait()
                status, headers, body = self._pass_on(content)
                if fault == "slow":
                    self.proxy.wait()
                self._spoil(fault, status, headers, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _pass_on(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = self.proxy.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        try:
            connection.request(self.command, self.path, content, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return 502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"
        finally:
            connection.close()
        kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
        return response.status, kept, body

    def _spoil(self, fault: Fault | None, status: int, headers: dict[str, str], body: bytes) -> None:
        if fault == "lost":
            self._hang_up()
        elif fault == "cut":
            self._send(status, headers, body[: len(body) // 2], length=len(body) + 1)
            self._hang_up()
        elif fault == "half":
            self._send(status, headers, body[: len(body) // 2])
        elif fault == "empty":
            self._send(status, headers, b"")
        elif fault == "502":
            self._send(502, {"Content-Type": "text/html"}, b"<html>\n<h1>502 Bad Gateway</h1></html>\n")
        else:
            self._send(status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(upstream: str, *, delay: float = 10.0) -> Iterator[Proxy]:
    """A proxy without any faults yet; it ends with the block."""
    started = Proxy(upstream, delay)
    try:
        yield started
    finally:
        started.close()


class PlainServer:
    """An `mlflow server` without passwords, on loopback.

    Args:
        folder: for its artifacts and what it says.
        database: the URI of a database with MLflow's schema.
        environment: settings besides.
    """

    def __init__(self, folder: Path, database: str, environment: Mapping[str, str]) -> None:
        port = free_port()
        self.folder, self.database, self.uri = folder, database, f"http://127.0.0.1:{port}"
        (folder / "home").mkdir(exist_ok=True)
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--artifacts-destination",
            str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        self._environment = isolated(folder / "home") | environment
        self._environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits for its first answer."""
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while not _answers(self.uri):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def plain_server(folder: Path, database: str, environment: Mapping[str, str] | None = None) -> Iterator[PlainServer]:
    """A server that has answered; it ends with the block."""
    server = PlainServer(folder, database, environment or {})
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _answers(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False
