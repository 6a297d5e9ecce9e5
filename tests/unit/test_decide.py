"""The rules: each one alone, and which of two answers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from support import CATALOG, NOW_US, key_record, request

from authz import endpoints
from authz.decide import decide, limits, may_call
from authz.model import Allow, Decision, Deny, Endpoint, Fault, Reason, Request
from store.counters.model import MinuteLimit
from store.records import KeyRecord


def judge(key: KeyRecord | None, asked: Request, now_us: int = NOW_US) -> Decision:
    offer = None if asked.model is None else CATALOG.resolve(asked.model)
    return decide(key, asked, offer, now_us)


def denied(key: KeyRecord | None, asked: Request) -> Fault:
    decision = judge(key, asked)
    assert isinstance(decision, Deny)
    assert decision.reason is decision.fault.reason
    return decision.fault


# In the order in which they answer. Each is what it changes of the key, and of the request.
RULES: dict[Reason, tuple[dict[str, Any], dict[str, Any]]] = {
    Reason.API_KEY_REVOKED: ({"revoked_us": NOW_US - 1}, {}),
    Reason.API_KEY_EXPIRED: ({"expires_us": NOW_US}, {}),
    Reason.ENDPOINT_NOT_ALLOWED: ({}, {"endpoint": None}),
    Reason.UNSUPPORTED_ENCODING: ({}, {"encoded": True}),
    Reason.MALFORMED_BODY: ({}, {"body": Fault(Reason.MALFORMED_BODY, "x", offset=3)}),
    Reason.MODEL_NOT_ALLOWED: ({"models": ["other"]}, {}),
    Reason.MODEL_NOT_PRICED: ({"budget_nanousd": 1}, {"model": "unheard-of"}),
}


@pytest.mark.parametrize("reason", RULES)
def test_each_rule(reason: Reason) -> None:
    of_key, of_request = RULES[reason]
    assert denied(key_record(**of_key), request(**of_request)).reason is reason


@pytest.mark.parametrize(("first", "second"), list(combinations(RULES, 2)))
def test_of_two_the_first_answers(first: Reason, second: Reason) -> None:
    of_key = RULES[first][0] | RULES[second][0]
    of_request = RULES[first][1] | RULES[second][1]
    assert denied(key_record(**of_key), request(**of_request)).reason is first


@pytest.mark.parametrize("key", [None, key_record(), key_record(revoked_us=1)])
@pytest.mark.parametrize("reason", [Reason.KEY_IN_URL, Reason.MISSING_API_KEY])
def test_a_fault_of_the_credential_comes_before_all(key: KeyRecord | None, reason: Reason) -> None:
    asked = request(digests=Fault(reason), endpoint=None, encoded=True)
    assert denied(key, asked) == Fault(reason)


def test_an_unknown_key_is_invalid_whatever_it_asks() -> None:
    for asked in (request(), request(endpoint=None), request(encoded=True)):
        assert denied(None, asked) == Fault(Reason.INVALID_API_KEY)


def test_a_fault_of_the_body_is_handed_on_as_it_is() -> None:
    fault = Fault(Reason.INVALID_PARAMETER, "it must be true or false", "stream")
    assert denied(key_record(), request(body=fault)) is fault


def test_a_key_lives_until_the_microsecond_of_its_expiry() -> None:
    key = key_record(expires_us=NOW_US)
    assert isinstance(judge(key, request(), NOW_US - 1), Allow)
    assert isinstance(judge(key, request(), NOW_US), Deny)


# ── Models ───────────────────────────────────────────────────────────────────────────────────────

LLAMA = "llama-3.1-8b"


@pytest.mark.parametrize(
    ("models", "asked", "allowed"),
    [
        (None, LLAMA, True),
        (None, "unheard-of", True),
        ([LLAMA], LLAMA, True),
        ([LLAMA], "llama", True),  # an alias is judged as its model
        ([LLAMA], "claude-haiku-4-5", True),  # so is a pattern of aliases
        ([LLAMA], "qwen3-coder", False),
        ([LLAMA], "Llama-3.1-8B", False),
        (["llama"], "llama", False),  # a key names models, not their aliases
        (["qwen3-coder"], "qwen3-coder", True),
        (["qwen3-coder"], "qwen3", False),
        (["qwen*"], "qwen3", False),  # nor patterns
        (["unheard-of"], "unheard-of", True),
        ([], LLAMA, False),
    ],
)
def test_the_allowlist_holds_canonical_names(
    models: list[str] | None, asked: str, allowed: bool
) -> None:
    key = key_record(models=models)
    assert may_call(key, asked, CATALOG.resolve(asked)) is allowed
    assert isinstance(judge(key, request(model=asked)), Allow) is allowed


def test_the_fault_names_the_member() -> None:
    assert denied(key_record(models=[]), request()).param == "model"
    asked = request(model="unheard-of")
    assert denied(key_record(budget_nanousd=0), asked).param == "model"


@pytest.mark.parametrize("budget", [0, 1, 5_000_000_000])
def test_without_a_price_only_a_key_without_a_budget_passes(budget: int) -> None:
    asked = request(model="unheard-of")
    assert denied(key_record(budget_nanousd=budget), asked).reason is Reason.MODEL_NOT_PRICED
    assert isinstance(judge(key_record(budget_nanousd=None), asked), Allow)
    assert isinstance(judge(key_record(budget_nanousd=budget), request()), Allow)


@pytest.mark.parametrize("row", [endpoints.MODELS, endpoints.MODEL, endpoints.KEY])
def test_what_reads_no_model_is_not_judged_by_its_body(row: Endpoint) -> None:
    asked = request(endpoint=row, encoded=True, body=Fault(Reason.MALFORMED_BODY), model=None)
    assert isinstance(judge(key_record(models=[], budget_nanousd=1), asked), Allow)


# ── Limits ───────────────────────────────────────────────────────────────────────────────────────


def test_inference_takes_from_the_keys_minute() -> None:
    expected = (MinuteLimit("key_1", 60),)
    assert judge(key_record(rpm=60), request()) == Allow(expected)
    assert limits(key_record(rpm=60), None) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/key"),
        ("POST", "/v1/messages/count_tokens"),
    ],
)
def test_listings_and_token_counting_have_a_wider_minute_of_their_own(
    method: str, path: str
) -> None:
    row = endpoints.find(method, path)
    (listing,) = limits(key_record(rpm=60), row)
    (inference,) = limits(key_record(rpm=60), None)
    assert listing.max_requests == 600
    assert listing.scope != inference.scope
    assert limits(key_record(rpm=60), endpoints.KEY) == (listing,)


def test_keys_do_not_share_a_minute() -> None:
    for row in (None, endpoints.KEY):
        one, other = limits(key_record(id="key_1"), row), limits(key_record(id="key_2"), row)
        assert {limit.scope for limit in one}.isdisjoint(limit.scope for limit in other)


def test_without_an_rpm_there_is_no_limit() -> None:
    assert judge(key_record(rpm=None), request()) == Allow(())
    assert limits(key_record(rpm=None), endpoints.KEY) == ()
