"""What deploy/lua must read out of an answer, written down a second time: slowly, of whole answers,
by Python's own JSON reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Seen = dict[str, str]

_COUNTER: Final = re.compile(r"0|[1-9][0-9]{0,11}")
_RESPONSE_ENDS: Final = {"response.completed", "response.incomplete", "response.failed"}
_IMAGE_ENDS: Final = {"image_generation.completed", "image_edit.completed"}
_ENDS: Final = {"message_stop", "transcript.text.done", "speech.audio.done"}


class UnreadableError(Exception):
    """The answer is none that may be read."""


# Members in which no content comes, by where they stand; any other that is a string, an object or
# an array is content.
_NO_CONTENT: Final = {
    "event": {
        *("usage", "type", "choices", "delta", "content_block", "message", "response"),
        *("id", "object", "created", "created_at", "model", "provider", "system_fingerprint"),
        *("service_tier", "error", "timings", "prompt_progress", "prompt_filter_results"),
        *("item_id", "logprobs", "obfuscation", "audio", "b64_json", "partial_image_b64"),
    },
    "choice": {
        *("delta", "index", "usage", "finish_reason", "native_finish_reason", "stop_reason"),
        *("matched_stop", "logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids"),
        *("hidden_states", "content_filter_results", "content_filter_offsets"),
    },
    "choice delta": {
        *("content", "tool_calls", "function_call", "audio"),
        *("role", "type", "index", "annotations", "tool_call_id", "provider_specific_fields"),
    },
    "part": {"type", "annotations"},
    "call": {"function", "custom", "index", "id", "type"},
    "audio": {"id", "expires_at"},
    "delta": {
        *("stop_reason", "type", "signature", "citation", "stop_sequence", "stop_details"),
        "container",
    },
    "block": {"type", "id", "signature", "citations", "caller", "tool_use_id"},
    "message": {"usage", "content", "role"},
    "response": {"usage"},
    "function": set[str](),
}
_KNOWN: Final = {
    *("message_start", "message_delta", "message_stop", "ping", "error"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
    *("transcript.text.delta", "speech.audio.delta", "speech.audio.done"),
    *("image_generation.partial_image", "image_generation.completed"),
    *("image_edit.partial_image", "image_edit.completed"),
}
_REPEATS: Final = {"response.output_item.done", "transcript.text.segment"}
_MEDIA: Final = ("audio", "b64_json", "partial_image_b64")


@dataclass
class State:
    dialect: str
    seen: Seen = field(default_factory=dict)
    covered: bool = False
    ended: bool = False
    images: int = 0
    events: int = 0
    content_bytes: int = 0
    item_bytes: int = 0  # of content, since the last item of a response

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
        inside = prompt is not None or self.dialect != "anthropic"
        if tokens_in and total and (inside or not tokens_out):
            left = int(total) - int(tokens_in)
            if left >= 0:
                tokens_out = str(max(left, int(tokens_out or 0)))
        cached = (
            count("prompt_tokens_details", "cached_tokens")
            or count("input_tokens_details", "cached_tokens")
            or count("cache_read_input_tokens")
        )
        written = count("cache_creation_input_tokens")
        if tokens_in:
            self.seen["cached_inside"] = "1" if inside else "0"
        self.covered = self.covered or tokens_out is not None
        most(self.seen, input=tokens_in, output=tokens_out, cached=cached)
        if self.seen.get("cached_inside") != "1":
            most(self.seen, cache_write=written)

    def result(self, form: str) -> Seen:
        final = self.covered and self.ended and {"input", "output"} <= self.seen.keys()
        final = final and self.images < 2 and not (self.events and self.seen["output"] == "0")
        return self.seen | {"format": form} | ({"final": "1"} if final else {})


def most(seen: Seen, **counts: str | None) -> None:
    """Keep the largest count that was said of each."""
    for name, count in counts.items():
        if count is not None:
            seen[name] = str(max(int(count), int(seen.get(name, "0"))))


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


class Object(dict[str, Any]):
    """A JSON object that knows how long it is, in bytes without its brackets."""

    between: int


class Array(list[Any]):
    """The same of an array."""

    between: int


def _no_number(text: str) -> None:
    raise ValueError(text)


class _Decoder(json.JSONDecoder):
    """Python's own, but for what its objects and arrays know of themselves."""

    def __init__(self, *, lax: bool = False) -> None:
        constant = float if lax else _no_number
        super().__init__(parse_int=Number, parse_float=Number, parse_constant=constant)
        self.parse_object = self._object  # type: ignore[assignment]
        self.parse_array = self._array  # type: ignore[assignment]
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _object(self, at: tuple[str, int], *more: Any) -> tuple[Object, int]:
        value, end = json.decoder.JSONObject(at, *more)  # type: ignore[attr-defined]
        return _measured(Object(value), at, end)

    def _array(self, at: tuple[str, int], *more: Any) -> tuple[Array, int]:
        value, end = json.decoder.JSONArray(at, *more)  # type: ignore[attr-defined]
        return _measured(Array(value), at, end)


def _measured(value: Any, at: tuple[str, int], end: int) -> tuple[Any, int]:
    text, begin = at
    value.between = _size(text[begin : end - 1])
    return value, end


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def parse(text: bytes, *, lax: bool = False) -> Object:
    """One object, and nothing else; `lax`: NaN is a number."""
    try:
        value = _Decoder(lax=lax).decode(text.decode("utf-8", "surrogatepass").strip(" \t\r\n"))
    except (ValueError, RecursionError):
        raise UnreadableError from None
    if not isinstance(value, Object):
        raise UnreadableError
    return value


def read_body(body: bytes, dialect: str = "openai") -> Seen:
    state = State(dialect)
    try:
        value = parse(body)
        ranked = isinstance(value.get("results"), list)
        if isinstance(value.get("usage"), dict):
            (State(dialect) if ranked else state).take(value["usage"])
        if ranked:
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
    left = b"".join(event.raw for event in events(stream) if not _alone(event.data))
    try:
        for event in events(stream):
            _read_event(state, event.data.lstrip(b" \t\n"))
    except UnreadableError:
        return {"format": "other"}, left
    counted = {"events": str(state.events), "content_bytes": str(state.content_bytes)}
    return state.result("sse") | counted | {"done": "1"}, left


def _alone(data: bytes) -> bool:
    """Whether an event is a usage and nothing that a client looks for."""
    try:
        event = parse(data, lax=True)
    except UnreadableError:
        return False
    choices = event.get("choices")
    if not isinstance(event.get("usage"), dict) or (isinstance(choices, Array) and choices):
        return False
    needed = (
        event.get("error") is not None
        or event.get("type") == "error"
        or isinstance(_member(event, "delta", "stop_reason"), str)
    )
    return not needed and not _known(event) and (choices == [] or not _loose(event))


def _read_event(state: State, raw_data: bytes) -> None:
    data = raw_data.strip()
    if data == b"[DONE]":
        state.ended = True
    if not data.startswith(b"{"):
        length = 0 if data == b"[DONE]" else len(raw_data.replace(b"\n", b""))
        state.content_bytes += length
        state.events += length > 0
        return
    event = parse(data)
    kind, usage = event.get("type"), event.get("usage")
    if generated := _generated(event, state):
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


def _member(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def weight(value: Any) -> int:
    """The bytes of content that a value is where nothing is known of it."""
    if isinstance(value, Object | Array):
        return value.between
    return 0 if isinstance(value, Number) or not isinstance(value, str) else _size(value)


def _content(value: Any, kind: str, **inside: Callable[[Any], int]) -> int:
    """The bytes of content of a value; `inside` has members that have a rule of their own."""
    if not isinstance(value, Object):
        return weight(value)
    plain = [value[name] for name in value if name not in _NO_CONTENT[kind]]
    read = [rule(value[name]) for name, rule in inside.items() if name in value]
    return sum(map(weight, plain)) + sum(read)


def _each(value: Any, rule: Callable[[Any], int]) -> int:
    return sum(map(rule, value)) if isinstance(value, Array) else weight(value)


def _function(value: Any) -> int:
    return _content(value, "function")


def _call(value: Any) -> int:
    return _content(value, "call", function=_function, custom=_function)


def _choice(value: Any) -> int:
    return _content(value, "choice", delta=_choice_delta)


def _choice_delta(value: Any) -> int:
    return _content(
        value,
        "choice delta",
        content=lambda parts: _each(parts, lambda part: _content(part, "part")),
        tool_calls=lambda calls: _each(calls, _call),
        function_call=_function,
        audio=lambda audio: _content(audio, "audio"),
    )


def _known(event: Object) -> int:
    """The bytes of content in the places where it is looked for."""
    choices = event.get("choices")
    known = sum(map(_choice, choices)) if isinstance(choices, Array) else 0
    known += _content(event.get("delta"), "delta")
    known += _content(event.get("content_block"), "block")
    known += weight(_member(event, "message", "content"))
    return known + sum(weight(event.get(name)) for name in _MEDIA)


def _loose(event: Object) -> int:
    """The bytes of what is content in an event that nobody knows."""
    choices = event.get("choices")
    loose = _content(event, "event") + _content(event.get("message"), "message")
    loose += _content(event.get("response"), "response")
    return loose + (0 if isinstance(choices, Array) else weight(choices))


def _generated(event: Object, state: State) -> int:
    """The bytes of content of an event."""
    kind, known = event.get("type"), _known(event)
    state.item_bytes += known
    kind = kind if isinstance(kind, str) and not isinstance(kind, Number) else ""
    if kind in _REPEATS:
        known_event = state.item_bytes > 0
        state.item_bytes = 0
    elif kind == "transcript.text.done":
        known_event = state.content_bytes + known > 0
    elif kind.startswith("response."):
        known_event = known > 0 or not kind.endswith(".delta")
    else:
        known_event = isinstance(event.get("choices"), Array) or kind in _KNOWN
    return known if known_event else known + _loose(event)
