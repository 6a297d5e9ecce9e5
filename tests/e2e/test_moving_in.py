"""A gate that takes over LiteLLM's keys: the real Envoy, real tables, and spans and logs of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from litellmhelp import LiteLLM, litellm_on, plaintext
from peers.client import call
from peers.collector import Collector, Told, collecting
from peers.postgres import Postgres
from peers.recorder import Recorder
from peers.stack import Stack, StartStack
from waiting import until

from admin.litellmkeys import FOREIGN_FORM

NOW = datetime.now(UTC).replace(tzinfo=None)
UNKNOWN = "sk-0000000000000000000000"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, server: Recorder, collector: Collector) -> Stack:
    return start_stack(
        server.address,
        env={
            "TENSORGATE_FOREIGN_KEYS": FOREIGN_FORM,
            "TENSORGATE_LOG_FORMAT": "json",
            "TENSORGATE_LOG_DECISIONS": "1",
            "TENSORGATE_TRACING": collector.address,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
    )


@pytest.fixture(scope="module")
def litellm(postgres: Postgres) -> Iterator[LiteLLM]:
    with litellm_on(postgres) as made:
        made.user("u1", "anna@example.org")
        yield made


def moved(gate: Stack, litellm: LiteLLM, *given: str) -> Any:
    return gate.cli("import", "litellm", "--from", litellm.url, *given)


def logged(gate: Stack) -> list[dict[str, Any]]:
    lines = (gate.state / "log" / "authz.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_clients_keep_their_keys_and_what_is_left_of_their_budgets(
    gate: Stack, litellm: LiteLLM
) -> None:
    month = {"budget_duration": "30d", "budget_reset_at": NOW + timedelta(days=10)}
    left = litellm.key(plaintext(1), key_alias="Left", user_id="u1", spend=0.5, max_budget=1)
    empty = litellm.key(
        plaintext(2), key_alias="Empty", user_id="u1", spend=0.9999, max_budget=1, **month
    )
    narrow = litellm.key(plaintext(3), key_alias="Narrow", user_id="u1", models=["other"])
    blocked = litellm.key(plaintext(4), key_alias="Blocked", user_id="u1", blocked=True)
    assert call(gate, key=left).code == "invalid_api_key"

    planned = moved(gate, litellm, "--dry-run")
    assert [line["name"] for line in planned["imported"]] == ["Left", "Empty", "Narrow"]
    assert call(gate, key=left).code == "invalid_api_key"
    done = moved(gate, litellm)
    assert done == planned | {"dry_run": False}
    assert done["foreign_keys"]["accepted"] is True
    assert litellm.url not in json.dumps(done)

    # at once, though the gate had learnt just now that there is no such key
    answer = call(gate, key=left)
    assert answer.status == 200
    assert 0.4 < float(answer.headers["x-budget-remaining-usd"]) < 0.5
    refused = call(gate, key=empty)
    assert refused.code == "budget_exceeded"
    reset = datetime.fromisoformat(refused.headers["x-budget-reset"]).replace(tzinfo=None)
    assert abs(reset - month["budget_reset_at"]) < timedelta(seconds=2)
    assert call(gate, key=narrow).code == "model_not_allowed"
    for wrong in (blocked, UNKNOWN):
        assert call(gate, key=wrong).code == "invalid_api_key"

    again = moved(gate, litellm)
    assert (again["imported"], again["changed"], again["unchanged"]) == ([], [], 3)
    assert gate.cli("ledger", "verify")["faults"] == []
    (found,) = gate.cli("keys", "list", "--search", "EMPT")
    assert (found["alias"], found["imported_name"]) == ("empty", "Empty")


def test_what_is_spent_there_meanwhile_counts_in_a_gate_that_runs(
    gate: Stack, litellm: LiteLLM
) -> None:
    plain = litellm.key(plaintext(11), key_alias="both", user_id="u1", spend=0.1, max_budget=1)
    moved(gate, litellm)
    assert call(gate, key=plain).status == 200
    litellm.change(plain, spend=0.9999)
    (changed,) = moved(gate, litellm)["changed"]
    assert changed["changes"] == [{"what": "spend", "there": "$0.10", "here": "$0.9999"}]
    until(lambda: call(gate, key=plain).status == 429, 3, "the spend is counted")
    assert call(gate, key=plain).code == "budget_exceeded"
    litellm.change(plain, blocked=True)
    moved(gate, litellm)
    until(lambda: call(gate, key=plain).status == 401, 3, "the key is revoked")
    assert call(gate, key=plain).code == "api_key_revoked"
    assert gate.cli("ledger", "verify")["faults"] == []


def test_a_check_is_a_span_in_envoys_trace(gate: Stack, collector: Collector) -> None:
    key = gate.mint()
    answer = call(gate, key=key["key"])
    request_id = answer.headers["x-request-id"]
    call(gate, f"/v1/models?key={key['key']}")

    def ours(told: list[Told]) -> list[Told]:
        return [
            t
            for t in told
            if t.service == "tensorgate-authz"
            and t.attributes["tensorgate.request_id"] == request_id
        ]

    def envoys(told: list[Told]) -> list[Told]:
        traces = {t.span.trace_id for t in ours(told)}
        found = [t for t in told if t.service == "tensorgate-envoy"]
        return [t for t in found if t.span.trace_id in traces]

    told = collector.until(lambda told: len(ours(told)) == 1 and len(envoys(told)) >= 2)
    (check,) = ours(told)
    assert check.span.name == "check"
    assert check.attributes["tensorgate.outcome"] == "allowed"
    assert check.attributes["tensorgate.key_id"] == key["id"]
    assert check.span.parent_span_id in {t.span.span_id for t in envoys(told)}
    collector.until(
        lambda told: any(t.attributes.get("tensorgate.reason") == "key_in_url" for t in told)
    )
    assert key["key"].encode() not in collector.raw


def test_decisions_are_logged_as_json_and_no_key_is(gate: Stack) -> None:
    key = gate.mint()
    answer = call(gate, key=key["key"])
    call(gate, key=UNKNOWN)
    decided = [line for line in logged(gate) if line["event"] == "decision"]
    (line,) = [d for d in decided if d["request_id"] == answer.headers["x-request-id"]]
    assert (line["outcome"], line["key_id"], line["model"]) == ("allowed", key["id"], "recorder")
    assert {line["event"] for line in logged(gate)} > {"decision"}, "all of the log is JSON"
    whole = (gate.state / "log" / "authz.log").read_text()
    for secret in (key["key"], UNKNOWN, plaintext(1), plaintext(2), plaintext(11)):
        assert secret not in whole
