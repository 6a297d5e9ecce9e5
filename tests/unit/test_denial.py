"""The table of refusals: status, type, headers and shape, for every reason in both dialects."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from grpc import StatusCode
from support import key_record, request

from authz.denial import Answer, deny
from authz.model import Dialect, Fault, Reason
from authz.words import Occasion, words
from store.counters.model import HELD_RETRY_US, MinuteLimit, MoneyLimit, Refused
from store.records import WINDOW_US

BARE = 'Bearer realm="tensorgate"'
INVALID_TOKEN = 'Bearer realm="tensorgate", error="invalid_token"'
SCOPE = 'Bearer realm="tensorgate", error="insufficient_scope"'


class Row(NamedTuple):
    status: int
    openai: str
    anthropic: str
    grpc: StatusCode
    challenge: str | None = None
    retry_after: str | None = None


AUTH, PERMISSION = "authentication_error", "permission_error"
INVALID = "invalid_request_error"
TABLE = {
    Reason.MISSING_API_KEY: Row(401, AUTH, AUTH, StatusCode.UNAUTHENTICATED, BARE),
    Reason.INVALID_API_KEY: Row(401, AUTH, AUTH, StatusCode.UNAUTHENTICATED, INVALID_TOKEN),
    Reason.API_KEY_EXPIRED: Row(401, AUTH, AUTH, StatusCode.UNAUTHENTICATED, INVALID_TOKEN),
    Reason.API_KEY_REVOKED: Row(401, AUTH, AUTH, StatusCode.UNAUTHENTICATED, INVALID_TOKEN),
    Reason.AMBIGUOUS_CREDENTIALS: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.KEY_IN_URL: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.MALFORMED_BODY: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.AMBIGUOUS_BODY: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.MODEL_REQUIRED: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.INVALID_PARAMETER: Row(400, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.MODEL_NOT_ALLOWED: Row(403, PERMISSION, PERMISSION, StatusCode.PERMISSION_DENIED, SCOPE),
    Reason.ENDPOINT_NOT_ALLOWED: Row(
        403, PERMISSION, PERMISSION, StatusCode.PERMISSION_DENIED, SCOPE
    ),
    Reason.MODEL_NOT_PRICED: Row(403, PERMISSION, PERMISSION, StatusCode.PERMISSION_DENIED, SCOPE),
    Reason.PARAMETER_NOT_ALLOWED: Row(
        403, PERMISSION, PERMISSION, StatusCode.PERMISSION_DENIED, SCOPE
    ),
    Reason.UNBOUNDED_NOT_ALLOWED: Row(
        403, PERMISSION, PERMISSION, StatusCode.PERMISSION_DENIED, SCOPE
    ),
    Reason.UNSUPPORTED_ENCODING: Row(415, INVALID, INVALID, StatusCode.INVALID_ARGUMENT),
    Reason.RATE_LIMIT_EXCEEDED: Row(
        429, "requests", "rate_limit_error", StatusCode.RESOURCE_EXHAUSTED
    ),
    Reason.BUDGET_HELD: Row(429, "requests", "rate_limit_error", StatusCode.RESOURCE_EXHAUSTED),
    Reason.BUDGET_EXCEEDED: Row(
        429, "insufficient_quota", "rate_limit_error", StatusCode.RESOURCE_EXHAUSTED
    ),
    Reason.AUTHORIZATION_UNAVAILABLE: Row(
        503, "server_error", "api_error", StatusCode.UNAVAILABLE, retry_after="1"
    ),
    Reason.NOT_FOUND: Row(404, INVALID, "not_found_error", StatusCode.UNIMPLEMENTED),
}


def shape_of(dialect: Dialect, row: Row) -> dict[str, str]:
    if dialect is Dialect.GRPC:  # its HTTP headers are Envoy's
        return {"grpc-status": str(row.grpc.value[0])}
    return {"content-type": "application/json"}


def refusal(fault: Fault, dialect: Dialect, retry_us: int | None = None) -> tuple[Answer, Occasion]:
    refused = None if retry_us is None else Refused(0, MinuteLimit("key_1", 60), retry_us, ())
    occasion = Occasion(fault, request(dialect=dialect), key_record(models=["m"]), refused)
    return deny(occasion), occasion


def test_the_table_has_every_reason() -> None:
    assert TABLE.keys() == set(Reason)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("reason", Reason)
def test_status_and_headers(reason: Reason, dialect: Dialect) -> None:
    row, (answer, _) = TABLE[reason], refusal(Fault(reason), dialect)
    expected = {**shape_of(dialect, row), "x-tensorgate-reason": reason.value}
    if row.challenge is not None:
        expected["www-authenticate"] = row.challenge
    if row.retry_after is not None:
        expected["retry-after"] = row.retry_after
    if row.status not in {429, 503}:  # no time heals these, and some clients repeat even a 401
        expected["x-should-retry"] = "false"
    assert answer.status == row.status
    assert dict(answer.headers) == expected
    assert len(answer.headers) == len(expected)


@pytest.mark.parametrize("param", [None, "model"])
@pytest.mark.parametrize("reason", Reason)
def test_openais_shape(reason: Reason, param: str | None) -> None:
    answer, occasion = refusal(Fault(reason, "x", param), Dialect.OPENAI)
    assert json.loads(answer.body) == {
        "error": {
            "message": words(occasion),
            "type": TABLE[reason].openai,
            "param": param,
            "code": reason.value,
            "request_id": "req-1",
        }
    }


@pytest.mark.parametrize("reason", Reason)
def test_anthropics_shape(reason: Reason) -> None:
    answer, occasion = refusal(Fault(reason, "x", "model"), Dialect.ANTHROPIC)
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {
            "type": TABLE[reason].anthropic,
            "message": words(occasion),
            "code": reason.value,
        },
        "request_id": "req-1",
    }


@pytest.mark.parametrize("reason", Reason)
def test_grpcs_message(reason: Reason) -> None:
    """It becomes grpc-message: one line of ASCII."""
    answer, occasion = refusal(Fault(reason, "x", "model_name"), Dialect.GRPC)
    said = f"{reason.value}: {words(occasion)}".replace("…", "...")
    assert answer.body.decode("ascii") == said
    assert "\n" not in said


def test_a_grpc_message_is_ascii_whatever_the_client_sent() -> None:
    asked: dict[str, Any] = {"model": "ü模", "dialect": Dialect.GRPC}
    occasion = Occasion(Fault(Reason.MODEL_NOT_ALLOWED), request(**asked), key_record(models=[]))
    said = deny(occasion).body
    assert said.startswith(b"model_not_allowed: This key may not call `\\xfc\\u6a21`; ")


@pytest.mark.parametrize(
    ("retry_us", "seconds", "millis"),
    [
        (1, "1", "1"),
        (999, "1", "1"),
        (1_000, "1", "1"),
        (1_001, "1", "2"),
        (999_999, "1", "1000"),
        (1_000_000, "1", "1000"),
        (1_000_001, "2", "1001"),
        (3_200_000, "4", "3200"),
        (60_000_000, "60", "60000"),
    ],
)
def test_when_the_next_call_passes(retry_us: int, seconds: str, millis: str) -> None:
    answer, _ = refusal(Fault(Reason.RATE_LIMIT_EXCEEDED), Dialect.OPENAI, retry_us)
    headers = dict(answer.headers)
    assert (headers["retry-after"], headers["retry-after-ms"]) == (seconds, millis)
    assert "x-should-retry" not in headers


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("reason", "retry_us", "expected"),
    [
        (Reason.BUDGET_HELD, HELD_RETRY_US, {"retry-after": "2"}),
        (Reason.BUDGET_EXCEEDED, 1, {"retry-after": "1", "x-should-retry": "false"}),
        (Reason.BUDGET_EXCEEDED, WINDOW_US, {"retry-after": "2592000", "x-should-retry": "false"}),
        (
            Reason.BUDGET_EXCEEDED,
            WINDOW_US - 1,
            {"retry-after": "2592000", "x-should-retry": "false"},
        ),
    ],
)
def test_when_there_is_money_again(
    reason: Reason, retry_us: int, expected: dict[str, str], dialect: Dialect
) -> None:
    """A spent budget never says a time alone: SDKs would sleep for days."""
    limit = MoneyLimit("key_1", 0, 1)
    refused = Refused(0, limit, retry_us, (), held=reason is Reason.BUDGET_HELD)
    occasion = Occasion(Fault(reason), request(dialect=dialect), key_record(), refused)
    headers = dict(deny(occasion).headers)
    assert headers.pop("x-tensorgate-reason") == reason
    assert headers == {**shape_of(dialect, TABLE[reason]), **expected}


def test_words_of_any_script_stand_in_the_body() -> None:
    asked: dict[str, Any] = {"model": 'ü"\\模', "path": "/é"}
    occasion = Occasion(Fault(Reason.MODEL_NOT_ALLOWED), request(**asked), key_record(models=[]))
    assert 'ü"\\模' in json.loads(deny(occasion).body)["error"]["message"]
