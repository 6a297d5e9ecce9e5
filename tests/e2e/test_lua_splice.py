"""What the gate writes into a request and takes out of its answer again, in a real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lua_support import MIB, Case, Gate, drive, gate
from peers.ports import free_port
from peers.recorder import Pause, Reply, Step, Until, json_reply

from tensorgate.envoy import scripts

SSE = (("content-type", "text/event-stream"),)
HIDE = {"hide_usage": "1"}

Edits = list[tuple[int, int, str]]


# ── Into the request ─────────────────────────────────────────────────────────────────────────────


def replaced(body: bytes, what: str, by: str) -> tuple[int, int, str]:
    """The edit that puts `by` in the place of `what`."""
    return body.index(what.encode()), len(what.encode()), by


def edited(body: bytes, edits: Edits) -> bytes:
    for offset, removed, text in reversed(edits):
        body = body[:offset] + text.encode() + body[offset + removed :]
    return body


BODY = (
    '{"messages":[{"content":"Grüße 👋 \\"max_tokens\\": null"}], "max_tokens": null,\n'
    '"stream":true,"stream_options":{"include_usage":false}}'
).encode()


@pytest.mark.parametrize(
    "edits",
    [
        [(1, 0, '"max_tokens":4096,')],
        [replaced(BODY, ' "max_tokens": null', '"max_tokens":16')],
        [replaced(BODY, '"include_usage":false', '"include_usage":true')],
        [
            (1, 0, '"n":1,'),
            replaced(BODY, ' "max_tokens": null', '"max_tokens":16'),
            replaced(BODY, '"include_usage":false', '"include_usage":true'),
            (len(BODY) - 1, 0, ',"x":"é👋\\u0007\\n"'),
        ],
        [(0, len(BODY), "{}")],
        [(0, 0, " "), (len(BODY), 0, "\n")],
        [(1, 0, '"a":1,'), (1, 0, '"b":2,')],
        [],
    ],
)
@pytest.mark.parametrize("written", ["compact", "spaced", "plain"])
def test_the_server_gets_the_edited_body(lua: Gate, edits: Edits, written: str) -> None:
    text = json.dumps(
        edits,
        separators=(",", ":") if written == "compact" else None,
        indent=2 if written == "spaced" else None,
        ensure_ascii=written != "plain",
    )
    lua.decision = {"edits": text}
    assert lua.call(BODY).status == 200
    [request] = lua.upstream.requests
    assert request.body == edited(BODY, edits)
    assert request.values("content-length") == [str(len(request.body))]


def test_without_edits_a_body_is_the_clients_own(lua: Gate) -> None:
    body = b'{ "a" : 1.0e+1 }\n'
    lua.call(body)
    assert lua.upstream.requests[0].body == body


def test_a_chunked_upload_is_edited_too(lua: Gate) -> None:
    lua.decision = {"edits": '[[1,0,"\\"n\\":1,"]]'}
    assert lua.call(iter([b'{"a', b'":1', b"}"])).status == 200
    [request] = lua.upstream.requests
    assert request.body == b'{"n":1,"a":1}'


def test_a_large_body_is_edited(lua: Gate) -> None:
    body = b'{"messages":"' + os.urandom(5 * MIB).hex().encode() + b'","max_tokens":null}'
    edits = [(1, 0, '"stream_options":{"include_usage":true},'), replaced(body, "null", "77")]
    lua.decision = {"edits": json.dumps(edits)}
    for _ in range(3):
        assert lua.call(body).status == 200
    want = edited(body, edits)
    assert [request.body == want for request in lua.upstream.requests] == [True] * 3


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_edits(lua: Gate, data: st.DataObject) -> None:
    body = data.draw(st.binary(min_size=1, max_size=60))
    marks = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    edits = [
        (start, stop - start, data.draw(st.text(max_size=8)))
        for start, stop in zip(marks[::2], marks[1::2], strict=False)
    ]
    lua.decision = {"edits": json.dumps(edits, ensure_ascii=data.draw(st.booleans()))}
    assert lua.call(body).status == 200
    assert lua.upstream.requests[-1].body == edited(body, edits)


@pytest.mark.parametrize(
    "edits",
    [
        "",
        "null",
        "{}",
        "[",
        "[]]",
        "[[]]",
        "[[1,0]]",
        '[[1,0,"a"]',
        '[[1,0,"a"],]',
        '[[1,0,"a"]] x',
        '[[1,0,"a",0]]',
        '[[1,0,"a" "b"]]',
        '[[-1,0,"a"]]',
        '[[1.5,0,"a"]]',
        '[[1,null,"a"]]',
        '[["1",0,"a"]]',
        "[[1,0,null]]",
        "[[1,0,'a']]",
        '[[1,0,"a]]',
        '[[1,0,"\\x"]]',
        '[[1,0,"\\ud83d"]]',
        '[[1,0,"\\u00"]]',
        '[[3,0,"a"],[2,0,"b"]]',
        '[[1,3,"a"],[2,0,"b"]]',
        '[[7,1,"a"]]',
        '[[8,0,"a"]]',
        '[[1000000000000,0,"a"]]',
        '[[0,1000000000000,"a"]]',
        0,
        3.5,
    ],
)
def test_edits_that_cannot_be_made_are_never_passed_on(lua: Gate, edits: Any) -> None:
    lua.decision = {"edits": edits}
    assert lua.call(b'{"a":1}').status == 500
    lua.decision = {}
    assert lua.call(b"{}").status == 200
    assert [request.body for request in lua.upstream.requests] == [b"{}"]


def test_edits_of_no_body_are_never_passed_on(lua: Gate) -> None:
    lua.decision = {"edits": '[[0,0,"{}"]]'}
    assert lua.call(b"").status == 500
    assert lua.upstream.requests == []


def test_a_defect_of_ours_passes_nothing_on() -> None:
    script = scripts.inference() + '\nrequire("tensorgate.splice").apply = error'
    with gate(script) as lua:
        lua.decision = {"edits": '[[1,0," "]]'}
        assert lua.call(b"{}").status == 500
        assert lua.upstream.requests == []


# ── Out of the answer ────────────────────────────────────────────────────────────────────────────


def event(value: Any, newline: bytes = b"\n") -> bytes:
    return b"data: " + json.dumps(value).encode() + newline * 2


def token(text: str, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}}], **more})


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
USAGE = event({"id": "x", "choices": [], "usage": COUNTS})
UNREADABLE = b'data: {"choices":[{"delta":{"content":"a"},"score":NaN}]}\n\n'
DONE = b"data: [DONE]\n\n"


def test_the_usage_that_we_asked_for_is_taken_out(lua: Gate) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=[token("a"), token("b"), USAGE, DONE])
    lua.decision = HIDE
    answer = lua.call()
    assert answer.body == token("a") + token("b") + DONE
    seen = lua.usage(answer.request_id)
    assert (seen["input"], seen["output"], seen["final"], seen["done"]) == ("3", "2", "1", "1")


def test_a_client_that_asked_for_it_keeps_it(lua: Gate) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=[token("a"), USAGE, DONE])
    assert lua.call().body == token("a") + USAGE + DONE


@pytest.mark.parametrize(
    "kept",
    [
        token("a", usage=COUNTS),
        event({"choices": []}),
        event({"choices": [], "usage": None}),
        event({"usage": None}),
        # what a client needs
        event({"choices": [], "usage": COUNTS, "error": {"message": "no"}}),
        event({"choices": [], "usage": COUNTS, "error": "n" * 300}),
        event({"usage": COUNTS, "error": 500}),
        event({"usage": COUNTS, "type": "error"}),
        event({"usage": COUNTS, "type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        # content, wherever it stands
        event({"choices": [{}], "usage": COUNTS}),
        event({"choices": [], "usage": COUNTS, "delta": {"text": "a"}}),
        event({"choices": None, "usage": COUNTS, "text": "a"}),
        event({"choices": "a", "usage": COUNTS}),
        event({"usage": COUNTS, "response": {"output": ["a"]}}),
        event({"choices": [], "prompt_filter_results": [{"usage": COUNTS, "choices": []}]}),
        token('{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'),
        b": choices usage\n\n",
        b"event: usage\r\rdata: {}\r\r",
        b"data: nothing",
        b"\n\n\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("before", [token("a"), UNREADABLE])
def test_nothing_else_is_taken_out(lua: Gate, before: bytes, kept: bytes) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=[before, kept])
    lua.decision = HIDE
    assert lua.call().body == before + kept


@pytest.mark.parametrize(
    "hidden",
    [
        USAGE,
        event({"choices": None, "usage": COUNTS}),
        event({"choices": {}, "usage": COUNTS, "error": None}),
        event({"usage": COUNTS, "object": "chat.completion.chunk", "model": "m", "id": "1"}),
        event({"type": "chunk", "choices": [], "usage": COUNTS, "x_groq": {"id": "a"}}),
        event({"type": "message_delta", "choices": [], "usage": COUNTS}),
        event({"usage": {}}),
    ],
)
@pytest.mark.parametrize("before", [b"", token("a"), UNREADABLE])
def test_however_a_server_writes_it_it_is_taken_out(
    lua: Gate, before: bytes, hidden: bytes
) -> None:
    body = before + hidden + token("b") + hidden + DONE
    left = before + token("b") + DONE
    cases = [Case(body, [size] * (len(body) // size), hide=True) for size in (1, 5, 64, len(body))]
    for read in drive(lua, cases):
        assert read.passed == left
    lua.upstream.answer = Reply(headers=SSE, body=body)
    lua.decision = HIDE
    assert lua.call().body == left


@pytest.mark.parametrize(
    "hidden",
    [
        b'{"choices":[],"usage":{"completion_tokens":-2}}',
        b'{"choices":[],"usage":{"completion_tokens":"2"}}',
        b'{"choices":[],"usage":{"completion_tokens":2},"usage":{"completion_tokens":2}}',
        b'{"choices":[],"usage":{"prompt_tokens":9999999999999},"took":NaN}',
    ],
)
def test_a_usage_that_cannot_be_read_is_taken_out_too(lua: Gate, hidden: bytes) -> None:
    parts = [token("a"), b"data: " + hidden + b"\n\n", USAGE, token("b"), DONE]
    lua.upstream.answer = Reply(headers=SSE, body=list(parts))
    lua.decision = HIDE
    answer = lua.call()
    assert answer.body == token("a") + token("b") + DONE
    assert lua.usage(answer.request_id)["format"] == "other"


def test_what_cannot_be_read_hides_what_we_asked_for_all_the_same(lua: Gate) -> None:
    body: list[Step] = [token("a"), b"data: {nothing}\n", Pause(0.02), b"\n", USAGE, DONE]
    lua.upstream.answer = Reply(headers=SSE, body=body)
    lua.decision = HIDE
    answer = lua.call()
    assert answer.body == token("a") + b"data: {nothing}\n\n" + DONE
    assert lua.usage(answer.request_id)["format"] == "other"


def test_an_unreadable_stream_passes_as_it_came_where_nothing_is_ours(lua: Gate) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=[token("a"), UNREADABLE, USAGE, DONE])
    assert lua.call().body == token("a") + UNREADABLE + USAGE + DONE


def test_what_cannot_be_read_costs_no_more_the_longer_it_is(lua: Gate) -> None:
    """Each event is read once, by itself."""

    def spent(events: int) -> float:
        body = UNREADABLE + token("a" * 40) * events
        case = Case(body, [1500] * (len(body) // 1500), hide=True)
        read = min(drive(lua, [case] * 3), key=lambda each: each.microseconds)
        assert read.passed == body
        return read.microseconds / events

    assert spent(8000) < 4 * spent(1000)


def test_an_unfinished_event_of_an_unreadable_stream_waits_and_no_other(lua: Gate) -> None:
    more = threading.Event()
    body: list[Step] = [UNREADABLE + token("b") + b'data: {"ch', Until(more), b'oices":[]}\n\n']
    lua.upstream.answer = Reply(headers=SSE, body=body)
    lua.decision = HIDE
    with lua.opened() as response:
        assert response.read1() == UNREADABLE + token("b")
        more.set()
        assert response.read() == b'data: {"choices":[]}\n\n'


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_it_is_found_wherever_the_chunks_end(lua: Gate, newline: bytes) -> None:
    first = event({"choices": [{"text": "ü"}]}, newline)
    hidden = event({"choices": [], "usage": COUNTS}, newline)
    last = b"data: [DONE]" + newline * 2
    body = first + hidden + last
    cases = [
        Case(body, [cut, second], hide=True)
        for cut in range(len(first) - 2, len(body))
        for second in (1, 2, len(body))
    ]
    for read in drive(lua, cases):
        assert read.passed == first + last
        assert read.seen["final"] == "1"


@pytest.mark.parametrize("before", [token("a"), UNREADABLE])
@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_a_long_event_is_passed_on_before_it_ends(lua: Gate, pieces: int, before: bytes) -> None:
    long = event({"padding": "x" * 40_000, "choices": [], "usage": COUNTS})
    body = before + long + USAGE + token("b") + DONE
    [read] = drive(lua, [Case(body, [pieces] * (len(body) // pieces), hide=True)])
    assert read.passed == before + long + token("b") + DONE


def test_a_stream_that_says_its_length(lua: Gate) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=token("a") + USAGE + DONE)
    lua.decision = HIDE
    answer = lua.call()
    assert answer.body == token("a") + DONE
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b'data: {"choices":[{'])
@pytest.mark.parametrize("whole", [False, True])
def test_what_has_no_last_newline_is_not_lost(lua: Gate, end: bytes, *, whole: bool) -> None:
    parts = [token("a"), USAGE, end]
    lua.upstream.answer = Reply(headers=SSE, body=b"".join(parts) if whole else parts)
    lua.decision = HIDE
    assert lua.call().body == token("a") + end


def test_a_json_answer_is_left_alone(lua: Gate) -> None:
    body = {"choices": [], "usage": COUNTS}
    lua.upstream.answer = json_reply(body)
    lua.decision = HIDE
    answer = lua.call()
    assert json.loads(answer.body) == body
    assert answer.headers["content-length"] == str(len(answer.body))


def test_only_an_unfinished_event_waits(lua: Gate) -> None:
    more = threading.Event()
    body: list[Step] = [
        token("a") + token("b") + b'data: {"ch',
        Until(more),
        b'oices":[]}\n\n',
        DONE,
    ]
    lua.upstream.answer = Reply(headers=SSE, body=body)
    lua.decision = HIDE
    with lua.opened() as response:
        assert response.read1() == token("a") + token("b")
        more.set()
        assert response.read() == b'data: {"choices":[]}\n\n' + DONE


# ── What it costs ────────────────────────────────────────────────────────────────────────────────

STREAMS, TOKENS, GAP = 50, 20, 0.05
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
START = b'data: {"choices":[{"delta":{"content":"'


async def model_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tokens that say when they were sent."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD)
    for _ in range(TOKENS):
        await asyncio.sleep(random.uniform(0.5, 1.5) * GAP)  # not all streams at once
        writer.write(START + b'%f"}}]}\n\n' % time.monotonic())
    writer.write(USAGE + DONE)
    await writer.drain()
    writer.close()


async def client(port: int) -> list[float]:
    """How long each token was on its way, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    took = []
    while not (line := await reader.readline()).startswith(b"data: [DONE]"):
        assert line, "the stream ended early"
        if line.startswith(START):
            took.append(time.monotonic() - float(line[len(START) :].partition(b'"')[0]))
    writer.close()
    await writer.wait_closed()
    return took


def test_fifty_streams_at_once_gain_no_delay() -> None:
    """The median of a token's way, with the filter at work and without it, in one process."""

    async def median(lua: Gate, decision: dict[str, str]) -> float:
        lua.decision = decision
        streams = await asyncio.gather(*(client(lua.port) for _ in range(STREAMS)))
        assert [len(took) for took in streams] == [TOKENS] * STREAMS
        return statistics.median(took for stream in streams for took in stream)

    async def measure(lua: Gate, port: int) -> list[tuple[float, float]]:
        server = await asyncio.start_server(model_server, "127.0.0.1", port)
        async with server:
            return [(await median(lua, {"hold_id": ""}), await median(lua, HIDE)) for _ in range(2)]

    port = free_port()
    with gate(upstream=f"127.0.0.1:{port}") as lua:
        without, with_it = zip(*asyncio.run(measure(lua, port)), strict=True)
    assert min(with_it) - min(without) < 0.002
