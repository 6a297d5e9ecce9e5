"""The shape of a refusal in each dialect, whoever makes it: the service, or Envoy by itself. Pure.

`authz.denial` fills it for a decision; `tensorgate.envoy.replies` writes it into Envoy's
configuration. A client must not be able to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, assert_never

from authz.model import Dialect

REALM: Final = 'Bearer realm="tensorgate"'
STOP: Final = ("x-should-retry", "false")
FINAL: Final = frozenset({400, 401, 403, 404, 413, 415, 426, 431})
"""Statuses that no time heals. Some clients repeat a 401 for minutes unless they are told."""

OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error"}
ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_SERVER_ERRORS: Final = 500

GRPC_STATUSES: Final = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 12,  # UNIMPLEMENTED
    408: 4,  # DEADLINE_EXCEEDED
    413: 3,
    415: 3,
    426: 12,
    429: 8,  # RESOURCE_EXHAUSTED
    431: 3,
    503: 14,  # UNAVAILABLE
    504: 4,
}
"""What a gRPC client is told for each status that a refusal can have. Envoy's own mapping makes a
429 UNAVAILABLE, which clients repeat, and a 400 INTERNAL."""

JsonDialect = Literal[Dialect.OPENAI, Dialect.ANTHROPIC]


def grpc_headers(status: int) -> tuple[tuple[str, str], ...]:
    """What makes a refusal one of gRPC's; its HTTP status is then 200, as Envoy sets it."""
    return (("grpc-status", str(GRPC_STATUSES[status])),)


def grpc_message(code: str, message: str) -> str:
    """What becomes grpc-message: one line of ASCII, whatever stands in the message."""
    line = f"{code}: {message}".replace("…", "...")
    return line.encode("ascii", "backslashreplace").decode()


def error_body(
    dialect: JsonDialect,
    status: int,
    *,
    code: str,
    message: str,
    request_id: str,
    param: str | None = None,
    openai_type: str | None = None,
) -> dict[str, Any]:
    """The body of an error, as it is to be written in JSON.

    `openai_type` is a type for OpenAI's dialect where the status alone does not say it.
    """
    match dialect:
        case Dialect.OPENAI:
            kind = openai_type or _type(status, OPENAI_TYPES, "server_error")
            return {
                "error": {
                    "message": message,
                    "type": kind,
                    "param": param,
                    "code": code,
                    "request_id": request_id,
                }
            }
        case Dialect.ANTHROPIC:
            kind = _type(status, ANTHROPIC_TYPES, "api_error")
            error = {"type": kind, "message": message, "code": code}
            return {"type": "error", "error": error, "request_id": request_id}
        case _ as never:
            assert_never(never)


def _type(status: int, named: Mapping[int, str], server_error: str) -> str:
    fallback = server_error if status >= _SERVER_ERRORS else "invalid_request_error"
    return named.get(status, fallback)
