"""Calls made through a gate before a Book, from threads; `load.audit` judges what came of them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import local
from typing import Final

from load.calls import Call
from peers.answers import Event, events, whole_body
from peers.orders import ON_REQUEST, End

ANSWER_SECONDS: Final = 30
REPEAT_SECONDS: Final = 0.05
PAUSE_SECONDS: Final = (0.4, 3.2)  # after a call that an outage took: each twice the one before
_PASSING: Final = frozenset({"rate_limit_exceeded", "budget_held", "authorization_unavailable"})
"""Refusals that say: not now."""


# -- the client


@dataclass
class Outcome:
    """What a client saw of its call. `tokens` are those that came to it, `received` is the body.

    `status` is None where no answer came; `complete` says that the answer ended as HTTP has it.
    What was not `sent` found nobody who listened. It took `seconds`, and was over `at`
    (monotonic).
    """

    call: Call
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    received: bytes = b""
    complete: bool = False
    sent: bool = False
    seconds: float = 0.0
    at: float = 0.0
    _told: tuple[int, bool] | None = None

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-tensorgate-reason")

    @property
    def admitted(self) -> bool:
        return "x-tensorgate-hold-usd" in self.headers

    @property
    def hold_nanousd(self) -> int:
        return int(Fraction(self.headers["x-tensorgate-hold-usd"]) * 10**9)

    @property
    def tokens(self) -> int:
        """How many tokens came, of a stream by its events, of a whole answer when it is whole."""
        return self._tokens() if self._told is None else self._told[0]

    @property
    def garbled(self) -> bool:
        """Whether a finished answer is not the server's own, but for the usage not asked for."""
        return self._garbled() if self._told is None else self._told[1]

    def condense(self) -> None:
        """Forget the body: tens of thousands of them are kept."""
        self._told = (self._tokens(), self._garbled())
        if not self._told[1]:
            self.received = b""
        wanted = ("x-request-id", "x-tensorgate-reason", "x-tensorgate-hold-usd")
        self.headers = {name: self.headers[name] for name in wanted if name in self.headers}

    def _tokens(self) -> int:
        call = self.call
        if not call.stream:
            return call.order.output if self.complete and self.status == 200 else 0
        if self.status != 200:
            return 0
        came = tokens = 0
        for event in self.expected_events():
            came += len(event.data)
            if came > len(self.received):
                break
            tokens += event.tokens
        return tokens

    def _garbled(self) -> bool:
        call = self.call
        if not self.complete or self.status != 200:
            return False
        if call.stream:
            return self.received != b"".join(event.data for event in self.expected_events())
        return self.received != whole_body(call.api, call.order)

    def expected_events(self) -> list[Event]:
        call = self.call
        asked = call.api in ON_REQUEST
        made = events(call.api, call.order, with_usage=asked, counting=call.counted)
        return [event for event in made if call.asks_usage or not event.asked]


class Clients:
    """Connections of their own for each thread, kept alive from call to call."""

    def __init__(
        self,
        address: str,
        *,
        patience: float = 30,
        seen: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._seen = seen
        self._address = address
        self._patience = patience
        self._threads = local()
        self._opened: list[HTTPConnection] = []
        self._gone = False

    def close(self) -> None:
        """Close what the threads left open."""
        for connection in self._opened:
            connection.close()

    def make(self, call: Call) -> list[Outcome]:
        """Make a call, and once more where it is to be: what came of each time.

        While nobody listens it waits: what was not sent was not made.
        """
        outcome = self._make(call)
        if not call.patient or not _repeats(outcome):
            return [outcome]
        time.sleep(REPEAT_SECONDS)
        if call.order.end is End.BUSY and outcome.admitted:
            call = replace(call, order=replace(call.order, end=End.WHOLE))
        return [outcome, self._make(call)]

    def _make(self, call: Call) -> Outcome:
        outcome = Outcome(call)
        connection = self._connected()
        if connection is None:
            return outcome
        outcome.sent = True
        began = time.monotonic()
        try:
            self._converse(connection, call, outcome)
        except (OSError, HTTPException):
            self.drop()
        outcome.at = time.monotonic()
        outcome.seconds = outcome.at - began
        outcome.condense()
        self._seen(outcome)
        unanswered = outcome.status is None and call.leave_after is None
        if unanswered or outcome.reason == "authorization_unavailable":
            self._wait_out()
        else:
            self._threads.pause = PAUSE_SECONDS[0]
        return outcome

    def _wait_out(self) -> None:
        """An outage lasts as long as a process takes to start: spend few calls on it, not all."""
        shortest, longest = PAUSE_SECONDS
        pause: float = getattr(self._threads, "pause", shortest)
        self._threads.pause = min(2 * pause, longest)
        time.sleep(pause)

    def _connected(self) -> HTTPConnection | None:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline and not self._gone:
            connection = self._connection()
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:
                time.sleep(0.05)
            else:
                return connection
        self._gone = True
        return None

    def _connection(self) -> HTTPConnection:
        connection: HTTPConnection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = HTTPConnection(self._address, timeout=ANSWER_SECONDS)
            self._threads.connection = connection
            self._opened.append(connection)
        return connection

    def drop(self, *, reset: bool = False) -> None:
        """Hang up: by FIN, or by RST."""
        connection: HTTPConnection | None = getattr(self._threads, "connection", None)
        self._threads.connection = None
        if connection is None:
            return
        if reset and connection.sock is not None:
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()

    def _converse(self, connection: HTTPConnection, call: Call, outcome: Outcome) -> None:
        connection.request("POST", call.target, body=call.body, headers=call.headers)
        reset = bool(call.order.variety % 2)
        if call.leave_after == -1:
            self.drop(reset=reset)
            return
        if call.leave_after == 0:
            assert connection.sock is not None
            connection.sock.settimeout(0.1 + call.order.variety % 100 / 1000)
        try:
            response = connection.getresponse()
        except TimeoutError:
            self.drop(reset=reset)
            return
        outcome.status = response.status
        outcome.headers = {name.lower(): value for name, value in response.getheaders()}
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_SECONDS)
        with closing(response):
            self._read(response, call, outcome)
        if not outcome.complete:
            self.drop(reset=reset)

    def _read(self, response: HTTPResponse, call: Call, outcome: Outcome) -> None:
        watched = call.leave_after and response.status == 200
        while data := response.read1(65536) if call.stream else response.read():
            outcome.received += data
            if watched and outcome.tokens >= (call.leave_after or 0):
                return
        # nothing more came, and no fault: of a body with a length, that may be short of it
        outcome.complete = response.length in {None, 0}


def drive(
    address: str,
    calls: Sequence[Call],
    *,
    threads: int,
    meanwhile: Callable[[], None] | None = None,
    patience: float = 30,
    seen: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Make the calls, so many at a time, and `meanwhile` something else, once.

    `seen` is told of each outcome, by the thread that made the call. Where nobody listens for
    `patience` seconds, what is left is not called.
    """
    with (
        closing(Clients(address, patience=patience, seen=seen)) as clients,
        ThreadPoolExecutor(threads + 1) as pool,
    ):
        beside = pool.submit(meanwhile) if meanwhile is not None else None
        made = list(pool.map(clients.make, calls))
        if beside is not None:
            beside.result()
    return [outcome for each in made for outcome in each]


def _repeats(outcome: Outcome) -> bool:
    """Whether a patient client calls again: nothing was wrong with the call itself."""
    if outcome.reason in _PASSING:
        return True
    return outcome.call.order.end is End.BUSY and outcome.admitted and outcome.status is not None
