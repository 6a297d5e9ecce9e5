"""What is said of a server that is no Redis, or a broken one; and connections that are let go of.

The servers here say by heart what they are told to say.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from counterhelp import PATIENT
from peers.valkey import wait_for

from store.counters.address import parse
from store.counters.link import Link
from store.counters.redis import RedisCounters
from store.errors import StoreUnavailableError, UnansweredError


class Parrot:
    """Answers each message on a connection with the next of its lines, and then with the last."""

    def __init__(self, *answers: bytes) -> None:
        self.answers: Sequence[bytes] = answers
        self.open = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self.open += 1
                self._threads.append(Thread(target=self._talk, args=(connection,)))
                self._threads[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        at = 0
        with connection, suppress(OSError):
            while connection.recv(65536):
                connection.sendall(self.answers[min(at, len(self.answers) - 1)])
                at += 1
        self.open -= 1


@contextmanager
def parrot(*answers: bytes) -> Iterator[Parrot]:
    made = Parrot(*answers)
    try:
        yield made
    finally:
        made.close()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


HANDSHAKE = (bulk("run_id:a\r\n"), bulk("role:master\r\nmaster_replid:b\r\n"))
WEB = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.mark.parametrize("answer", [WEB, b":1\r\n", b"$-1\r\n", b"*0\r\n", b"+OK\r\n", b":1x\r\n"])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_what_is_no_redis_is_a_store_that_cannot_be_used(scheme: str, answer: bytes) -> None:
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n%b:%d\r\n"
    with parrot(answer) as other:
        if scheme == "redis+cluster":  # its answers are of a cluster until it is asked who it is
            asked = parrot(slots % (bulk("127.0.0.1"), other.port))
        else:
            asked = parrot(answer)
        with (
            asked as server,
            Link(parse(f"{scheme}://127.0.0.1:{server.port}"), PATIENT) as link,
            pytest.raises(StoreUnavailableError, match="cannot be reached"),
        ):
            link.verify()
        wait_for(lambda: other.open == 0, "the end of what was refused", seconds=5)


def test_a_node_whose_name_cannot_be_one_is_only_unavailable() -> None:
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n%b:1\r\n" % bulk("a..b")
    with (
        parrot(slots) as server,
        Link(parse(f"redis+cluster://127.0.0.1:{server.port}"), PATIENT) as link,
        pytest.raises(StoreUnavailableError, match="no host can have this name"),
    ):
        link.verify()


def test_an_answer_that_cannot_be_read_leaves_open_whether_it_was_done() -> None:
    with (
        parrot(*HANDSHAKE, WEB) as server,
        Link(parse(f"redis://127.0.0.1:{server.port}"), PATIENT) as link,
    ):
        with pytest.raises(UnansweredError, match="did not answer as Redis does"):
            RedisCounters(link).peek((), "acc")
        wait_for(lambda: server.open == 0, "its end: what comes next on it is anything", seconds=5)
        server.answers = (*HANDSHAKE, b"$4\r\n2 99\r\n")
        assert RedisCounters(link).peek((), "acc") == (99, ())


def test_a_node_that_was_only_pointed_at_is_let_go_of_too() -> None:
    """One that a slot is just being moved to, and that has none yet."""
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n%b:%d\r\n"
    with parrot(*HANDSHAKE, b"+OK\r\n", b"$4\r\n2 99\r\n") as target, parrot(b"") as source:
        told = slots % (bulk("127.0.0.1"), source.port)
        source.answers = (told,)
        with Link(parse(f"redis+cluster://127.0.0.1:{source.port}"), PATIENT) as link:
            assert link.masters() == []
            with suppress(StoreUnavailableError):  # it learns the slots
                link.dropping()
            source.answers = (*HANDSHAKE, b"-ASK 1 127.0.0.1:%d\r\n" % target.port)
            assert RedisCounters(link).peek((), "acc") == (99, ())
            assert target.open == 1
            link.hang_up()
            wait_for(lambda: target.open == 0, "its end", seconds=5)
            target.answers = (*HANDSHAKE, b"+OK\r\n", b"$4\r\n2 99\r\n")
            assert RedisCounters(link).peek((), "acc") == (99, ())
            assert target.open == 1
        wait_for(lambda: target.open == 0, "its end", seconds=5)
