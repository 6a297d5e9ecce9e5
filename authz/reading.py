"""How the model and what is asked for are read, by where an endpoint has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from authz.body import Body, read_json
from authz.model import Endpoint, Fault, Place, Reason

JSON_LENGTH: Final = "inference-header-content-length"
"""KServe's header for a body that begins with JSON and goes on with tensors as they are."""

_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_TENSORS: Final = "/infer"

Read = Callable[[Endpoint, str | None, bytes, Mapping[str, str]], Body | Fault]


def read_body(
    endpoint: Endpoint, model: str | None, raw: bytes, headers: Mapping[str, str]
) -> Body | Fault:
    """What the body of an endpoint that reads a model asks for, or what is wrong with it.

    `model` is what the path or the catalog says; `headers` have lower-case names.
    """
    return _READ[endpoint.place](endpoint, model, raw, headers)


def _read_json(
    endpoint: Endpoint, _model: str | None, raw: bytes, _headers: Mapping[str, str]
) -> Body | Fault:
    return read_json(raw, endpoint.shape)


def _read_named(
    endpoint: Endpoint, model: str | None, raw: bytes, headers: Mapping[str, str]
) -> Body | Fault:
    """The model is known before the body is read; a GET has none to read."""
    if endpoint.shape is None:
        return Body(model or "", stream=False)
    length = headers.get(JSON_LENGTH)
    if length is not None:
        if (
            not endpoint.path.endswith(_TENSORS)
            or not _LENGTH.fullmatch(length)
            or int(length) > len(raw)
        ):
            detail = f"`{JSON_LENGTH}` is not the length of the JSON that a body begins with"
            return Fault(Reason.AMBIGUOUS_BODY, detail)
        raw = raw[: int(length)]
    return read_json(raw, endpoint.shape, model)


_READ: Final[Mapping[Place, Read]] = {
    Place.BODY: _read_json,
    Place.PATH: _read_named,
    Place.SERVER: _read_named,
}
