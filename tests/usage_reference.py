"""What deploy/lua must read out of an answer, written down a second time: slowly, of whole answers,
by Python's own JSON reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Seen = dict[str, str]

_COUNTER: Final = re.compile(r"0|[1-9][0-9]{0,11}")
_RESPONSE_ENDS: Final = {"response.completed", "response.incomplete", "response.failed"}
_IMAGE_ENDS: Final = {"image_generation.completed", "image_edit.completed"}
_ENDS: Final = {"message_stop", "transcript.text.done", "speech.audio.done"}


class UnreadableError(Exception):
    """The answer is none that may be read."""


@dataclass
class State:
    dialect: str
    seen: Seen = field(default_factory=dict)
    covered: bool = False
    ended: bool = False
    images: int = 0
    events: int = 0
    content_bytes: int = 0

    def take(self, usage: dict[str, Any]) -> None:
        def count(*path: str) -> str | None:
            value: Any = usage
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            return counter(value)

        prompt = count("prompt_tokens")
        tokens_in = prompt or count("input_tokens")
        tokens_out = count("completion_tokens") or count("output_tokens")
        total = count("total_tokens")
        if tokens_in and total and not tokens_out and int(total) >= int(tokens_in):
            tokens_out = str(int(total) - int(tokens_in))
        cached = (
            count("prompt_tokens_details", "cached_tokens")
            or count("input_tokens_details", "cached_tokens")
            or count("cache_read_input_tokens")
        )
        written = count("cache_creation_input_tokens")
        if tokens_in:
            inside = prompt is not None or self.dialect != "anthropic"
            self.seen |= {"input": tokens_in, "cached_inside": "1" if inside else "0"}
        if tokens_out:
            self.seen["output"] = tokens_out
            self.covered = True
        if cached:
            self.seen["cached"] = cached
        if written and self.seen.get("cached_inside") != "1":
            self.seen["cache_write"] = written

    def result(self, form: str) -> Seen:
        final = self.covered and self.ended and {"input", "output"} <= self.seen.keys()
        final = final and self.images < 2
        return self.seen | {"format": form} | ({"final": "1"} if final else {})


class Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


def counter(value: Any) -> str | None:
    """The digits of a natural number; None of what is not there."""
    if value is None:
        return None
    if not isinstance(value, Number) or not _COUNTER.fullmatch(value):
        raise UnreadableError
    return str(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


def parse(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_int=Number, parse_float=Number, object_pairs_hook=_unique)
    except ValueError:
        raise UnreadableError from None
    if not isinstance(value, dict):
        raise UnreadableError
    return value


def read_body(body: bytes, dialect: str = "openai") -> Seen:
    state = State(dialect)
    try:
        value = parse(body)
        if isinstance(value.get("usage"), dict):
            state.take(value["usage"])
        if isinstance(value.get("results"), list):
            _reranked(state, value)
    except UnreadableError:
        return {"format": "other"}
    state.ended = True
    return state.result("json") | {"done": "1"}


def _reranked(state: State, body: dict[str, Any]) -> None:
    """A reranker generates nothing: a total is its input."""
    for place in (("usage",), ("meta", "tokens"), ("meta", "billed_units")):
        units = _member(body, *place)
        if not isinstance(units, dict):
            continue
        names = ["prompt_tokens", "input_tokens"] + ["total_tokens"] * (place == ("usage",))
        tokens_in = next((found for name in names if (found := counter(units.get(name)))), None)
        outs = (counter(units.get(name)) for name in ("completion_tokens", "output_tokens"))
        tokens_out = next((found for found in outs if found), "0")
        if tokens_in:
            state.take(
                {"prompt_tokens": Number(tokens_in), "completion_tokens": Number(tokens_out)}
            )
            return


@dataclass(frozen=True)
class Event:
    raw: bytes  # with the empty line that ends it
    data: bytes


def events(stream: bytes) -> Iterator[Event]:
    raw = data = b""
    lines = re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", stream)
    for number, line in enumerate(lines):
        raw += line
        text = line.rstrip(b"\r\n")
        if number == 0:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text and not (number == 0 and line.startswith(b"\xef")):
            yield Event(raw, data)
            raw = data = b""
        elif text.startswith(b"data:"):
            data += text[5:].removeprefix(b" ") + b"\n"
    if raw:
        yield Event(raw, data)


def read_stream(stream: bytes, dialect: str = "openai") -> tuple[Seen, bytes]:
    """What is seen, and the stream without the events that are a usage alone."""
    state = State(dialect)
    left = b""
    try:
        for event in events(stream):
            if not _read_event(state, event.data.strip()):
                left += event.raw
    except UnreadableError:
        return {"format": "other"}, b""
    counted = {"events": str(state.events), "content_bytes": str(state.content_bytes)}
    return state.result("sse") | counted | {"done": "1"}, left


def _read_event(state: State, data: bytes) -> bool:
    """Read one event; whether it was a usage alone."""
    if data == b"[DONE]":
        state.ended = True
    if not data.startswith(b"{"):
        return False
    event = parse(data)
    kind, usage = event.get("type"), event.get("usage")
    if generated := sum(len(text.encode("utf-8", "surrogatepass")) for text in _content(event)):
        state.events += 1
        state.content_bytes += generated
        state.covered = state.ended = False
    empty = event.get("choices") == []
    ends = kind in _ENDS or (isinstance(usage, dict) and empty)
    if kind == "message_start":
        usage = _member(event, "message", "usage")
    elif kind == "message_delta":
        ends = isinstance(_member(event, "delta", "stop_reason"), str)
    elif kind in _RESPONSE_ENDS:
        usage, ends = _member(event, "response", "usage"), True
    elif kind in _IMAGE_ENDS:
        ends = True
        state.images += 1
    if isinstance(usage, dict):
        state.take(usage)
    state.ended = state.ended or ends
    return kind is None and isinstance(usage, dict) and empty


def _member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _texts(value: Any, *names: str) -> Iterator[str]:
    for name in names:
        found = _member(value, name)
        if isinstance(found, str) and not isinstance(found, Number):
            yield found


def _items(value: Any, name: str) -> list[Any]:
    found = _member(value, name)
    return found if isinstance(found, list) else []


def _content(event: dict[str, Any]) -> Iterator[str]:
    for choice in _items(event, "choices"):
        yield from _texts(choice, "text")
        delta = _member(choice, "delta")
        yield from _texts(delta, "content", "reasoning_content", "reasoning", "refusal")
        for part in _items(delta, "content"):
            yield from _texts(part, "text")
        calls = [_member(call, "function") for call in _items(delta, "tool_calls")]
        for call in (*calls, _member(delta, "function_call")):
            yield from _texts(call, "name", "arguments")
        yield from _texts(_member(delta, "audio"), "data", "transcript")
    yield from _texts(event, "delta", "audio", "b64_json", "partial_image_b64")
    yield from _texts(event.get("delta"), "text", "thinking", "partial_json")
    yield from _texts(event.get("content_block"), "text", "thinking", "name")
