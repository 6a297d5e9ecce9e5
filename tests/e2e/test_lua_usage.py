"""The response meter in a real Envoy: what it reads of any answer, however it is cut, and that the
answer passes as it came."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from http.client import HTTPException
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lua_answers import (
    DONE,
    HOSTILE,
    PRICED,
    SSE,
    USAGE,
    bare_event,
    chunk,
    cuts_of,
    event,
    foreign_event,
    fuzz,
    named_usage,
    openai_event,
    openai_usage,
    rendered,
    streams,
    typed_event,
    written,
)
from lua_support import CHAT, MIB, Case, Gate, drive, first_ms_of, gate, said, usage_of
from peers.recorder import Abort, Hangup, Pause, Reply, Step, Until, json_reply, sse_reply
from usage_reference import read_body, read_stream

from authz.usage import read_ending
from tensorgate.envoy import scripts

# ── Against a second reading, cut anywhere ───────────────────────────────────────────────────────


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@fuzz
@given(data=st.data())
def test_any_stream_cut_anywhere_reads_as_the_whole(
    lua: Gate, dialect: str, data: st.DataObject
) -> None:
    kinds = openai_event if dialect == "openai" else typed_event
    stream = data.draw(streams(st.one_of(kinds, kinds, kinds, bare_event, foreign_event)))
    cuts = cuts_of(data, stream)
    seen, left = read_stream(stream, dialect)
    case, hiding = (Case(stream, cuts, usage=dialect, hide=hide) for hide in (False, True))
    read, hidden = drive(lua, [case, hiding])
    assert said(read) == said(hidden) == seen
    assert hidden.passed == left


@fuzz
@given(data=st.data())
def test_a_cut_stream_is_never_final_and_its_content_is_counted(
    lua: Gate, data: st.DataObject
) -> None:
    texts = data.draw(st.lists(written, min_size=1, max_size=6))
    events = [chunk(text) for text in texts]
    whole = b"".join([*events, chunk(None, usage=USAGE), DONE])
    at = data.draw(st.integers(0, len(b"".join(events))))
    cuts = cuts_of(data, whole[:at])
    [read] = drive(lua, [Case(whole[:at], cuts, hide=True)])
    assert "final" not in read.seen
    assert read.passed == whole[:at]
    complete = whole[:at].rpartition(b"\n\n")[0] + b"\n\n"
    least, _ = read_stream(complete)
    most, _ = read_stream(b"".join(events))
    assert int(least["content_bytes"]) <= int(read.seen["content_bytes"])
    assert int(read.seen["content_bytes"]) <= int(most["content_bytes"])


@fuzz
@given(data=st.data())
def test_however_a_server_writes_it_nothing_that_came_before_a_cut_is_free(
    lua: Gate, data: st.DataObject
) -> None:
    kinds = st.one_of(openai_event, typed_event, foreign_event)
    parts = [event(each) for each in data.draw(st.lists(kinds, min_size=1, max_size=6))]
    whole = b"".join(parts)
    at = data.draw(st.integers(0, len(whole)))
    came = whole[:at].rpartition(b"\n\n")[0] + b"\n\n"
    least, _ = read_stream(came)
    [read] = drive(lua, [Case(whole[:at], cuts_of(data, whole[:at]))])
    if "other" not in (least["format"], read.seen["format"]):
        assert int(read.seen["content_bytes"]) >= int(least["content_bytes"])
        assert int(read.seen["events"]) >= int(least["events"])


@fuzz
@given(data=st.data())
def test_any_body_cut_anywhere_reads_as_the_whole(lua: Gate, data: st.DataObject) -> None:
    dialect, usage = data.draw(
        st.sampled_from(
            [("openai", openai_usage), ("openai", named_usage), ("anthropic", named_usage)]
        )
    )
    value = {
        "choices": [{"message": {"content": data.draw(written), "usage": USAGE}}],
        "content": [{"input": {"usage": USAGE, data.draw(written): [[{}], {"usage": [USAGE]}]}}],
        "usage": data.draw(usage),
        data.draw(written): data.draw(written),
        "n": [1, -0.5, 1e9, True, None],
    }
    body = data.draw(rendered(value)).encode("utf-8", "surrogatepass") + b"\n"
    cuts = cuts_of(data, body)
    part = body[: data.draw(st.integers(0, len(body) - 2))]
    whole, cut = drive(lua, [Case(body, cuts, "json", dialect), Case(part, cuts, "json", dialect)])
    assert whole.seen == read_body(body, dialect)
    assert not cut.seen.keys() & {"final", "done"}


def test_no_garbage_is_an_error_of_ours(lua: Gate) -> None:
    dice = random.Random(7)
    good = b"".join(
        [chunk("a\\ud83d"), event({"type": "message_start", "message": {"usage": USAGE}}), DONE]
    )
    cases = []
    for _ in range(600):
        spoilt = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            spoilt[dice.randrange(len(spoilt))] = dice.choice(b'{}[]"\\:,u0\r\n \xff')
        cuts = [dice.randint(1, 30) for _ in range(20)]
        kind = dice.choice(["sse", "json"])
        cases.append(Case(bytes(spoilt), cuts, kind, hide=kind == "sse"))
    for case, read in zip(cases, drive(lua, cases), strict=True):
        if read.seen["format"] == "other":
            assert read.seen == {"format": "other"}
        if case.framing == "sse":
            assert read.passed == case.body, "no event there is a usage alone"


# ── What is no usage, and what is ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_model_writes_is_never_read_as_usage(lua: Gate, hostile: str) -> None:
    call = {"function": {"name": hostile, "arguments": hostile}}
    message = {"content": hostile, "tool_calls": [call]}
    nested: Any = {hostile: hostile, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    bodies = [
        {"choices": [{"message": message}], "usage": USAGE},
        {"usage": USAGE, "choices": [{"message": {"content": nested, "usage": nested["usage"]}}]},
        {"content": [{"type": "tool_use", "input": nested}], "usage": USAGE, hostile: nested},
    ]
    stream = b"".join(
        [
            chunk(hostile),
            event({"choices": [{"delta": {"tool_calls": [call]}, "usage": nested["usage"]}]}),
            chunk(None, usage=USAGE),
            DONE,
        ]
    )
    cases = [Case(json.dumps(body).encode(), (), "json") for body in bodies]
    *reads, streamed = drive(lua, [*cases, Case(stream)])
    for read in reads:
        assert read.seen == {**PRICED, "format": "json", "final": "1", "done": "1"}
    assert streamed.seen == {
        **PRICED,
        "format": "sse",
        "final": "1",
        "done": "1",
        "events": "2",
        "content_bytes": str(3 * len(hostile.encode())),
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2},"usage":{"prompt_tokens":0}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"completion_tokens":0}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"completion_token\\u0073":0}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":-2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2.0}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2e0}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":"2"}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":02}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1000000000000}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":[2]}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}{}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2},}',
        b'{"a":[},"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"a":[}],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'{"a":nul,"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        b'[{"usage":{"prompt_tokens":1,"completion_tokens":2}}]',
        b'{"a":' + b"[" * 600 + b"]" * 600 + b',"usage":{"prompt_tokens":1}}',
        b"null",
    ],
)
def test_what_cannot_be_read_says_nothing(lua: Gate, body: bytes) -> None:
    stream = chunk("hm") + b"data: " + body + b"\n\n" + chunk(None, usage=USAGE) + DONE
    cases = [Case(body, (), "json"), Case(body, [1] * len(body), "json")]
    if body.startswith(b"{"):
        cases.append(Case(stream))
    for read in drive(lua, cases):
        assert read.seen == {"format": "other"}


CONTENT = chunk("text")
NOTHING = dict.fromkeys(USAGE, 0)
START = event(
    {"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}
)
SAID = event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hm"}})
RESPONSE = {
    "usage": {"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
}


@pytest.mark.parametrize(
    ("dialect", "stream", "expected"),
    [
        ("openai", [CONTENT, DONE], {"final": None, "done": "1", "output": None}),
        ("openai", [CONTENT, chunk(None, usage=USAGE)], {**PRICED, "final": "1"}),
        ("openai", [CONTENT, chunk("x", usage=USAGE)], {**PRICED, "final": None}),
        ("openai", [CONTENT, chunk("x", usage=USAGE), DONE], {**PRICED, "final": "1"}),
        # of a server that does not count, and of one whose events are not tokens
        ("openai", [CONTENT] * 20 + [chunk(None, usage=NOTHING), DONE], {"final": None}),
        ("openai", [chunk("x", usage=NOTHING), DONE], {"final": None, "output": "0"}),
        ("openai", [chunk(None, usage=NOTHING), DONE], {"final": "1", "output": "0"}),
        ("openai", [CONTENT] * 20 + [chunk(None, usage=USAGE), DONE], {**PRICED, "final": "1"}),
        # a usage that does not cover what came after it
        ("openai", [chunk(None, usage=USAGE), CONTENT, DONE], {**PRICED, "final": None}),
        # usage in every event
        (
            "openai",
            [chunk("x", usage={**NOTHING, "prompt_tokens": n}) for n in (1, 2, 3)] + [DONE],
            {"input": "3", "output": "0", "final": None, "events": "3"},
        ),
        (
            "openai",
            [chunk("x", usage={"prompt_tokens": 11, "completion_tokens": n}) for n in (1, 2, 3)],
            {**PRICED, "output": "3", "final": None, "events": "3"},
        ),
        (
            "openai",
            [chunk("x", usage={**USAGE, "completion_tokens": n}) for n in (9, 8, 7)] + [DONE],
            {**PRICED, "output": "9", "final": "1", "events": "3"},
        ),
        ("openai", [CONTENT, chunk(None, usage=None), DONE], {"final": None, "output": None}),
        ("openai", [CONTENT, chunk(None, usage={}), DONE], {"final": None, "output": None}),
        ("openai", [chunk(None, usage={"prompt_tokens": 4}), DONE], {"final": None, "input": "4"}),
        ("anthropic", [START, SAID], {"final": None, "input": "5", "output": "1"}),
        ("anthropic", [START, SAID, event({"type": "message_stop"})], {"final": None}),
        (
            "anthropic",
            [
                START,
                SAID,
                event(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "end_turn"},
                        "usage": {"output_tokens": 9, "cache_read_input_tokens": 3},
                    }
                ),
            ],
            {"final": "1", "input": "5", "output": "9", "cached": "3", "cached_inside": "0"},
        ),
        # no counter goes down
        (
            "anthropic",
            [
                event(
                    {
                        "type": "message_start",
                        "message": {
                            "usage": {
                                "input_tokens": 1000,
                                "output_tokens": 1,
                                "cache_read_input_tokens": 50,
                                "cache_creation_input_tokens": 9,
                            }
                        },
                    }
                ),
                SAID,
                event(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "end_turn"},
                        "usage": {
                            "input_tokens": 0,
                            "output_tokens": 5,
                            "cache_read_input_tokens": 0,
                            "cache_creation_input_tokens": 0,
                        },
                    }
                ),
            ],
            {"final": "1", "input": "1000", "output": "5", "cached": "50", "cache_write": "9"},
        ),
        (
            "openai",
            [chunk("x", usage=USAGE), chunk(None, usage={**NOTHING, "prompt_tokens": 9}), DONE],
            {**PRICED, "final": "1"},
        ),
        (
            "openai",
            [CONTENT, chunk(None, usage={**USAGE, "completion_tokens": 0}), DONE],
            {**PRICED, "final": "1"},
        ),
        (
            "openai",
            [
                event({"type": "response.created", "response": RESPONSE}),
                event({"type": "response.output_text.delta", "delta": "Grüße"}),
                event({"type": "response.output_text.done", "text": "Grüße"}),
                event({"type": "response.completed", "response": RESPONSE}),
            ],
            {"final": "1", "input": "5", "output": "3", "cached": "2", "content_bytes": "7"},
        ),
        (
            "openai",
            [event({"type": "response.in_progress", "response": RESPONSE})],
            {"input": None},
        ),
        (
            "openai",
            [SAID, event({"type": "response.failed", "response": {"usage": None}})],
            {"final": None, "input": None, "done": "1"},
        ),
    ],
)
def test_when_a_usage_is_the_whole_answers(
    lua: Gate, dialect: str, stream: list[bytes], expected: dict[str, str | None]
) -> None:
    body = b"".join(stream)
    for cuts in ((), [len(each) for each in stream], [1] * len(body)):
        [read] = drive(lua, [Case(body, cuts, usage=dialect)])
        assert {name: said(read).get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("dialect", "usage", "expected"),
    [
        (
            "openai",
            {"prompt_tokens": 8, "total_tokens": 8},
            {"input": "8", "output": "0", "final": "1"},
        ),
        ("openai", {"prompt_tokens": 8}, {"input": "8", "output": None, "final": None}),
        # reasoning that the completion is told without
        (
            "openai",
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 4015},
            {"input": "10", "output": "4005", "final": "1"},
        ),
        (
            "openai",
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 12},
            {"input": "10", "output": "5", "final": "1"},
        ),
        (
            "openai",
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3},
            {"input": "10", "output": "5", "final": "1"},
        ),
        (
            "openai",
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 10**12 - 1},
            {"input": "10", "output": "999999999989", "final": "1"},
        ),
        ("openai", {**USAGE, "total_tokens": 10**12}, {"format": "other", "output": None}),
        ("openai", {**USAGE, "total_tokens": -5}, {"format": "other", "output": None}),
        # a total of cached tokens too, which are beside the input
        (
            "anthropic",
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_read_input_tokens": 30,
                "total_tokens": 33,
            },
            {"input": "1", "output": "2", "cached": "30"},
        ),
        # a body's content is not counted, so its usage stands
        ("openai", NOTHING, {"input": "0", "output": "0", "final": "1"}),
        ("openai", {"total_tokens": 8}, {"input": None, "output": None, "final": None}),
        (
            "openai",
            {
                **USAGE,
                "prompt_tokens_details": {"cached_tokens": 4},
                "cache_creation_input_tokens": 2,
            },
            {**PRICED, "cached": "4", "cache_write": None},
        ),
        (
            "anthropic",
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 4,
                "cache_creation": {"input_tokens": 9},
            },
            {"input": "1", "output": "2", "cached": "3", "cache_write": "4", "cached_inside": "0"},
        ),
        (
            "openai",
            {"input_tokens": 5, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 3}},
            {"input": "5", "output": "0", "cached": "3", "cached_inside": "1"},
        ),
    ],
)
def test_the_counters_of_each_server(
    lua: Gate, dialect: str, usage: dict[str, Any], expected: dict[str, str | None]
) -> None:
    [read] = drive(lua, [Case(json.dumps({"usage": usage}).encode(), (), "json", dialect)])
    assert {name: read.seen.get(name) for name in expected} == expected


# ── Through the gate ─────────────────────────────────────────────────────────────────────────────


def in_pieces(body: bytes, size: int) -> list[Step]:
    steps: list[Step] = []
    for at in range(0, len(body), size):
        steps += [body[at : at + size], Pause(0.002)]
    return steps


@pytest.mark.parametrize("size", [7, 64])
def test_chunks_of_a_stream_pass_as_they_come(lua: Gate, size: int) -> None:
    body = b": hello\r\n\r\n" + b"".join(
        [chunk(text).replace(b"\n", b"\r\n") for text in HOSTILE] + [chunk(None, usage=USAGE), DONE]
    )
    lua.upstream.answer = Reply(headers=SSE, body=in_pieces(body, size))
    answer = lua.call()
    assert answer.body == body
    assert lua.usage(answer.request_id) == read_stream(body)[0]


def test_nothing_is_held_back(lua: Gate) -> None:
    more = threading.Event()
    lua.upstream.answer = Reply(headers=SSE, body=[b'data: {"cho', Until(more), b'ices":[]}\n\n'])
    with lua.opened() as response:
        assert response.read1() == b'data: {"cho'
        more.set()
        assert response.read() == b'ices":[]}\n\n'


def test_the_moment_of_the_first_content_is_noted_once(lua: Gate) -> None:
    role = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    body: list[Step] = [role, Pause(0.3), CONTENT, Pause(0.3), CONTENT, DONE]
    lua.upstream.answer = Reply(headers=SSE, body=body)
    begun_ms = time.time() * 1000
    entry = lua.last_entry(lua.call().request_id)
    first = first_ms_of(entry)
    assert first is not None
    assert 290 <= int(first) - begun_ms < 590
    ending = read_ending(entry)
    assert 250_000 <= ending.first_us < ending.duration_us - 250_000
    # where nothing is generated as it comes there is no such moment
    for reply in (Reply(headers=SSE, body=[role, DONE]), json_reply({"usage": USAGE})):
        lua.upstream.answer = reply
        assert first_ms_of(lua.last_entry(lua.call().request_id)) is None


def test_what_was_seen_stays_when_the_client_leaves(lua: Gate) -> None:
    never = threading.Event()
    body: list[Step] = [
        CONTENT,
        chunk("x", usage={"prompt_tokens": 3, "completion_tokens": 2}),
        Until(never),
    ]
    lua.upstream.answer = Reply(headers=SSE, body=body)
    with lua.opened() as response:
        request_id = response.headers["x-request-id"]
        got = b""
        while got.count(b"\n\n") < 2:
            got += response.read1()
    entry = lua.last_entry(request_id)
    never.set()
    assert entry.common_properties.response_flags.downstream_connection_termination
    assert usage_of(entry) == {
        "format": "sse",
        "events": "2",
        "content_bytes": "5",
        "input": "3",
        "output": "2",
        "cached_inside": "1",
    }


def test_entries_on_the_way_have_what_was_seen_so_far(lua: Gate) -> None:
    more = threading.Event()
    lua.upstream.answer = Reply(headers=SSE, body=[CONTENT, Until(more), CONTENT, DONE])
    with lua.opened() as response:
        request_id = response.headers["x-request-id"]
        deadline = time.monotonic() + 10
        while not lua.entries(request_id) and time.monotonic() < deadline:
            time.sleep(0.02)
        more.set()
        response.read()
    assert usage_of(lua.entries(request_id)[0])["events"] == "1"
    assert lua.usage(request_id)["events"] == "2"


@pytest.mark.parametrize("end", [Abort(), Hangup()])
def test_a_server_that_breaks_off_leaves_what_was_seen(lua: Gate, end: Step) -> None:
    lua.upstream.answer = Reply(headers=SSE, body=[CONTENT, CONTENT, Pause(0.1), end])
    with lua.opened() as response:
        request_id = response.headers["x-request-id"]
        with pytest.raises((HTTPException, OSError)):
            response.read()
    seen = lua.usage(request_id)
    assert seen == {"format": "sse", "events": "2", "content_bytes": "8"}


def test_a_compressed_answer_is_noted_and_passes(lua: Gate) -> None:
    packed = gzip.compress(json.dumps({"usage": USAGE}).encode())
    headers = (("content-type", "application/json"), ("content-encoding", "GZIP"))
    lua.upstream.answer = Reply(headers=headers, body=packed)
    answer = lua.call()
    assert answer.body == packed
    assert lua.usage(answer.request_id) == {"format": "other", "encoded": "gzip"}


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("Application/JSON; charset=utf-8", {"usage": USAGE}, "json"),
        ("application/vnd.api+json", {"usage": USAGE}, "json"),
        ("application/x-ndjson", {"usage": USAGE}, "other"),
        ("application/grpc", {"usage": USAGE}, "other"),
        ("text/plain", {"usage": USAGE}, "other"),
        ("application/json", [1], "other"),
    ],
)
def test_which_answers_are_read(lua: Gate, content_type: str, body: Any, expected: str) -> None:
    lua.upstream.answer = Reply(
        headers=(("content-type", content_type),), body=json.dumps(body).encode()
    )
    answer = lua.call()
    seen = lua.usage(answer.request_id)
    assert seen["format"] == expected
    assert ("input" in seen) == (expected == "json")


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_of_the_server_has_no_usage(lua: Gate, status: int) -> None:
    lua.upstream.answer = json_reply({"error": {}, "usage": USAGE}, status)
    answer = lua.call()
    assert answer.status == status
    assert lua.usage(answer.request_id) == {}


def test_without_a_hold_nothing_is_read(lua: Gate) -> None:
    lua.decision = {"hold_id": ""}
    answer = lua.call()
    assert lua.usage(answer.request_id) == {}


def test_an_answer_without_a_body(lua: Gate) -> None:
    lua.upstream.answer = Reply(204, (("content-type", "application/json"),))
    answer = lua.call()
    assert answer.status == 204
    assert lua.usage(answer.request_id) == {"format": "json"}


def test_trailers_do_not_disturb(lua: Gate) -> None:
    headers = (*SSE, ("transfer-encoding", "chunked"))
    framed = b"%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(CONTENT), CONTENT)
    lua.upstream.answer = Reply(headers=headers, body=[framed])
    answer = lua.call()
    assert answer.body == CONTENT
    assert lua.usage(answer.request_id)["done"] == "1"


def test_a_body_of_30_mb_passes_and_is_read(lua: Gate) -> None:
    vectors = [{"embedding": [0.123456789, -0.5] * 768, "text": "\\\"'" * 99}] * 2200
    body = json.dumps({"data": vectors, "usage": {"prompt_tokens": 9, "total_tokens": 9}}).encode()
    assert len(body) > 30 * MIB
    lua.upstream.answer = Reply(headers=(("content-type", "application/json"),), body=body)
    answer = lua.call()
    assert answer.body == body
    assert answer.headers["content-length"] == str(len(body))
    seen = lua.usage(answer.request_id)
    assert (seen["input"], seen["output"], seen["final"]) == ("9", "0", "1")


def test_a_long_stream_and_a_long_body_cost_little(lua: Gate) -> None:
    """The bounds are ten times what was measured: 3 µs an event, 60 ms for 30 MB of JSON."""
    tokens = [chunk(f"token {n} ", usage={**USAGE, "completion_tokens": n}) for n in range(5000)]
    stream = Case(b"".join([*tokens, DONE]), [len(each) for each in tokens], times=4)
    numbers = json.dumps({"data": [[0.12345678] * 1000] * 2500, "usage": USAGE}).encode()
    body = Case(numbers, [16384] * (len(numbers) // 16384), "json")
    streamed, read = drive(lua, [stream, body])
    assert streamed.seen["output"] == "4999"
    assert streamed.microseconds / (4 * 5000) < 50
    assert read.microseconds * (30 * MIB / len(numbers)) < 1_000_000


# ── A defect of ours ─────────────────────────────────────────────────────────────────────────────

DEFECT = """
local usage = require "tensorgate.usage"
local make = usage.reader
function usage.reader(...)
  local meter, chunks = make(...), 0
  local feed = meter.feed
  function meter:feed(chunk)
    chunks = chunks + 1
    assert(chunks < 3, "a defect")
    feed(self, chunk)
  end
  return meter
end
"""


def test_a_defect_breaks_no_answer_and_is_counted() -> None:
    body = [
        chunk("one"),
        Pause(0.05),
        chunk("two")[:30],
        Pause(0.05),
        chunk("two")[30:],
        Pause(0.05),
    ]
    body += [chunk(None, usage=USAGE), DONE]
    whole = b"".join(step for step in body if isinstance(step, bytes))
    with gate(scripts.inference() + DEFECT) as lua:
        lua.upstream.answer = Reply(headers=SSE, body=body)
        for number, decision in enumerate([{}, {"hide_usage": "1"}], start=1):
            lua.decision = decision
            answer = lua.call()
            assert answer.body == whole
            assert lua.usage(answer.request_id)["format"] == "other"
            assert not lua.usage(answer.request_id).get("output")
            assert lua.errors() == number
        lua.upstream.answer = sse_reply("[DONE]")
        assert lua.call(path=CHAT).status == 200
