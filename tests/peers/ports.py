"""Free loopback ports."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

# Below Linux's ephemeral range (32768 and up): a port from inside it can be taken, between our
# look and the server's bind, as the source port of anybody's outgoing connection.
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000

_given: set[int] = set()


def _own_range() -> tuple[int, int]:
    """This test process's own part: one that runs beside it must not be given the same port."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (_HIGHEST - _LOWEST) // count
    return _LOWEST + number * size, _LOWEST + (number + 1) * size - 1


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on; the same one is never given twice."""
    lowest, highest = _own_range()
    for _ in range(1000):
        port = random.randint(lowest, highest)
        if port in _given:
            continue
        with socket.socket() as probe:
            # as a server binds: a port in TIME_WAIT is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError(f"no port between {lowest} and {highest} is free")


def listens(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
