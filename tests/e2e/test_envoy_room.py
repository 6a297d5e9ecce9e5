"""Long bodies through the real Envoy: whole, for those who may, and never more than planned."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from edge_support import CHAT, GOOD, KEY, MIB, Edge, Wire, allow, deny, edge, head
from peers.recorder import Pause, Reply

from store.keyformat import KeyForm, mint
from tensorgate.envoy import capacity

CONNECTIONS, STREAMS, HEAP_MIB, BODY_MIB = 64, 4, 400, 4
COLLECTED = 0.06  # seconds: the script looks for clients that left every 50 ms at most


@dataclass
class Room:
    """A gate with room for a few bodies, and how much that is."""

    gate: Edge
    size: int
    limit: int = BODY_MIB * MIB
    wires: list[Wire] = field(default_factory=list)

    def connect(self) -> Wire:
        """A connection that is closed at the end of the test, if not before."""
        self.wires.append(self.gate.connect())
        return self.wires[-1]

    def uploading(self, length: int | None = None) -> Wire:
        """A POST whose head and first bytes are there, and the rest to come."""
        wire = self.connect()
        length = self.limit if length is None else length
        wire.send(head("POST", CHAT, [GOOD, ("content-length", str(length))]) + b"begun")
        return wire

    def fill(self) -> list[Wire]:
        """Uploads that take all room but what is less than one body."""
        wires = [self.uploading() for _ in range(self.size // self.limit)]
        deadline = time.monotonic() + 5
        while self.gate.stat("http.gate.downstream_rq_active") < len(wires):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return wires

    def post(self, length: int) -> str:
        """`passed`, or the code of the refusal."""
        got = self.gate.call("POST", CHAT, [GOOD], b"x" * length)
        return "passed" if got.status == 200 else got.code


@pytest.fixture(scope="module")
def shared() -> Iterator[Edge]:
    with edge(
        max_connections=CONNECTIONS,
        max_streams=STREAMS,
        heap_mib=HEAP_MIB,
        body_limit_mib=BODY_MIB,
        request_seconds=30,
    ) as made:
        yield made


@pytest.fixture
def room(shared: Edge) -> Iterator[Room]:
    shared.reset()
    time.sleep(COLLECTED)  # what the last test's clients left behind can be found now
    sizes = capacity.plan(
        heap_mib=HEAP_MIB,
        body_limit_mib=BODY_MIB,
        connections=CONNECTIONS,
        streams=STREAMS,
        concurrency=1,
    )
    assert 2 <= sizes.room / sizes.prompt_body <= 12
    made = Room(shared, sizes.room)
    yield made
    close(made.wires)
    assert shared.stat("http.gate.lua.body_room.errors") == 0


def close(wires: list[Wire]) -> None:
    while wires:
        wires.pop().socket.close()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, MIB, 32 * MIB])
def test_a_body_reaches_check_and_server_byte_for_byte(default: Edge, size: int) -> None:
    default.reset()
    read = []

    def allowing(request: object) -> object:
        read.append(hashlib.sha256(request.attributes.request.http.raw_body).digest())  # type: ignore[attr-defined]
        return allow()

    default.service.script = allowing  # type: ignore[assignment]
    body = os.urandom(size)
    assert default.call("POST", CHAT, [GOOD], body).status == 200
    (seen,) = default.upstream.requests
    assert read == [hashlib.sha256(seen.body).digest()] == [hashlib.sha256(body).digest()]


@pytest.fixture(scope="module")
def default() -> Iterator[Edge]:
    with edge() as made:
        yield made


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bEARER   {KEY}"),
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
    ],
)
def test_a_key_of_our_form_in_any_header_may_send_a_long_body(
    default: Edge, header: tuple[str, str]
) -> None:
    default.reset()
    assert default.call("POST", CHAT, [header], b"x" * 100_000).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer sk-tg_short")],
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer x{KEY}")],
        [("authorization", f"Basic {KEY}"), ("x-api-key", "x")],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", f"Bearer {KEY}")],
        [("api-key", KEY.upper())],
    ],
)
def test_what_cannot_be_a_key_may_not(default: Edge, headers: list[tuple[str, str]]) -> None:
    default.reset()
    assert default.call("POST", CHAT, headers, b"x" * 100_000).code == "body_too_large"
    assert default.service.checks == []


def test_an_imported_key_may_and_another_prefix_may() -> None:
    form = KeyForm(("acme_", "sk-tg_"), r"sk-[A-Za-z0-9]{20}")
    with edge(key_form=form) as gate:
        for key in (mint("acme_"), KEY, "sk-" + "a1B2c" * 4):
            assert gate.call("POST", CHAT, [("x-api-key", key)], b"x" * 100_000).status == 200
        refused = gate.call("POST", CHAT, [("x-api-key", "sk-" + "a" * 21)], b"x" * 100_000)
        assert refused.code == "body_too_large"


def test_when_the_room_is_taken_a_long_body_is_refused_before_it_is_read(room: Room) -> None:
    wires = room.fill()
    with room.gate.connect() as wire:
        wire.send(head("POST", CHAT, [GOOD, ("content-length", str(room.limit))]))
        got = wire.got()
    assert (got.status, got.code, got.one("retry-after")) == (503, "authorization_unavailable", "1")
    # what is not long is not touched, and what still fits passes
    assert room.post(64 * 1024) == "passed"
    left = room.size - len(wires) * room.limit
    assert [room.post(left), room.post(left), room.post(left + 1)] == [
        "passed",
        "passed",
        "authorization_unavailable",
    ]


@pytest.mark.parametrize("end", ["allowed", "denied", "too large", "server error", "no service"])
def test_room_is_given_back_at_the_end(room: Room, end: str) -> None:
    length = room.limit
    if end == "denied":
        room.gate.service.script = lambda _: deny(403, "{}", [("x-tensorgate-reason", "x")])
    elif end == "server error":
        room.gate.upstream.answer = Reply(500)
    elif end == "no service":
        room.gate.service.script = lambda _: 1 / 0  # type: ignore[assignment,return-value]
    elif end == "too large":
        length += 1
    for _ in range(room.size // room.limit + 2):
        room.gate.call("POST", CHAT, [GOOD], b"x" * length)
    room.gate.reset()
    wires = room.fill()
    assert room.post(room.size - len(wires) * room.limit) == "passed"


def test_room_of_clients_that_left_is_found_again(room: Room) -> None:
    for _ in range(3):
        close(room.fill())
        time.sleep(COLLECTED)
        assert room.post(room.limit) == "passed"


def test_a_body_keeps_its_room_until_the_server_answers(room: Room) -> None:
    room.gate.upstream.answer = Reply(before=[Pause(1.5)])
    wires = [room.uploading() for _ in range(room.size // room.limit)]
    for wire in wires:
        wire.send(b"x" * (room.limit - len(b"begun")))
    room.gate.upstream.wait_for(len(wires))
    assert room.post(room.limit) == "authorization_unavailable"
    # one leaves while the server thinks: Envoy tells no script, and its room is found all the same
    wires.pop().socket.close()
    room.gate.upstream.answer = Reply()
    time.sleep(COLLECTED)
    assert room.post(room.limit) == "passed"


def test_a_body_of_unknown_length_takes_the_limit_of_its_path(room: Room) -> None:
    chunked = head("POST", CHAT, [GOOD, ("transfer-encoding", "chunked")]) + b"3\r\nabc\r\n"
    wires = []
    for _ in range(room.size // room.limit):
        wires.append(room.connect())
        wires[-1].send(chunked)
    deadline = time.monotonic() + 5
    while room.gate.stat("http.gate.downstream_rq_active") < len(wires):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with room.gate.connect() as wire:
        wire.send(chunked + b"0\r\n\r\n")
        assert wire.got().code == "authorization_unavailable"
    wires[0].send(b"0\r\n\r\n")
    assert wires[0].got().status == 200
    assert room.gate.upstream.requests[-1].body == b"abc"
    with room.gate.connect() as wire:
        wire.send(chunked + b"0\r\n\r\n")
        assert wire.got().status == 200


def test_a_length_that_is_a_lie_is_refused(room: Room) -> None:
    """What was taken for a body is the most that it can be."""
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", CHAT)]
    lie = room.gate.over_http2([*pseudo, GOOD, ("content-length", "70000")], b"x" * 200_000)
    assert lie is None or lie.status == 400
    for claim in ("0x7000", "1e9", "nan", "-1", "70000,70000", "99999999999999999999999"):
        got = room.gate.call("POST", CHAT, [GOOD, ("content-length", claim)])
        assert got.status in {400, 413, 503}
    assert room.gate.service.checks == []


def test_a_crowd_never_holds_more_than_there_is(room: Room) -> None:
    """Bodies that are whole wait for the check; their sum is looked at from the outside."""
    lock, now, most = threading.Lock(), [0], [0]

    def counting(request: object) -> object:
        with lock:
            now[0] += room.limit
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= room.limit
        return allow()

    room.gate.service.script = counting  # type: ignore[assignment]
    results: list[str] = []
    crowd = [
        threading.Thread(target=lambda: results.append(room.post(room.limit))) for _ in range(24)
    ]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert set(results) <= {"passed", "authorization_unavailable"}
    assert results.count("passed") >= room.size // room.limit
    assert most[0] <= room.size
