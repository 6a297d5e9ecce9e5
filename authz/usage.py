"""From an access-log entry to how a request ended and what it used. Pure.

An entry is hostile input like any other: metadata written by the response's filter has been
made from what a model server sent. A number that is none is left out, and what is not a whole
usage is no usage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.struct_pb2 import Struct

from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry

DECISION: Final = "envoy.filters.http.ext_authz"
RESPONSE: Final = "tensorgate.usage"
MAX_TOKENS: Final = 1 << 40
_ERRORS: Final = 400
_BY_UPSTREAM: Final = "via_upstream"
_MAX_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind, each counted once: `input` is without what was cached or written.

    OpenAI counts cached tokens inside the prompt, Anthropic outside; here they are alike, so the
    same prompt costs the same.
    """

    input: int
    cached_input: int
    cache_write: int
    output: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended, or stands, as Envoy tells it.

    `hold_id` is None for an entry without our decision in it. `reached`: a model server got
    some of the request. `answered`: the status is the server's own, and its answer ended well.
    `final`: `usage` is the whole answer's. `events` and `content_bytes` are what was
    generated in a stream as far as it was seen. `duration_us` is until the last byte.
    """

    request_id: str
    running: bool
    outcome: str
    hold_id: str | None
    status: int
    reached: bool
    answered: bool
    duration_us: int
    usage: Usage | None
    final: bool
    events: int
    content_bytes: int
    encoded: bool

    @property
    def failed(self) -> bool:
        """Whether the model server answered with an error."""
        return self.answered and self.status >= _ERRORS


def read_ending(entry: HTTPAccessLogEntry) -> Ending:
    """Read one entry. Never raises for what is in it."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    decision = _texts(metadata[DECISION]) if DECISION in metadata else {}
    response = _texts(metadata[RESPONSE]) if RESPONSE in metadata else {}
    duration = common.duration
    return Ending(
        request_id=common.stream_id,
        running=common.intermediate_log_entry,
        outcome=decision.get("outcome", ""),
        hold_id=decision.get("hold_id") or None,
        status=entry.response.response_code.value,
        reached=common.HasField("time_to_first_upstream_tx_byte"),
        answered=entry.response.response_code_details == _BY_UPSTREAM,
        duration_us=max(0, duration.seconds * 1_000_000 + duration.nanos // 1000),
        usage=_usage(response),
        final=response.get("final") == "1",
        events=_count(response.get("events")) or 0,
        content_bytes=_count(response.get("content_bytes")) or 0,
        encoded=bool(response.get("encoded")),
    )


def _texts(struct: Struct) -> dict[str, str]:
    fields = struct.fields.items()
    return {name: value.string_value for name, value in fields if value.HasField("string_value")}


def _count(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > _MAX_DIGITS:
        return None
    return int(text)


def _usage(seen: dict[str, str]) -> Usage | None:
    """The usage as far as it was seen, cached tokens counted once."""
    tokens_in, tokens_out = _count(seen.get("input")), _count(seen.get("output"))
    if tokens_in is None and tokens_out is None:
        return None
    cached, written = _count(seen.get("cached")) or 0, _count(seen.get("cache_write")) or 0
    tokens_in = tokens_in or 0
    if seen.get("cached_inside") == "1":
        cached = min(cached, tokens_in)
        tokens_in -= cached
    return Usage(tokens_in, cached, written, tokens_out or 0)
