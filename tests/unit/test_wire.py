"""From Envoy's question to a Request, and from an answer to what Envoy does."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    DIGESTER,
    FORM,
    bearer,
    client_headers,
    is_allowed,
    message,
    metadata,
    minted,
    mistyped,
    status,
    upstream_headers,
)

from authz import reading
from authz.denial import Answer
from authz.model import Ask, Dialect, Edit, Fault, Reason, Request, Slot
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.pb.core_pb2 import HeaderValueOption
from authz.wire import TO_REMOVE, Reader, allowed, answered

KEY = minted(1)
READER = Reader(FORM, DIGESTER)
CHAT = {"model": "m", "messages": []}


def read(
    path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **more: Any
) -> Request:
    return READER.read(message(path, bearer(KEY) | (headers or {}), **more))


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_call() -> None:
    body = {"model": "m", "messages": [], "stream": True}
    asked = read(body=body, request_id="req-7")
    assert asked.endpoint is not None
    assert asked.endpoint.name == "chat.completions"
    assert asked == Request(
        id="req-7",
        method="POST",
        path="/v1/chat/completions",
        dialect=Dialect.OPENAI,
        digests=DIGESTER.digests(KEY),
        endpoint=asked.endpoint,
        encoded=False,
        body=None,
        body_bytes=len(json.dumps(body)),
        model="m",
        stream=True,
        ask=Ask(
            output=None,
            slot=Slot(1, 0, '"max_tokens":', ","),
            usage_edit=Edit(1, 0, '"stream_options":{"include_usage":true},'),
        ),
    )


@pytest.mark.parametrize("raw", [b"not JSON", json.dumps(CHAT).encode(), b""])
def test_a_head_is_read_without_the_body(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = message("/v1/chat/completions", bearer(KEY), raw)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_json", None)  # whoever calls it, fails
        head = READER.head(asked)
    assert (head.model, head.body, head.ask, head.stream) == (None, None, None, False)
    assert head.body_bytes == len(raw)
    whole = READER.read(asked)
    assert READER.with_body(head, asked) == whole
    assert (whole.model, whole.body) != (None, None)
    assert msgspec.structs.replace(whole, model=None, body=None, ask=None) == head


def test_a_message_speaks_anthropics_dialect_and_the_query_is_not_part_of_the_path() -> None:
    asked = read("/v1/messages?beta=true", body=CHAT)
    assert (asked.path, asked.dialect, asked.model) == ("/v1/messages", Dialect.ANTHROPIC, "m")


def test_a_get_reads_no_body() -> None:
    asked = read("/v1/models", method="GET", body=b"not JSON")
    assert (asked.model, asked.body) == (None, None)


def test_an_unknown_path_reads_no_body() -> None:
    asked = read("/nowhere", body=b"not JSON")
    assert (asked.endpoint, asked.body, asked.model) == (None, None, None)


def test_a_fault_of_the_body_is_carried_along() -> None:
    asked = read(body=b'{"model":')
    assert (asked.model, asked.stream) == (None, False)
    assert asked.body == Fault(Reason.MALFORMED_BODY, "it ends too early", offset=9)


def test_without_a_credential_no_body_is_read() -> None:
    asked = READER.read(message(body=b"not JSON"))
    assert asked.digests == Fault(Reason.MISSING_API_KEY)
    assert asked.body is None


@pytest.mark.parametrize("value", ["application/json", "text/plain", "multipart/form-data", ""])
def test_a_content_type_excuses_nothing(value: str) -> None:
    twins = read(headers={"content-type": value}, body=b'{"model":"m","model":"n"}')
    assert twins.body is not None
    assert twins.body.reason is Reason.AMBIGUOUS_BODY
    assert read(headers={"content-type": value}, body=CHAT).model == "m"


@pytest.mark.parametrize(
    ("value", "retyped"),
    [
        ("application/x-www-form-urlencoded", True),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", True),
        ("application/json, multipart/form-data; boundary=x", True),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_json_with_the_type_of_a_form(value: str, retyped: bool) -> None:
    """LiteLLM reads any body as a form whose type says so: there a text may name a model."""
    headers = {"content-type": value}
    body = b'{"model":"m","messages":[{"role":"user","content":"&model=another&"}]}'
    asked = read(headers=headers, body=body)
    assert (asked.model, asked.body, asked.retyped) == ("m", None, retyped)
    assert not read("/v1/audio/transcriptions", headers=headers, body=body).retyped
    assert not read("/nowhere", headers=headers, body=body).retyped


@pytest.mark.parametrize(
    ("value", "encoded"), [("gzip", True), ("identity", True), ("br, gzip", True), ("", False)]
)
def test_any_content_encoding_counts(value: str, encoded: bool) -> None:
    assert read(headers={"content-encoding": value}, body=CHAT).encoded is encoded


@pytest.mark.parametrize(
    ("query", "agrees"),
    [
        ("model=m", True),
        ("model=%6d", True),
        ("a=1&model=m&b", True),
        ("beta=true", True),
        ("models=x&a=model", True),
        ("model=n", False),
        ("model=", False),
        ("model", False),
        ("MODEL=n", False),
        ("%6dodel=n", False),
        ("model=m&model=n", False),
        ("model=m;model=n", False),
        ("a=1;model=n", False),
        ("model=m%00", False),
        ("model=M", False),
    ],
)
def test_a_model_in_the_query_has_to_agree(query: str, agrees: bool) -> None:
    asked = read(f"/v1/chat/completions?{query}", body=CHAT)
    assert asked.model == "m"
    if agrees:
        assert asked.body is None
    else:
        fault = Fault(Reason.AMBIGUOUS_BODY, "the query names another model", param="model")
        assert asked.body == fault


@pytest.mark.parametrize(
    "query", ["autoload=true", "autoload", "AutoLoad=0", "a=1;%61utoload=1", "autoload[]=1"]
)
def test_a_query_that_steers_the_server_is_a_control(query: str) -> None:
    asked = read(f"/v1/chat/completions?{query}", body=CHAT)
    assert (asked.model, asked.body, asked.controls) == ("m", None, ("autoload",))
    assert read("/v1/chat/completions?auto=load", body=CHAT).controls == ()


@pytest.mark.parametrize("name", ["fields", "$fields", "%24Fields"])
def test_a_query_that_leaves_the_usage_out_of_the_answer_is_a_control(name: str) -> None:
    """Gemini's servers send of an answer only the members that are asked for."""
    path = f"/v1beta/models/m:streamGenerateContent?alt=sse&{name}=candidates"
    asked = read(path, body=b'{"contents":[]}')
    assert (asked.body, len(asked.controls)) == (None, 1)
    assert asked.controls[0].endswith("fields")


# ── The plaintext ends here ──────────────────────────────────────────────────────────────────────

ODD = mistyped(KEY)
URLS = [
    "/v1/chat/completions?key={}",
    "/v1/chat/completions?a=1&{}",
    "/v1/chat/completions/{}",
    "/v1/models/{}",
    "/{}",
]


@pytest.mark.parametrize("key", [KEY, ODD])
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_key_of_the_url_is_kept(url: str, method: str, key: str) -> None:
    asked = read(url.format(key), method=method, body=CHAT)
    assert asked.digests == Fault(Reason.KEY_IN_URL)
    assert key not in repr(asked)


@pytest.mark.parametrize("model", [KEY, ODD, f"org/{KEY}:latest"])
def test_a_key_in_the_models_place_is_no_model(model: str) -> None:
    asked = read(body={"model": model})
    assert asked.body == Fault(Reason.MODEL_REQUIRED, param="model")
    assert asked.model is None
    assert KEY not in repr(asked)


HEADERS = ["authorization", "x-api-key", "api-key", "content-encoding", "cookie"]
PLACES = [*HEADERS, "query", "model", "content", "path", "name", "broken"]


@given(
    places=st.lists(st.sampled_from(PLACES), max_size=4),
    key=st.sampled_from([KEY, ODD, f"Bearer {KEY}", f"{KEY},{ODD}"]),
)
def test_wherever_a_key_stands_the_request_does_not_hold_it(places: list[str], key: str) -> None:
    headers = {place: key for place in places if place in HEADERS}
    body: Any = {"model": "m"}
    if "model" in places:
        body["model"] = key
    if "content" in places:
        body["content"] = key
    if "name" in places:
        body[key] = 1
    raw = json.dumps(body).encode() + (key.encode() if "broken" in places else b"")
    path = "/v1/chat/completions" + (f"/{key}" if "path" in places else "")
    query = f"?a={key}" if "query" in places else ""
    asked = READER.read(message(path + query, headers, raw))
    assert KEY not in repr(asked)
    assert ODD not in repr(asked)


# ── Answering ────────────────────────────────────────────────────────────────────────────────────


def overwrites(options: Any) -> bool:
    return all(o.append_action == HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD for o in options)


def test_what_is_allowed() -> None:
    response = CheckResponse.FromString(
        allowed(
            (("x-tensorgate-model", "m"),),
            (("ratelimit", "x"),),
            (("outcome", "allowed"), ("reason", "")),
            (("hold_id", "h"),),
        )
    )
    assert is_allowed(response)
    assert response.WhichOneof("http_response") == "ok_response"
    assert upstream_headers(response) == {"x-tensorgate-model": "m"}
    assert client_headers(response) == {"ratelimit": "x"}
    assert metadata(response) == {"outcome": "allowed", "reason": "", "hold_id": "h"}
    assert overwrites(response.ok_response.headers)
    assert overwrites(response.ok_response.response_headers_to_add)


def test_what_never_reaches_the_model_server() -> None:
    assert set(TO_REMOVE) == {
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "proxy-authorization",
        "cookie",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
    }
    response = CheckResponse.FromString(allowed((), (), (), ()))
    assert list(response.ok_response.headers_to_remove) == list(TO_REMOVE)


@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 415, 429, 503])
def test_what_is_answered(code: int) -> None:
    answer = Answer(code, (("content-type", "application/json"),), b'{"a":"\xc3\xbc"}')
    described = (("outcome", "denied"), ("reason", "r"))
    response = CheckResponse.FromString(answered(answer, (("ratelimit", "x"),), described))
    assert not is_allowed(response)
    assert response.WhichOneof("http_response") == "denied_response"
    assert status(response) == code
    assert response.denied_response.body == '{"a":"ü"}'
    assert client_headers(response) == {"content-type": "application/json", "ratelimit": "x"}
    assert metadata(response) == {"outcome": "denied", "reason": "r"}
    assert overwrites(response.denied_response.headers)


def test_a_header_of_any_length_is_read_back() -> None:
    """The short form's lengths are one byte each, and it ends where that does."""
    for size in range(300):
        pairs = (("x-name", "v" * size),)
        response = CheckResponse.FromString(allowed(pairs, pairs, pairs, pairs))
        assert upstream_headers(response) == client_headers(response) == dict(pairs)
        assert metadata(response) == dict(pairs)


# Also texts whose length is one, two and three bytes on the wire.
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.builds(
    str.__mul__, st.sampled_from(["a", "ü"]), st.sampled_from([127, 128, 16383, 16384])
)
PAIRS = st.dictionaries(TEXTS, TEXTS, max_size=5).map(lambda texts: tuple(texts.items()))


def filled(options: Any, pairs: tuple[tuple[str, str], ...]) -> None:
    for name, value in pairs:
        option = options.add()
        option.header.key, option.header.value = name, value
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def described(response: CheckResponse, pairs: tuple[tuple[str, str], ...]) -> None:
    response.dynamic_metadata.SetInParent()
    for name, value in pairs:
        response.dynamic_metadata.fields[name].string_value = value


@given(upstream=PAIRS, client=PAIRS, lasting=PAIRS, passing=PAIRS)
def test_joined_bytes_say_what_objects_would_for_what_is_allowed(
    upstream: Any, client: Any, lasting: Any, passing: Any
) -> None:
    expected = CheckResponse()
    expected.status.SetInParent()
    expected.ok_response.headers_to_remove.extend(TO_REMOVE)
    filled(expected.ok_response.headers, upstream)
    filled(expected.ok_response.response_headers_to_add, client)
    described(expected, lasting + passing)
    for _ in range(2):  # what was kept the first time is used the second
        raw = allowed(upstream, client, lasting, passing)
        assert CheckResponse.FromString(raw) == expected


@given(st.integers(100, 599), PAIRS, PAIRS, TEXTS, PAIRS)
def test_joined_bytes_say_what_objects_would_for_what_is_answered(
    code: int, own: Any, client: Any, body: str, told: Any
) -> None:
    expected = CheckResponse()
    expected.status.code = 16 if code == 401 else 7
    expected.denied_response.status.code = code  # type: ignore[assignment]
    expected.denied_response.body = body
    filled(expected.denied_response.headers, own + client)
    described(expected, told)
    for _ in range(2):
        raw = answered(Answer(code, own, body.encode()), client, told)
        assert CheckResponse.FromString(raw) == expected


def test_an_empty_question_is_read_too() -> None:
    asked = READER.read(CheckRequest())
    assert asked.digests == Fault(Reason.MISSING_API_KEY)
    assert (asked.endpoint, asked.path, asked.id) == (None, "", "")
