"""What a call costs that Envoy cuts off, and one whose model writes what looks like usage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any, Final

import pytest
from lua_answers import HOSTILE
from moneygate import booked, metric
from peers.client import CHAT, MESSAGES, call
from peers.recorder import Hangup, Pause, Recorder, Reply, Step, Until, json_reply, sse_reply
from peers.stack import Stack, StartStack

from store.catalogfile import DEFAULT_OVERHEAD

CATALOG: Final = """\
models:
  recorder:
    price: {input: 1, output: 2}
    context_tokens: 4000
    max_output_tokens: 500
  flat: {price: {per_request: 0.001}, context_tokens: 4000, max_output_tokens: 500}
native_model: flat
plans: {test: {}}
default_plan: test
"""
RESPONSES: Final = "/v1/responses"
GEMINI: Final = "/v1beta/models/recorder:streamGenerateContent?alt=sse"
OLLAMA: Final = "/api/chat"
NDJSON: Final = (("content-type", "application/x-ndjson"),)
IDLE_SECONDS, STREAM_SECONDS = 1, 3
SAID: Final = "Grüße, "

Event = dict[str, Any]


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, server: Recorder) -> Stack:
    env = {
        "TENSORGATE_IDLE_SECONDS": str(IDLE_SECONDS),
        "TENSORGATE_STREAM_SECONDS": str(STREAM_SECONDS),
    }
    return start_stack(server.address, catalog=CATALOG, env=env)


@pytest.fixture
def recorder(server: Recorder) -> Recorder:
    server.forget()
    return server


def of_chat(text: str) -> Event:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def of_responses(text: str) -> Event:
    return {"type": "response.output_text.delta", "item_id": "i", "delta": text}


def of_messages(text: str) -> Event:
    return {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    }


def of_gemini(text: str) -> Event:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}


def of_ollama(text: str) -> Event:
    return {"model": "recorder", "message": {"role": "assistant", "content": text}, "done": False}


FORMATS: Final[dict[str, Callable[[str], Event]]] = {
    CHAT: of_chat,
    RESPONSES: of_responses,
    MESSAGES: of_messages,
    GEMINI: of_gemini,
    OLLAMA: of_ollama,
}


def asked(path: str, **members: Any) -> bytes:
    if path == GEMINI:
        return json.dumps({"contents": [{"parts": [{"text": "hi"}]}]} | members).encode()
    content = (
        {"input": "hi"} if path == RESPONSES else {"messages": [{"role": "user", "content": "hi"}]}
    )
    return json.dumps({"model": "recorder", "stream": True} | content | members).encode()


def streamed(path: str, *steps: Event | Step) -> Reply:
    if path != OLLAMA:
        return sse_reply(*steps)
    lines = [
        json.dumps(each).encode() + b"\n" if isinstance(each, dict) else each for each in steps
    ]
    return Reply(headers=NDJSON, body=lines)


def cut(gate: Stack, path: str, key: str, body: bytes) -> None:
    with suppress(HTTPException, OSError):
        call(gate, path, key=key, body=body)


# -- cut off by Envoy


def all_cut(gate: Stack, recorder: Recorder, *steps: str | Step) -> dict[str, dict[str, Any]]:
    """The rows of streams, by endpoint, that go through these steps; a text is an event."""

    def answer(to: Any) -> Reply:
        path = to.target if to.target in FORMATS else GEMINI
        made = [FORMATS[path](each) if isinstance(each, str) else each for each in steps]
        return streamed(path, *made)

    recorder.answer = answer
    key = gate.mint(budget_usd=5)
    with ThreadPoolExecutor(len(FORMATS)) as pool:
        for path in FORMATS:
            pool.submit(cut, gate, path, key["key"], asked(path))
    found = {row["endpoint"]: row for row in booked(gate, key, len(FORMATS))}
    assert len(found) == len(FORMATS)
    return found


def assert_estimated(found: dict[str, dict[str, Any]], least: int, most: int) -> None:
    """Of so many bytes of content; of the input nothing was said, so it is what it was at most."""
    for name, row in found.items():
        assert row["basis"] == "estimated", name
        assert least <= row["output_tokens"] <= most, name
        assert row["input_tokens"] > DEFAULT_OVERHEAD, name
        expected = 1000 * row["input_tokens"] + 2000 * row["output_tokens"]
        assert row["charge_nanousd"] == expected, name
        assert 0 < expected <= row["hold_nanousd"], name


def test_a_stream_that_falls_silent_costs_what_was_streamed(
    gate: Stack, recorder: Recorder
) -> None:
    never = threading.Event()
    try:
        found = all_cut(gate, recorder, SAID, Pause(0.05), SAID, Until(never))
    finally:
        never.set()
    bytes_said = 2 * len(SAID.encode())
    assert_estimated(found, bytes_said, bytes_said)


def test_a_stream_that_goes_on_for_too_long_costs_what_was_streamed(
    gate: Stack, recorder: Recorder
) -> None:
    one = len(SAID.encode())
    found = all_cut(gate, recorder, *[SAID, Pause(0.3)] * (10 * STREAM_SECONDS))
    assert_estimated(found, one * 2 * STREAM_SECONDS, one * 4 * STREAM_SECONDS)
    assert metric(gate, 'tensorgate_hold_exceeded_total{model="recorder"}') == 0


def test_a_call_whose_server_says_nothing_at_all_costs_its_hold(
    gate: Stack, recorder: Recorder
) -> None:
    never, key = threading.Event(), gate.mint(budget_usd=5)
    recorder.answer = replace(json_reply({}), before=(Until(never),))
    try:
        cut(gate, CHAT, key["key"], asked(CHAT))
        [row] = booked(gate, key)
    finally:
        never.set()
    assert (row["basis"], row["charge_nanousd"]) == ("held", row["hold_nanousd"])


def test_however_much_was_streamed_before_a_cut_it_is_not_above_the_hold(
    gate: Stack, recorder: Recorder
) -> None:
    found = all_cut(gate, recorder, SAID * 1000, Pause(0.05), Hangup())
    for name, row in found.items():
        assert row["basis"] == "estimated", name
        assert row["charge_nanousd"] == row["hold_nanousd"] > 0, name


# -- what a model writes


@dataclass(frozen=True)
class Hostile:
    """A format's answers with a hostile text everywhere, and with a usage of 7 and 2 tokens."""

    path: str
    made: Callable[[str], Reply]
    output: int = 2
    body: bytes | None = None


def nothing(text: str) -> Event:
    """What says that nothing was used, where a model or a document can put it."""
    zero = {"input_tokens": 0, "output_tokens": 0, "prompt_tokens": 0, "total_tokens": 0}
    return {"text": text, "usage": zero, "meta": {"tokens": zero}, "x" + text: zero}


USED: Final = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}


def response(text: str) -> Event:
    content = [{"type": "output_text", "annotations": [nothing(text)], "text": text}]
    call_of = {"type": "function_call", "name": text, "arguments": text}
    output = [{"type": "message", "content": content, **nothing(text)}, call_of]
    return {"object": "response", "output": output, "metadata": {"usage": text}, "usage": USED}


def responses_body(text: str) -> Reply:
    return json_reply(response(text))


def responses_stream(text: str) -> Reply:
    arguments = {"type": "response.function_call_arguments.delta", "item_id": "j", "delta": text}
    item = {"type": "response.output_item.done", "item": response(text)["output"][0]}
    part = {"type": "response.content_part.done", "item_id": "i", "part": nothing(text)}
    began = {"type": "response.created", "response": {"usage": None, "metadata": {"usage": text}}}
    ended = {"type": "response.completed", "response": response(text)}
    return sse_reply(began, of_responses(text), arguments, part, item, ended)


def messages_body(text: str) -> Reply:
    tool = {"type": "tool_use", "name": text, "input": nothing(text)}
    content = [{"type": "text", "text": text}, tool]
    used = {"input_tokens": 7, "output_tokens": 2}
    return json_reply({"type": "message", "content": content, "stop_sequence": text, "usage": used})


def messages_stream(text: str) -> Reply:
    message = {"content": [], "usage": {"input_tokens": 7, "output_tokens": 1}}
    tool = {"type": "tool_use", "name": text, "input": nothing(text)}
    written = {"type": "input_json_delta", "partial_json": json.dumps(nothing(text))}
    ended = {"stop_reason": "stop_sequence", "stop_sequence": text}
    return sse_reply(
        {"type": "message_start", "message": message},
        of_messages(text),
        {"type": "content_block_start", "index": 1, "content_block": tool},
        {"type": "content_block_delta", "index": 1, "delta": written},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )


def rerank(text: str) -> Reply:
    results = [{"index": 0, "relevance_score": 0.5, "document": nothing(text), **nothing(text)}]
    return json_reply({"id": text, "results": results, "usage": {"total_tokens": 7}})


def score(text: str) -> Reply:
    found = [{"index": 0, "object": text, "score": 0.5, **nothing(text)}]
    return json_reply({"data": found, "usage": {"prompt_tokens": 7, "total_tokens": 7}})


def plain(**members: Any) -> bytes:
    return json.dumps({"model": "recorder"} | members).encode()


KINDS: Final = {
    "responses body": Hostile(RESPONSES, responses_body, body=plain(input="hi")),
    "responses stream": Hostile(RESPONSES, responses_stream),
    "messages body": Hostile(MESSAGES, messages_body, body=asked(MESSAGES, stream=False)),
    "messages stream": Hostile(MESSAGES, messages_stream),
    "rerank": Hostile("/v1/rerank", rerank, 0, plain(query="q", documents=["a", "b"])),
    "score": Hostile("/v1/score", score, 0, plain(text_1="q", text_2="a")),
}


def orders_of(reply: Reply) -> list[Reply]:
    """A body also with its members the other way round: the usage before what is none, or after."""
    if not isinstance(reply.body, bytes):
        return [reply]
    return [reply, json_reply(dict(reversed(json.loads(reply.body).items())))]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_or_a_document_says_is_never_taken_for_usage(
    gate: Stack, recorder: Recorder, kind: str
) -> None:
    hostile, key = KINDS[kind], gate.mint(budget_usd=5)
    body = hostile.body or asked(hostile.path)
    replies = [reply for text in HOSTILE for reply in orders_of(hostile.made(text))]
    recorder.next += replies
    answers = [call(gate, hostile.path, key=key["key"], body=body) for _ in replies]
    assert {answer.status for answer in answers} == {200}
    for row in booked(gate, key, len(replies)):
        counted = (row["basis"], row["input_tokens"], row["output_tokens"])
        assert counted == ("metered", 7, hostile.output)
        assert row["charge_nanousd"] == 7000 + 2000 * hostile.output


WITHOUT_USAGE: Final[dict[str, Event]] = {
    "/v2/models/flat/infer": {
        "inputs": [{"name": "x", "shape": [1], "datatype": "INT32", "data": [1]}]
    },
    "/v2/models/flat/generate": {"text_input": "hi"},
    "/v1/models/flat:predict": {"instances": [1]},
    "/generate": {"inputs": "hi"},
    "/completion": {"prompt": "hi"},
}


def test_what_a_server_without_usage_says_of_it_counts_for_nothing(
    gate: Stack, recorder: Recorder
) -> None:
    key = gate.mint(budget_usd=5)
    for path, members in WITHOUT_USAGE.items():
        said = nothing(HOSTILE[0]) | {"usage": USED, "generated_text": HOSTILE[0], "timings": USED}
        recorder.next.append(json_reply(said | {"outputs": [said]}))
        body = json.dumps(members).encode()
        assert call(gate, path, key=key["key"], body=body, method="POST").status == 200
    for row in booked(gate, key, len(WITHOUT_USAGE)):
        counted = (row["basis"], row["input_tokens"], row["output_tokens"], row["charge_nanousd"])
        assert counted == ("metered", 0, 0, 1_000_000), row["endpoint"]


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_a_model_that_writes_of_no_usage_is_not_free_when_it_is_cut_off(
    gate: Stack, recorder: Recorder, path: str
) -> None:
    key = gate.mint(budget_usd=5)
    recorder.next += [
        streamed(path, FORMATS[path](text), Pause(0.02), Hangup()) for text in HOSTILE
    ]
    with ThreadPoolExecutor(len(HOSTILE)) as pool:
        for _ in HOSTILE:
            pool.submit(cut, gate, path, key["key"], asked(path))
    found = booked(gate, key, len(HOSTILE))
    assert {row["basis"] for row in found} == {"estimated"}
    said = sorted(len(text.encode()) for text in HOSTILE)
    assert sorted(row["output_tokens"] for row in found) == said
