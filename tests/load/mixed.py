"""Mixed calls through a gate before a Book, from threads; `load.audit` judges what came of them.

Both dialects, streamed and not, cached tokens, errors of the server, answers that break off,
clients that hang up, calls that the gate has to refuse: all of it drawn by a seed.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from http.client import HTTPConnection, HTTPException, HTTPResponse
from random import Random
from threading import local
from typing import Any, Final

from peers.book import ON_REQUEST, Api, End, Event, Order, events, order_member
from peers.stack import Stack

CATALOG: Final = """\
models:
  cheap:
    price: {input: 0.0512345, cached_input: 0.0123457, output: 0.0876543}
    context_tokens: 131072
    max_output_tokens: 512
  dear:
    price:
      {input: 3, cached_input: 0.300000001, cache_write: 3.75, output: 15, per_request: 0.000012}
    context_tokens: 200000
    max_output_tokens: 1024
    aliases: ["claude-*"]
  free: {price: {input: 0, output: 0}, context_tokens: 131072, max_output_tokens: 512}
  timed: {price: {per_second: 0.001}, context_tokens: 8192, max_output_tokens: 512}
  vectors: {price: {input: 0.0200001}, context_tokens: 8192}
  recorder:
    price: {input: 0.5, output: 1.5}
    context_tokens: 131072
    max_output_tokens: 4096
plans:
  test: {}
  shared: {account_budget_usd: 0.1}
default_plan: test
"""
"""No `default`: other models have no price. Prices with which rounding shows."""

SHARED_NANOUSD: Final = 10**8
"""What an account of the plan `shared` may spend."""

DEADLINE_SECONDS: Final = 4
QUICK_DEADLINES: Final = {
    "TENSORGATE_HOLD_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
    "TENSORGATE_HEARTBEAT_SECONDS": "1",
}
ANSWER_SECONDS: Final = 30


# -- what is called


@dataclass(frozen=True)
class Key:
    """A minted key, and what its calls may come to."""

    id: str
    alias: str
    user: str
    secret: str
    budget_nanousd: int | None
    plan: str

    @property
    def capped(self) -> bool:
        """Whether its calls may be refused for money, its own or its account's."""
        return self.budget_nanousd is not None or self.plan == "shared"

    @classmethod
    def mint(cls, gate: Stack, *, user: str, budget_usd: str = "none", plan: str = "test") -> Key:
        minted = gate.mint(user=user, budget_usd=budget_usd, plan=plan)
        budget = None if budget_usd == "none" else int(Fraction(budget_usd) * 10**9)
        return cls(minted["id"], minted["alias"], user, minted["key"], budget, plan)


@dataclass(frozen=True)
class Call:
    """One call. `leave_after` is when the client hangs up: after so many pieces of a stream,
    after 0 while it waits for the answer, after -1 as soon as it has sent the request."""

    order: Order
    api: Api
    name: str
    model: str
    key: Key
    stream: bool
    asks_usage: bool
    body: bytes
    leave_after: int | None = None
    refusal: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is answered from beginning to end, and says what it used."""
        return self.order.end is End.WHOLE and self.leave_after is None


def draw(number: int, seed: int, keys: Sequence[Key]) -> Call:
    """Call `number` of a run."""
    dice = Random(f"call {seed} {number}")
    api = dice.choices(list(Api), (5, 1, 1, 2, 4))[0]
    model, name = _model(api, dice)
    stream = api is not Api.EMBEDDINGS and dice.random() < 0.6
    order, leave_after = _order(number, api, stream=stream, dice=dice)
    asks_usage = stream and api in ON_REQUEST and dice.random() < 0.4
    refusal = None
    if order.end is End.WHOLE and leave_after is None and dice.random() < 0.04:
        refusal = dice.choice(("invalid_parameter", "model_required"))
    body = _body(api, order, name, stream=stream, asks_usage=asks_usage, refusal=refusal, dice=dice)
    key = dice.choice(keys)
    return Call(order, api, name, model, key, stream, asks_usage, body, leave_after, refusal)


def _model(api: Api, dice: Random) -> tuple[str, str]:
    """A model of the catalog, and the name by which it is called."""
    if api is Api.EMBEDDINGS:
        return "vectors", "vectors"
    model = dice.choice(("cheap", "cheap", "dear", "free"))
    return model, "claude-any" if model == "dear" and dice.random() < 0.5 else model


def _order(number: int, api: Api, *, stream: bool, dice: Random) -> tuple[Order, int | None]:
    output = 0 if api is Api.EMBEDDINGS else dice.choice((1, 2, 9, 30, 80))
    cached = 0 if api is Api.EMBEDDINGS else dice.choice((0, 0, 128, 300))
    written = dice.choice((0, 200)) if api is Api.MESSAGES else 0
    plain = Order(
        number,
        input=dice.randint(1, 400),
        output=output,
        cached=cached,
        written=written,
        variety=dice.randrange(1 << 30),
    )
    changes: dict[str, Any] = {}
    leave_after: int | None = None
    fate = dice.random()
    if fate < 0.05:
        changes = {"end": End.ERROR, "status": dice.choice((400, 404, 429, 500, 503, 529))}
    elif fate < 0.08:
        changes = {"end": End.RESET, "after": dice.choice((0, 1, 3))}
    elif fate < 0.10:
        changes = {"end": End.HANGUP, "after": dice.choice((1, 3))}
    elif fate < 0.13:
        changes = {"end": End.SILENT}
    elif fate < 0.16:
        changes, leave_after = {"end": End.STALL, "gap": 2.0}, 0
    elif fate < 0.17:
        leave_after = -1
    elif fate < 0.25 and stream:
        changes, leave_after = {"output": 40, "gap": 0.02}, dice.randint(1, 8)
    elif fate < 0.28 and stream:
        changes = {"output": 20, "gap": 0.01}
    return replace(plain, **changes), leave_after


def _body(
    api: Api,
    order: Order,
    name: str,
    *,
    stream: bool,
    asks_usage: bool,
    refusal: str | None,
    dice: Random,
) -> bytes:
    text = dice.choice(("hi", "Was ist das? é日本\U0001f600 ", '"max_tokens": 1, {')) * 3
    content: dict[Api, dict[str, Any]] = {
        Api.COMPLETIONS: {"prompt": text},
        Api.EMBEDDINGS: {"input": [text]},
        Api.RESPONSES: {"input": text},
    }
    asked = {"model": name, **content.get(api, {"messages": [{"role": "user", "content": text}]})}
    if stream or dice.random() < 0.2:
        asked["stream"] = stream
    if asks_usage:
        asked["stream_options"] = {"include_usage": True}
    elif stream and api in ON_REQUEST and dice.random() < 0.5:
        asked["stream_options"] = dice.choice((None, {}, {"include_usage": False}, {"x": 1}))
    bound = {Api.RESPONSES: "max_output_tokens"}.get(api, "max_tokens")
    if api is not Api.EMBEDDINGS and (api is Api.MESSAGES or dice.random() < 0.6):
        asked[bound] = order.output + dice.randint(0, 50)
    elif api is not Api.EMBEDDINGS and dice.random() < 0.2:
        asked[bound] = None
    if refusal == "invalid_parameter":
        asked["stream"] = "yes"
    elif refusal == "model_required":
        del asked["model"]
    members = [*asked.items(), *order_member(order).items()]
    dice.shuffle(members)
    made = json.dumps(
        dict(members),
        indent=dice.choice((None, None, 1)),
        separators=dice.choice((None, (",", ":"))),
        ensure_ascii=dice.random() < 0.5,
    )
    return made.encode()


# -- the client


@dataclass
class Outcome:
    """What a client saw of its call. `tokens` are those that came to it, `received` is the body.

    `status` is None where no answer came; `complete` says that the answer ended as HTTP has it.
    What was not `sent` found nobody who listened.
    """

    call: Call
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    received: bytes = b""
    complete: bool = False
    sent: bool = False

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

    def expected_events(self) -> list[Event]:
        call = self.call
        made = events(call.api, call.order, with_usage=call.api in ON_REQUEST)
        return [event for event in made if call.asks_usage or not event.asked]


class Clients:
    """Connections of their own for each thread, kept alive from call to call."""

    def __init__(self, address: str, *, patience: float = 30) -> None:
        self._address = address
        self._patience = patience
        self._threads = local()
        self._opened: list[HTTPConnection] = []
        self._gone = False

    def close(self) -> None:
        """Close what the threads left open."""
        for connection in self._opened:
            connection.close()

    def make(self, call: Call) -> Outcome:
        """Make a call. While nobody listens it waits: what was not sent was not made."""
        outcome = Outcome(call)
        connection = self._connected()
        if connection is None:
            return outcome
        outcome.sent = True
        try:
            self._converse(connection, call, outcome)
        except (OSError, HTTPException):
            self.drop()
        if outcome.status in {None, 503} and call.leave_after is None:
            time.sleep(0.4)  # nobody gains by spending all calls on an outage
        return outcome

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
        headers = {"content-type": "application/json"}
        if call.api is Api.MESSAGES:
            headers["x-api-key"] = call.key.secret
        else:
            headers["authorization"] = f"Bearer {call.key.secret}"
        connection.request("POST", call.api.value, body=call.body, headers=headers)
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
) -> list[Outcome]:
    """Make the calls, so many at a time, and `meanwhile` something else, once.

    Where nobody listens for `patience` seconds, what is left is not called.
    """
    with (
        closing(Clients(address, patience=patience)) as clients,
        ThreadPoolExecutor(threads + 1) as pool,
    ):
        beside = pool.submit(meanwhile) if meanwhile is not None else None
        outcomes = list(pool.map(clients.make, calls))
        if beside is not None:
            beside.result()
    return outcomes
