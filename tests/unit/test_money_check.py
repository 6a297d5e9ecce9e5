"""One Check and money: what is held, what is refused in which order, and in which words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from moneysupport import CATALOG, Gate, edited
from support import (
    answer_body,
    bearer,
    client_headers,
    error,
    is_allowed,
    message,
    metadata,
    status,
    upstream_headers,
)

from authz import ours
from authz.bound import MARGIN_SECONDS
from authz.decide import limits
from authz.model import Edit
from authz.pb.auth_pb2 import CheckResponse
from store.catalog import Catalog
from store.counters.model import MoneyLimit
from store.errors import StoreUnavailableError
from store.records import DAY_US, INT64_MAX, Basis, Price
from store.text import rfc3339, usd, usd_json, usd_plain, usd_rounded, utc

USD = 10**9
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"


def code(response: CheckResponse) -> str:
    return "" if is_allowed(response) else str(error(response)["code"])


def said(response: CheckResponse) -> str:
    return str(error(response)["message"])


# -- what is held


def test_the_hold_is_the_most_that_the_call_can_cost() -> None:
    gate = Gate()
    sent = gate.message(max_tokens=50)
    response = gate.answer(sent)
    size = len(sent.attributes.request.http.raw_body)
    hold = gate.hold
    assert hold.nanousd == (size + 100) * 1250 + 50 * 2000
    assert (hold.input_bound, hold.output_bound, hold.tokens_per_byte) == (size + 100, 50, "1")
    assert hold.price == Price(10**9, 10**8, 125 * 10**7, 2 * 10**9)
    assert (hold.request_id, hold.key_id, hold.model) == ("req-1", gate.record.id, "llama")
    assert (hold.endpoint, hold.minute) == ("chat.completions", None)
    assert [window.scope for window in hold.windows] == [gate.record.id]
    assert client_headers(response)["x-tensorgate-hold-usd"] == usd_plain(hold.nanousd)
    assert metadata(response)["hold_id"] == hold.id


def test_what_the_filters_are_told() -> None:
    gate = Gate()
    sent = gate.message(stream=True)
    told = metadata(gate.answer(sent))
    assert (told["outcome"], told["dialect"], told["stream"]) == ("allowed", "openai", "1")
    assert (told["model"], told["endpoint"]) == ("llama", "chat.completions")
    assert (told["key_id"], told["account_id"]) == (gate.record.id, gate.record.account_id)
    edits = [Edit(*each) for each in json.loads(told["edits"])]
    written = json.loads(edited(sent.attributes.request.http.raw_body, edits))
    assert (written["max_tokens"], written["stream_options"]) == (1000, {"include_usage": True})
    assert told["hide_usage"] == "1"


def test_a_client_that_asked_for_its_usage_keeps_it() -> None:
    told = metadata(Gate().call(stream=True, stream_options={"include_usage": True}))
    assert "hide_usage" not in told
    assert "max_tokens" in told["edits"]


def test_nothing_is_edited_that_need_not_be() -> None:
    told = metadata(Gate().call(max_tokens=5))
    assert not {"edits", "hide_usage", "stream"} & told.keys()


def test_the_settlement_is_told_where_output_is_hidden() -> None:
    told = metadata(Gate().call(stream=True, max_tokens=5, include_reasoning=False))
    assert told["hides_output"] == "1"
    shown = metadata(Gate().call(stream=True, max_tokens=5, include_reasoning=True))
    assert "hides_output" not in shown


def test_anthropics_dialect() -> None:
    told = metadata(Gate().call(MESSAGES, max_tokens=5, stream=True))
    assert told["dialect"] == "anthropic"
    assert "edits" not in told


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/models", "/v1/key"])
def test_what_costs_no_inference_holds_no_money(path: str) -> None:
    gate = Gate(budget_nanousd=0)
    response = gate.call(path)
    assert status(response) == 200
    assert "x-tensorgate-hold-usd" not in client_headers(response)
    assert "hold_id" not in metadata(response)
    assert gate.journal == []


def test_every_inference_call_has_a_hold_also_of_nothing() -> None:
    free = Gate()
    assert is_allowed(free.call(model="free"))
    assert free.hold.nanousd == 0
    unpriced = Gate(budget_nanousd=None)
    response = unpriced.call(model="nobody-knows", stream=True)
    assert is_allowed(response)
    assert (unpriced.hold.nanousd, unpriced.hold.price) == (0, Price())
    assert unpriced.hold.model == "nobody-knows"
    # its usage is asked for all the same; its output is not bounded, as nothing is held for it
    assert metadata(response)["hide_usage"] == "1"
    assert "max_tokens" not in metadata(response)["edits"]
    assert client_headers(response)["x-tensorgate-hold-usd"] == "0"


def test_time_that_has_a_price_has_an_end() -> None:
    gate = Gate()
    headers = upstream_headers(gate.call(model="timed"))
    assert headers["x-envoy-upstream-rq-timeout-ms"] == "100000"
    assert gate.hold.nanousd == USD // 1000 * (100 + MARGIN_SECONDS)
    assert "x-envoy-upstream-rq-timeout-ms" not in upstream_headers(gate.call(max_tokens=1))


def test_each_money_limit_has_a_window() -> None:
    gate = Gate(plan="capped")
    gate.call(max_tokens=1)
    scopes = [window.scope for window in gate.hold.windows]
    assert scopes == [gate.record.id, gate.record.account_id]


# -- what is refused


def test_a_budget_that_cannot_take_it() -> None:
    gate = Gate()
    gate.spend(USD - 1000)
    response = gate.call(max_tokens=32)
    assert (status(response), code(response)) == (429, "budget_exceeded")
    assert error(response)["type"] == "insufficient_quota"
    assert gate.journal[1:] == []


def test_a_budget_that_calls_in_flight_hold() -> None:
    gate = Gate(budget_nanousd=3_000_000)
    assert is_allowed(gate.call(max_tokens=1000))
    response = gate.call(max_tokens=1000)
    assert (status(response), code(response)) == (429, "budget_held")
    assert error(response)["type"] == "requests"
    assert client_headers(response)["retry-after"] == "2"
    assert "x-should-retry" not in client_headers(response)
    assert gate.memory.settle(gate.hold, 1000)
    assert is_allowed(gate.call(max_tokens=1000))


def test_exactly_the_budget_fits() -> None:
    gate = Gate()
    gate.call(max_tokens=10)
    cost = gate.hold.nanousd
    assert is_allowed(Gate(budget_nanousd=cost).call(max_tokens=10))
    assert code(Gate(budget_nanousd=cost - 1).call(max_tokens=10)) == "budget_exceeded"


def test_a_free_model_stays_usable_when_the_budget_is_spent() -> None:
    gate = Gate()
    gate.spend(USD)
    assert code(gate.call(max_tokens=1)) == "budget_exceeded"
    response = gate.call(model="free")
    assert is_allowed(response)
    assert client_headers(response)["x-budget-remaining-usd"] == "0"


@pytest.mark.parametrize("key", [{}, {"budget_nanousd": None, "plan": "capped"}])
def test_a_model_without_a_price_is_not_for_who_has_a_budget(key: dict[str, Any]) -> None:
    response = Gate(**key).call(model="nobody-knows")
    assert (status(response), code(response)) == (403, "model_not_priced")
    assert error(response)["param"] == "model"


def test_an_accounts_budget_holds_for_a_key_without_one() -> None:
    gate = Gate(budget_nanousd=None, plan="capped")
    gate.spend(USD)
    response = gate.call(max_tokens=1)
    assert code(response) == "budget_exceeded"
    headers = client_headers(response)
    assert (headers["x-budget-limit-usd"], headers["x-budget-remaining-usd"]) == ("1", "0")
    # the account is 20 days old, its key 10
    assert headers["x-budget-reset"] == rfc3339(gate.clock() + 10 * DAY_US)
    assert headers["retry-after"] == str(10 * 86_400)


def test_a_ceiling_at_the_start_admits_while_anything_is_left() -> None:
    gate = Gate(budget_nanousd=None, plan="easy")
    gate.spend(USD - 1)
    assert is_allowed(gate.call(max_tokens=1000))
    assert code(gate.call(max_tokens=1)) == "budget_held"
    assert gate.memory.settle(gate.hold, 5_000_000)
    response = gate.call(max_tokens=1)
    assert code(response) == "budget_exceeded"
    assert client_headers(response)["x-budget-remaining-usd"] == "0"


def test_a_key_without_any_budget_is_counted_all_the_same() -> None:
    gate = Gate(budget_nanousd=None)
    headers = client_headers(gate.call(max_tokens=5))
    assert not [name for name in headers if name.startswith("x-budget")]
    assert gate.hold.nanousd > 0
    [limit] = limits(gate.record, None, None)
    assert limit == MoneyLimit(gate.record.id, gate.record.created_us, None)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt"])
def test_what_the_server_keeps_is_refused_by_name(name: str) -> None:
    keys: list[dict[str, Any]] = [{}, {"budget_nanousd": None}]
    for key in keys:
        members: dict[str, Any] = {"input": "hi", name: "id_1"}
        response = Gate(**key).call(RESPONSES, **members)
        assert (status(response), code(response)) == (403, "parameter_not_allowed")
        assert error(response)["param"] == name
        assert 'error="insufficient_scope"' in client_headers(response)["www-authenticate"]


def test_where_the_catalog_allows_it_the_context_is_held() -> None:
    gate = Gate()
    given: dict[str, Any] = {"model": "keeps", "input": "hi", "max_output_tokens": 10}
    assert is_allowed(gate.call(RESPONSES, previous_response_id="resp_1", **given))
    assert gate.hold.input_bound == 1000
    assert code(gate.call(RESPONSES, previous_response_id="r", input="hi")) == (
        "parameter_not_allowed"
    )


def test_what_outlives_the_request_is_not_for_who_has_a_budget() -> None:
    response = Gate().call(RESPONSES, input="hi", background=True)
    assert (status(response), code(response)) == (403, "unbounded_not_allowed")
    assert error(response)["param"] == "background"
    account = Gate(budget_nanousd=None, plan="capped")
    assert code(account.call(RESPONSES, input="hi", background=True)) == "unbounded_not_allowed"
    assert is_allowed(Gate(budget_nanousd=None).call(RESPONSES, input="hi", background=True))
    assert is_allowed(Gate().call(RESPONSES, input="hi", background=False))


def test_parameters_come_before_the_model_and_the_model_before_its_price() -> None:
    gate = Gate(models=["llama"])
    gate.spend(USD)
    stranger: dict[str, Any] = {"model": "nobody-knows", "input": "hi"}
    assert code(gate.call(RESPONSES, max_output_tokens=0, conversation="c", **stranger)) == (
        "invalid_parameter"
    )
    assert code(gate.call(RESPONSES, conversation="c", background=True, **stranger)) == (
        "parameter_not_allowed"
    )
    assert code(gate.call(RESPONSES, background=True, **stranger)) == "unbounded_not_allowed"
    assert code(gate.call(RESPONSES, **stranger)) == "model_not_allowed"
    unpriced = Gate()
    unpriced.spend(USD)
    assert code(unpriced.call(RESPONSES, **stranger)) == "model_not_priced"
    assert code(unpriced.call(max_tokens=1)) == "budget_exceeded"


def test_the_minute_comes_before_money() -> None:
    gate = Gate(rpm=1)
    gate.spend(USD)
    assert code(gate.call(max_tokens=1)) == "rate_limit_exceeded"
    gate.clock.advance(seconds=60)
    assert code(gate.call(max_tokens=1)) == "budget_exceeded"


def test_no_refusal_consumes_anything() -> None:
    gate = Gate(rpm=5, budget_nanousd=1_000_000)
    for _ in range(9):
        assert code(gate.call(max_tokens=1000)) == "budget_exceeded"
        assert code(gate.call(model="nobody-knows")) == "model_not_priced"
        assert code(gate.call(max_tokens=0)) == "invalid_parameter"
    headers = client_headers(gate.call(max_tokens=1))
    assert headers["x-ratelimit-remaining-requests"] == "4"
    left = 1_000_000 - gate.hold.nanousd
    assert headers["x-budget-remaining-usd"] == usd_plain(left)


@pytest.mark.parametrize(
    ("path", "members", "param"),
    [
        ("/v1/chat/completions", {"model": "dear"}, "messages"),
        ("/v1/chat/completions", {"model": "dear", "n": 7}, "n"),
        ("/v1/completions", {"model": "dear", "prompt": ["a"] * 9}, "prompt"),
    ],
)
@pytest.mark.parametrize("budget", [None, 10**9])
def test_a_call_that_could_cost_more_than_can_be_counted(
    path: str, members: dict[str, Any], param: str, budget: int | None
) -> None:
    gate = Gate(budget_nanousd=budget)
    response = gate.call(path, **members)
    assert (status(response), code(response)) == (400, "invalid_parameter")
    assert error(response)["param"] == param
    assert "$1,000,000.00" in said(response)
    assert gate.journal == []


def test_the_largest_call_there_is_can_be_counted() -> None:
    gate = Gate(budget_nanousd=None)
    row = gate.checker.catalog.models["free"]
    given: dict[str, Any] = {"model": "free", "prompt": ["a"] * 1024, "n": 1024}
    assert is_allowed(gate.call("/v1/completions", **given))
    assert gate.hold.output_bound == (1 << 20) * row.context_tokens <= INT64_MAX


# -- headers and words


def test_the_words_of_a_spent_budget() -> None:
    gate = Gate(dashboard="https://gate.example", budget_nanousd=5 * USD)
    gate.spend(4_100_000_000)
    response = gate.call(max_tokens=32000, n=17)
    assert code(response) == "budget_exceeded"
    assert said(response) == (
        "This call could cost up to $1.09, and $0.90 of $5.00 is left until "
        f"{utc(gate.clock() + 20 * DAY_US)}. "
        "Lower `max_tokens` (32000) or raise the budget at https://gate.example/keys."
    )
    headers = client_headers(response)
    assert headers["retry-after"] == str(20 * 86_400)
    assert headers["x-should-retry"] == "false"
    assert "retry-after-ms" not in headers
    assert headers["x-budget-reset"] == rfc3339(gate.clock() + 20 * DAY_US)
    assert (headers["x-budget-limit-usd"], headers["x-budget-remaining-usd"]) == ("5", "0.9")


def test_without_a_dashboard_they_name_nobodys_page() -> None:
    gate = Gate(budget_nanousd=1000)
    assert said(gate.call(max_tokens=7)).endswith(
        "Lower `max_tokens` (7) or ask whoever runs this gate for a larger budget."
    )


def test_an_accounts_budget_is_called_so() -> None:
    gate = Gate(dashboard="https://gate.example", budget_nanousd=None, plan="capped")
    gate.spend(USD)
    words = said(gate.call(max_tokens=5))
    assert "$0.00 of this account's $1.00 is left until" in words
    assert words.endswith("or ask whoever runs this gate for a larger budget.")


@pytest.mark.parametrize(
    ("path", "members", "advice"),
    [
        ("/v1/chat/completions", {}, "Lower `max_tokens` (1000)"),
        (
            "/v1/chat/completions",
            {"max_tokens": 5, "max_completion_tokens": 9},
            "Lower `max_completion_tokens` (9)",
        ),
        ("/v1/responses", {"input": "hi"}, "Lower `max_output_tokens` (1000)"),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 3}, "Lower `max_tokens` (1000)"),
        ("/v1/embeddings", {"input": "hi"}, "Send a shorter prompt"),
    ],
)
def test_what_can_be_done_is_said(path: str, members: dict[str, Any], advice: str) -> None:
    assert f". {advice} or " in said(Gate(budget_nanousd=10).call(path, **members))


def test_the_words_of_a_held_budget() -> None:
    gate = Gate(budget_nanousd=3_000_000)
    gate.call(max_tokens=1000)
    held = gate.hold.nanousd
    response = gate.call(max_tokens=1000)
    assert said(response) == (
        f"This call could cost up to {usd_rounded(held, up=True)}, and calls in flight hold "
        f"{usd_rounded(held, up=True)} of $0.003. Try again when one of them has ended."
    )


@pytest.mark.parametrize("path", ["/v1/chat/completions", MESSAGES])
def test_refusals_of_money_are_two_sentences_at_most_in_both_dialects(path: str) -> None:
    spent, held = Gate(), Gate(budget_nanousd=3_000_000)
    spent.spend(USD)
    held.call(max_tokens=1000)
    for gate, tokens in ((spent, 5), (held, 1000)):
        response = gate.call(path, max_tokens=tokens)
        words = said(response)
        assert len(re.findall(r"\.(?= [A-Z]|$)", words)) <= 2
        assert gate.key not in words
        if path == MESSAGES:
            assert answer_body(response)["type"] == "error"
            assert error(response)["type"] == "rate_limit_error"
        headers = client_headers(response)
        told_not_to = headers.get("x-should-retry") == "false"
        assert told_not_to == (int(headers["retry-after"]) > 2)


def test_of_several_budgets_the_one_with_the_least_left_is_shown() -> None:
    gate = Gate(budget_nanousd=USD // 2, plan="capped")
    assert client_headers(gate.call(max_tokens=1))["x-budget-limit-usd"] == "0.5"
    gate = Gate(budget_nanousd=9 * USD, plan="capped")
    assert client_headers(gate.call(max_tokens=1))["x-budget-limit-usd"] == "1"


def test_a_key_whose_plan_the_catalog_has_lost_spends_nothing_without_a_ceiling() -> None:
    """Neither before money nor at it, whatever the key itself may spend."""
    gate = Gate(budget_nanousd=9 * USD, plan="gone")
    refused = gate.call(max_tokens=1)
    assert error(refused)["code"] == "budget_exceeded"
    assert client_headers(refused)["x-should-retry"] == "false"
    assert client_headers(refused)["x-budget-limit-usd"] == "0"
    assert is_allowed(gate.call(model="free"))
    unlimited = Gate(budget_nanousd=None, plan="gone")
    assert error(unlimited.call())["code"] == "budget_exceeded"
    assert error(unlimited.call(model="unheard-of"))["code"] == "model_not_priced"
    assert client_headers(unlimited.call(model="unheard-of"))["x-budget-limit-usd"] == "0"
    has_one = CATALOG.replace("  free: {}", "  free: {account_budget_usd: 1}")
    gate = Gate(budget_nanousd=9 * USD, plan="gone", catalog=has_one)
    assert client_headers(gate.call(max_tokens=1))["x-budget-limit-usd"] == "1"


def test_a_refusal_before_money_says_how_money_stands() -> None:
    gate = Gate()
    gate.spend(USD // 4)
    headers = client_headers(gate.call(model="nobody-knows"))
    assert headers["x-budget-remaining-usd"] == "0.75"
    assert "x-tensorgate-hold-usd" not in headers
    assert "retry-after" not in headers


# -- repetitions, and Checks that nobody waits for


def test_a_check_that_repeats_what_has_ended_is_not_served() -> None:
    gate = Gate()
    gate.call(request_id="req-x", max_tokens=5)
    gate.memory.settle(gate.hold, 5)
    response = gate.call(request_id="req-x", max_tokens=5)
    assert (status(response), code(response)) == (503, "authorization_unavailable")
    assert client_headers(response)["retry-after"] == "1"


def test_a_check_that_nobody_waits_for_gives_its_hold_back() -> None:
    gate = Gate()
    response = gate.call(max_tokens=5, is_active=lambda: False)
    assert (status(response), code(response)) == (503, "authorization_unavailable")
    [(hold, charge)] = gate.settled.ends
    assert (hold, charge.basis, charge.nanousd) == (gate.hold, Basis.RELEASED, 0)


def test_but_not_while_another_check_of_the_request_has_it() -> None:
    gate = Gate()
    assert is_allowed(gate.call(request_id="req-x", max_tokens=5))
    gate.call(request_id="req-x", max_tokens=5, is_active=lambda: False)
    assert gate.settled.ends == []
    gate.call(request_id="req-x", max_tokens=5, is_active=lambda: False)
    assert gate.settled.ends == []  # the first one is served
    assert len(gate.memory.open_holds()) == 1


def test_a_journal_that_is_out_is_fail_closed() -> None:
    gate = Gate()

    def is_full(_hold: object) -> None:
        raise StoreUnavailableError("the disk is full")

    gate.memory._journal = is_full
    response = gate.call(max_tokens=5)
    assert (status(response), code(response)) == (503, "authorization_unavailable")
    assert gate.memory.open_holds() == []


def test_whatever_body_is_sent_a_check_is_answered() -> None:
    gate = Gate(budget_nanousd=None)
    for raw in (b"", b"{}", b"[]", b'{"model":"dear","n":1048576,"best_of":1048577}', b"\xff"):
        sent = message("/v1/chat/completions", {"authorization": f"Bearer {gate.key}"}, raw)
        assert status(gate.answer(sent)) == 400


# -- what we answer ourselves


def test_a_key_sees_what_it_spent_and_holds() -> None:
    gate = Gate()
    gate.spend(USD // 4)
    gate.call(max_tokens=1)
    seen = answer_body(gate.call("/v1/key"))
    assert (seen["budget_usd"], seen["spent_usd"]) == (1, 0.25)
    assert seen["held_usd"] == usd_json(gate.hold.nanousd)
    assert seen["budget_reset"] == rfc3339(gate.clock() + 20 * DAY_US)


@pytest.mark.parametrize(
    ("key", "listed"),
    [
        ({"budget_nanousd": None}, True),
        ({"budget_nanousd": 5}, False),
        ({"budget_nanousd": None, "plan": "capped"}, False),
    ],
)
def test_models_without_a_price_are_listed_for_those_who_may_call_them(
    key: dict[str, Any], listed: bool
) -> None:
    gate = Gate(**key)
    catalog: Catalog = gate.checker.catalog
    names = ours.callable_names(gate.record, catalog, ["listed"])
    assert ("listed" in names) is listed
    assert (ours.find_model(gate.record, catalog, ["listed"], "listed") == "listed") is listed
    assert is_allowed(gate.call(model="listed")) is listed
    assert {"llama", "free"} <= set(names)


# -- how money is written


@pytest.mark.parametrize(
    ("nanousd", "for_people", "plain", "up", "down"),
    [
        (0, "$0.00", "0", "$0.00", "$0.00"),
        (1, "$0.000000001", "0.000000001", "$0.0001", "$0.00"),
        (999_999_999, "$0.999999999", "0.999999999", "$1.00", "$0.9999"),
        (USD, "$1.00", "1", "$1.00", "$1.00"),
        (1_080_100_000, "$1.0801", "1.0801", "$1.09", "$1.08"),
        (900_000_000, "$0.90", "0.9", "$0.90", "$0.90"),
        (1_234_567 * USD, "$1,234,567.00", "1234567", "$1,234,567.00", "$1,234,567.00"),
        (10 * USD, "$10.00", "10", "$10.00", "$10.00"),
    ],
)
def test_usd(nanousd: int, for_people: str, plain: str, up: str, down: str) -> None:
    assert (usd(nanousd), usd_plain(nanousd)) == (for_people, plain)
    assert (usd_rounded(nanousd, up=True), usd_rounded(nanousd, up=False)) == (up, down)


@pytest.mark.parametrize(
    ("nanousd", "expected"),
    [
        (None, None),
        (0, 0),
        (5 * USD, 5),
        (USD // 4, 0.25),
        (1, 1e-9),
        (123_456_789_123_456_789, "123456789.123456789"),
    ],
)
def test_usd_as_json(nanousd: int | None, expected: object) -> None:
    assert usd_json(nanousd) == expected


# -- other servers' calls

SERVERS = """
models:
  llama: {price: {input: 1, output: 2}, context_tokens: 10000, max_output_tokens: 100}
  "llama:gold": {price: {input: 10, output: 20}, context_tokens: 10000, max_output_tokens: 100}
  "big:latest": {price: {input: 4}, context_tokens: 10000, controls: [keep_alive]}
default: {price: {}, context_tokens: 10}
plans: {free: {}}
default_plan: free
native_model: llama
endpoints:
  - {name: fill, path: /v1/fim, input: prompt, output: [most]}
  - {name: sort, path: /v1/sort, model: form, lane: listing}
""".replace("price: {}", "price: {output: 0}")


def test_how_an_answer_is_metered_is_said() -> None:
    gate = Gate(catalog=SERVERS)
    for path, usage in (
        ("/v1/chat/completions", "openai"),
        ("/v1/messages", "anthropic"),
        ("/v1beta/models/llama:generateContent", "gemini"),
        ("/api/chat", "ollama"),
        ("/completion", "none"),
        ("/v1/fim", "openai"),
    ):
        response = gate.call(path)
        assert is_allowed(response), path
        assert metadata(response)["usage"] == usage
        assert gate.hold.model == "llama"


def test_a_bound_is_put_inside_an_object() -> None:
    gate = Gate(catalog=SERVERS)
    asked = gate.message("/api/chat", options={"seed": 1})
    raw = asked.attributes.request.http.raw_body
    response = gate.answer(asked)
    edits = [Edit(*edit) for edit in json.loads(metadata(response)["edits"])]
    options = {"num_predict": 100, "seed": 1}
    assert json.loads(edited(raw, edits)) == json.loads(raw) | {"options": options}
    assert metadata(response)["stream"] == "1"


def test_an_adapter_is_priced_as_itself_or_as_its_model() -> None:
    gate = Gate(catalog=SERVERS)
    for adapter, price in ((None, 10**9), ("silver", 10**9), ("gold", 10 * 10**9)):
        assert is_allowed(gate.call(max_tokens=1, lora_path=adapter))
        assert gate.hold.price.input == price
        assert gate.hold.model == ("llama" if adapter is None else f"llama:{adapter}")


def test_no_way_to_write_a_name_has_another_price() -> None:
    gate = Gate(catalog=SERVERS)
    for name in ("big", "BIG:latest", "library/big", "registry.ollama.ai/library/Big:latest"):
        for path in ("/api/chat", "/v1/chat/completions"):
            assert is_allowed(gate.call(path, model=name)), (name, path)
            assert gate.hold.price.input == 4 * 10**9, (name, path)
    assert is_allowed(gate.call("/api/chat", model="big:8b"))
    assert gate.hold.price.input == 0


def test_a_control_that_the_models_row_allows() -> None:
    gate = Gate(catalog=SERVERS)
    assert is_allowed(gate.call("/api/chat", model="big", keep_alive="5m"))
    response = gate.call("/api/chat", model="llama", keep_alive="5m")
    assert status(response) == 403
    found = error(response)
    assert (found["code"], found["param"]) == ("parameter_not_allowed", "keep_alive")
    assert found["message"] == (
        "`keep_alive` is not allowed here: it steers the server itself, which others share. "
        "Leave it out."
    )
    response = gate.call(model="llama", lora=[{"id": 0, "scale": 1.0}])
    assert error(response)["message"] == (
        "`lora` is not allowed here: name one adapter, as a string, or none."
    )


def test_a_name_without_a_tag_goes_on_as_the_catalogs() -> None:
    gate = Gate(catalog=SERVERS)
    response = gate.call("/api/chat", model="big")
    assert upstream_headers(response)["x-tensorgate-model"] == "big:latest"
    response = gate.call("/v1/chat/completions", model="big")
    assert upstream_headers(response)["x-tensorgate-model"] == "big"


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nllama\r\n'
    b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n2\r\n--x--\r\n'
)


def test_what_is_held_where_nothing_bounds_the_output_or_there_is_none() -> None:
    gate = Gate(catalog=SERVERS)
    form = bearer(gate.key) | {"content-type": "multipart/form-data; boundary=x"}
    assert is_allowed(gate.answer(message("/v1/images/edits", form, FORM, request_id="form")))
    assert (gate.hold.input_bound, gate.hold.output_bound) == (10_000, 20_000)
    assert is_allowed(gate.call("/v1/images/generations", prompt="a cat", n=3))
    assert gate.hold.output_bound == 30_000
    assert is_allowed(gate.call("/v1/rerank", messages=None, query="q", documents=["a", "b"]))
    assert gate.hold.output_bound == 0
    assert is_allowed(gate.call("/v2/models/llama/infer", inputs=[]))
    assert (gate.hold.input_bound, gate.hold.output_bound) == (10_000, 10_000)
    held = len(gate.journal)
    assert is_allowed(gate.answer(message("/v1/sort", form, FORM, request_id="sort")))
    assert len(gate.journal) == held


def test_a_listing_costs_nothing_however_dear_its_model() -> None:
    dear = SERVERS.replace(
        "{input: 1, output: 2}, context_tokens: 10000,",
        "{output: 1000000}, context_tokens: 1000000000,",
    )
    gate = Gate(catalog=dear)
    form = bearer(gate.key) | {"content-type": "multipart/form-data; boundary=x"}
    assert status(gate.answer(message("/v1/images/edits", form, FORM, request_id="form"))) == 400
    assert is_allowed(gate.answer(message("/v1/sort", form, FORM, request_id="sort")))


def test_a_listing_holds_nothing_whatever_its_body_says() -> None:
    gate = Gate(catalog=SERVERS)
    assert is_allowed(gate.call("/api/show", model="llama"))
    assert is_allowed(gate.call("/v1beta/models/llama:countTokens", contents=[]))
    assert gate.journal == []


def test_the_keys_models_in_ollamas_shape() -> None:
    gate = Gate(catalog=SERVERS, models=frozenset({"llama"}))
    response = gate.answer(message("/api/tags", bearer(gate.key), method="GET"))
    assert status(response) == 200
    assert [row["name"] for row in answer_body(response)["models"]] == ["llama"]
