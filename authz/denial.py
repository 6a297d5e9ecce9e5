"""Reason → status, type, words, headers, in the dialect of the path. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from authz.model import Dialect, Reason
from authz.words import Occasion, words
from store.records import SECOND_US

Headers = tuple[tuple[str, str], ...]

REASON_HEADER: Final = "x-tensorgate-reason"
REALM: Final = 'Bearer realm="tensorgate"'


@dataclass(frozen=True, slots=True)
class Answer:
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

STOP: Final = ("x-should-retry", "false")
FINAL: Final = frozenset({400, 401, 403, 404, 415})
"""Refusals that no time heals. Some clients repeat a 401 for minutes unless they are told."""

_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error"}
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_SERVER_ERRORS: Final = 500


def deny(occasion: Occasion) -> Answer:
    """The refusal for an occasion, without the headers that say how limits stand."""
    reason = occasion.fault.reason
    row = _ROWS[reason]
    headers = [("content-type", "application/json"), (REASON_HEADER, reason.value)]
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
    error: dict[str, str | None]
    match request.dialect:
        case Dialect.OPENAI:
            error = {
                "message": words(occasion),
                "type": row.openai_type or _type(row.status, _OPENAI_TYPES, "server_error"),
                "param": fault.param,
                "code": fault.reason.value,
                "request_id": request.id,
            }
            return msgspec.json.encode({"error": error})
        case Dialect.ANTHROPIC:
            error = {
                "type": _type(row.status, _ANTHROPIC_TYPES, "api_error"),
                "message": words(occasion),
                "code": fault.reason.value,
            }
            return msgspec.json.encode({"type": "error", "error": error, "request_id": request.id})
        case _ as never:
            assert_never(never)


def _type(status: int, named: Mapping[int, str], server_error: str) -> str:
    fallback = server_error if status >= _SERVER_ERRORS else "invalid_request_error"
    return named.get(status, fallback)
