"""How the model and what is asked for are read, by where an endpoint has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from authz.ask import MAX_SEQUENCES
from authz.body import Body, is_model_name, read_json, second
from authz.form import read_form
from authz.infer import read_infer, read_model_name
from authz.model import Ask, Endpoint, Fault, Lane, Place, Reason
from authz.shapes import NOTHING

JSON_LENGTH: Final = "inference-header-content-length"
"""KServe's header for a body that begins with JSON and goes on with tensors as they are."""

_UTF8: Final = re.compile(r" *= *(\"?)utf-?8\1 *(?:;[^,]*)?")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_TENSORS: Final = "/infer"
_FIELDS: Final = frozenset(name for name in NOTHING.second if "." not in name) | {
    *("model", "stream", "n"),
}
_REPEATS: Final = re.compile(r"[1-9][0-9]{0,5}")
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n", ""), False),
}  # as pydantic reads a form's text

Read = Callable[[Endpoint, str | None, bytes, Mapping[str, str]], Body | Fault]


def read_body(
    endpoint: Endpoint, model: str | None, raw: bytes, headers: Mapping[str, str]
) -> Body | Fault:
    """What the body of an endpoint that reads a model asks for, or what is wrong with it.

    `model` is what the path or the catalog says; `headers` have lower-case names.
    """
    if endpoint.shape is not None and _is_of_another_charset(headers.get("content-type", "")):
        return Fault(Reason.MALFORMED_BODY, "its Content-Type names another charset than UTF-8")
    if endpoint.place is Place.BODY:
        return read_json(raw, endpoint.shape)
    return _READ[endpoint.place](endpoint, model, raw, headers)


def is_retyped(endpoint: Endpoint, content_type: str) -> bool:
    """Whether JSON comes with the type of a form: curl's, where it is told none.

    LiteLLM and others go by the type alone, so a text in it could name another model to them.
    """
    return endpoint.shape is not None and "form" in content_type.lower()


def _is_of_another_charset(content_type: str) -> bool:
    """Whether some server could take the bytes of JSON for other characters than we do."""
    if content_type == "application/json":
        return False
    named = content_type.lower().split("charset")[1:]
    return not all(_UTF8.fullmatch(each) for each in named)


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


def _read_form(
    _endpoint: Endpoint, _model: str | None, raw: bytes, headers: Mapping[str, str]
) -> Body | Fault:
    """What a form brings is no text, and nothing in it bounds the output: the context is held."""
    form = read_form(raw, headers.get("content-type", ""), _FIELDS)
    if isinstance(form, Fault):
        return form
    texts = form.texts
    model = texts.get("model")
    if model is None or not is_model_name(model):
        return Fault(Reason.MODEL_REQUIRED, param="model")
    stream = texts.get("stream", "false")
    if stream.lower() not in _BOOLEANS:
        return Fault(Reason.INVALID_PARAMETER, "it must be true or false", param="stream")
    repeats = texts.get("n", "1")
    if not _REPEATS.fullmatch(repeats):
        return Fault(Reason.INVALID_PARAMETER, "it must be a whole number from 1", param="n")
    beside = second(texts, NOTHING)
    if isinstance(beside, Fault):
        return beside
    ask = Ask(output=None, repeats=int(repeats), text_only=False)
    return Body(model, _BOOLEANS[stream.lower()], ask, *beside)


def _read_message(
    endpoint: Endpoint, _model: str | None, raw: bytes, _headers: Mapping[str, str]
) -> Body | Fault:
    """Tensors are no text, nothing in them bounds the output, and each row may be a prompt."""
    if endpoint.lane is not Lane.INFERENCE:
        named = read_model_name(raw)
        return named if isinstance(named, Fault) else Body(named.model, stream=False)
    infer = read_infer(raw)
    if isinstance(infer, Fault):
        return infer
    ask = Ask(output=None, prompts=min(infer.rows, MAX_SEQUENCES), text_only=False)
    return Body(infer.model, stream=False, ask=ask, controls=infer.controls)


_READ: Final[Mapping[Place, Read]] = {
    Place.PATH: _read_named,
    Place.SERVER: _read_named,
    Place.FORM: _read_form,
    Place.MESSAGE: _read_message,
}
