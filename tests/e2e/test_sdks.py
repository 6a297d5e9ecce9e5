"""The real SDKs through the whole gate, before a real llama.cpp server and before the demo."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
from peers.llama import MODEL, Llama
from peers.stack import Stack, StartStack

from store import keyformat

CHAT: list[Any] = [{"role": "user", "content": "Say something, é!"}]
GONE_SECONDS = 1.0  # a revocation shows at the latest after so long


@dataclass
class Clients:
    """SDK clients that never retry, on one gate; all are closed with the module."""

    gate: Stack
    closing: ExitStack

    def openai(self, key: str) -> openai.OpenAI:
        return self.closing.enter_context(
            openai.OpenAI(base_url=f"{self.gate.url}/v1", api_key=key, max_retries=0, timeout=30)
        )

    def anthropic(self, key: str) -> anthropic.Anthropic:
        return self.closing.enter_context(
            anthropic.Anthropic(base_url=self.gate.url, api_key=key, max_retries=0, timeout=30)
        )

    def mint(self, **limits: Any) -> dict[str, Any]:
        return self.gate.mint(**limits)


@pytest.fixture(scope="module")
def clients(start_stack: StartStack, llama: Llama) -> Iterator[Clients]:
    """Before llama.cpp."""
    with ExitStack() as closing:
        yield Clients(start_stack(llama.address), closing)


@pytest.fixture(scope="module")
def key(clients: Clients) -> str:
    """May call every model, without limits."""
    return str(clients.mint()["key"])


@pytest.fixture(scope="module")
def ai(clients: Clients, key: str) -> openai.OpenAI:
    return clients.openai(key)


@pytest.fixture(scope="module")
def claude(clients: Clients, key: str) -> anthropic.Anthropic:
    return clients.anthropic(key)


def test_openai_chat(ai: openai.OpenAI) -> None:
    raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=CHAT, max_tokens=6)
    said = raw.parse()
    assert said.choices[0].message.content
    assert said.choices[0].finish_reason == "length"
    assert said.usage is not None
    assert said.usage.completion_tokens == 6
    assert said._request_id is not None
    assert said._request_id == raw.headers["x-request-id"]


def test_openai_chat_streamed(ai: openai.OpenAI) -> None:
    stream = ai.chat.completions.create(
        model=MODEL,
        messages=CHAT,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in texts)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_a_bound_by_its_newer_name(ai: openai.OpenAI) -> None:
    said = ai.chat.completions.create(model=MODEL, messages=CHAT, max_completion_tokens=4)
    assert said.usage is not None
    assert said.usage.completion_tokens == 4


def test_openai_completions(ai: openai.OpenAI) -> None:
    said = ai.completions.create(model=MODEL, prompt="the house of", max_tokens=5)
    assert said.choices[0].text
    assert said.usage is not None
    assert said.usage.completion_tokens == 5


def test_openai_embeddings(ai: openai.OpenAI) -> None:
    said = ai.embeddings.create(model=MODEL, input=["the house", "the water"])
    assert [len(each.embedding) for each in said.data] == [64, 64]
    assert said.data[0].embedding != said.data[1].embedding


def test_openai_responses(ai: openai.OpenAI) -> None:
    said = ai.responses.create(model=MODEL, input="Hello.", max_output_tokens=5)
    assert said.output_text
    assert said.usage is not None
    assert said.usage.output_tokens == 5


def test_openai_sends_large_prompts(ai: openai.OpenAI) -> None:
    """Far more than fits one buffer, and more than llama.cpp will take: its own words come."""
    messages: list[Any] = [{"role": "user", "content": "the water " * 100_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)
    assert "exceed" in caught.value.message
    assert "x-tensorgate-reason" not in caught.value.response.headers


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    said = claude.messages.create(model=MODEL, max_tokens=6, messages=CHAT)
    assert said.content[0].type == "text"
    assert said.content[0].text
    assert said.stop_reason == "max_tokens"
    assert said.usage.output_tokens == 6
    assert said._request_id is not None


def test_anthropic_messages_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=MODEL, max_tokens=6, messages=CHAT) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.content[0].type == "text"
    assert final.content[0].text == text
    assert final.usage.output_tokens == 6


def test_anthropic_count_tokens(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=CHAT)
    used = claude.messages.create(model=MODEL, max_tokens=1, messages=CHAT).usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)


def test_anthropic_signs_in_with_a_bearer_token_too(clients: Clients, key: str) -> None:
    """As Claude Code does with ANTHROPIC_AUTH_TOKEN."""
    with anthropic.Anthropic(
        base_url=clients.gate.url, auth_token=key, api_key=None, max_retries=0
    ) as bearer:
        assert bearer.messages.create(model=MODEL, max_tokens=2, messages=CHAT).content


def test_both_list_and_retrieve_models(ai: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert [model.id for model in ai.models.list()] == [MODEL]
    assert ai.models.retrieve(MODEL).object == "model"
    listed = list(claude.models.list())
    assert [(model.id, model.type) for model in listed] == [(MODEL, "model")]
    assert claude.models.retrieve(MODEL).id == MODEL
    assert claude.models.retrieve(MODEL).created_at == listed[0].created_at
    with pytest.raises(openai.NotFoundError) as caught:
        ai.models.retrieve("no-such-model")
    assert caught.value.code == "not_found"


def test_models_are_those_that_the_key_may_call(clients: Clients) -> None:
    other = clients.openai(clients.mint(models="other-model")["key"])
    assert MODEL not in [model.id for model in other.models.list()]
    with pytest.raises(openai.NotFoundError):
        other.models.retrieve(MODEL)


def unknown_key() -> str:
    """Well formed, never minted."""
    return keyformat.mint()


def mistyped(key: str) -> str:
    return key[:-1] + ("a" if key[-1] != "a" else "b")


WRONG_KEYS: dict[str, Callable[[str], str]] = {
    "unknown": lambda _: unknown_key(),
    "mistyped": mistyped,
    "foreign": lambda _: f"sk-{secrets.token_hex(24)}",
}


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_an_invalid_key_is_an_authentication_error(clients: Clients, key: str, wrong: str) -> None:
    value = WRONG_KEYS[wrong](key)
    with pytest.raises(openai.AuthenticationError) as by_openai:
        clients.openai(value).chat.completions.create(model=MODEL, messages=CHAT)
    expect_openai(by_openai.value, 401, "invalid_api_key", "authentication_error")
    with pytest.raises(anthropic.AuthenticationError) as by_anthropic:
        clients.anthropic(value).messages.create(model=MODEL, max_tokens=1, messages=CHAT)
    expect_anthropic(by_anthropic.value, 401, "invalid_api_key", "authentication_error")
    for fault in (by_openai.value, by_anthropic.value):
        assert value not in fault.response.text


def test_a_missing_key_is_an_authentication_error(clients: Clients) -> None:
    none: Any = {"Authorization": openai.Omit()}
    with pytest.raises(openai.AuthenticationError) as by_openai:
        clients.openai("none").models.list(extra_headers=none)
    expect_openai(by_openai.value, 401, "missing_api_key", "authentication_error")
    none = {"Authorization": anthropic.Omit(), "X-Api-Key": anthropic.Omit()}
    with pytest.raises(anthropic.AuthenticationError) as by_anthropic:
        clients.anthropic("none").with_options(default_headers=none).messages.create(
            model=MODEL, max_tokens=1, messages=CHAT
        )
    expect_anthropic(by_anthropic.value, 401, "missing_api_key", "authentication_error")
    for fault in (by_openai.value, by_anthropic.value):
        sent = fault.response.request.headers
        assert not sent.keys() & {"authorization", "x-api-key"}


def test_a_revoked_key_is_an_authentication_error_within_a_second(clients: Clients) -> None:
    minted = clients.mint()
    ai, claude = clients.openai(minted["key"]), clients.anthropic(minted["key"])
    assert ai.models.list().data
    clients.gate.revoke(minted["alias"])
    time.sleep(GONE_SECONDS)
    with pytest.raises(openai.AuthenticationError) as by_openai:
        ai.chat.completions.create(model=MODEL, messages=CHAT)
    expect_openai(by_openai.value, 401, "api_key_revoked", "authentication_error")
    assert minted["hint"] in by_openai.value.message
    with pytest.raises(anthropic.AuthenticationError) as by_anthropic:
        claude.messages.create(model=MODEL, max_tokens=1, messages=CHAT)
    expect_anthropic(by_anthropic.value, 401, "api_key_revoked", "authentication_error")


def test_another_model_is_a_permission_error(clients: Clients) -> None:
    narrow = clients.mint(models=f"{MODEL},other-model")["key"]
    ai, claude = clients.openai(narrow), clients.anthropic(narrow)
    assert ai.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=1).choices
    with pytest.raises(openai.PermissionDeniedError) as by_openai:
        ai.chat.completions.create(model="secret-model", messages=CHAT)
    expect_openai(by_openai.value, 403, "model_not_allowed", "permission_error")
    assert "`other-model`, `tiny-llama`" in by_openai.value.message
    with pytest.raises(anthropic.PermissionDeniedError) as by_anthropic:
        claude.messages.create(model="secret-model", max_tokens=1, messages=CHAT)
    expect_anthropic(by_anthropic.value, 403, "model_not_allowed", "permission_error")


def test_another_endpoint_is_a_permission_error(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ai.files.list()
    expect_openai(caught.value, 403, "endpoint_not_allowed", "permission_error")


def test_a_bad_parameter_is_a_bad_request(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model=MODEL, messages=CHAT, extra_body={"stream": "yes"})
    expect_openai(caught.value, 400, "invalid_parameter", "invalid_request_error")
    assert caught.value.param == "stream"


def test_too_many_calls_are_a_rate_limit_error(clients: Clients) -> None:
    slow = clients.mint(rpm=2)["key"]
    ai, claude = clients.openai(slow), clients.anthropic(slow)
    left = []
    for _ in range(2):
        raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=CHAT, max_tokens=1)
        left.append(raw.headers["x-ratelimit-remaining-requests"])
    assert left == ["1", "0"]
    with pytest.raises(openai.RateLimitError) as by_openai:
        ai.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=1)
    expect_openai(by_openai.value, 429, "rate_limit_exceeded", "requests")
    headers = by_openai.value.response.headers
    assert 50 <= int(headers["retry-after"]) <= 60
    assert 49_000 <= int(headers["retry-after-ms"]) <= 60_000
    with pytest.raises(anthropic.RateLimitError) as by_anthropic:
        claude.messages.create(model=MODEL, max_tokens=1, messages=CHAT)
    expect_anthropic(by_anthropic.value, 429, "rate_limit_exceeded", "rate_limit_error")
    headers = by_anthropic.value.response.headers
    assert headers["anthropic-ratelimit-requests-limit"] == "2"
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"


def expect_openai(fault: openai.APIStatusError, status: int, code: str, kind: str) -> None:
    """The SDK's error carries what we said, in OpenAI's places."""
    assert fault.status_code == status
    assert (fault.code, fault.type) == (code, kind)
    assert isinstance(fault.body, dict)
    assert fault.body.keys() == {"message", "type", "param", "code", "request_id"}
    assert fault.body["message"] in fault.message
    assert fault.response.headers["x-tensorgate-reason"] == code
    assert fault.request_id
    assert fault.request_id == fault.body["request_id"]


def expect_anthropic(fault: anthropic.APIStatusError, status: int, code: str, kind: str) -> None:
    """The same in Anthropic's places."""
    assert fault.status_code == status
    assert isinstance(fault.body, dict)
    assert fault.body.keys() == {"type", "error", "request_id"}
    assert fault.body["type"] == "error"
    error = fault.body["error"]
    assert error.keys() == {"type", "message", "code"}
    assert (error["code"], error["type"]) == (code, kind)
    assert fault.response.headers["x-tensorgate-reason"] == code
    assert fault.request_id
    assert fault.request_id == fault.body["request_id"]


@pytest.fixture(scope="module")
def demo_clients(start_stack: StartStack) -> Iterator[Clients]:
    """Before the demo server, which `up` starts where it is given no upstream."""
    with ExitStack() as closing:
        yield Clients(start_stack(), closing)


def test_openai_responses_streamed_before_the_demo(demo_clients: Clients) -> None:
    minted = demo_clients.mint(alias="laptop")
    ai = demo_clients.openai(minted["key"])
    with ai.responses.stream(model="demo-model", input="Hello.") as stream:
        text = "".join(each.delta for each in stream if each.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == text
    assert "The gate let this call through for dev@example.com's key “laptop”." in text


def test_all_else_before_the_demo(demo_clients: Clients) -> None:
    key = demo_clients.mint()["key"]
    ai, claude = demo_clients.openai(key), demo_clients.anthropic(key)
    assert [model.id for model in ai.models.list()] == ["demo-model"]
    assert [model.id for model in claude.models.list()] == ["demo-model"]
    raw = ai.chat.completions.with_raw_response.create(model="demo-model", messages=CHAT)
    assert "no model runs here" in (raw.parse().choices[0].message.content or "")
    with claude.messages.stream(model="demo-model", max_tokens=9, messages=CHAT) as stream:
        assert stream.get_final_message().usage.output_tokens == 9
    assert len(ai.embeddings.create(model="demo-model", input="x").data[0].embedding) == 256
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="demo-model", max_tokens=1, messages=[])
    assert "at least one message" in str(caught.value)
