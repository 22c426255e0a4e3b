"""Whether anybody listens at an address; Ray's own attempts take a minute and more to give up."""

import socket
from urllib.parse import urlsplit

from pld_grid.errors import InputError, ResourceError
from pld_grid.uris import public_uri

CONNECT_SECONDS = 5.0


def check_reachable(address: str, port: int) -> None:
    """Raises ResourceError within seconds if nobody listens at HOST[:PORT] or a URL of it."""
    shown = public_uri(address)
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        raise InputError(f'--address: "{shown}" is no address; expected HOST:PORT or http://HOST:PORT') from None
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        # UnicodeError: a part of the name is longer than any host's can be.
        reason = (getattr(error, "strerror", None) or str(error) or "no answer").lower()
        raise ResourceError(f"Ray at {shown}: cannot be reached ({reason})") from None
