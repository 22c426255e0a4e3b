"""Ports on loopback for servers that tests start."""

import contextlib
import random
import socket

# Below what Linux hands to whoever asks for any port (32768 on), as Ray's processes do while others start beside them;
# above the range of Ray's workers (10002 to 19999).
_RANGE = range(20_000, 32_000)
_chance = random.SystemRandom()


def free_port() -> int:
    """A port on loopback that nobody listens at now."""
    while True:
        port = _chance.choice(_RANGE)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
