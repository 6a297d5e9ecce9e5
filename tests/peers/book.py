"""A model server that keeps its own book: which request it was sent, and what its answer used.

A client puts an `Order` into its body, as the member `x_order`; of a form, as the field. It says
how many tokens of each kind the answer is to cost and how the answer ends; the bytes of the answer
follow from it (`peers.answers`), so a client can work out beforehand what it has to receive. They
go out in chunks cut anywhere. `Book.answer` goes to a Recorder.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from peers import dialects
from peers.answers import Event, events, whole_body
from peers.orders import ORDER, STREAMS, Api, End, Order
from peers.recorder import Abort, Hangup, Pause, Recorded, Reply, Step


@dataclass(frozen=True)
class Entry:
    """One request that reached the server."""

    request_id: str
    order: Order
    api: Api
    model: str
    key_id: str
    body: bytes


class Book:
    """All entries, and the answers to them. Thread-safe, as a recorder answers from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._asked = Counter[int]()

    @property
    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def answer(self, request: Recorded) -> Reply:
        """Write a request down and answer as its order says.

        What is no order is not found: `up` looks which server it stands before.
        """
        if request.method != "POST":
            return Reply(404)
        api, body = Api.of(request.target), _asked(request)
        order = Order.read(body[ORDER])
        (request_id,) = request.values("x-request-id")
        (model,) = request.values("x-tensorgate-model")
        (key_id,) = request.values("x-tensorgate-key-id")
        with self._lock:
            self._asked[order.number] += 1
            order = order.answered(self._asked[order.number])
            entry = Entry(request_id, order, api, model, key_id, request.body)
            self._entries.append(entry)
        return _reply(api, order, _streams(api, request, body), body.get("stream_options") or {})


_FIELD: Final = re.compile(rb'name="([a-z_]+)"\r\n\r\n([^\r]*)\r\n--')


def _asked(request: Recorded) -> dict[str, Any]:
    """The members of a body; of a form, its order and whether it asks for a stream."""
    if not request.body.startswith(b"--"):
        found: dict[str, Any] = request.json()
        return found
    fields = dict(_FIELD.findall(request.body))
    return {ORDER: json.loads(fields[ORDER.encode()]), "stream": fields.get(b"stream") == b"true"}


def _streams(api: Api, request: Recorded, body: dict[str, Any]) -> bool:
    """Whether the answer streams, as the API says it."""
    if api is Api.GEMINI_STREAM:
        kind = dialects.framing(api, Order.read(body[ORDER]))
        assert (kind == "sse") == request.target.endswith("?alt=sse"), request.target
    if api is Api.SPEECH:
        return body.get("stream_format") == "sse"
    if api in {Api.OLLAMA_CHAT, Api.OLLAMA_GENERATE}:
        return body.get("stream") is not False
    return api in STREAMS or body.get("stream") is True


def _reply(api: Api, order: Order, stream: bool, options: dict[str, Any]) -> Reply:
    if order.end is End.ERROR:
        return _error(api, order)
    if order.end is End.RESET and not order.after:
        return Reply(before=(Abort(),))
    before: tuple[Step, ...] = (Pause(order.gap),) if order.end is End.STALL else ()
    if stream:
        with_usage = options.get("include_usage") is True
        counting = with_usage and options.get("continuous_usage_stats") is True
        made = events(api, order, with_usage=with_usage, counting=counting)
        kind = dialects.CONTENT_TYPES[dialects.framing(api, order)]
        return Reply(200, (("content-type", kind),), _stream_steps(order, made), before)
    body = whole_body(api, order)
    kind = "audio/mpeg" if api is Api.SPEECH else "application/json"
    headers: tuple[tuple[str, str], ...] = (("content-type", kind),)
    if order.end in {End.RESET, End.HANGUP}:
        cut = _cut(body[: len(body) // 2], order.dice("cuts"))
        return Reply(200, headers, [*cut, *_breaking(order)], before)
    if order.dice("framing").random() < 0.5:
        return Reply(200, headers, body, before)
    return Reply(200, headers, _cut(body, order.dice("cuts")), before)


def _error(api: Api, order: Order) -> Reply:
    fault = {"type": "theirs", "message": "as ordered"}
    body = {"error": fault} | ({"type": "error"} if api is Api.MESSAGES else {})
    return Reply(order.status, (("content-type", "application/json"),), json.dumps(body).encode())


def _stream_steps(order: Order, made: Sequence[Event]) -> list[Step]:
    dice = order.dice("cuts")
    broken = order.end in {End.RESET, End.HANGUP}
    if broken:
        made = made[: _index_after(made, order.after)]
    if not order.gap:
        return [*_cut(b"".join(event.data for event in made), dice), *_breaking(order)]
    steps: list[Step] = []
    for event in made:
        steps += [*_cut(event.data, dice, most=2), Pause(order.gap)]
    return [*steps, *_breaking(order)]


def _index_after(made: Sequence[Event], count: int) -> int:
    """How many events there are up to and with the `count`-th that brings tokens."""
    bearing = [index for index, event in enumerate(made) if event.tokens]
    return bearing[min(count, len(bearing)) - 1] + 1 if bearing else len(made)


def _breaking(order: Order) -> tuple[Step, ...]:
    if order.end is End.HANGUP:
        return (Hangup(),)
    # what was sent is to be read before the reset, which would discard it
    return (Pause(0.03), Abort()) if order.end is End.RESET else ()


def _cut(data: bytes, dice: Random, *, most: int = 12) -> list[bytes]:
    """The data in chunks cut anywhere, also within a character or a line's end."""
    count = min(dice.randint(0, most), max(0, len(data) - 1))
    places = sorted(dice.sample(range(1, len(data)), count)) if count else []
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
