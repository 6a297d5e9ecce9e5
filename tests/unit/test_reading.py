"""Where each endpoint has its model, read through the whole Reader."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from support import DIGESTER, FORM, bearer, message, minted

from authz.endpoints import Table
from authz.model import Ask, Dialect, Fault, Reason, Request, Slot
from authz.wire import Reader

KEY = minted(1)
READER = Reader(FORM, DIGESTER, Table(native_model="mine"))
GRPC = "/inference.GRPCInferenceService/"


def read(
    path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "POST"
) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return READER.read(message(path, bearer(KEY) | (headers or {}), raw, method=method))


def reason_of(asked: Request) -> Reason | None:
    return None if asked.body is None else asked.body.reason


# ── In the path, or nowhere ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v2/models/m/infer", {"inputs": []}, "m"),
        ("/v2/models/m:8b/versions/2/generate", {"text_input": "x"}, "m:8b"),
        ("/v1/models/m:predict", {"instances": [1], "model": "m"}, "m"),
        ("/v1beta/models/m:generateContent", {"contents": [], "model": "models/m"}, "m"),
        ("/v1beta/models/m:countTokens", {"contents": []}, "m"),
        ("/completion", {"prompt": "x"}, "mine"),
        ("/completion", {"prompt": "x", "model": "mine"}, "mine"),
        ("/tokenize", {"content": "x"}, "mine"),
    ],
)
def test_the_model_is_known_without_the_body(path: str, body: Any, model: str) -> None:
    head = READER.head(message(path, bearer(KEY), b"{"))
    assert head.model == model
    asked = read(path, body)
    assert (asked.model, asked.body) == (model, None)
    twice = read(path, body | {"model": "another"})
    assert (twice.model, reason_of(twice)) == (None, Reason.AMBIGUOUS_BODY)
    for query, agrees in ((f"model={model}", True), ("model=another", False), ("alt=sse", True)):
        assert (reason_of(read(f"{path}?{query}", body)) is None) is agrees
    assert reason_of(read(path, b"{")) is Reason.MALFORMED_BODY


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/m", "m"),
        ("/v2/models/m/ready", "m"),
        ("/v1/models/m/versions/3", "m"),
        ("/info", "mine"),
        ("/health", None),
        ("/v2", None),
        ("/api/tags", None),
    ],
)
def test_what_is_only_looked_up_has_no_body_to_read(path: str, model: str | None) -> None:
    asked = read(path, b"not JSON", method="GET")
    assert asked.endpoint is not None
    assert (asked.model, asked.body, asked.ask) == (model, None, None)


def test_a_stream_that_its_path_makes() -> None:
    assert read("/v1beta/models/m:streamGenerateContent", {"contents": []}).stream
    assert not read("/v1beta/models/m:generateContent", {"contents": []}).stream
    assert read("/api/chat", {"model": "m"}).stream


def test_what_can_be_put_into_an_empty_body() -> None:
    asked = read("/completion", b" { } ")
    assert asked.ask is not None
    assert asked.ask.slot == Slot(2, 0, '"n_predict":', "")


def test_a_key_in_the_place_of_an_adapter_is_no_model() -> None:
    asked = read("/v1/chat/completions", {"model": "m", "lora_path": KEY})
    assert reason_of(asked) is Reason.MODEL_REQUIRED
    assert KEY not in repr(asked)


def test_an_adapter_is_part_of_the_name() -> None:
    asked = read("/v1/chat/completions?model=m", {"model": "m", "lora_path": "sql"})
    assert (asked.model, asked.base, asked.body) == ("m:sql", "m", None)
    asked = read("/generate", {"inputs": "x", "parameters": {"adapter_id": "sql"}})
    assert (asked.model, asked.base) == ("mine:sql", "mine")
    assert read("/v1/chat/completions", {"model": "m"}).base is None


def test_controls_are_carried_along() -> None:
    asked = read("/api/chat", {"model": "m", "keep_alive": -1, "options": {"num_gpu": 0}})
    assert set(asked.controls) == {"keep_alive", "options.num_gpu"}


@pytest.mark.parametrize(
    ("content_type", "passes"),
    [
        ("", True),
        ("application/json", True),
        ("text/plain", True),
        ("application/json; charset=utf-8", True),
        ("application/json;charset=UTF-8", True),
        ('application/json; charset="utf-8"; a=b', True),
        ("application/json; charset=utf8", True),
        ("application/json; charset=utf-7", False),
        ("application/json; charset=utf-16", False),
        ("application/json; charset=latin1", False),
        ("application/json; CharSet=cp037", False),
        ("application/json; charset=", False),
        ("application/json; charset", False),
        ("application/json; charset*=utf-8''utf-7", False),
        ("application/json; charset=utf-8; charset=utf-7", False),
        ("application/json; charset=utf-8, text/plain; charset=utf-7", False),
        ("application/json; charset=utf-8, application/json", False),
        ('application/json; charset="utf-8', False),
        ('application/json; charset="utf-7\\"; charset=utf-8', False),
    ],
)
def test_json_is_of_no_other_charset(content_type: str, passes: bool) -> None:
    for path, body in (
        ("/v1/chat/completions", {"model": "m"}),
        ("/v2/models/m/infer", {"inputs": []}),
        ("/completion", {"prompt": "+ACI-"}),
        ("/tokenize", {"content": "x"}),
    ):
        asked = read(path, body, {"content-type": content_type})
        assert (asked.body is None) is passes
        if asked.body is not None:
            assert asked.body.reason is Reason.MALFORMED_BODY
            assert "charset" in asked.body.detail


# ── JSON that tensors follow ─────────────────────────────────────────────────────────────────────

JSON = b'{"inputs":[{"name":"x","parameters":{"binary_data_size":4}}]}'
LENGTH = "inference-header-content-length"


def test_json_ends_where_the_header_says() -> None:
    raw = JSON + b"\x00\xff{}"
    asked = read("/v2/models/m/infer", raw, {LENGTH: str(len(JSON))})
    assert (asked.model, asked.body) == ("m", None)
    assert asked.body_bytes == len(raw)
    assert reason_of(read("/v2/models/m/infer", raw)) is Reason.MALFORMED_BODY
    assert read("/v2/models/m/infer", JSON, {LENGTH: str(len(JSON))}).body is None


@pytest.mark.parametrize(
    "value", ["", "0x10", "-1", "+61", " 61", "061", "61,61", "9999", "1" * 20]
)
def test_no_other_length_of_json(value: str) -> None:
    asked = read("/v2/models/m/infer", JSON, {LENGTH: value})
    assert reason_of(asked) is Reason.AMBIGUOUS_BODY


@pytest.mark.parametrize("path", ["/v2/models/m/generate", "/v1/models/m:predict", "/completion"])
def test_only_tensors_have_such_a_header(path: str) -> None:
    asked = read(path, b'{"text_input":"x"}', {LENGTH: "18"})
    assert reason_of(asked) is Reason.AMBIGUOUS_BODY


# ── Forms ────────────────────────────────────────────────────────────────────────────────────────

FORM_TYPE = {"content-type": "multipart/form-data; boundary=line"}
FILE = '; filename="a.wav"\r\ncontent-type: audio/wav'


def form(*parts: tuple[str, str]) -> bytes:
    """Parts as (what stands behind the name, content)."""
    made = [
        f'--line\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'
        for head, content in parts
        for name, _, more in [head.partition("|")]
    ]
    return "".join((*made, "--line--\r\n")).encode()


@pytest.mark.parametrize(
    "path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"]
)
def test_a_form_names_its_model(path: str) -> None:
    raw = form(("model", "m"), (f"file|{FILE}", "RIFF"), ("n", "3"), ("stream", "true"))
    asked = read(path, raw, FORM_TYPE)
    assert (asked.model, asked.body, asked.stream) == ("m", None, True)
    assert asked.ask == Ask(output=None, repeats=3, text_only=False)


@pytest.mark.parametrize(
    ("parts", "reason", "param"),
    [
        ([("x", "y")], Reason.MODEL_REQUIRED, "model"),
        ([("model", " m")], Reason.MODEL_REQUIRED, "model"),
        ([("model", "m"), ("model", "m")], Reason.AMBIGUOUS_BODY, "model"),
        ([("model", "m"), ("n", "0")], Reason.INVALID_PARAMETER, "n"),
        ([("model", "m"), ("n", "1.5")], Reason.INVALID_PARAMETER, "n"),
        ([("model", "m"), ("n", "9999999")], Reason.INVALID_PARAMETER, "n"),
        ([("model", "m"), ("stream", "maybe")], Reason.INVALID_PARAMETER, "stream"),
        ([("model", "m"), ("lora", "a"), ("lora_path", "b")], Reason.PARAMETER_NOT_ALLOWED, None),
        ([("model", "m"), ("fallbacks", "x")], Reason.PARAMETER_NOT_ALLOWED, "fallbacks"),
    ],
)
def test_what_is_wrong_with_a_form(
    parts: list[tuple[str, str]], reason: Reason, param: str | None
) -> None:
    asked = read("/v1/audio/transcriptions", form(*parts), FORM_TYPE)
    assert reason_of(asked) is reason
    assert asked.body is not None
    assert param in {None, asked.body.param}


def test_a_form_has_adapters_and_controls_too() -> None:
    raw = form(("model", "m"), ("lora_path", "sql"), ("priority", "1"), ("n", "1"))
    asked = read("/v1/audio/transcriptions", raw, FORM_TYPE)
    assert (asked.model, asked.controls) == ("m:sql", ("priority",))


def test_json_is_no_form_nor_the_other_way_about() -> None:
    asked = read("/v1/audio/transcriptions", {"model": "m"}, {"content-type": "application/json"})
    assert reason_of(asked) is Reason.MALFORMED_BODY
    asked = read("/v1/chat/completions", form(("model", "m")), FORM_TYPE)
    assert reason_of(asked) is Reason.MALFORMED_BODY


def test_a_model_in_the_query_of_a_form_has_to_agree() -> None:
    raw = form(("model", "m"))
    assert read("/v1/images/edits?model=m", raw, FORM_TYPE).body is None
    asked = read("/v1/images/edits?model=n", raw, FORM_TYPE)
    assert reason_of(asked) is Reason.AMBIGUOUS_BODY


# ── gRPC ─────────────────────────────────────────────────────────────────────────────────────────


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def frame(payload: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(payload)) + payload


PROTO = {"content-type": "application/grpc"}


def test_a_message_names_its_model() -> None:
    raw = frame(field(1, b"m") + field(5, field(1, b"x")))
    asked = read(GRPC + "ModelInfer", raw, PROTO)
    assert (asked.model, asked.body, asked.dialect) == ("m", None, Dialect.GRPC)
    assert asked.ask == Ask(output=None, text_only=False)
    for name in ("ModelReady", "ModelMetadata"):
        asked = read(GRPC + name, frame(field(1, b"m")), PROTO)
        assert (asked.model, asked.body, asked.ask) == ("m", None, None)


def test_a_messages_tensors_steer_the_server_too() -> None:
    raw = frame(field(1, b"m") + field(5, field(1, b"lora_task_id")))
    assert read(GRPC + "ModelInfer", raw, PROTO).controls == ("lora_task_id",)


@pytest.mark.parametrize("raw", [b"", frame(b""), frame(field(1, b"m")) + b"x", b"\1" + frame(b"")])
def test_what_is_wrong_with_a_message(raw: bytes) -> None:
    assert read(GRPC + "ModelInfer", raw, PROTO).body is not None


@pytest.mark.parametrize("name", ["ServerLive", "ServerReady", "ServerMetadata"])
def test_what_asks_for_no_model(name: str) -> None:
    asked = read(GRPC + name, b"\xff", PROTO)
    assert asked.endpoint is not None
    assert (asked.model, asked.body) == (None, None)


def test_grpc_is_spoken_on_its_own_paths_alone() -> None:
    asked = read("/v1/chat/completions", {"model": "m"}, PROTO)
    assert (asked.endpoint, asked.dialect, asked.body) == (None, Dialect.GRPC, None)
    asked = read(GRPC + "ModelInfer", frame(field(1, b"m")), {"content-type": "application/json"})
    assert (asked.endpoint, asked.dialect) == (None, Dialect.OPENAI)
    asked = read(
        GRPC + "ModelInfer", frame(field(1, b"m")), {"content-type": "application/grpc+json"}
    )
    assert (asked.endpoint, asked.dialect) == (None, Dialect.GRPC)


def test_no_body_is_read_without_a_key() -> None:
    for path in ("/v2/models/m/infer", "/v1/images/edits", GRPC + "ModelInfer", "/completion"):
        asked = READER.read(message(path, PROTO, b"\xff"))
        assert asked.digests == Fault(Reason.MISSING_API_KEY)
        assert asked.body is None
