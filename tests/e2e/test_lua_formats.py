"""The response meter in a real Envoy on answers of Gemini, Ollama, rerankers, speech, images, and
of servers that say nothing."""

from __future__ import annotations

import json
import threading
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
    chunk,
    cuts_of,
    event,
    fuzz,
    gemini_event,
    lines,
    ollama_line,
    rendered,
    streams,
)
from lua_support import MIB, Case, Gate, drive, said
from moneyhelp import hold
from peers.recorder import Pause, Reply, Step, Until, json_reply
from usage_others import read_answer
from usage_reference import read_body, read_stream

from authz.pricing import charge
from authz.usage import read_ending
from store.records import Basis, Price

NDJSON = (("content-type", "application/x-ndjson"),)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def written_as(framing: str, objects: list[Any]) -> bytes:
    """A stream of objects, in one of the ways in which servers write one."""
    match framing:
        case "sse":
            return b"".join(map(event, objects))
        case "lines":
            return b"".join(compact(each) + b"\n" for each in objects)
        case _:
            return b"[" + b",\r\n".join(map(compact, objects)) + b"]\n"


# ── Against a second reading, cut anywhere ───────────────────────────────────────────────────────


@fuzz
@given(data=st.data())
def test_any_answer_of_gemini_cut_anywhere_reads_as_the_whole(
    lua: Gate, data: st.DataObject
) -> None:
    framing = data.draw(st.sampled_from(["json", "array", "sse"]))
    if framing == "sse":
        answer = data.draw(streams(gemini_event))
    else:
        value = gemini_event if framing == "json" else st.lists(gemini_event, max_size=4)
        answer = data.draw(rendered(data.draw(value))).encode("utf-8", "surrogatepass") + b"\n"
    kind = "sse" if framing == "sse" else "json"
    [read] = drive(lua, [Case(answer, cuts_of(data, answer), kind, "gemini")])
    assert said(read) == read_answer(answer, "gemini", kind)


@fuzz
@given(data=st.data())
def test_any_answer_of_ollama_cut_anywhere_reads_as_the_whole(
    lua: Gate, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["json", "lines", "lines"]))
    if kind == "json":
        answer = data.draw(rendered(data.draw(ollama_line))).encode("utf-8", "surrogatepass")
    else:
        values = data.draw(st.lists(ollama_line, max_size=5))
        texts = [data.draw(rendered(each)).replace("\n", "") for each in values]
        blank = data.draw(st.sampled_from([[], [""], [" "]]))
        newline = data.draw(st.sampled_from([b"\n", b"\r\n"]))
        answer = lines(texts + blank, newline, ended=data.draw(st.booleans()))
    [read] = drive(lua, [Case(answer, cuts_of(data, answer), kind, "ollama")])
    assert said(read) == read_answer(answer, "ollama", kind)


# ── What is no usage ─────────────────────────────────────────────────────────────────────────────

ZEROS: dict[str, Any] = {
    "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0},
    "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    "prompt_eval_count": 0,
    "eval_count": 0,
    "done": True,
    "finishReason": "STOP",
}


def gemini(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}], **more}


def gemini_end(**counts: int) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": counts}


GEMINI_USAGE = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
GEMINI_PRICED = {"input": "11", "output": "7", "cached_inside": "1", "final": "1", "done": "1"}
OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 7}
OLLAMA_PRICED = {"input": "11", "output": "7", "final": "1", "done": "1"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_gemini_writes_is_never_read_as_usage(lua: Gate, hostile: str) -> None:
    call = {"functionCall": {"name": hostile, "args": {hostile: hostile, **ZEROS}}}
    answers = [
        gemini(hostile, more=ZEROS, **{hostile: ZEROS}),
        {"candidates": [{"content": {"parts": [call]}, hostile: ZEROS}]},
        {"candidates": [{"content": {"parts": [{"text": hostile, **ZEROS}], **ZEROS}}]},
    ]
    end = gemini_end(**GEMINI_USAGE)
    cases = [Case(compact({**each, **end}), (), "json", "gemini") for each in answers[1:]]
    cases += [
        Case(
            written_as(framing, [*answers, end]),
            (),
            "json" if framing == "array" else "sse",
            "gemini",
        )
        for framing in ("array", "sse")
    ]
    for read in drive(lua, cases):
        assert {name: read.seen[name] for name in GEMINI_PRICED} == GEMINI_PRICED
        if "events" in read.seen:
            assert read.seen["events"] == "3"
            assert int(read.seen["content_bytes"]) > 4 * len(hostile.encode())


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_ollama_writes_is_never_read_as_usage(lua: Gate, hostile: str) -> None:
    call = {"function": {"name": hostile, "arguments": {hostile: hostile, **ZEROS}}}
    said_by_model = [
        {"message": {"role": "assistant", "content": hostile, **ZEROS}, "done": False},
        {"message": {"content": "", "tool_calls": [call]}, "done": False},
        {"response": hostile, hostile: ZEROS, "done": False, "eval_count": 1},
    ]
    body = {**said_by_model[0], **OLLAMA_END}
    stream = written_as("lines", [*said_by_model, OLLAMA_END])
    cases = [Case(compact(body), (), "json", "ollama"), Case(stream, (), "lines", "ollama")]
    for read in drive(lua, cases):
        assert {name: read.seen[name] for name in OLLAMA_PRICED} == OLLAMA_PRICED
    cut = stream[: stream.rindex(b"{")]
    [read] = drive(lua, [Case(cut, [1] * len(cut), "lines", "ollama")])
    assert not read.seen.keys() & {"input", "output", "final"}
    assert read.seen["events"] == "3"


@pytest.mark.parametrize(
    "spoilt",
    [
        b'"eval_count":7,"eval_count":0',
        b'"eval_count":7,"eval_coun\\u0074":0',
        b'"done":true,"eval_count":-7',
        b'"eval_count":7.0',
        b'"eval_count":7e0',
        b'"eval_count":"7"',
        b'"eval_count":1000000000000',
        b'"eval_count":{}',
        b'"eval_count":7,"done":false',
        b'"eval_count":07',
    ],
)
def test_an_ollama_line_that_says_two_things_says_nothing(lua: Gate, spoilt: bytes) -> None:
    line = b'{"prompt_eval_count":11,"done":true,' + spoilt + b"}\n"
    stream = compact({"response": "hm", "done": False}) + b"\n" + line + compact(OLLAMA_END)
    cases = [
        Case(line, [1] * len(line), "json", "ollama"),
        Case(stream, (), "lines", "ollama"),
        Case(stream, [1] * len(stream), "lines", "ollama"),
    ]
    for read in drive(lua, cases):
        assert read.seen == {"format": "other"}


@pytest.mark.parametrize(
    "counts",
    [
        b'"candidatesTokenCount":7,"candidatesTokenCount":0',
        b'"candidatesTokenCount":-7',
        b'"candidatesTokenCount":7.5',
        b'"candidatesTokenCount":"7"',
        b'"thoughtsTokenCount":1e3',
        b'"toolUsePromptTokenCount":1000000000000',
        b'"totalTokenCount":[1]',
    ],
)
@pytest.mark.parametrize("framing", ["json", "array", "sse"])
def test_a_gemini_usage_that_is_none_says_nothing(lua: Gate, counts: bytes, framing: str) -> None:
    answer = b'{"usageMetadata":{"promptTokenCount":11,' + counts + b"}}"
    twice = b'{"usageMetadata":{"promptTokenCount":11},"usageMetadata":{"promptTokenCount":0}}'
    for each in (answer, twice):
        text = {"json": each, "array": b"[{}, " + each + b"]", "sse": b"data: " + each + b"\n\n"}
        kind = "sse" if framing == "sse" else "json"
        cuts = [1] * len(text[framing])
        for read in drive(lua, [Case(text[framing], c, kind, "gemini") for c in ((), cuts)]):
            assert read.seen == {"format": "other"}


@pytest.mark.parametrize(
    ("usage", "framing", "answer"),
    [
        ("ollama", "lines", b'{"response":"a\n"}\n' + compact(OLLAMA_END)),
        ("ollama", "lines", b'{"response":"a"} {"done":true}\n'),
        ("ollama", "lines", b"[]\n" + compact(OLLAMA_END)),
        ("ollama", "lines", b'"x"\n' + compact(OLLAMA_END)),
        ("ollama", "lines", b"data: {}\n" + compact(OLLAMA_END)),
        ("ollama", "json", compact({"response": "a"}) + b"\n" + compact(OLLAMA_END)),
        ("ollama", "json", b"[" + compact(OLLAMA_END) + b"]"),
        ("gemini", "json", b"[" + compact(gemini_end(**GEMINI_USAGE)) + b"}"),
        ("gemini", "json", b"[" + compact(gemini_end(**GEMINI_USAGE)) + b"] []"),
        ("gemini", "json", b"[" + compact(gemini_end(**GEMINI_USAGE)) + b" {}]"),
        ("gemini", "json", b'"x"'),
    ],
)
def test_what_is_no_answer_of_the_format_says_nothing(
    lua: Gate, usage: str, framing: str, answer: bytes
) -> None:
    for cuts in ((), [1] * len(answer)):
        [read] = drive(lua, [Case(answer, cuts, framing, usage)])
        assert read.seen == {"format": "other"}


# ── What is ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (GEMINI_USAGE, {"input": "11", "output": "7", "cached_inside": "1"}),
        ({**GEMINI_USAGE, "thoughtsTokenCount": 5, "totalTokenCount": 23}, {"output": "12"}),
        # a server whose candidates have the thoughts inside says so by its total
        ({**GEMINI_USAGE, "thoughtsTokenCount": 5}, {"output": "7"}),
        (
            {"promptTokenCount": 11, "candidatesTokenCount": 7, "thoughtsTokenCount": 5},
            {"output": "12"},
        ),
        (
            {**GEMINI_USAGE, "toolUsePromptTokenCount": 30, "totalTokenCount": 48},
            {"input": "41", "output": "7"},
        ),
        ({**GEMINI_USAGE, "cachedContentTokenCount": 4}, {"input": "11", "cached": "4"}),
        # a count of nothing is left out
        ({"promptTokenCount": 11, "totalTokenCount": 11}, {"output": "0", "final": "1"}),
        ({"promptTokenCount": 11, "thoughtsTokenCount": 5, "totalTokenCount": 16}, {"output": "5"}),
        (
            {"promptTokenCount": 11, "thoughtsTokenCount": 5, "totalTokenCount": 12},
            {"output": None},
        ),
        ({"promptTokenCount": 11}, {"input": "11", "output": None, "final": None}),
        ({"candidatesTokenCount": 7}, {"input": None, "output": "7", "final": None}),
        ({"promptTokenCount": None, "candidatesTokenCount": None}, {"input": None, "output": None}),
    ],
)
def test_the_counters_of_gemini(
    lua: Gate, counts: dict[str, int], expected: dict[str, str | None]
) -> None:
    body = gemini_end(**counts)
    cases = [Case(compact(body), (), "json", "gemini")]
    cases += [Case(written_as("array", [body]), (), "json", "gemini")]
    cases += [Case(written_as("sse", [body]), (), "sse", "gemini")]
    for read in drive(lua, cases):
        assert {name: said(read).get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "embedded", [{"embedding": {"values": [0.5]}}, {"embeddings": [{"values": [0.5]}] * 3}]
)
def test_an_embedding_of_gemini_generates_nothing(lua: Gate, embedded: dict[str, Any]) -> None:
    body = embedded | {"usageMetadata": {"promptTokenCount": 9}}
    [read] = drive(lua, [Case(compact(body), (), "json", "gemini")])
    found = {name: read.seen.get(name) for name in ("input", "output", "final")}
    assert found == {"input": "9", "output": "0", "final": "1"}


@pytest.mark.parametrize("framing", ["array", "sse"])
def test_when_a_usage_of_gemini_is_the_whole_answers(lua: Gate, framing: str) -> None:
    early = {"promptTokenCount": 11, "candidatesTokenCount": 2, "totalTokenCount": 13}
    end = gemini_end(**GEMINI_USAGE)
    streams: list[tuple[list[Any], dict[str, str | None]]] = [
        ([gemini("Grüße", usageMetadata=early), end], {**GEMINI_PRICED, "content_bytes": "7"}),
        ([gemini("a", usageMetadata=early)], {"output": "2", "final": None, "events": "1"}),
        ([gemini("a", usageMetadata=early), gemini("b")], {"output": "2", "final": None}),
        ([end, gemini("b")], {"final": None}),
        # no counter goes down, and one of nothing after content is none
        (
            [gemini("a", usageMetadata=GEMINI_USAGE), gemini_end(**early)],
            {**GEMINI_PRICED, "final": "1"},
        ),
        (
            [gemini("a"), gemini_end(promptTokenCount=3, totalTokenCount=3)],
            {"input": "3", "output": "0", "final": None},
        ),
        (
            [gemini("a"), {"candidates": [{"finishReason": "STOP"}]}],
            {"output": None, "final": None},
        ),
        (
            [gemini("a"), {"candidates": [{"finishReason": "STOP"}, {}], "usageMetadata": early}],
            {"output": "2", "final": None},
        ),
        (
            [
                {
                    "promptFeedback": {"blockReason": "SAFETY"},
                    "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3},
                }
            ],
            {"input": "3", "output": "0", "final": "1"},
        ),
    ]
    for objects, expected in streams:
        body = written_as(framing, objects)
        if framing == "array":
            body = body.rstrip(b"]\n")  # which would be an end of the whole
        kind = "json" if framing == "array" else "sse"
        for cuts in ((), [1] * len(body)):
            [read] = drive(lua, [Case(body, cuts, kind, "gemini")])
            wanted = {n: v for n, v in expected.items() if n != "done" or framing == "sse"}
            assert {name: said(read).get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("usage", "framing", "end"),
    [
        ("gemini", "array", gemini_end(**GEMINI_USAGE)),
        ("gemini", "sse", gemini_end(**GEMINI_USAGE)),
        ("ollama", "lines", OLLAMA_END),
    ],
)
def test_no_usage_covers_what_came_after_it(
    lua: Gate, usage: str, framing: str, end: dict[str, Any]
) -> None:
    more = gemini("more") if usage == "gemini" else {"response": "more"}
    body = written_as(framing, [end, more])
    body = body[: body.index(b"more") + 4]  # it breaks off in an object
    kind = "json" if framing == "array" else framing
    for cuts in ((), [1] * len(body)):
        [read] = drive(lua, [Case(body, cuts, kind, usage)])
        assert (read.seen["output"], read.seen["events"]) == ("7", "1")
        assert not said(read).keys() & {"final", "done"}


def test_what_gemini_generates_besides_text_is_counted(lua: Gate) -> None:
    parts = [
        ({"functionCall": {"name": "f", "args": {"a": [1, 2]}}}, '"name":"f","args":{"a":[1,2]}'),
        ({"inlineData": {"data": "QUJD"}}, '"data":"QUJD"'),
        ({"executableCode": {"code": "x\n"}}, '"code":"x\\n"'),
        ({"new": "é\\"}, "é\\"),
        ({"text": "x\n", "thoughtSignature": "QUJDQUJD"}, "x\n"),
        ({"new": None, "thought": True, "text": ""}, ""),
        ({"new": [], "more": {}}, ""),
    ]
    for part, counted in parts:
        body = json.dumps(
            {"candidates": [{"content": {"parts": [part]}, "index": 0}]},
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()
        stream = b"data: " + body + b"\n\n"
        for cuts in ((), [1] * len(stream)):
            [read] = drive(lua, [Case(stream, cuts, "sse", "gemini")])
            assert read.seen["content_bytes"] == str(len(counted.encode()))
            assert read.seen["events"] == ("1" if counted else "0")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"response": "x", **OLLAMA_END}, OLLAMA_PRICED),
        ({"message": {"content": "x"}, **OLLAMA_END}, OLLAMA_PRICED),
        ({"response": "x", **OLLAMA_END, "done": False}, {"input": None, "output": None}),
        (
            {"response": "x", "done": True, "eval_count": 7},
            {"input": None, "output": "7", "final": None},
        ),
        ({"response": "x", "done": True, "prompt_eval_count": 7}, {"output": None, "final": None}),
        ({"response": "", "done": True, "prompt_eval_count": 7}, {"output": "0", "final": "1"}),
        ({"response": "", "done": True, "done_reason": "load"}, {"input": "0", "output": "0"}),
        ({"response": "x", "done": True, "done_reason": "load"}, {"input": None, "output": None}),
        ({"response": "", "done": True, "done_reason": "stop"}, {"input": None, "output": None}),
        (
            {"embeddings": [[0.1]], "prompt_eval_count": 5},
            {"input": "5", "output": "0", "final": "1"},
        ),
        ({"embeddings": [[0.1]]}, {"input": None, "output": "0", "final": None}),
        ({"embedding": [0.1]}, {"input": None, "output": None}),
        ({"error": "no such model"}, {"input": None, "output": None}),
    ],
)
def test_the_counters_of_ollama(
    lua: Gate, answer: dict[str, Any], expected: dict[str, str | None]
) -> None:
    body = compact(answer)
    cases = [Case(body, (), framing, "ollama") for framing in ("json", "lines")]
    for read in drive(lua, [*cases, Case(body + b"\n", [1] * len(body), "lines", "ollama")]):
        assert {name: read.seen.get(name) for name in expected} == expected


NONE = {"input": None, "output": None, "final": None}
AUDIO = {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
HEARD = {"input": "14", "output": "45", "cached_inside": "1", "final": "1"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"text": "x", "usage": {"type": "tokens", "input_token_details": {}, **AUDIO}}, HEARD),
        ({"text": "x", "usage": {"type": "duration", "seconds": 3.5}}, NONE),
        ({"task": "transcribe", "text": "x", "segments": [{"usage": AUDIO}]}, {"input": None}),
        ({"data": [{"b64_json": "QUJD", "usage": {}}], "usage": AUDIO}, HEARD),
        ({"data": [{"url": "x"}]}, NONE),
        ({"results": [{"flagged": False}]}, NONE),
        (
            {"data": [{"score": 1}], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
            {"input": "8", "output": "0"},
        ),
        (
            {"usage": {"total_tokens": 8}, "results": []},
            {"input": "8", "output": "0", "final": "1"},
        ),
        (
            {"usage": {"prompt_tokens": 7, "total_tokens": 8}, "results": [{}]},
            {"input": "7", "output": "0"},
        ),
        (
            {"results": [{}], "meta": {"tokens": {"input_tokens": 9, "output_tokens": 2}}},
            {"input": "9", "output": "2"},
        ),
        (
            {"results": [{}], "meta": {"tokens": None, "billed_units": {"input_tokens": 9}}},
            {"input": "9", "output": "0", "final": "1"},
        ),
        ({"results": [{}], "meta": {"billed_units": {"search_units": 1}}}, NONE),
        ({"meta": {"tokens": {"input_tokens": 9, "output_tokens": 2}}}, NONE),
        ({"results": [{"usage": AUDIO, "meta": {"tokens": AUDIO}}]}, NONE),
        ({"usage": {"total_tokens": 8}}, NONE),
    ],
)
def test_bodies_of_audio_images_rerank_score_moderations(
    lua: Gate, body: dict[str, Any], expected: dict[str, str | None]
) -> None:
    for members in (body, dict(reversed(body.items()))):
        text = compact(members)
        for cuts in ((), [1] * len(text)):
            [read] = drive(lua, [Case(text, cuts, "json")])
            assert {name: read.seen.get(name) for name in expected} == expected
            assert said(read) == read_body(text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_transcript_and_no_document_is_read_as_usage(lua: Gate, hostile: str) -> None:
    nested = {"text": hostile, **ZEROS, "meta": {"tokens": ZEROS["usage"]}}
    bodies = [
        {"text": hostile, "segments": [nested], "words": [nested], "usage": AUDIO},
        {"results": [{"document": nested, **nested}], hostile: nested, "usage": AUDIO},
        {"data": [{"revised_prompt": hostile, **nested}], "usage": AUDIO},
    ]
    for read in drive(lua, [Case(compact(body), (), "json") for body in bodies]):
        assert {name: read.seen.get(name) for name in HEARD} == HEARD
    events = [
        {"type": "transcript.text.delta", "delta": hostile, "logprobs": [nested]},
        {"type": "transcript.text.segment", "text": hostile, "speaker": hostile},
        {"type": "transcript.text.done", "text": hostile, "logprobs": [nested], "usage": AUDIO},
    ]
    [read] = drive(lua, [Case(written_as("sse", events))])
    assert {name: read.seen.get(name) for name in HEARD} == HEARD
    assert read.seen["content_bytes"] == str(len(hostile.encode()))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (
            [
                {"type": "speech.audio.delta", "audio": "QUJD"},
                {"type": "speech.audio.done", "usage": AUDIO},
            ],
            {**HEARD, "events": "1", "content_bytes": "4"},
        ),
        ([{"type": "speech.audio.delta", "audio": "QUJD"}], {"input": None, "events": "1"}),
        (
            [
                {"type": "transcript.text.delta", "delta": "é"},
                {"type": "transcript.text.done", "text": "é", "usage": AUDIO},
            ],
            {**HEARD, "content_bytes": "2"},
        ),
        (
            [
                {"type": "transcript.text.delta", "delta": "é"},
                {"type": "transcript.text.done", "usage": {"type": "duration", "seconds": 2}},
            ],
            {"input": None, "output": None, "final": None},
        ),
        (
            [
                {"type": "image_generation.partial_image", "b64_json": "QUJD"},
                {"type": "image_generation.completed", "b64_json": "QUJD", "usage": AUDIO},
            ],
            {**HEARD, "events": "2", "content_bytes": "8"},
        ),
        # of two images: is it of both?
        (
            [{"type": "image_edit.completed", "b64_json": "QUJD", "usage": AUDIO}] * 2,
            {**HEARD, "final": None},
        ),
        (
            [{"type": "response.image_generation_call.partial_image", "partial_image_b64": "QUJD"}],
            {"events": "1", "content_bytes": "4"},
        ),
    ],
)
def test_streams_of_audio_and_images(
    lua: Gate, events: list[Any], expected: dict[str, str | None]
) -> None:
    stream = written_as("sse", events)
    for cuts in ((), [1] * len(stream)):
        [read] = drive(lua, [Case(stream, cuts)])
        assert {name: said(read).get(name) for name in expected} == expected
        assert said(read) == read_stream(stream)[0]


# ── A server that counts as it goes ──────────────────────────────────────────────────────────────


def counting(text: str, output: int, **more: Any) -> bytes:
    counts = {"prompt_tokens": 11, "completion_tokens": output, "total_tokens": 11 + output}
    return chunk(text, usage=counts, **more)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([counting("ab", 2), counting("cdefghi", 5)], {"output": "5", "final": "1", "events": "2"}),
        # an event that did not come whole is not in the usage
        ([counting("ab", 2), chunk("cd")[:-6]], {"output": "2", "final": None, "events": "2"}),
        ([counting("ab", 2), chunk("cd")], {"output": "2", "final": None}),
        ([counting("ab", 2), event({"new": "cd"})[:-4]], {"output": "2", "final": None}),
        ([counting("ab", 2), chunk("cd", usage=None)], {"output": "2", "final": None}),
        # less than a token an event: it does not count as it goes
        ([counting("ab", 0), counting("cd", 0)], {"output": "0", "final": None}),
        ([counting("ab", 1), counting("cd", 1)], {"output": "1", "final": None}),
        ([counting("", 0)], {"output": "0", "final": None}),
        (
            [counting("ab", 2), counting("", 2), chunk(None, usage=USAGE), DONE],
            {**PRICED, "final": "1"},
        ),
    ],
)
def test_a_cut_stream_of_a_server_that_counts_as_it_goes(
    lua: Gate, stream: list[bytes], expected: dict[str, str | None]
) -> None:
    body = b"".join(stream)
    for cuts in ((), [1] * len(body)):
        counted, alone = drive(lua, [Case(body, cuts, continuous=flag) for flag in (True, False)])
        assert {name: said(counted).get(name) for name in expected} == expected
        assert ("final" in said(alone)) == body.endswith(DONE)


# ── Through the gate ─────────────────────────────────────────────────────────────────────────────


def test_the_services_word_on_the_format_comes_before_the_dialect(lua: Gate) -> None:
    body = {"usage": {"input_tokens": 5, "output_tokens": 3}, "usageMetadata": GEMINI_USAGE}
    lua.upstream.answer = json_reply(
        {**body, **OLLAMA_END, "prompt_eval_count": 2, "eval_count": 1}
    )
    decisions: list[tuple[dict[str, str], tuple[str | None, str | None]]] = [
        ({}, ("5", "1")),
        ({"dialect": "anthropic"}, ("5", "0")),
        ({"usage": "", "dialect": "anthropic"}, ("5", "0")),
        ({"usage": "openai", "dialect": "anthropic"}, ("5", "1")),
        ({"usage": "gemini"}, ("11", "1")),
        ({"usage": "ollama", "dialect": "anthropic"}, ("2", None)),
    ]
    for decision, expected in decisions:
        lua.decision = decision
        seen = lua.usage(lua.call().request_id)
        assert (seen["input"], seen.get("cached_inside")) == expected
        assert seen["final"] == "1"
    for unread in ("none", "sometime"):
        lua.decision = {"usage": unread}
        answer = lua.call()
        assert json.loads(answer.body)["usage"] == body["usage"]
        assert lua.usage(answer.request_id) == {"format": "other"}


@pytest.mark.parametrize(
    ("usage", "content_type", "expected"),
    [
        ("ollama", "application/x-ndjson", "lines"),
        ("ollama", "Application/NDJSON; charset=utf-8", "lines"),
        ("ollama", "application/json; charset=utf-8", "json"),
        ("ollama", "text/plain", "other"),
        ("gemini", "application/x-ndjson", "other"),
        ("gemini", "application/json; charset=UTF-8", "json"),
        ("openai", "application/x-ndjson", "other"),
        ("openai", "audio/mpeg", "other"),
        ("openai", "text/plain", "other"),
        ("none", "text/event-stream", "other"),
    ],
)
def test_which_answers_are_read(lua: Gate, usage: str, content_type: str, expected: str) -> None:
    body = compact({**OLLAMA_END, "usageMetadata": GEMINI_USAGE})
    lua.decision = {"usage": usage}
    lua.upstream.answer = Reply(headers=(("content-type", content_type),), body=body)
    answer = lua.call()
    assert answer.body == body
    seen = lua.usage(answer.request_id)
    assert seen["format"] == expected
    assert ("input" in seen) == (expected != "other")


@pytest.mark.parametrize(
    ("usage", "headers", "first", "rest"),
    [
        ("ollama", NDJSON, b'{"response":"a"}\n{"respon', b'se":"b","done":true,"eval_count":2}\n'),
        ("gemini", SSE, b'data: {"candid', b'ates":[]}\n\n'),
        ("gemini", (("content-type", "application/json"),), b'[{"candidates":[]},{"a', b'":1}]'),
    ],
)
def test_nothing_is_held_back(
    lua: Gate, usage: str, headers: Any, first: bytes, rest: bytes
) -> None:
    more = threading.Event()
    lua.decision = {"usage": usage, "hide_usage": "1"} if headers != SSE else {"usage": usage}
    lua.upstream.answer = Reply(headers=headers, body=[first, Until(more), rest])
    with lua.opened() as response:
        assert response.read1() == first
        more.set()
        assert response.read() == rest


@pytest.mark.parametrize(
    ("usage", "headers", "objects"),
    [
        ("ollama", NDJSON, [{"response": "Grüße", "done": False}] * 2),
        ("gemini", SSE, [gemini("Grüße")] * 2),
        ("gemini", (("content-type", "application/json"),), [gemini("Grüße")] * 2),
    ],
)
def test_what_was_seen_stays_when_the_client_leaves(
    lua: Gate, usage: str, headers: Any, objects: list[Any]
) -> None:
    framing = "lines" if headers == NDJSON else "sse" if headers == SSE else "array"
    whole = written_as(framing, objects).rstrip(b"]\n") + b"\n" * (framing != "array")
    never = threading.Event()
    body: list[Step] = [whole[:30], Pause(0.01), whole[30:], Until(never)]
    lua.decision = {"usage": usage}
    lua.upstream.answer = Reply(headers=headers, body=body)
    with lua.opened() as response:
        request_id = response.headers["x-request-id"]
        got = b""
        while len(got) < len(whole):
            got += response.read1()
    seen = lua.usage(request_id)
    never.set()
    assert got == whole
    assert seen == {"format": framing, "events": "2", "content_bytes": "14"}


@pytest.mark.parametrize(
    ("decision", "headers", "came", "basis", "tokens"),
    [
        (
            {"continuous_usage": "1"},
            SSE,
            counting("abcd", 2) + counting("efgh", 3),
            Basis.METERED,
            (11, 3),
        ),
        ({}, SSE, counting("abcd", 2) + counting("efgh", 3), Basis.ESTIMATED, (11, 8)),
        (
            {"usage": "ollama"},
            NDJSON,
            compact({"response": "Grüße"}) + b"\n",
            Basis.ESTIMATED,
            (100, 7),
        ),
        ({"usage": "none"}, SSE, counting("abcd", 2), Basis.HELD, (0, 0)),
        ({"hides_output": "1"}, SSE, counting("abcd", 2), Basis.HELD, (0, 0)),
        (
            {"hides_output": "1", "continuous_usage": "1"},
            SSE,
            counting("abcd", 2000),
            Basis.METERED,
            (11, 2000),
        ),
    ],
)
def test_what_a_stream_costs_whose_client_leaves(
    lua: Gate,
    decision: dict[str, str],
    headers: Any,
    came: bytes,
    basis: Basis,
    tokens: tuple[int, int],
) -> None:
    never = threading.Event()
    lua.decision = decision
    lua.upstream.answer = Reply(headers=headers, body=[came, Until(never)])
    with lua.opened() as response:
        request_id = response.headers["x-request-id"]
        got = b""
        while len(got) < len(came):
            got += response.read1()
    entry = lua.last_entry(request_id)
    never.set()
    held = hold(10_000, price=Price(input=10**6, output=2 * 10**6), input_bound=100)
    cost = charge(held, read_ending(entry), 1)
    assert (cost.basis, (cost.input_tokens, cost.output_tokens)) == (basis, tokens)
    assert cost.nanousd == (10_000 if basis is Basis.HELD else tokens[0] + 2 * tokens[1])


def test_long_answers_pass_and_are_read(lua: Gate) -> None:
    tokens: list[Any] = [{"response": f"token {n} ", "done": False} for n in range(5000)]
    answers = [
        ("ollama", NDJSON, written_as("lines", [*tokens, {"response": "", **OLLAMA_END}])),
        (
            "gemini",
            (("content-type", "application/json"),),
            written_as("array", [*[gemini("x")] * 5000, gemini_end(**GEMINI_USAGE)]),
        ),
        (
            "gemini",
            SSE,
            written_as("sse", [gemini("x" * MIB), *[gemini("x")] * 99, gemini_end(**GEMINI_USAGE)]),
        ),
        (
            "ollama",
            (("content-type", "application/json"),),
            compact({"embeddings": [[0.123456789] * 1000] * 2500, "prompt_eval_count": 11}),
        ),
    ]
    for usage, headers, body in answers:
        lua.decision = {"usage": usage}
        lua.upstream.answer = Reply(headers=headers, body=body)
        answer = lua.call()
        assert answer.body == body
        seen = lua.usage(answer.request_id)
        assert (seen["input"], seen["final"]) == ("11", "1")
        assert seen["output"] == ("0" if b"embeddings" in body[:20] else "7")


def test_new_formats_cost_as_little_as_the_old_ones(lua: Gate) -> None:
    """The bounds are ten times what was measured: 3 to 5 µs an object."""
    texts = [f"token {n} " for n in range(5000)]
    generated: list[Any] = [{"message": {"role": "assistant", "content": t}} for t in texts]
    parts: list[Any] = [gemini(t, usageMetadata=GEMINI_USAGE) for t in texts]
    cases = [
        Case(body, [4096] * (len(body) // 4096), framing, usage)
        for body, framing, usage in (
            (written_as("lines", generated), "lines", "ollama"),
            (written_as("array", parts), "json", "gemini"),
            (written_as("sse", parts), "sse", "gemini"),
        )
    ]
    for read in drive(lua, cases):
        assert read.seen["events"] == "5000"
        assert read.microseconds / 5000 < 80
