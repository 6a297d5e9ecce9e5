"""From an access-log entry to how a request ended and what it used. Pure.

An entry is hostile input like any other: metadata written by the response's filter has been
made from what a model server sent. A number that is none is left out, and what is not a whole
usage is no usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value

from authz.model import Dialect
from authz.pb.accesslog_entry_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    HTTPResponseProperties,
)
from store.records import SECOND_US

DECISION: Final = "envoy.filters.http.ext_authz"
RESPONSE: Final = "tensorgate.usage"
_ERRORS: Final = 400
_MAX_STATUS: Final = 999
_MAX_DIGITS: Final = 12
_MOMENT_DIGITS: Final = 15  # of milliseconds since 1970
_STREAMS: Final = frozenset({"sse", "lines", "array"})
_BY_UPSTREAM: Final = "via_upstream"
_CUT_OFF: Final = ("downstream_remote_disconnect", "upstream_reset_after_response_started")
"""How an answer can end whose status is the server's own."""
_NOTHING: Final[Mapping[str, Value]] = {}

_GRPC_STATUS: Final = "grpc-status"
_GRPC_ERRORS: Final = {
    "1": 499,  # CANCELLED
    "3": 400,  # INVALID_ARGUMENT
    "4": 504,  # DEADLINE_EXCEEDED
    "5": 404,  # NOT_FOUND
    "6": 409,  # ALREADY_EXISTS
    "7": 403,  # PERMISSION_DENIED
    "8": 429,  # RESOURCE_EXHAUSTED
    "9": 400,  # FAILED_PRECONDITION
    "10": 409,  # ABORTED
    "11": 400,  # OUT_OF_RANGE
    "12": 501,  # UNIMPLEMENTED
    "14": 503,  # UNAVAILABLE
    "16": 401,  # UNAUTHENTICATED
}
_GRPC_OTHER_ERROR: Final = 500
_GRPC_CLIENTS_OWN: Final = frozenset({"1", "4"})
"""How a server ends a call because its client took it back, or said `grpc-timeout` of it: it may
have done all of the work by then."""

_END_TYPES: Final = frozenset({AccessLogType.NotSet, AccessLogType.DownstreamEnd})


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens by kind, each counted once: `input` is without what was cached or written.

    OpenAI counts cached tokens inside the prompt, Anthropic outside; here they are alike, so the
    same prompt costs the same.
    """

    input: int
    cached_input: int
    cache_write: int
    output: int


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How a request ended, or stands, as Envoy tells it.

    `hold_id` is None for an entry without our decision in it, `account_id` says whose it is.
    `reached`: a model server got some of the request. `answered`: the status is the server's own;
    `complete`: and so is the answer's end. `final`: `usage` is the whole answer's. `stream`: what
    was generated was counted as it came, in `events` and `content_bytes`. `hides_output`: the
    request said that not all of it was to be streamed. `duration_us` is from when the request was
    there, and was asked about, to the end, and `first_us` to the first of what was generated as it
    came, 0 where that was not seen.
    """

    request_id: str
    running: bool
    outcome: str
    hold_id: str | None
    account_id: str
    status: int
    reached: bool
    answered: bool
    complete: bool
    duration_us: int
    usage: Usage | None
    final: bool
    stream: bool
    events: int
    content_bytes: int
    encoded: bool
    hides_output: bool
    first_us: int = 0

    @property
    def failed(self) -> bool:
        """Whether the model server answered with an error."""
        return self.answered and self.status >= _ERRORS


def read_ending(entry: HTTPAccessLogEntry) -> Ending:
    """Read one entry. Never raises for what is in it."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    decision = _fields(metadata.get(DECISION))
    response = _fields(metadata.get(RESPONSE))
    usage, whole = _usage(response) if response else (None, False)
    details = entry.response.response_code_details
    status = entry.response.response_code.value
    duration_us = max(0, _us(common.duration) - _us(common.time_to_last_rx_byte))
    code = _grpc_code(entry.response) if _text(decision, "dialect") == Dialect.GRPC else None
    if code is not None:
        status = _GRPC_ERRORS.get(code, _GRPC_OTHER_ERROR)
    whole_answer = details == _BY_UPSTREAM
    is_cut = common.HasField("time_to_first_upstream_rx_byte") and details.startswith(_CUT_OFF)
    servers_own = code not in _GRPC_CLIENTS_OWN
    return Ending(
        request_id=common.stream_id,
        running=common.intermediate_log_entry or common.access_log_type not in _END_TYPES,
        outcome=_text(decision, "outcome") or "",
        hold_id=_text(decision, "hold_id") or None,
        account_id=_text(decision, "account_id") or "",
        status=status if status <= _MAX_STATUS else 0,
        reached=common.HasField("time_to_first_upstream_tx_byte"),
        answered=servers_own and (whole_answer or is_cut),
        complete=servers_own and whole_answer,
        duration_us=duration_us,
        usage=usage,
        final=whole and _text(response, "final") == "1",
        stream=_text(response, "format") in _STREAMS,
        events=_count(_text(response, "events")) or 0,
        content_bytes=_count(_text(response, "content_bytes")) or 0,
        encoded=bool(_text(response, "encoded")),
        hides_output=_text(decision, "hides_output") == "1",
        first_us=_first_us(_text(response, "first_ms"), common, duration_us),
    )


def _first_us(first_ms: str | None, common: AccessLogCommon, duration_us: int) -> int:
    """How long after the request was there that moment was; at most as long as all of it took.

    The moment is by the system's clock, as the start is: where that was set meanwhile, it may lie
    anywhere.
    """
    at_ms = _count(first_ms, _MOMENT_DIGITS)
    if at_ms is None:
        return 0
    start = common.start_time
    there_us = start.seconds * SECOND_US + start.nanos // 1000 + _us(common.time_to_last_rx_byte)
    return min(max(1, at_ms * 1000 - there_us), duration_us)


def _grpc_code(response: HTTPResponseProperties) -> str | None:
    """A gRPC call's own error: on the wire every one of them is a 200."""
    for found in (response.response_trailers, response.response_headers):
        if _GRPC_STATUS in found and found[_GRPC_STATUS] != "0":
            return found[_GRPC_STATUS]
    return None


def _fields(struct: Struct | None) -> Mapping[str, Value]:
    return _NOTHING if struct is None else struct.fields


def _text(fields: Mapping[str, Value], name: str) -> str | None:
    """A text, None where there is no such field; of another kind of value, the empty one."""
    value = fields.get(name)
    return None if value is None else value.string_value


def _count(text: str | None, digits: int = _MAX_DIGITS) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > digits:
        return None
    return int(text)


def _us(duration: Duration) -> int:
    return duration.seconds * SECOND_US + duration.nanos // 1000


def _usage(seen: Mapping[str, Value]) -> tuple[Usage | None, bool]:
    """The usage as far as it was seen, cached tokens counted once, and whether it can be whole.

    It cannot where a counter that must be there is not, or where one that is there is no number.
    """
    said_cached, said_written = _text(seen, "cached"), _text(seen, "cache_write")
    tokens_in, tokens_out = _count(_text(seen, "input")), _count(_text(seen, "output"))
    if tokens_in is None and tokens_out is None:
        return None, False
    cached, written = _count(said_cached), _count(said_written)
    whole = (
        tokens_in is not None
        and tokens_out is not None
        and (cached is not None or said_cached is None)
        and (written is not None or said_written is None)
    )
    tokens_in, cached = tokens_in or 0, cached or 0
    if cached and _text(seen, "cached_inside") == "1":
        cached = min(cached, tokens_in)
        tokens_in -= cached
    return Usage(tokens_in, cached, written or 0, tokens_out or 0), whole
