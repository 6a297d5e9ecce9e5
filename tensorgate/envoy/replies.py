"""Envoy's own answers in our error shape: its `local_reply_config`, as data. Pure.

Only what Envoy says itself passes here. A model server's own errors are never touched, and the
service's refusals, which Envoy counts among its own answers, are recognised and left as they are.
Bodies are rendered as JSON by Envoy, which escapes what a client sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from authz.errorshape import (
    FINAL,
    REALM,
    STOP,
    error_body,
    grpc_headers,
    grpc_message,
)
from authz.model import Dialect

AUTHZ_METADATA: Final = "envoy.filters.http.ext_authz"
ROOM_METADATA: Final = "tensorgate.body_room"  # as deploy/lua/body_room.lua names it
ROUTE_METADATA: Final = "tensorgate"
ANTHROPIC_PATH: Final = r"/v1/messages(?:[/?].*)?"
GRPC_TYPE: Final = r"application/grpc(?:\+.*)?"  # where Envoy makes its answer one of gRPC's

Tree = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

_ID: Final = "%REQ(X-REQUEST-ID)%"
_OWN_ID: Final = "%RESP(X-REQUEST-ID)%"

_RETRY: Final = (("retry-after", "1"),)
_UNAVAILABLE: Final = (
    "The gate cannot check keys right now, so nothing was passed on. Try again in a second."
)
_BUSY: Final = (
    "The gate has no room for this request right now, so nothing was passed on. "
    "Try again in a second."
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One of Envoy's answers: what it is recognised by, and what the client gets for it."""

    why: str  # a comment in the rendered file
    when: Tree  # an Envoy AccessLogFilter
    status: int
    code: str
    message: str
    headers: Headers = ()
    becomes: bool = False  # Envoy's status was another one
    early: bool = False  # may come before the request has an id

    def mappers(self) -> Iterator[Tree]:
        """GRPC's shape where it is spoken, Anthropic's on its paths, OpenAI's for the rest."""
        shapes: tuple[tuple[list[Tree], Dialect, Headers], ...] = (
            ([self.when, content_type(GRPC_TYPE)], Dialect.GRPC, grpc_headers(self.status)),
            ([self.when, path(ANTHROPIC_PATH)], Dialect.ANTHROPIC, (("request-id", _ID),)),
            ([self.when], Dialect.OPENAI, ()),
        )
        for when, dialect, headers in shapes:
            if self.early:
                # An id of its own, and the body repeats the header that was just set (another
                # header could not: all are made from those that were there before).
                own = headers if dialect is Dialect.GRPC else ()
                yield self._mapper(
                    [*when, no_request_id()],
                    self._body(dialect, _OWN_ID),
                    (*own, ("x-request-id", "%UNIQUE_ID%")),
                )
            yield self._mapper(when, self._body(dialect, _ID), headers)

    def _body(self, dialect: Dialect, request_id: str) -> Tree:
        if dialect is Dialect.GRPC:
            said = grpc_message(self.code, self.message)
            return {"text_format_source": {"inline_string": said}}
        return {
            "json_format": error_body(
                dialect, self.status, code=self.code, message=self.message, request_id=request_id
            )
        }

    def _mapper(self, when: list[Tree], body: Tree, headers: Headers) -> Tree:
        stop = (STOP,) if self.status in FINAL else ()
        named = (("x-tensorgate-reason", self.code), *stop, *self.headers, *headers)
        return {
            "filter": both(*when),
            **({"status_code": self.status} if self.becomes else {}),
            "body_format_override": body,
            "headers_to_add": [
                {
                    "header": {"key": name, "value": value},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
                for name, value in named
            ],
        }


def both(*filters: Tree) -> Tree:
    """All of them hold."""
    return filters[0] if len(filters) == 1 else {"and_filter": {"filters": list(filters)}}


def either(*filters: Tree) -> Tree:
    """One of them holds."""
    return {"or_filter": {"filters": list(filters)}}


def status(code: int, op: str = "EQ") -> Tree:
    """Envoy's own status, before it is mapped."""
    value = {"default_value": code, "runtime_key": "tensorgate.unused"}
    return {"status_code_filter": {"comparison": {"op": op, "value": value}}}


def flags(*names: str) -> Tree:
    """One of Envoy's response flags."""
    return {"response_flag_filter": {"flags": list(names)}}


def metadata(namespace: str, key: str) -> Tree:
    """Some filter has set this."""
    return {
        "metadata_filter": {
            "matcher": {
                "filter": namespace,
                "path": [{"key": key}],
                "value": {"present_match": True},
            },
            "match_if_key_not_found": False,
        }
    }


def path(regex: str) -> Tree:
    """The whole `:path`, query included, matches."""
    return {
        "header_filter": {
            "header": {"name": ":path", "string_match": {"safe_regex": {"regex": regex}}}
        }
    }


def content_type(regex: str) -> Tree:
    """The whole content type of the request matches."""
    return {
        "header_filter": {
            "header": {"name": "content-type", "string_match": {"safe_regex": {"regex": regex}}}
        }
    }


def no_request_id() -> Tree:
    """The request was refused before Envoy gave it an id."""
    present = {"name": "x-request-id", "present_match": True, "invert_match": True}
    return {"header_filter": {"header": present}}


def reached_the_check() -> Tree:
    """The access-log filter: what the service decided, failed at, or may have been asked.

    A check whose client left (no status) or that was cut off by Envoy leaves no metadata.
    """
    return either(metadata(AUTHZ_METADATA, "outcome"), flags("UAEX", "OM"), status(0))


def mappers(*, key_example: str, request_seconds: int) -> Iterator[tuple[str, Tree]]:
    """(comment, mapper) for `local_reply_config`, in order: the first that fits counts."""
    for tree in _UNDONE.mappers():
        yield _UNDONE.why, tree
    yield "what the service said, as it said it: it always sets `outcome`", _SAID
    for reply in _replies(key_example, request_seconds):
        for tree in reply.mappers():
            yield reply.why, tree


_UNDONE: Final = Reply(
    "what the service wanted done cannot be done, or Envoy itself is at fault",
    status(500),
    503,
    "authorization_unavailable",
    _UNAVAILABLE,
    _RETRY,
    becomes=True,
)
_SAID: Final[Tree] = {
    "filter": both(flags("UAEX"), metadata(AUTHZ_METADATA, "outcome")),
    "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
}


def _replies(key_example: str, request_seconds: int) -> tuple[Reply, ...]:
    """The particular before the general."""
    return (
        Reply(
            "the service did not decide: down, too slow, or not understood",
            flags("UAEX"),
            503,
            "authorization_unavailable",
            _UNAVAILABLE,
            _RETRY,
            becomes=True,
        ),
        Reply(
            "no room for another long body",
            metadata(ROOM_METADATA, "full"),
            503,
            "authorization_unavailable",
            _BUSY,
            _RETRY,
        ),
        Reply(
            "the overload manager sheds load",
            flags("OM"),
            503,
            "authorization_unavailable",
            _BUSY,
            _RETRY,
        ),
        Reply(
            "no credential in any header",
            status(401),
            401,
            "missing_api_key",
            f"No API key was sent. Send it as the header `Authorization: Bearer {key_example}`.",
            (("www-authenticate", REALM),),
        ),
        Reply(
            "an Upgrade header (403), or HTTP/1.0 (426)",
            either(status(403), status(426)),
            426,
            "upgrade_not_supported",
            "This gate speaks plain HTTP/1.1 and HTTP/2 and upgrades to nothing else. "
            "Send the request without an upgrade, streaming by server-sent events.",
            becomes=True,
            early=True,
        ),
        Reply(
            "no such thing",
            status(404),
            404,
            "not_found",
            "There is nothing at this address. Check the host and the path.",
            early=True,
        ),
        Reply(
            "the body did not come in time",
            status(408),
            408,
            "request_timeout",
            f"The request did not arrive whole within {request_seconds} s. Send it again.",
        ),
        Reply(
            "the body is above the limit of its route, which says so",
            status(413),
            413,
            "body_too_large",
            f"%METADATA(ROUTE:{ROUTE_METADATA}:too_large)%",
        ),
        Reply(
            "too many headers, or too long",
            status(431),
            431,
            "malformed_request",
            "The headers of this request are too many or too long. Send fewer.",
            early=True,
        ),
        Reply(
            "the model server was too slow",
            status(504),
            504,
            "upstream_timeout",
            "The model server did not answer in time. Try again, or ask for less.",
        ),
        Reply(
            "the model server cannot be reached, or broke off",
            either(status(502), status(503)),
            503,
            "upstream_unavailable",
            "The model server cannot be reached right now. Try again in a moment.",
        ),
        Reply(
            "any other fault of the request: path, headers, framing",
            status(400, "GE"),
            400,
            "malformed_request",
            "The gate could not read this request in one way only (%RESPONSE_CODE_DETAILS%). "
            "Send a plain path and plain headers, without escaped slashes or underscores.",
            becomes=True,
            early=True,
        ),
    )
