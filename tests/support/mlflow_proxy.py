"""A proxy with real sockets that injects faults in front of a real `mlflow server`."""

import contextlib
import http.client
import itertools
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from cli_process import RETRY_TIMEOUT_SECONDS

Fault = Literal["dropped", "slow", "late", "500", "403", "429", "502", "lost", "cut", "half", "empty"]

# The server does not get the requests of the first group. It executes those of the second, whose answers are damaged,
# and those of the third, whose clients may have given up by then.
REFUSED: tuple[Fault, ...] = ("dropped", "500", "403", "429")
DONE: tuple[Fault, ...] = ("502", "lost", "cut", "half", "empty")
DELAYED: tuple[Fault, ...] = ("slow", "late")

_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


class Proxy:
    """Pass requests on to a server, each with the fault that `choose` names, if any.

    Args:
        upstream: the server's URI.
        delay: seconds by which slow and late answers are delayed.

    Attributes:
        suffered: how many requests met each fault.
        waiting: how many requests wait now; they do so until `delay` is over, even if the client has gone.
    """

    def __init__(self, upstream: str, delay: float) -> None:
        self.upstream = urlsplit(upstream)
        self.delay = delay
        self.suffered: Counter[Fault] = Counter()
        self.waiting = 0
        self.choose: Callable[[], Fault | None] = lambda: None
        self._closed = threading.Event()
        self._lock = threading.Condition()
        self._active = 0
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop listening, and end all waiting requests."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def always(self, fault: Fault | None) -> None:
        """Let every request meet this fault."""
        self.choose = lambda: fault

    def at_random(self, chance: random.Random, share: float, faults: tuple[Fault, ...]) -> None:
        """Let a share of the requests meet faults, each kind in bursts, as in outages."""

        def bursts() -> Iterator[Fault | None]:
            while True:
                # Every kind occurs before any is repeated.
                for fault in chance.sample(faults, len(faults)):
                    while chance.random() > share:
                        yield from itertools.repeat(None, chance.randint(1, 4))
                    yield from itertools.repeat(fault, chance.randint(1, 4))

        coming = bursts()
        self.choose = lambda: next(coming)

    def delay_request(self) -> None:
        """Delay a request."""
        with self._lock:
            self.waiting += 1
        self._closed.wait(self.delay)
        with self._lock:
            self.waiting -= 1

    @contextlib.contextmanager
    def track_request(self) -> Iterator[Fault | None]:
        """Count a request from its arrival to its end; yield its fault."""
        fault = self._next_fault()
        try:
            yield fault
        finally:
            with self._lock:
                self._active -= 1
                self._lock.notify_all()

    def wait_until_done(self) -> bool:
        """Wait until all requests are executed, even those whose clients have gone; return whether they are."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._active, RETRY_TIMEOUT_SECONDS)

    def _next_fault(self) -> Fault | None:
        with self._lock:
            self._active += 1
            fault = self.choose()
            if fault is not None:
                self.suffered[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up, which the tests provoke."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: Proxy, *connection: Any) -> None:
        self.proxy = proxy
        super().__init__(*connection)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle_request(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.proxy.track_request() as fault:
            if fault == "dropped":
                self._hang_up()
            elif fault in ("500", "403", "429"):
                headers = {"Content-Type": "text/html"} | ({"Retry-After": "3600"} if fault == "429" else {})
                self._send(int(fault), headers, b"<html>\n<p>It is not well.</p></html>\n")
            else:
                if fault == "late":
                    self.proxy.delay_request()
                status, headers, body = self._pass_on(content)
                if fault == "slow":
                    self.proxy.delay_request()
                self._send_damaged(fault, status, headers, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

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

    def _send_damaged(self, fault: Fault | None, status: int, headers: dict[str, str], body: bytes) -> None:
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
    """Start a proxy without faults for the length of a block."""
    started = Proxy(upstream, delay)
    try:
        yield started
    finally:
        started.close()
