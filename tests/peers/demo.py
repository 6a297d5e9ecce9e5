"""The project's own demo server, alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.ports import free_port, listens
from peers.process import Child


@contextmanager
def demo_server(log: Path, *, token_seconds: float = 0.002) -> Iterator[tuple[str, Child]]:
    """Run it until the block ends; yields host:port and the process."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    program = f"from tensorgate.demo import demo; demo({address!r}, token_seconds={token_seconds})"
    child = Child([sys.executable, "-c", program], log=log)
    try:
        child.wait_until(lambda: listens(port), seconds=20, what=f"listener on {address}")
        yield address, child
    finally:
        child.end()
