"""The rules: each one alone, and which of two answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import msgspec
import pytest
from support import CATALOG, NOW_US, key_record, request

from authz import table
from authz.decide import decide, is_live, limits, may_call
from authz.endpoints import BUILT_IN
from authz.model import Allow, Ask, Decision, Deny, Endpoint, Fault, Reason, Request
from store.catalog import Catalog, Plan
from store.counters.model import Limit, MinuteLimit, MoneyLimit
from store.records import DAY_US, KeyRecord

FREE = CATALOG.plans["free"]
KEY_MONEY = MoneyLimit("key_1", NOW_US - 10 * DAY_US, None)


def plan(**changes: Any) -> Plan:
    """A plan without caps."""
    return replace(FREE, **changes)


def judge(
    key: KeyRecord | None, asked: Request, now_us: int = NOW_US, of: Plan | None = FREE
) -> Decision:
    offer = None if asked.model is None else CATALOG.resolve(asked.model)
    return decide(key, asked, offer, of, now_us)


def denied(key: KeyRecord | None, asked: Request, of: Plan | None = FREE) -> Fault:
    decision = judge(key, asked, of=of)
    assert isinstance(decision, Deny)
    assert decision.reason is decision.fault.reason
    return decision.fault


def asking(changes: dict[str, Any]) -> Request:
    """A request; what stands under `ask` are changes of an Ask that asks for nothing special."""
    ask = Ask(output=None, **changes.get("ask", {}))
    return request(**changes | {"ask": ask})


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The changes of two rules, also where both change the Ask."""
    ask = one.get("ask", {}) | other.get("ask", {})
    return one | other | {"ask": ask}


# In the order in which they answer. Each is what it changes of the key, and of the request.
RULES: dict[Reason, tuple[dict[str, Any], dict[str, Any]]] = {
    Reason.API_KEY_REVOKED: ({"revoked_us": NOW_US - 1}, {}),
    Reason.API_KEY_EXPIRED: ({"expires_us": NOW_US}, {}),
    Reason.ENDPOINT_NOT_ALLOWED: ({}, {"endpoint": None}),
    Reason.UNSUPPORTED_ENCODING: ({}, {"encoded": True}),
    Reason.MALFORMED_BODY: ({}, {"body": Fault(Reason.MALFORMED_BODY, "x", offset=3)}),
    Reason.PARAMETER_NOT_ALLOWED: ({}, {"ask": {"stored": "conversation"}}),
    Reason.UNBOUNDED_NOT_ALLOWED: ({"budget_nanousd": 1}, {"ask": {"unbounded": "background"}}),
    Reason.MODEL_NOT_ALLOWED: ({"models": ["other"]}, {}),
    Reason.MODEL_NOT_PRICED: ({"budget_nanousd": 1}, {"model": "unheard-of"}),
}


@pytest.mark.parametrize("reason", RULES)
def test_each_rule(reason: Reason) -> None:
    of_key, of_request = RULES[reason]
    assert denied(key_record(**of_key), asking(of_request)).reason is reason


@pytest.mark.parametrize(("first", "second"), list(combinations(RULES, 2)))
def test_of_two_the_first_answers(first: Reason, second: Reason) -> None:
    of_key = RULES[first][0] | RULES[second][0]
    of_request = both(RULES[first][1], RULES[second][1])
    assert denied(key_record(**of_key), asking(of_request)).reason is first


def test_nothing_is_wrong_with_the_request_itself() -> None:
    assert isinstance(judge(key_record(), asking({})), Allow)
    assert isinstance(judge(key_record(budget_nanousd=1), asking({})), Allow)


@pytest.mark.parametrize("key", [None, key_record(), key_record(revoked_us=1)])
@pytest.mark.parametrize("reason", [Reason.KEY_IN_URL, Reason.MISSING_API_KEY])
def test_a_fault_of_the_credential_comes_before_all(key: KeyRecord | None, reason: Reason) -> None:
    asked = request(digests=Fault(reason), endpoint=None, encoded=True)
    assert denied(key, asked) == Fault(reason)


def test_a_key_of_a_disabled_account_counts_as_revoked_whatever_else_it_is() -> None:
    for more in ({}, {"expires_us": NOW_US - 1}):
        key = key_record(disabled_us=NOW_US - 1, **more)
        assert denied(key, asking({})).reason is Reason.API_KEY_REVOKED
        assert not is_live(key, NOW_US)


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


def test_the_accounts_budget_wants_a_price_too() -> None:
    asked, of = request(model="unheard-of"), plan(account_budget_nanousd=0)
    assert denied(key_record(), asked, of).reason is Reason.MODEL_NOT_PRICED
    assert isinstance(judge(key_record(), request(), of=of), Allow)
    assert isinstance(judge(key_record(), asked, of=None), Allow)


# ── What has no bound ────────────────────────────────────────────────────────────────────────────


def test_what_the_server_keeps_is_refused_by_name_with_and_without_a_budget() -> None:
    asked = asking({"ask": {"stored": "previous_response_id"}})
    for key in (key_record(), key_record(budget_nanousd=1)):
        fault = Fault(Reason.PARAMETER_NOT_ALLOWED, param="previous_response_id")
        assert denied(key, asked) == fault
        assert denied(key, msgspec.structs.replace(asked, model="unheard-of")) == fault


def test_a_model_whose_catalog_row_says_so_may_be_asked_for_what_it_keeps() -> None:
    asked = asking({"ask": {"stored": "previous_response_id"}})
    offer = CATALOG.resolve("llama-3.1-8b")
    assert offer is not None
    keeps = replace(offer, model=replace(offer.model, stored_context=True))
    key = key_record(budget_nanousd=1)
    assert isinstance(decide(key, asked, keeps, FREE, NOW_US), Allow)


def test_work_that_outlives_the_request_is_refused_where_there_is_a_budget() -> None:
    asked = asking({"ask": {"unbounded": "background"}})
    fault = Fault(Reason.UNBOUNDED_NOT_ALLOWED, param="background")
    assert denied(key_record(budget_nanousd=0), asked) == fault
    assert denied(key_record(), asked, plan(account_budget_nanousd=1)) == fault
    assert isinstance(judge(key_record(), asked), Allow)
    assert isinstance(judge(key_record(), asked, of=None), Allow)


@pytest.mark.parametrize("row", [table.MODELS, table.MODEL, table.KEY])
def test_what_reads_no_model_is_not_judged_by_its_body(row: Endpoint) -> None:
    ask = Ask(output=None, stored="prompt", unbounded="background")
    fault = Fault(Reason.MALFORMED_BODY)
    asked = request(endpoint=row, encoded=True, body=fault, model=None, ask=ask)
    assert isinstance(judge(key_record(models=[], budget_nanousd=1), asked), Allow)


# ── Controls, adapters, tags ─────────────────────────────────────────────────────────────────────

PATHS = {path: BUILT_IN.find("POST", path) for path in ("/api/chat", "/api/show", "/v1/responses")}


def at(path: str, **changes: Any) -> Request:
    match = PATHS[path]
    assert match is not None
    return request(endpoint=match.endpoint, path=path, **changes)


STEERING = Catalog.parse(
    """
models:
  keeps: {price: {input: 1}, context_tokens: 9, controls: [keep_alive, priority]}
  plain: {price: {input: 1}, context_tokens: 9}
  "tagged:latest": {price: {input: 1}, context_tokens: 9}
plans: {free: {}}
default_plan: free
""",
    "a test's",
)


@pytest.mark.parametrize(
    ("model", "controls", "refused"),
    [
        ("plain", ("keep_alive",), "keep_alive"),
        ("plain", ("options.keep_alive",), "options.keep_alive"),
        ("keeps", ("keep_alive", "options.priority"), None),
        ("keeps", ("keep_alive", "cache_salt"), "cache_salt"),
        ("unheard-of", ("keep_alive",), "keep_alive"),
    ],
)
def test_a_control_needs_the_models_leave(
    model: str, controls: tuple[str, ...], refused: str | None
) -> None:
    asked = request(model=model, controls=controls)
    decision = decide(key_record(), asked, STEERING.resolve(model), FREE, NOW_US)
    if refused is None:
        assert isinstance(decision, Allow)
    else:
        assert isinstance(decision, Deny)
        assert (decision.reason, decision.fault.param) == (Reason.PARAMETER_NOT_ALLOWED, refused)
        assert "steers" in decision.fault.detail


@pytest.mark.parametrize(
    ("models", "allowed"),
    [
        (None, True),
        (["plain", "plain:sql"], True),
        (["plain:sql"], True),
        (["plain"], False),
        (["sql"], False),
        (["plain", "plain:other"], False),
    ],
)
def test_an_adapter_is_allowed_as_such(models: list[str] | None, allowed: bool) -> None:
    asked = request(model="plain:sql", base="plain")
    offer = STEERING.resolve_adapter("plain", "sql")
    decision = decide(key_record(models=models), asked, offer, FREE, NOW_US)
    assert isinstance(decision, Allow) is allowed
    if not allowed:
        assert isinstance(decision, Deny)
        assert decision.reason is Reason.MODEL_NOT_ALLOWED


def test_an_adapter_of_an_alias_is_one_of_its_model() -> None:
    asked = request(model="llama:sql", base="llama")
    offer = CATALOG.resolve_adapter("llama", "sql")
    key = key_record(models=["llama-3.1-8b:sql"])
    assert isinstance(decide(key, asked, offer, FREE, NOW_US), Allow)
    key = key_record(models=["llama-3.1-8b"])
    assert isinstance(decide(key, asked, offer, FREE, NOW_US), Deny)


@pytest.mark.parametrize("path", ["/api/chat", "/api/show"])
@pytest.mark.parametrize(
    ("asked", "models", "allowed"),
    [
        ("plain", ["plain"], True),
        ("plain:latest", ["plain"], True),
        ("plain", ["plain:latest"], True),
        ("plain:8b", ["plain"], False),
        ("tagged", ["tagged"], True),
        ("tagged", ["tagged:latest"], True),
        ("tagged:latest", ["tagged"], True),
        ("other", ["other:latest"], True),
        ("other:latest", ["other"], True),
        ("other:8b", ["other"], False),
        ("PLAIN", ["plain"], False),
        ("library/plain", ["plain"], False),
        ("registry.ollama.ai/library/plain", ["plain"], False),
    ],
)
def test_no_tag_means_latest_for_ollama_alone(
    path: str, asked: str, models: list[str], allowed: bool
) -> None:
    key = key_record(models=models)
    offer = STEERING.resolve_tagged(asked)
    found = decide(key, at(path, model=asked), offer, FREE, NOW_US)
    assert isinstance(found, Allow) is allowed
    elsewhere = decide(key, request(model=asked), STEERING.resolve(asked), FREE, NOW_US)
    assert isinstance(elsewhere, Allow) is (asked in models)


def test_no_context_is_longer_than_the_models() -> None:
    offer = STEERING.resolve("plain")
    for context, allowed in ((0, True), (9, True), (10, False)):
        ask = Ask(output=1, context=context, context_name="options.num_ctx")
        found = decide(key_record(), at("/api/chat", model="plain", ask=ask), offer, FREE, NOW_US)
        assert isinstance(found, Allow) is allowed
        if not allowed:
            assert isinstance(found, Deny)
            assert (found.reason, found.fault.param) == (
                Reason.INVALID_PARAMETER,
                "options.num_ctx",
            )


# ── Limits ───────────────────────────────────────────────────────────────────────────────────────


def test_inference_takes_from_the_keys_minute_and_then_from_its_money() -> None:
    expected = (MinuteLimit("key_1", 60), KEY_MONEY)
    assert judge(key_record(rpm=60), request()) == Allow(expected)
    assert limits(key_record(rpm=60), None, FREE) == expected


@pytest.mark.parametrize("budget", [None, 0, 5_000_000_000])
@pytest.mark.parametrize("ceiling", ["hold", "start"])
def test_the_accounts_money_comes_last(budget: int | None, ceiling: Any) -> None:
    key = key_record(budget_nanousd=budget)
    of = plan(account_budget_nanousd=9, ceiling=ceiling)
    assert judge(key, request(), of=of) == Allow(
        (
            MinuteLimit("key_1", 60),
            MoneyLimit("key_1", key.created_us, budget, ceiling),
            MoneyLimit("acc_1", key.account_created_us, 9, ceiling),
        )
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/key"),
        ("POST", "/v1/messages/count_tokens"),
    ],
)
def test_listings_and_token_counting_have_a_wider_minute_of_their_own_and_take_no_money(
    method: str, path: str
) -> None:
    match, of = BUILT_IN.find(method, path), plan(account_budget_nanousd=1)
    assert match is not None
    key = key_record(rpm=60, budget_nanousd=1)
    (listing,) = limits(key, match.endpoint, of)
    inference, *_ = limits(key, None, of)
    assert isinstance(listing, MinuteLimit)
    assert listing.max_requests == 600
    assert listing.scope != inference.scope
    assert limits(key, table.KEY, of) == (listing,)


def test_keys_share_nothing_but_the_money_of_their_account() -> None:
    def scopes(found: tuple[Limit, ...]) -> set[str]:
        return {limit.scope for limit in found}

    of = plan(account_budget_nanousd=1)
    for row in (None, table.KEY):
        one, other = (key_record(id=name) for name in ("key_1", "key_2"))
        assert scopes(limits(one, row, FREE)).isdisjoint(scopes(limits(other, row, FREE)))
        shared = scopes(limits(one, row, of)) & scopes(limits(other, row, of))
        assert shared == ({"acc_1"} if row is None else set())


def test_without_an_rpm_only_money_is_counted() -> None:
    assert judge(key_record(rpm=None), request()) == Allow((KEY_MONEY,))
    assert limits(key_record(rpm=None), table.KEY, FREE) == ()
