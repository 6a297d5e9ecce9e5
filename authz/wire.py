"""To and from Envoy's protobufs: CheckRequest → Request, Decision → CheckResponse. Pure.

What leaves here is what Envoy does: headers for the model server, headers for the client, and
as dynamic metadata (strings: Envoy keeps numbers as doubles) what the settlement needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from authz import endpoints, pack
from authz.credential import CREDENTIAL_HEADERS, holds_key, read_credential
from authz.denial import Answer
from authz.endpoints import BUILT_IN, Table
from authz.model import Fault, Reason, Request
from authz.pack import Pairs
from authz.pb.auth_pb2 import CheckRequest
from authz.reading import is_retyped, read_body
from authz.shape import QUERY_CONTROLS
from store.keyformat import Digester, KeyForm

_OK: Final = pack.status(0)
_UNAUTHENTICATED: Final = pack.status(16)
_PERMISSION_DENIED: Final = pack.status(7)
_STATUS_UNAUTHENTICATED: Final = 401

TO_REMOVE: Final = (
    *CREDENTIAL_HEADERS,
    "proxy-authorization",
    "cookie",
    "x-http-method-override",
    "x-original-url",
    "x-rewrite-url",
)
_REMOVAL: Final = pack.removal(TO_REMOVE)
_STEM_END: Final = re.compile(r"[\[.\0]")


@dataclass(frozen=True, slots=True)
class Reader:
    """How requests are read here: which strings are keys, their digests, which calls there are."""

    form: KeyForm
    digester: Digester
    table: Table = BUILT_IN

    def read(self, message: CheckRequest) -> Request:
        """Read one request, whole."""
        return self.with_body(self.head(message), message)

    def head(self, message: CheckRequest) -> Request:
        """Read all but the body. Nothing of the plaintext key leaves this call."""
        http = message.attributes.request.http
        headers = http.headers
        path, _, _ = http.path.partition("?")
        digests = read_credential(headers, http.path, self.form, self.digester)
        content_type = headers.get("content-type", "")
        match = self.table.find(http.method, path)
        if match is not None and not endpoints.speaks(match.endpoint, content_type):
            match = None
        if match is None:
            dialect = endpoints.dialect_of(path, content_type)
        else:
            dialect = match.endpoint.dialect
        in_url = isinstance(digests, Fault) and digests.reason is Reason.KEY_IN_URL
        return Request(
            id=headers.get("x-request-id", ""),
            method=http.method,
            path="" if in_url else path,
            dialect=dialect,
            digests=digests,
            endpoint=None if match is None else match.endpoint,
            encoded=bool(headers.get("content-encoding", "")),
            body_bytes=len(http.raw_body),
            model=None if match is None else match.model,
            retyped=match is not None and is_retyped(match.endpoint, content_type),
        )

    def with_body(self, request: Request, message: CheckRequest) -> Request:
        """Read the body too, where the endpoint reads one.

        Apart from `head` because it costs: whoever has no key of ours gets no body parsed.
        """
        endpoint = request.endpoint
        if endpoint is None or not endpoint.reads_model or isinstance(request.digests, Fault):
            return request
        http = message.attributes.request.http
        reading = read_body(endpoint, request.model, http.raw_body, http.headers)
        if isinstance(reading, Fault):
            return request.unreadable(reading)
        named = reading.model
        if reading.adapter is not None:
            named = f"{named}:{reading.adapter}"
        if holds_key(named, self.form):
            return request.unreadable(Fault(Reason.MODEL_REQUIRED, param="model"))
        _, _, query = http.path.partition("?")
        controls, fault = reading.controls, None
        if query:
            asked = tuple(_asked(query))
            fault = _other_model(asked, reading.model)
            controls += tuple(name for name, _ in asked if name in QUERY_CONTROLS)
        return request.reading(
            named,
            reading.ask,
            fault,
            stream=reading.stream,
            base=None if reading.adapter is None else reading.model,
            controls=controls,
        )


def _asked(query: str) -> Iterator[tuple[str, str]]:
    """The names in a query, as the most lenient of servers takes them, with their values."""
    for part in query.replace(";", "&").split("&"):
        name, _, value = part.partition("=")
        name = unquote_plus(name).strip()
        yield (_STEM_END.split(name, maxsplit=1)[0] if name else name).lower(), value


def _other_model(asked: Iterable[tuple[str, str]], model: str) -> Fault | None:
    """A `?model=` beats the body in some servers, so one that disagrees is refused."""
    for name, value in asked:
        if name == "model" and unquote_plus(value) != model:
            return Fault(Reason.AMBIGUOUS_BODY, "the query names another model", param="model")
    return None


def allowed(upstream: Pairs, client: Pairs, lasting: Pairs, passing: Pairs) -> bytes:
    """Let a request pass: headers for the model server, headers for the client's answer.

    The metadata comes in two: what many requests have in common, and what is this one's own.
    The result is a CheckResponse, serialised.
    """
    ok = [_REMOVAL, pack.headers(pack.UPSTREAM, upstream)]
    ok += [pack.header(pack.CLIENT, name, value) for name, value in client]
    described = [pack.metadata(lasting), *[pack.text(name, value) for name, value in passing]]
    return pack.passed(_OK, b"".join(ok), b"".join(described))


def answered(answer: Answer, client: Pairs, metadata: Pairs) -> bytes:
    """Answer a request in the server's stead: a refusal, or what we answer ourselves.

    The result is a CheckResponse, serialised.
    """
    unauthenticated = answer.status == _STATUS_UNAUTHENTICATED
    return pack.refused(
        _UNAUTHENTICATED if unauthenticated else _PERMISSION_DENIED,
        answer.status,
        (*answer.headers, *client),
        answer.body,
        pack.metadata(metadata),
    )
