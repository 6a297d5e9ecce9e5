"""Which Sentinel is believed, with servers that answer as Sentinels do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from store.counters.address import parse
from store.counters.link import LOOK_SECONDS, Link
from store.counters.node import Timeouts
from store.errors import StoreUnavailableError


@contextmanager
def sentinel(master_port: int) -> Iterator[str]:
    """One that always names the same master on this machine; where it is."""
    named = str(master_port).encode()
    answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(named), named)

    class Answering(BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(4096):
                self.request.sendall(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """One that accepts and says nothing."""
    with create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_nobody_waits_for_sentinels_that_do_not_answer() -> None:
    """But the first who asks: without them no master is known."""
    with (
        sentinel(1) as right,
        silent() as other,
        silent() as another,
        Link(parse(f"redis+sentinel://{right},{other},{another}/m"), Timeouts(0.3, 0.3)) as link,
    ):
        waits = []
        until = time.monotonic() + 1
        while time.monotonic() < until:
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                link.command(b"key", b"GET", b"key")
            waits.append(time.monotonic() - began)
            time.sleep(0.005)
        assert max(waits[1:]) < 0.2


def test_one_that_goes_on_naming_a_master_that_is_out_is_not_the_only_one_asked() -> None:
    with (
        sentinel(1) as behind,  # nobody listens there, nor at 2
        sentinel(2) as right,
        Link(parse(f"redis+sentinel://{behind},{right}/m"), Timeouts(1, 1)) as link,
    ):
        for _ in range(5):
            with pytest.raises(StoreUnavailableError):
                link.command(b"key", b"GET", b"key")
            if link.masters() == ["127.0.0.1:2"]:
                return
            time.sleep(LOOK_SECONDS)
        pytest.fail(f"it stays with {link.masters()}")
