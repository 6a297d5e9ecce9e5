"""Each refusal of the table, provoked through the whole gate and compared to the word."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from load.audit import until
from peers.client import CHAT, MESSAGES, Answer, call
from peers.recorder import Recorder
from peers.stack import Stack

from store import keyformat

REQUEST_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "api_error",
}
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 503: "server_error"}


@dataclass
class Keys:
    """One key for each way in which a key can be refused."""

    good: str
    narrow: str
    slow: str
    revoked: str
    expired: str
    expired_on: str = ""
    revoked_on: str = ""
    hints: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def keys(stack: Stack) -> Keys:
    minted = {
        "good": stack.mint(),
        "narrow": stack.mint(models="qwen3-coder,llama-3.1-8b"),
        "slow": stack.mint(rpm=1),
        "revoked": stack.mint(),
        "expired": stack.mint(),
    }
    stack.revoke(minted["revoked"]["alias"])
    made = Keys(**{name: each["key"] for name, each in minted.items()})
    made.hints = {name: each["hint"] for name, each in minted.items()}
    made.expired_on = day(stack.expire(minted["expired"]["id"]))
    made.revoked_on = day(
        stack.sql("select revoked_us from keys where id = ?", minted["revoked"]["id"])
    )
    for key in (made.expired, made.revoked):
        until(lambda key=key: call(stack, CHAT, key=key).status == 401, 10, "a key is none")  # type: ignore[misc]
    return made


def day(at_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_us // 1_000_000))


def chat(**members: Any) -> bytes:
    return json.dumps({"model": "recorder", "messages": [], **members}).encode()


MODELS_HINT = "`GET /v1/models` lists those that this key may call."
INVALID = 'Bearer realm="tensorgate", error="invalid_token"'
SCOPE = 'Bearer realm="tensorgate", error="insufficient_scope"'

# name, how it is provoked, status, code, param, WWW-Authenticate, words
CASES: list[tuple[str, dict[str, Any], int, str, str | None, str | None, str]] = [
    (
        "no key",
        {},
        401,
        "missing_api_key",
        None,
        'Bearer realm="tensorgate"',
        "No API key was sent. Send it as the header `Authorization: Bearer sk-tg_…`.",
    ),
    (
        "another scheme",
        {"headers": {"authorization": "Basic YTpi"}},
        401,
        "missing_api_key",
        None,
        'Bearer realm="tensorgate"',
        "No API key was sent. Send it as the header `Authorization: Bearer sk-tg_…`.",
    ),
    (
        "not a key",
        {"key": "sk-whatever"},
        401,
        "invalid_api_key",
        None,
        INVALID,
        "This API key is not valid. Check that it was copied whole: it starts with `sk-tg_` and "
        "has 55 characters.",
    ),
    (
        "unknown",
        {"key": keyformat.mint()},
        401,
        "invalid_api_key",
        None,
        INVALID,
        "This API key is not valid. Check that it was copied whole: it starts with `sk-tg_` and "
        "has 55 characters.",
    ),
    (
        "revoked",
        {"key": "@revoked"},
        401,
        "api_key_revoked",
        None,
        INVALID,
        "This key ({revoked.hint}) was revoked on {revoked_on}. "
        "Create a new one at {dashboard}/keys.",
    ),
    (
        "expired",
        {"key": "@expired"},
        401,
        "api_key_expired",
        None,
        INVALID,
        "This key ({expired.hint}) expired on {expired_on}. Create a new one at {dashboard}/keys.",
    ),
    (
        "two keys",
        {"key": "@good", "headers": {"x-api-key": "@narrow"}},
        400,
        "ambiguous_credentials",
        None,
        None,
        "The request carries more than one API key. Send one key, in one header, once.",
    ),
    (
        "key in the URL",
        {"query": "?key=abc", "key": "@good"},
        400,
        "key_in_url",
        None,
        None,
        "A key stands in the URL, and URLs end up in logs. Send it as the header `Authorization: "
        "Bearer sk-tg_…`, and revoke the one that was in the URL.",
    ),
    (
        "not JSON",
        {"key": "@good", "body": b'{"model": "recorder",}'},
        400,
        "malformed_body",
        None,
        None,
        "The body is not one strict JSON object: trailing comma in object (byte 21). "
        "Send valid JSON.",
    ),
    (
        "twice",
        {"key": "@good", "body": b'{"model":"a","model":"b"}'},
        400,
        "ambiguous_body",
        "model",
        None,
        "The body can be read in more than one way: a member stands in it twice. "
        "Name each member once, spelled as the API does.",
    ),
    (
        "no model",
        {"key": "@good", "body": b"{}"},
        400,
        "model_required",
        "model",
        None,
        "The body does not name a model. Set `model` to the name of one, as a string; "
        + MODELS_HINT,
    ),
    (
        "no such stream",
        {"key": "@good", "body": chat(stream="yes")},
        400,
        "invalid_parameter",
        "stream",
        None,
        "`stream` is not valid: it must be true or false.",
    ),
    (
        "another model",
        {"key": "@narrow", "body": chat(model="claude-haiku-4-5")},
        403,
        "model_not_allowed",
        "model",
        SCOPE,
        "This key may not call `claude-haiku-4-5`; it may call `llama-3.1-8b`, `qwen3-coder`. "
        "Change the model in your client, or use a key that includes it.",
    ),
    (
        "compressed",
        {"key": "@good", "headers": {"content-encoding": "gzip"}},
        415,
        "unsupported_encoding",
        None,
        None,
        "The body is compressed, and what cannot be read is not passed on. Send it uncompressed.",
    ),
]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    ("how", "status", "code", "param", "challenge", "words"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_each_refusal_to_the_word(
    stack: Stack,
    recorder: Recorder,
    keys: Keys,
    path: str,
    how: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
    challenge: str | None,
    words: str,
) -> None:
    answer = call(stack, path + how.get("query", ""), **_arguments(how, keys))
    _is_refusal(answer, path, status, code, param)
    expected = words.format(
        revoked=_Hint(keys.hints["revoked"]),
        expired=_Hint(keys.hints["expired"]),
        revoked_on=keys.revoked_on,
        expired_on=keys.expired_on,
        dashboard=f"http://127.0.0.1:{stack.admin_port}",
    )
    assert answer.json()["error"]["message"] == expected
    assert answer.headers.get("www-authenticate") == challenge
    assert not recorder.requests


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_over_the_minute(stack: Stack, recorder: Recorder, path: str) -> None:
    key = stack.mint(rpm=1)["key"]
    assert call(stack, path, key=key).status == 200
    answer = call(stack, path, key=key)
    _is_refusal(answer, path, 429, "rate_limit_exceeded", None)
    after = int(answer.headers["retry-after"])
    after_ms = int(answer.headers["retry-after-ms"])
    assert 50 < after <= 60
    assert (after - 1) * 1000 < after_ms <= after * 1000
    words = answer.json()["error"]["message"]
    assert re.fullmatch(
        r"1 request in the last 60 seconds is this key's limit\. "
        r"The next one passes in \d+\.\d s\.",
        words,
    ), words
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(recorder.requests) == 1


def test_an_endpoint_that_is_none(stack: Stack, recorder: Recorder, keys: Keys) -> None:
    answer = call(stack, "/metrics", key=keys.good, method="GET")
    _is_refusal(answer, "/metrics", 403, "endpoint_not_allowed", None)
    assert answer.headers["www-authenticate"] == SCOPE
    assert answer.json()["error"]["message"] == (
        "Keys cannot call `GET /metrics` here. "
        "Check the method and the path: they are compared letter by letter, "
        "and a slash at the end counts."
    )
    assert not recorder.requests


def test_a_model_that_this_key_cannot_see(stack: Stack, keys: Keys) -> None:
    answer = call(stack, "/v1/models/claude-haiku-4-5", key=keys.narrow)
    _is_refusal(answer, "/v1/models", 404, "not_found", None)


def test_too_long_a_body(stack: Stack, recorder: Recorder, keys: Keys) -> None:
    small = call(stack, key="sk-unknown", body=b"x" * (65 * 1024))
    large = call(stack, key=keys.good, body=b"x" * (33 << 20))
    for answer, limit in ((small, "64 KiB"), (large, "32 MiB")):
        _is_refusal(answer, CHAT, 413, "body_too_large", None)
        assert limit in answer.json()["error"]["message"]
    assert not recorder.requests


ORDER: list[tuple[str, dict[str, Any]]] = [
    ("key_in_url", {"query": "?key=abc"}),
    ("missing_api_key", {"key": None}),
    ("ambiguous_credentials", {"headers": {"x-api-key": keyformat.mint()}}),
    ("invalid_api_key", {"key": keyformat.mint()}),
    ("api_key_revoked", {"key": "@revoked"}),
    ("endpoint_not_allowed", {"path": "/v1/other"}),
    ("unsupported_encoding", {"headers": {"content-encoding": "br"}}),
    ("malformed_body", {"body": b"{"}),
    ("model_not_allowed", {"body": chat(model="nope")}),
    ("rate_limit_exceeded", {}),
]


@pytest.mark.parametrize("first", range(len(ORDER) - 1), ids=[name for name, _ in ORDER[:-1]])
def test_the_first_that_applies_answers(stack: Stack, keys: Keys, first: int) -> None:
    """Each fault together with every later one that it can stand beside."""
    key = stack.mint(models="recorder", rpm=1)["key"]
    assert call(stack, key=key).status == 200  # so that the minute is used up
    code, fault = ORDER[first]
    for _, later in ORDER[first + 1 :]:
        how: dict[str, Any] = {"path": CHAT, "query": "", "key": key, "headers": {}, "body": None}
        for each in (later, fault):  # the earlier fault wins where both say the same thing
            merged = {**how["headers"], **each.get("headers", {})}
            how = {**how, **each, "headers": merged}
        if how["key"] is None:
            how["headers"].pop("x-api-key", None)
        arguments = _arguments({k: v for k, v in how.items() if k not in {"path", "query"}}, keys)
        answer = call(stack, how["path"] + how["query"], **arguments)
        assert answer.code == code, (code, later)


def test_every_answer_to_a_known_key_says_how_its_minute_stands(
    stack: Stack, recorder: Recorder
) -> None:
    key = stack.mint(rpm=5, models="recorder")["key"]
    answers = [
        call(stack, key=key),
        call(stack, key=key, model="other"),
        call(stack, key=key, body=b"{"),
        call(stack, "/nowhere", key=key),
    ]
    assert [a.status for a in answers] == [200, 403, 400, 403]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "5"
        assert answer.headers["x-ratelimit-remaining-requests"] == "4"
        assert re.fullmatch(
            r"(\d+(\.\d+)?s|1m0s|\d+ms)", answer.headers["x-ratelimit-reset-requests"]
        )
        assert answer.headers["ratelimit-policy"] == '"rpm";q=5;w=60'
        assert re.fullmatch(r'"rpm";r=4;t=(\d+)', answer.headers["ratelimit"])
        assert re.fullmatch(REQUEST_ID, answer.headers["x-request-id"])
    anthropic = call(stack, MESSAGES, key=key)
    assert anthropic.headers["anthropic-ratelimit-requests-limit"] == "5"
    assert anthropic.headers["anthropic-ratelimit-requests-remaining"] == "3"
    assert anthropic.headers["request-id"] == anthropic.headers["x-request-id"]


@dataclass(frozen=True)
class _Hint:
    hint: str


def _arguments(how: dict[str, Any], keys: Keys) -> dict[str, Any]:
    """The arguments of a call, with `@name` replaced by that key."""

    def real(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            return getattr(keys, value[1:])
        if isinstance(value, dict):
            return {name: real(each) for name, each in value.items()}
        return value

    return {name: real(value) for name, value in how.items() if name != "query"}


def _is_refusal(answer: Answer, path: str, status: int, code: str, param: str | None) -> None:
    """The shape of the path's dialect, the reason's header, and a request id throughout."""
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.headers["x-tensorgate-reason"] == code
    assert answer.headers["content-type"] == "application/json"
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch(REQUEST_ID, request_id)
    said = answer.json()
    if path.startswith(MESSAGES):
        kind = ANTHROPIC_TYPES.get(status, "invalid_request_error")
        assert said == {
            "type": "error",
            "request_id": request_id,
            "error": {"type": kind, "message": said["error"]["message"], "code": code},
        }
        assert answer.headers["request-id"] == request_id
    else:
        kind = "requests" if status == 429 else OPENAI_TYPES.get(status, "invalid_request_error")
        assert said == {
            "error": {
                "type": kind,
                "message": said["error"]["message"],
                "code": code,
                "param": param,
                "request_id": request_id,
            }
        }
