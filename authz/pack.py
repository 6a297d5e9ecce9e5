"""CheckResponses as bytes, put together from parts that are kept. Pure.

A response has some twenty headers and ten values of metadata, and most of them stand in the next
one too. Filling protobuf's objects with them takes several times as long as joining bytes; here
each part is encoded once, kept while it is in use, and joined. What comes out is what the objects
would have serialised to, field by field: a test holds the two against each other.

Worst case: `_KEPT` parts of each kind, of a few hundred bytes each, whatever clients send.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from authz.pb.auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from authz.pb.core_pb2 import HeaderValue, HeaderValueOption
from authz.pb.http_status_pb2 import HttpStatus
from authz.pb.rpc_status_pb2 import Status

Pairs = tuple[tuple[str, str], ...]

_KEPT: Final = 4096
_DELIMITED: Final = 2  # the wire type of texts and messages
_ONE_BYTE: Final = 0x80  # numbers below it are one byte


def _tag(kind: type[Message], field: str) -> bytes:
    number: int = kind.DESCRIPTOR.fields_by_name[field].number
    return _varint(number << 3 | _DELIMITED)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _ONE_BYTE:
        encoded.append(number & 0x7F | _ONE_BYTE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _delimited(tag: bytes, content: bytes) -> bytes:
    """A text or a message as a field: tag, length, content."""
    size = len(content)
    if size < _ONE_BYTE:
        return b"%b%c%b" % (tag, size, content)
    return b"%b%b%b" % (tag, _varint(size), content)


UPSTREAM: Final = _tag(OkHttpResponse, "headers")
"""Where headers for the model server go."""

CLIENT: Final = _tag(OkHttpResponse, "response_headers_to_add")
"""Where headers for the client's answer go."""

_ANSWER: Final = _tag(DeniedHttpResponse, "headers")
_BODY: Final = _tag(DeniedHttpResponse, "body")
_OK: Final = _tag(CheckResponse, "ok_response")
_DENIED: Final = _tag(CheckResponse, "denied_response")
_METADATA: Final = _tag(CheckResponse, "dynamic_metadata")
_HEADER: Final = _tag(HeaderValueOption, "header")
_NAME: Final = _tag(HeaderValue, "key")
_VALUE: Final = _tag(HeaderValue, "value")
_OVERWRITE: Final = HeaderValueOption(
    append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
).SerializeToString()
_FRAME: Final = len(_NAME) + len(_VALUE) + 2  # tags and lengths around a short name and value
_SHORT: Final = b"%%b%%c%b%%c%b%%c%%b%b%%c%%b%b" % (_HEADER, _NAME, _VALUE, _OVERWRITE)
_ENTRY: Final = _tag(Struct, "fields")
_ENTRY_NAME: Final = b"\x0a"  # every map has its key as field 1 and its value as field 2
_ENTRY_VALUE: Final = b"\x12"
_STRING: Final = _tag(Value, "string_value")


def removal(names: Iterable[str]) -> bytes:
    """That headers be removed before the model server."""
    return OkHttpResponse(headers_to_remove=names).SerializeToString()


@lru_cache(_KEPT)
def header(where: bytes, name: str, value: str) -> bytes:
    """One header, in place of any of that name."""
    key, said = name.encode(), value.encode()
    size = len(key) + len(said) + _FRAME
    if size + _FRAME < _ONE_BYTE:  # nearly always: every length is one byte
        whole = size + len(_HEADER) + 1 + len(_OVERWRITE)
        return _SHORT % (where, whole, size, len(key), key, len(said), said)
    pair = _delimited(_NAME, key) + _delimited(_VALUE, said)
    return _delimited(where, _delimited(_HEADER, pair) + _OVERWRITE)


@lru_cache(_KEPT)
def headers(where: bytes, pairs: Pairs) -> bytes:
    """Headers that belong together, in the order of `pairs`."""
    return b"".join([header(where, name, value) for name, value in pairs])


@lru_cache(_KEPT)
def metadata(pairs: Pairs) -> bytes:
    """Texts of the metadata that belong together; names are distinct."""
    return b"".join([text(name, value) for name, value in pairs])


def text(name: str, value: str) -> bytes:
    """One text of the metadata."""
    said = _delimited(_ENTRY_VALUE, _delimited(_STRING, value.encode()))
    return _delimited(_ENTRY, _delimited(_ENTRY_NAME, name.encode()) + said)


def passed(code: bytes, ok: bytes, described: bytes) -> bytes:
    """A whole response that lets a request pass: see `status` for `code`."""
    return b"".join((code, _delimited(_OK, ok), _delimited(_METADATA, described)))


def refused(code: bytes, http: int, pairs: Pairs, body: bytes, described: bytes) -> bytes:
    """A whole response that answers a request: an HTTP status, headers and a body (UTF-8)."""
    denied = b"".join(
        (
            _http_status(http),
            *[header(_ANSWER, name, value) for name, value in pairs],
            _delimited(_BODY, body),
        )
    )
    return b"".join((code, _delimited(_DENIED, denied), _delimited(_METADATA, described)))


def status(code: int) -> bytes:
    """The gRPC status code that tells Envoy whether the request passes."""
    return CheckResponse(status=Status(code=code)).SerializeToString()


@lru_cache(_KEPT)
def _http_status(code: int) -> bytes:
    return DeniedHttpResponse(
        status=HttpStatus(code=code)  # type: ignore[arg-type]  # an open enum
    ).SerializeToString()
