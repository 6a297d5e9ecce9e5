"""Where a cluster's client is sent, with servers that answer as its nodes do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

from redis.crc import key_slot

from store.counters.address import parse
from store.counters.link import Link
from store.counters.node import Timeouts

PATIENT = Timeouts(5, 5)
KEY = b"key"


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


_ANSWERS = {
    b"\r\nserver\r\n": bulk(b"run_id:abc\r\n"),
    b"\r\nreplication\r\n": bulk(b"role:master\r\nmaster_replid:def\r\n"),
}


@contextmanager
def node(answer: bytes, port_of_all: int | None = None) -> Iterator[int]:
    """One that answers every GET like this; the slots are all at a port, its own if none is named.

    It does not say on which host: on that which was asked.
    """

    class Answering(BaseRequestHandler):
        def handle(self) -> None:
            port = port_of_all or self.server.server_address[1]
            slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" % port
            while said := self.request.recv(4096):
                told = next((known for part, known in _ANSWERS.items() if part in said), None)
                self.request.sendall(told or (slots if b"SLOTS" in said else answer))

    with ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_slot_that_moved_to_no_named_host_is_on_the_host_that_was_asked() -> None:
    with (
        node(bulk(b"found")) as there,
        node(b"-MOVED %d :%d\r\n" % (key_slot(KEY), there)) as here,
        Link(parse(f"redis+cluster://127.0.0.1:{here}"), PATIENT) as link,
    ):
        assert link.command(KEY, b"GET", KEY) == b"found"
        assert set(link.masters()) == {f"127.0.0.1:{here}", f"127.0.0.1:{there}"}
