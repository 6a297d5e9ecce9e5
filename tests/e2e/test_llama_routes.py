"""A real llama.cpp server behind the gate, on its OpenAI, Anthropic and native routes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from load.audit import until
from moneygate import booked
from peers.client import Answer, call
from peers.llama import MODEL, Llama
from peers.stack import Stack, StartStack

CATALOG = f"""\
models:
  {MODEL}: {{price: {{input: 1, output: 2}}, context_tokens: 4096, max_output_tokens: 8}}
  other: {{price: {{input: 1, output: 2}}, context_tokens: 4096, max_output_tokens: 8}}
native_model: {MODEL}
plans:
  test: {{}}
default_plan: test
"""
_SAID = [{"role": "user", "content": "Once"}]
ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"model": MODEL, "messages": _SAID}, "choices"),
    "/v1/completions": ({"model": MODEL, "prompt": "Once"}, "choices"),
    "/v1/embeddings": ({"model": MODEL, "input": "Once"}, "data"),
    "/v1/responses": ({"model": MODEL, "input": "Once"}, "output"),
    "/v1/messages": ({"model": MODEL, "messages": _SAID, "max_tokens": 8}, "content"),
    "/completion": ({"prompt": "Once"}, "content"),
    "/completions": ({"prompt": "Once", "n_predict": 4}, "content"),
    "/embedding": ({"content": "Once"}, ""),
}
LISTED: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/messages/count_tokens": ({"model": MODEL, "messages": _SAID}, "input_tokens"),
    "/tokenize": ({"content": "Once"}, "tokens"),
    "/detokenize": ({"tokens": [1, 2]}, "content"),
    "/apply-template": ({"messages": _SAID}, "prompt"),
}
EVERY = ROUTES | LISTED


@dataclass(frozen=True)
class Site:
    """A gate before the server and keys: a good one, and one for each way to be refused."""

    gate: Stack
    good: dict[str, Any]
    other: str
    expired: str

    def call(self, path: str, key: str | None = None, **members: Any) -> Answer:
        body = json.dumps(EVERY[path][0] | members).encode()
        return call(self.gate, path, key=key or self.good["key"], body=body)


@pytest.fixture(scope="module")
def site(start_stack: StartStack, llama: Llama) -> Site:
    gate = start_stack(llama.address, catalog=CATALOG)
    expired = gate.mint()
    made = Site(gate, gate.mint(models=MODEL), gate.mint(models="other")["key"], expired["key"])
    gate.expire(expired["id"])
    path = next(iter(EVERY))
    until(lambda: made.call(path, made.expired).status == 401, 10, "the key expired")
    return made


def test_allowed_calls_are_answered_by_the_server_and_booked(site: Site) -> None:
    for path, (_, member) in EVERY.items():
        answer = site.call(path)
        assert answer.status == 200, (path, answer.body)
        assert not member or member in answer.json(), path
    rows = booked(site.gate, site.good, len(ROUTES))
    assert {row["model"] for row in rows} == {MODEL}
    assert all(row["charge_nanousd"] <= row["hold_nanousd"] for row in rows)
    by_endpoint = {row["endpoint"]: row for row in rows}
    for endpoint in ("chat.completions", "completions", "messages"):
        assert by_endpoint[endpoint]["basis"] == "metered"
        assert 0 < int(str(by_endpoint[endpoint]["output_tokens"])) <= 8


def test_the_bound_of_a_native_call_is_heeded(site: Site) -> None:
    """Nobody said how much; the catalog's bound is what the server keeps to."""
    answer = site.call("/completion", ignore_eos=True).json()
    assert answer["tokens_predicted"] == 8
    assert site.call("/completion", ignore_eos=True, n_predict=3).json()["tokens_predicted"] == 3
    assert site.call("/completion", n_predict=-1).code == "invalid_parameter"


@pytest.mark.parametrize("path", EVERY)
def test_another_model_is_denied(site: Site, path: str) -> None:
    answer = site.call(path, site.other)
    assert (answer.status, answer.code) == (403, "model_not_allowed")
    assert answer.json().get("type") == ("error" if path.startswith("/v1/messages") else None)
    named = site.call(path, model="other")
    if "model" in EVERY[path][0]:
        assert (named.status, named.code) == (403, "model_not_allowed")
    else:
        assert (named.status, named.code) == (400, "ambiguous_body")


@pytest.mark.parametrize("path", EVERY)
def test_an_expired_key_and_none(site: Site, path: str) -> None:
    answer = site.call(path, site.expired)
    assert (answer.status, answer.code) == (401, "api_key_expired")
    bare = call(site.gate, path, body=b"{}")
    assert (bare.status, bare.code) == (401, "missing_api_key")


def test_over_the_minute_on_every_route(site: Site) -> None:
    """One call in the minute is let through, whichever route it takes; then none is."""
    inference, listing = (site.gate.mint(models=MODEL, rpm=1)["key"] for _ in range(2))
    assert site.call("/completion", inference, n_predict=1).status == 200
    for path in ROUTES:
        answer = site.call(path, inference)
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded"), path
    assert [site.call("/tokenize", listing).status for _ in range(10)] == [200] * 10
    for path in LISTED:
        answer = site.call(path, listing)
        assert (answer.status, answer.code) == (429, "rate_limit_exceeded"), path


@pytest.mark.parametrize(
    "members", [{"id_slot": 1}, {"lora": [{"id": 0, "scale": 1.0}]}, {"chat_template": "x"}]
)
@pytest.mark.parametrize("path", EVERY)
def test_what_steers_the_server_is_denied(site: Site, path: str, members: dict[str, Any]) -> None:
    answer = site.call(path, **members)
    assert (answer.status, answer.code) == (403, "parameter_not_allowed")
