"""The demo server: its pure half, then the real SDKs before the real process."""

from __future__ import annotations

import base64
import json
import math
import signal
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers.demo import demo_server
from peers.recorder import Recorder

from store.errors import InputError
from tensorgate.demo import demo as serve_demo
from tensorgate.demo.answers import Prompt, Wish, answer, packed, tokens, vector

CHAT: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, demo!"},
]


@given(st.text())
def test_tokens_join_to_the_text_again(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert all(tokens(text))


def test_a_token_is_a_word_or_a_mark() -> None:
    assert tokens("Don't stop, now.\n") == ["Don", "'", "t", " stop", ",", " now", ".", "\n"]


def test_the_answer_says_that_it_is_a_demo_and_what_it_read() -> None:
    said = answer(Prompt("Be brief.\nHello, demo!", "Hello, demo!"), Wish())
    assert "demo server: no model runs here" in said.text
    assert "7 tokens" in said.text
    assert "“Hello, demo!”" in said.text
    assert not said.cut


@given(st.text(max_size=400), st.integers(1, 100))
def test_no_answer_exceeds_its_bound(text: str, bound: int) -> None:
    whole = answer(Prompt(text, text), Wish())
    said = answer(Prompt(text, text), Wish(bound))
    assert said.pieces == whole.pieces[:bound]
    assert said.cut == (len(whole.pieces) > bound)
    said.text.encode()  # whatever was sent, also lone surrogates, the answer is UTF-8


def test_an_answer_ends_before_its_first_stop_sequence() -> None:
    said = answer(Prompt("x", "x"), Wish(stops=("server", "demo", "zebra")))
    assert said.text == "This is Tensorgate's "
    assert said.stop == "demo"
    assert not said.cut


@given(st.text(), st.integers(1, 64))
def test_vectors_are_of_unit_length_and_depend_on_the_text_alone(text: str, count: int) -> None:
    numbers = vector(text, count)
    assert len(numbers) == count
    assert math.isclose(math.hypot(*numbers), 1)
    assert numbers == vector(text, count)
    assert numbers != vector(text + "x", count) or count == 1
    assert struct.unpack(f"<{count}f", packed(numbers)) == pytest.approx(numbers)


@pytest.fixture(scope="module")
def client(demo: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{demo}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def claude(demo: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://{demo}", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_openai_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="demo-model", messages=CHAT)
    assert raw.headers["server"] == "tensorgate-demo"
    said = raw.parse()
    text = said.choices[0].message.content
    assert text is not None
    assert said.model == "demo-model"
    assert said.choices[0].finish_reason == "stop"
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (7, len(tokens(text)))
    assert said.usage.total_tokens == 7 + len(tokens(text))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_openai_chat_in_bounds(client: openai.OpenAI, name: str) -> None:
    bound: Any = {name: 3}
    said = client.chat.completions.create(model="any", messages=CHAT, n=2, **bound)
    assert [each.message.content for each in said.choices] == ["This is Tensorgate"] * 2
    assert [each.finish_reason for each in said.choices] == ["length"] * 2
    assert said.usage is not None
    assert said.usage.completion_tokens == 6


def test_openai_chat_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo-model", messages=CHAT)
    stream = client.chat.completions.create(
        model="demo-model", messages=CHAT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_openai_chat_streamed_without_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo-model", messages=CHAT, stream=True, max_tokens=4
    )
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks] == [None] * 6  # role, four tokens, the end
    assert chunks[-1].choices[0].finish_reason == "length"


def test_openai_completions(client: openai.OpenAI) -> None:
    said = client.completions.create(model="demo-model", prompt=["One.", "Two, three."])
    assert [each.index for each in said.choices] == [0, 1]
    assert [each.finish_reason for each in said.choices] == ["length"] * 2
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (6, 32)
    stream = client.completions.create(model="demo-model", prompt=[1, 2, 3], stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("This is Tensorgate's")
    assert chunks[-1].choices[0].finish_reason == "length"


def test_openai_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["one", "two three"]
    floats = client.embeddings.create(
        model="demo-model", input=texts, dimensions=8, encoding_format="float"
    )
    assert [each.embedding for each in floats.data] == [vector(text, 8) for text in texts]
    assert floats.usage.prompt_tokens == 3
    # the SDK asks for base64 unless told otherwise, and decodes it
    packed_ones = client.embeddings.create(model="demo-model", input=texts, dimensions=8)
    for mine, theirs in zip(floats.data, packed_ones.data, strict=True):
        assert theirs.embedding == pytest.approx(mine.embedding)
        assert math.isclose(math.hypot(*theirs.embedding), 1, rel_tol=1e-6)


def test_base64_embeddings_are_base64_on_the_wire(demo: str) -> None:
    call = {"model": "demo-model", "input": "one", "dimensions": 2, "encoding_format": "base64"}
    status, said = post(demo, "/v1/embeddings", json.dumps(call).encode())
    assert status == 200
    raw = base64.b64decode(said["data"][0]["embedding"], validate=True)
    assert struct.unpack("<2f", raw) == pytest.approx(vector("one", 2))


def test_openai_responses(client: openai.OpenAI) -> None:
    said = client.responses.create(model="demo-model", input="Hello.", instructions="Be brief.")
    assert said.status == "completed"
    assert said.usage is not None
    assert said.usage.output_tokens == len(tokens(said.output_text))
    short = client.responses.create(model="demo-model", input=CHAT, max_output_tokens=2)
    assert short.status == "incomplete"
    assert short.output_text == "This is"
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


def test_openai_responses_streamed(client: openai.OpenAI) -> None:
    with client.responses.stream(model="demo-model", input="Hello.") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text
    assert final.usage is not None
    assert final.usage.output_tokens == len(deltas)


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo-model"]
    assert client.models.retrieve("demo-model").owned_by == "tensorgate-demo"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9/large")
    assert caught.value.code == "model_not_found"


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    said = claude.messages.create(
        model="demo-model", max_tokens=4, system="Be brief.", messages=CHAT[1:]
    )
    assert [block.type for block in said.content] == ["text"]
    assert said.stop_reason == "max_tokens"
    assert (said.usage.input_tokens, said.usage.output_tokens) == (7, 4)
    stopped = claude.messages.create(
        model="demo-model", max_tokens=400, messages=CHAT[1:], stop_sequences=["demo"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "demo")


def test_anthropic_messages_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="demo-model", max_tokens=4000, messages=CHAT[1:]) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "no model runs here" in "".join(texts)
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (4, len(texts))


def test_anthropic_counts_what_it_charges(claude: anthropic.Anthropic) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello, demo!"}]}]
    counted = claude.messages.count_tokens(model="demo-model", messages=parts)
    said = claude.messages.create(model="demo-model", max_tokens=1, messages=parts)
    assert counted.input_tokens == said.usage.input_tokens == 4


def test_anthropic_models(claude: anthropic.Anthropic) -> None:
    assert [model.id for model in claude.models.list()] == ["demo-model"]
    assert "no real model" in claude.models.retrieve("demo-model").display_name


def post(address: str, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{address}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as said:
            return said.status, json.load(said)
    except urllib.error.HTTPError as fault:
        with fault:
            return fault.code, json.load(fault)


CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT_PATH, b"", None),
        (CHAT_PATH, b"[]", None),
        (CHAT_PATH, b"[" * 100_000, None),
        (CHAT_PATH, b'{"messages":"\xff"}', None),
        (CHAT_PATH, b"{}", "messages"),
        (CHAT_PATH, b'{"messages":[]}', "messages"),
        (CHAT_PATH, b'{"messages":[3]}', "messages"),
        (CHAT_PATH, b'{"messages":["x"]}', "messages"),
        (CHAT_PATH, b'{"messages":[{}],"max_tokens":0}', "max_tokens"),
        (CHAT_PATH, b'{"messages":[{}],"max_tokens":1.5}', "max_tokens"),
        (CHAT_PATH, b'{"messages":[{}],"max_completion_tokens":true}', "max_completion_tokens"),
        (CHAT_PATH, b'{"messages":[{}],"n":129}', "n"),
        (CHAT_PATH, b'{"messages":[{}],"stream":1}', "stream"),
        (CHAT_PATH, b'{"messages":[{}],"stream_options":[]}', "stream_options"),
        (CHAT_PATH, b'{"messages":[{}],"stop":[1]}', "stop"),
        (TEXT_PATH, b"{}", "prompt"),
        (TEXT_PATH, b'{"prompt":[]}', "prompt"),
        (TEXT_PATH, b'{"prompt":["x",{}]}', "prompt"),
        ("/v1/embeddings", b'{"input":""}', "input"),
        ("/v1/embeddings", b'{"input":"x","encoding_format":"hex"}', "encoding_format"),
        ("/v1/embeddings", b'{"input":"x","dimensions":5000}', "dimensions"),
        ("/v1/responses", b'{"input":"x","previous_response_id":"r"}', "previous_response_id"),
    ],
)
def test_bad_calls_are_400_in_openais_shape(
    demo: str, path: str, body: bytes, param: str | None
) -> None:
    status, said = post(demo, path, body)
    assert status == 400
    assert said["error"].pop("message")
    assert said == {"error": {"type": "invalid_request_error", "param": param, "code": None}}


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"messages":[{"content":"x"}]}'])
def test_bad_calls_are_400_in_anthropics_shape(demo: str, body: bytes) -> None:
    status, said = post(demo, "/v1/messages", body)
    assert status == 400
    assert said["error"].pop("message")
    assert said == {"type": "error", "error": {"type": "invalid_request_error"}}


def test_deeply_nested_and_surrogate_content_is_answered(demo: str) -> None:
    nested = b'{"messages":[{"role":"user","content":%s"\\ud800"%s}],"max_tokens":90}'
    status, said = post(demo, CHAT_PATH, nested % (b"[" * 400, b"]" * 400))
    assert status == 200
    assert "“?”" in said["choices"][0]["message"]["content"]


def test_an_unknown_path_and_method_are_refused_in_shape(demo: str) -> None:
    status, said = post(demo, "/v1/audio/speech", b"{}")
    assert (status, said["error"]["type"]) == (404, "not_found_error")
    status, said = post(demo, "/v1/models", b"{}")
    assert (status, said["error"]["type"]) == (405, "invalid_request_error")


def test_it_names_the_key_that_the_gate_let_through(demo: str) -> None:
    body = json.dumps({"messages": CHAT}).encode()
    headers = {"x-tensorgate-user": "ann@example.com", "x-tensorgate-alias": "laptop"}
    _, said = post(demo, CHAT_PATH, body, **headers)
    text = said["choices"][0]["message"]["content"]
    assert "let this call through for ann@example.com's key “laptop”." in text


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_and_says_nothing(tmp_path: Path, signal_number: int) -> None:
    with demo_server(tmp_path / "log") as (address, child):
        assert post(address, CHAT_PATH, b"{}")[0] == 400
        assert child.end(signal_number) == 0
        assert child.output == ""


def test_what_streams_is_said_to_its_end_when_it_is_stopped(tmp_path: Path) -> None:
    with demo_server(tmp_path / "log", token_seconds=0.5) as (address, child):
        body = json.dumps({"messages": CHAT, "stream": True}).encode()
        request = urllib.request.Request(f"http://{address}{CHAT_PATH}", body)
        with urllib.request.urlopen(request, timeout=10) as stream:
            assert b'"role":"assistant"' in stream.readline()
            assert child.end() == 0
            assert stream.read().endswith(b"data: [DONE]\n\n")
        assert child.output == ""


def test_it_says_why_it_cannot_listen(recorder: Recorder) -> None:
    with pytest.raises(InputError, match=r"^The demo cannot listen on .*: taken by .*--listen\.$"):
        serve_demo(recorder.address)
    with pytest.raises(InputError, match=r"^--listen 'nowhere': write it as host:port"):
        serve_demo("nowhere")
