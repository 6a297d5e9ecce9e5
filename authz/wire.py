"""To and from Envoy's protobufs: CheckRequest → Request, Decision → CheckResponse. Pure.

What leaves here is what Envoy does: headers for the model server, headers for the client, and
as dynamic metadata (strings: Envoy keeps numbers as doubles) what the settlement needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from authz import endpoints
from authz.credential import CREDENTIAL_HEADERS, holds_key, read_credential
from authz.denial import Answer, Headers
from authz.endpoints import BUILT_IN, Table
from authz.model import Dialect, Fault, Reason, Request
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.pb.core_pb2 import HeaderValueOption
from authz.reading import read_body
from store.keyformat import Digester, KeyForm

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_OK: Final = 0
_UNAUTHENTICATED: Final = 16
_PERMISSION_DENIED: Final = 7
_STATUS_UNAUTHENTICATED: Final = 401

TO_REMOVE: Final = (
    *CREDENTIAL_HEADERS,
    "proxy-authorization",
    "cookie",
    "x-http-method-override",
    "x-original-url",
    "x-rewrite-url",
)


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
        dialect = endpoints.dialect_of(path, content_type)
        if match is not None:
            if not endpoints.speaks(match.endpoint, content_type):
                match = None
            elif dialect is not Dialect.GRPC:
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
        fault = _other_model(query, reading.model) if query else None
        return request.reading(
            named,
            reading.ask,
            fault,
            stream=reading.stream,
            base=None if reading.adapter is None else reading.model,
            controls=reading.controls,
        )


def _other_model(query: str, model: str) -> Fault | None:
    """A `?model=` beats the body in some servers, so one that disagrees is refused."""
    for part in query.replace(";", "&").split("&"):
        name, _, value = part.partition("=")
        asked = re.split(r"[\[.\0]", unquote_plus(name).strip(), maxsplit=1)[0].lower()
        if asked == "model" and unquote_plus(value) != model:
            return Fault(Reason.AMBIGUOUS_BODY, "the query names another model", param="model")
    return None


def allowed(upstream: Headers, client: Headers, metadata: Mapping[str, str]) -> CheckResponse:
    """Let a request pass: headers for the model server, headers for the client's answer."""
    response = CheckResponse()
    response.status.code = _OK
    ok = response.ok_response
    ok.headers_to_remove.extend(TO_REMOVE)
    _fill(ok.headers, upstream)
    _fill(ok.response_headers_to_add, client)
    _describe(response, metadata)
    return response


def answered(answer: Answer, client: Headers, metadata: Mapping[str, str]) -> CheckResponse:
    """Answer a request in the server's stead: a refusal, or what we answer ourselves."""
    response = CheckResponse()
    unauthenticated = answer.status == _STATUS_UNAUTHENTICATED
    response.status.code = _UNAUTHENTICATED if unauthenticated else _PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = answer.status  # type: ignore[assignment]  # an open enum
    denied.body = answer.body.decode()
    _fill(denied.headers, answer.headers)
    _fill(denied.headers, client)
    _describe(response, metadata)
    return response


def _fill(options: RepeatedCompositeFieldContainer[HeaderValueOption], headers: Headers) -> None:
    for name, value in headers:
        option = options.add()
        option.header.key = name
        option.header.value = value
        option.append_action = _OVERWRITE


def _describe(response: CheckResponse, metadata: Mapping[str, str]) -> None:
    fields = response.dynamic_metadata.fields
    for name, value in metadata.items():
        fields[name].string_value = value
