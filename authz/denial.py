"""Reason → status, type, words, headers, in the dialect of the path. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from authz.errorshape import FINAL, REALM, STOP, error_body, grpc_headers, grpc_message
from authz.model import Dialect, Reason
from authz.words import Occasion, words
from store.records import SECOND_US

Headers = tuple[tuple[str, str], ...]

REASON_HEADER: Final = "x-tensorgate-reason"


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer of our own: a refusal, or what we answer ourselves."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    openai_type: str | None = None
    challenge: str | None = None


_INVALID_TOKEN: Final = f'{REALM}, error="invalid_token"'
_SCOPE: Final = f'{REALM}, error="insufficient_scope"'

_ROWS: Final[Mapping[Reason, _Row]] = {
    Reason.MISSING_API_KEY: _Row(401, challenge=REALM),
    Reason.INVALID_API_KEY: _Row(401, challenge=_INVALID_TOKEN),
    Reason.API_KEY_EXPIRED: _Row(401, challenge=_INVALID_TOKEN),
    Reason.API_KEY_REVOKED: _Row(401, challenge=_INVALID_TOKEN),
    Reason.AMBIGUOUS_CREDENTIALS: _Row(400),
    Reason.KEY_IN_URL: _Row(400),
    Reason.MALFORMED_BODY: _Row(400),
    Reason.AMBIGUOUS_BODY: _Row(400),
    Reason.MODEL_REQUIRED: _Row(400),
    Reason.INVALID_PARAMETER: _Row(400),
    Reason.MODEL_NOT_ALLOWED: _Row(403, challenge=_SCOPE),
    Reason.ENDPOINT_NOT_ALLOWED: _Row(403, challenge=_SCOPE),
    Reason.MODEL_NOT_PRICED: _Row(403, challenge=_SCOPE),
    Reason.UNSUPPORTED_ENCODING: _Row(415),
    Reason.PARAMETER_NOT_ALLOWED: _Row(403, challenge=_SCOPE),
    Reason.UNBOUNDED_NOT_ALLOWED: _Row(403, challenge=_SCOPE),
    Reason.RATE_LIMIT_EXCEEDED: _Row(429, openai_type="requests"),
    Reason.BUDGET_HELD: _Row(429, openai_type="requests"),
    Reason.BUDGET_EXCEEDED: _Row(429, openai_type="insufficient_quota"),
    Reason.AUTHORIZATION_UNAVAILABLE: _Row(503),
    Reason.NOT_FOUND: _Row(404),
}


def deny(occasion: Occasion) -> Answer:
    """The refusal for an occasion, without the headers that say how limits stand."""
    reason = occasion.fault.reason
    row = _ROWS[reason]
    grpc = occasion.request.dialect is Dialect.GRPC
    shape = grpc_headers(row.status) if grpc else (("content-type", "application/json"),)
    headers = [*shape, (REASON_HEADER, reason.value)]
    if row.challenge is not None:
        headers.append(("www-authenticate", row.challenge))
    if row.status in FINAL:
        headers.append(STOP)
    headers.extend(_retry(occasion))
    return Answer(row.status, tuple(headers), _body(occasion, row))


def _retry(occasion: Occasion) -> Headers:
    if occasion.fault.reason is Reason.AUTHORIZATION_UNAVAILABLE:
        return (("retry-after", "1"),)
    if occasion.refused is None:
        return ()
    retry_us = occasion.refused.retry_us
    if occasion.fault.reason is Reason.BUDGET_EXCEEDED:
        # Together, always: alone the one makes SDKs sleep for days, the other makes them hammer.
        return (("retry-after", str(-(-retry_us // SECOND_US))), STOP)
    if occasion.fault.reason is Reason.BUDGET_HELD:
        return (("retry-after", str(-(-retry_us // SECOND_US))),)
    return (
        ("retry-after", str(max(1, -(-retry_us // SECOND_US)))),
        ("retry-after-ms", str(max(1, -(-retry_us // 1000)))),
    )


def _body(occasion: Occasion, row: _Row) -> bytes:
    fault, request = occasion.fault, occasion.request
    if request.dialect is Dialect.GRPC:
        return grpc_message(fault.reason.value, words(occasion)).encode()
    return msgspec.json.encode(
        error_body(
            request.dialect,
            row.status,
            code=fault.reason.value,
            message=words(occasion),
            request_id=request.id,
            param=fault.param,
            openai_type=row.openai_type,
        )
    )
