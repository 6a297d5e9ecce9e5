"""What counts as generated in a stream, in a real Envoy: in events that we know what was, and in
those of servers that nobody knows whatever may have been."""

from __future__ import annotations

from typing import Any

import pytest
from lua_answers import DONE, USAGE, chunk, event
from lua_support import Case, Gate, drive


@pytest.fixture(scope="module")
def lua(_lua_gate: Gate) -> Gate:
    return _lua_gate


# What servers write: OpenAI's shape with what each of them adds, Anthropic's, the Responses'.
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
MARKED = {**CHUNK, "system_fingerprint": "fp_1", "service_tier": "default", "obfuscation": "aX9"}
NOTHING = [
    {**MARKED, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {
        **CHUNK,
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": None, "tool_calls": []},
                "logprobs": {"content": [{"token": "Hi", "bytes": [72, 105], "top_logprobs": []}]},
                "finish_reason": None,
                "token_ids": [1, 2, 3],
            }
        ],
        "prompt_token_ids": None,
        "usage": None,
    },
    {
        **CHUNK,
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "</s>"}],
    },
    {
        **CHUNK,
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "matched_stop": "END"}],
        "usage": None,
        "metadata": {"weight_version": "default"},
    },
    {
        **CHUNK,
        "choices": [{"index": 0, "finish_reason": "stop", "delta": {}, "usage": USAGE}],
        "timings": {"prompt_n": 1, "predicted_per_second": 2.5},
        "__verbose": {"content": "Hi there", "prompt": "the whole prompt", "tokens": [1, 2]},
    },
    {
        **CHUNK,
        "choices": [],
        "prompt_progress": {"total": 9, "processed": 5},
        "x_groq": {"id": "r"},
    },
    {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
    {"error": {"message": "it broke", "type": "server_error", "code": 500}},
    {"usage": USAGE},
    {"type": "ping"},
    {
        "type": "message_start",
        "message": {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_start",
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "", "input": {}},
    },
    {
        "type": "content_block_delta",
        "delta": {"type": "signature_delta", "signature": "EqQBCg" * 9},
    },
    {
        "type": "content_block_delta",
        "delta": {"type": "citations_delta", "citation": {"cited_text": "of a document"}},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END", "container": {"id": "c"}},
    },
    {"type": "message_stop"},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"type": "response.created", "response": {"id": "r", "instructions": "long", "tools": [{}]}},
    {"type": "response.output_item.added", "item": {"id": "i", "type": "message", "content": []}},
    {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
    {"type": "response.output_text.delta", "item_id": "i", "delta": "", "logprobs": []},
    {"type": "response.web_search_call.searching", "item_id": "ws_1"},
]
SAYING = [  # with the bytes that were generated
    ({**CHUNK, "choices": [{"index": 0, "text": "Hey", "logprobs": None}]}, 3),
    ({**MARKED, "choices": [{"index": 0, "delta": {"content": "Grüße"}}]}, 7),
    ({**CHUNK, "choices": [{"delta": {"content": None, "reasoning_content": "Hm"}}]}, 2),
    ({**CHUNK, "choices": [{"delta": {"reasoning": "Hm"}}]}, 2),
    ({**CHUNK, "choices": [{"delta": {"content": [{"type": "text", "text": "part"}]}}]}, 4),
    (
        {
            **CHUNK,
            "choices": [
                {
                    "delta": {
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "ls", "arguments": "{}"},
                            }
                        ]
                    }
                }
            ],
        },
        4,
    ),
    ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}}, 2),
    (
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}},
        1,
    ),
    (
        {
            "type": "content_block_start",
            "content_block": {"type": "redacted_thinking", "data": "AA"},
        },
        2,
    ),
    ({"type": "response.output_text.delta", "item_id": "i", "delta": "Hey", "obfuscation": "x"}, 3),
    ({"type": "response.function_call_arguments.delta", "item_id": "i", "delta": "{"}, 1),
    # of another fashion
    ({**CHUNK, "choices": [{"delta": {"content": "", "thoughts": "Hmm"}}]}, 3),
    ({**CHUNK, "choices": [{"delta": {"content": [{"type": "x", "deep": ["ab"]}]}}]}, 4),
    ({**CHUNK, "choices": [{"delta": "Hey"}]}, 3),
    ({**CHUNK, "choices": [{"message": {"content": "Hey"}}]}, 16),
    ({**CHUNK, "choices": ["Hey"]}, 3),
    ({**CHUNK, "output": "Hey"}, 3),
    ({"token": {"id": 5, "text": "Hey"}, "generated_text": None}, 22),
    ({"model": "m", "message": {"role": "assistant", "content": "Hey"}, "done": False}, 3),
    ({"model": "m", "response": "Hey", "done": False}, 3),
    ({"type": "content_block_delta", "delta": {"type": "new_delta", "words": "Hey"}}, 3),
    ({"type": "text-delta", "id": "0", "delta": "Hey"}, 3),
    ({"type": "chunk", "words": "Hey"}, 3),
    ({"type": "response.new.delta", "item_id": "i", "words": "Hey"}, 3),
    ({"type": "response.output_item.done", "item": {"arguments": "{}"}}, 17),
]


def test_no_ordinary_event_is_dearer_than_what_was_generated_in_it(lua: Gate) -> None:
    reads = drive(lua, [Case(event(each)) for each in NOTHING])
    for each, read in zip(NOTHING, reads, strict=True):
        assert (read.seen["events"], read.seen["content_bytes"]) == ("0", "0"), each


def test_what_was_generated_is_found_wherever_it_stands(lua: Gate) -> None:
    reads = drive(lua, [Case(event(each)) for each, _ in SAYING])
    for (each, size), read in zip(SAYING, reads, strict=True):
        assert (read.seen["events"], read.seen["content_bytes"]) == ("1", str(size)), each


def test_an_item_of_a_response_counts_only_where_no_delta_of_it_came(lua: Gate) -> None:
    said = {"type": "response.output_text.delta", "delta": "Hey"}
    done = {"type": "response.output_item.done", "item": {"text": "Hey"}}
    size = len('"text": "Hey"')
    for stream, expected in [
        ([said, done], 3),
        ([done], size),
        ([said, done, done], 3 + size),
        ([said, done, said, done], 6),
    ]:
        [read] = drive(lua, [Case(b"".join(map(event, stream)))])
        assert read.seen["content_bytes"] == str(expected)


@pytest.mark.parametrize("each", [{"choices": [{"delta": {"new": "Hey"}}]}, {"output": "Hey"}])
def test_a_usage_does_not_cover_what_came_after_it_in_another_fashion(
    lua: Gate, each: dict[str, Any]
) -> None:
    [read] = drive(lua, [Case(event({"usage": USAGE}) + event(each) + DONE)])
    assert read.seen["content_bytes"] == "3"
    assert read.seen.get("final") != "1"


def test_data_that_is_no_object_counts_as_it_stands(lua: Gate) -> None:
    plain, sign = b"data: Hey \ndata: you\n\n", b"data: ping\n\n"
    [read] = drive(lua, [Case(plain)])
    assert (read.seen["events"], read.seen["content_bytes"]) == ("1", "7")
    [read] = drive(lua, [Case(chunk("Hey") + chunk(None, usage=USAGE) + sign + DONE)])
    assert read.seen["final"] == "1"
