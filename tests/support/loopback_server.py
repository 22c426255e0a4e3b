"""HTTP servers on loopback for tests."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def read_body(self) -> bytes:
        """Return the content of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        """Answer with a content; underscores in the names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serve(handler: type[QuietHandler]) -> Iterator[str]:
    """Serve with a handler for the length of a block; yields the URI."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
