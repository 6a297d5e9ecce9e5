"""What a body asks for: bounds, repeats, where edits go, and what counts as text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moneysupport import ask_of, body, edited, fault_of

from authz.ask import MAX_BOUND
from authz.body import Body, read_json
from authz.model import Ask, Edit, Fault, Reason, Shape
from authz.shapes import CHAT, COMPLETIONS, EMBEDDINGS, GENERATE, MESSAGES, RESPONSES

GENERATING = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}
BOUND_MEMBERS = [
    (shape, name) for shape in GENERATING.values() for name in (*shape.bounds, *shape.also)
]
REPEAT_MEMBERS = [(shape, name) for shape in GENERATING.values() for name in shape.repeats]

NO_NUMBERS: dict[str, str] = {
    "zero": "0",
    "minus zero": "-0",
    "negative": "-1",
    "fraction": "1.5",
    "whole, but written as a fraction": "2.0",
    "exponent": "1e3",
    "huge": str(MAX_BOUND + 1),
    "beyond 64 bits": "18446744073709551616",
    "far beyond 64 bits": "1" + "0" * 60,
    "true": "true",
    "false": "false",
    "string": '"5"',
    "list": "[5]",
    "object": "{}",
}


def read(raw: bytes, shape: Shape) -> Ask | Fault:
    found = read_json(raw, shape)
    if isinstance(found, Fault):
        return found
    assert found.ask is not None
    return found.ask


# -- bounds


def test_the_members_that_bound_an_output() -> None:
    assert CHAT.bounds == ("max_tokens", "max_completion_tokens")
    assert (COMPLETIONS.bounds, MESSAGES.bounds) == (("max_tokens",), ("max_tokens",))
    assert RESPONSES.bounds == ("max_output_tokens",)
    assert EMBEDDINGS.bounds == ()
    assert all("n_predict" in shape.also for shape in GENERATING.values())


@pytest.mark.parametrize(("shape", "name"), BOUND_MEMBERS + REPEAT_MEMBERS)
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_bound_is_refused_by_name(shape: Shape, name: str, kind: str) -> None:
    raw = b'{"model":"llama","%s": %s}' % (name.encode(), NO_NUMBERS[kind].encode())
    fault = read(raw, shape)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, name)
    assert NO_NUMBERS[kind] not in fault.detail.split()


@pytest.mark.parametrize(("shape", "name"), BOUND_MEMBERS + REPEAT_MEMBERS)
def test_null_is_none(shape: Shape, name: str) -> None:
    found = ask_of(shape, **{name: None})
    assert (found.output, found.repeats, found.also, found.bound_name) == (None, 1, 0, None)


@pytest.mark.parametrize(("shape", "name"), [(s, s.bounds[0]) for s in GENERATING.values()])
@pytest.mark.parametrize("tokens", [1, 2, 4096, MAX_BOUND])
def test_a_bound_is_taken_and_nothing_is_put_in(shape: Shape, name: str, tokens: int) -> None:
    found = ask_of(shape, **{name: tokens})
    assert (found.output, found.bound_name, found.slot) == (tokens, name, None)


@pytest.mark.parametrize("largest", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_of_several_bounds_the_largest_counts(largest: str) -> None:
    bounds = {"max_tokens": 5, "max_completion_tokens": 6, "n_predict": 7} | {largest: 900}
    assert ask_of(CHAT, **bounds).output == 900


def test_the_largest_bound_of_the_clients_is_the_one_that_is_named() -> None:
    assert ask_of(CHAT, max_tokens=5, max_completion_tokens=9).bound_name == "max_completion_tokens"
    assert ask_of(CHAT, max_tokens=9, max_completion_tokens=5).bound_name == "max_tokens"


@pytest.mark.parametrize(
    ("written", "served"),
    [
        (b'"max_completion_tokens" : 7', b'"max_tokens":7'),
        (
            b'"max_tokens":null,"max_completion_tokens":7',
            b'"max_tokens":7,"max_completion_tokens":7',
        ),
        (
            b'"max_completion_tokens":7,"max_tokens" : null',
            b'"max_completion_tokens":7,"max_tokens" : 7',
        ),
        (b'"max_completion_tokens": null', b'"max_tokens":4096'),
        (
            b'"x":{"max_completion_tokens":1},"max_completion_tokens":7',
            b'"x":{"max_completion_tokens":1},"max_tokens":7',
        ),
        (
            b'"x":"\\"max_completion_tokens\\":1","max_completion_tokens":7,"n_predict":9',
            b'"x":"\\"max_completion_tokens\\":1","max_tokens":7,"n_predict":9',
        ),
    ],
)
def test_the_newer_bound_of_chat_bounds_servers_that_know_only_the_older(
    written: bytes, served: bytes
) -> None:
    raw = b'{"model":"llama",%s}'
    found = read(raw % written, CHAT)
    assert isinstance(found, Ask)
    assert edited(raw % written, all_edits(found, 4096)) == raw % served
    assert (found.slot is None) == (found.output is not None) == (found.bound_edit is not None)
    assert found.bound_name == (None if found.output is None else "max_completion_tokens")


@pytest.mark.parametrize("bounds", [(5, 9), (9, 5), (5, 5)])
def test_where_both_bounds_are_set_the_larger_counts_and_nothing_is_changed(
    bounds: tuple[int, int],
) -> None:
    """Which of them counts depends on the server."""
    found = ask_of(CHAT, max_tokens=bounds[0], max_completion_tokens=bounds[1])
    assert (found.output, found.slot, found.bound_edit) == (max(bounds), None, None)


@pytest.mark.parametrize("shape", GENERATING.values())
def test_a_bound_of_another_endpoint_counts_beside_the_own(shape: Shape) -> None:
    """llama.cpp reads `max_completion_tokens` before `max_tokens`, on each of its endpoints."""
    named = {*shape.bounds, *shape.also}
    assert named >= {"max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"}
    for name in named - {shape.bounds[0]}:
        assert ask_of(shape, **{shape.bounds[0]: 5, name: 50_000}).output == 50_000


@pytest.mark.parametrize("name", CHAT.also)
def test_a_bound_that_only_some_servers_know_does_not_bound_the_others(name: str) -> None:
    """llama.cpp prefers `n_predict` to `max_tokens`; most others have never heard of it."""
    found = ask_of(CHAT, **{name: 50_000})
    assert found.output is None
    assert found.also == 50_000
    assert found.slot is not None


@pytest.mark.parametrize("name", ["n", "best_of", "n_cmpl"])
def test_the_largest_count_of_answers(name: str) -> None:
    assert ask_of(COMPLETIONS, **{"n": 2, "best_of": 3, name: 9}).repeats == 9


def test_answers_have_an_end() -> None:
    assert ask_of(COMPLETIONS, prompt=["a"] * 1024, n=1024).repeats == 1024
    fault = fault_of(COMPLETIONS, prompt=["a"] * 1025, n=1024)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "n")


# -- prompts


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        (None, 1),
        ("one", 1),
        ([], 1),
        (["one"], 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([[1], [2]], 2),
        ([[]], 1),
        (["a", [1, 2]], 2),
        ([1, "a", "b"], 3),  # one for llama.cpp, who knows what for others
        ([1, [2]], 2),
    ],
)
@pytest.mark.parametrize("shape", [COMPLETIONS, EMBEDDINGS])
def test_how_many_prompts(shape: Shape, prompt: Any, count: int) -> None:
    found = ask_of(shape, **{shape.content: prompt})
    assert found.prompts == count
    assert found.text_only


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt_string": "<__media__>", "multimodal_data": ["aGk="]},
        [{"prompt_string": "<__media__>", "multimodal_data": ["aGk="]}],
        ["text", {"image_url": "https://example.org/cat.png"}],
        [["text", {"image_url": "https://example.org/cat.png"}]],
        [[["too deep"]]],
        [True, 1],
        {},
        1.5,
        True,
    ],
)
@pytest.mark.parametrize("shape", [COMPLETIONS, EMBEDDINGS])
def test_prompts_that_are_not_text(shape: Shape, prompt: Any) -> None:
    assert not ask_of(shape, **{shape.content: prompt}).text_only


def test_prompts_that_are_vectors_count_too() -> None:
    found = ask_of(COMPLETIONS, prompt="a", prompt_embeds=["AAAA", "AAAA"])
    assert (found.prompts, found.text_only) == (3, False)


def test_messages_in_a_call_for_embeddings() -> None:
    text = [{"role": "user", "content": "a cat"}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert ask_of(EMBEDDINGS, messages=text).text_only
    assert not ask_of(EMBEDDINGS, messages=image).text_only


# -- edits

SPACE = st.sampled_from(["", " ", "\n", "\t ", "\r\n  "])
MARKS = ("max_tokens", "stream_options", "include_usage", "stream", "max_completion_tokens")
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            '"max_tokens":null',
            '\\"max_tokens\\": null,',
            "\\",
            '{"stream_options":{"include_usage":false}}',
            "\N{LATIN SMALL LETTER E WITH ACUTE}\N{EARTH GLOBE EUROPE-AFRICA}",
        ]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 10**18), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(MARKS), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=6,
)
ABSENT = object()
OPTIONS = st.one_of(
    st.sampled_from([ABSENT, None, {}, {"include_usage": True}]),
    st.builds(
        lambda wanted, more, first: (
            {"include_usage": wanted} | more if first else more | {"include_usage": wanted}
        ),
        st.sampled_from([None, False, True]),
        st.dictionaries(st.sampled_from(["a", "chunk", "é"]), VALUES, max_size=2),
        st.booleans(),
    ),
    st.dictionaries(st.sampled_from(["a", "chunk", "é"]), VALUES, min_size=1, max_size=2),
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A body written in some way, and what it means."""
    members: list[tuple[str, Any]] = [("model", "llama"), ("stream", draw(st.booleans()))]
    bound = draw(st.sampled_from([ABSENT, None, None, 7]))
    options = draw(OPTIONS)
    newer = draw(st.sampled_from([ABSENT, None, 9]))
    members += [("max_tokens", bound)] if bound is not ABSENT else []
    members += [("max_completion_tokens", newer)] if newer is not ABSENT else []
    members += [("stream_options", options)] if options is not ABSENT else []
    members += draw(
        st.dictionaries(st.sampled_from(["x", "metadata", "\u00fc", "z z"]), VALUES, max_size=3)
    ).items()
    members = draw(st.permutations(members))
    ascii_only = draw(st.booleans())

    def write(value: Any) -> str:
        if isinstance(value, dict):
            inner = [f"{write(k)}{draw(SPACE)}:{draw(SPACE)}{write(v)}" for k, v in value.items()]
        elif isinstance(value, list):
            inner = [write(each) for each in value]
        else:
            return json.dumps(value, ensure_ascii=ascii_only)
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        spaced = ",".join(f"{draw(SPACE)}{each}{draw(SPACE)}" for each in inner)
        return f"{opening}{spaced or draw(SPACE)}{closing}"

    text = f"{draw(SPACE)}{write(dict(members))}{draw(SPACE)}"
    return text.encode("utf-8", "surrogatepass"), dict(members)


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: an object in which no name stands twice."""
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def all_edits(found: Ask, tokens: int) -> list[Edit]:
    edits = [edit for edit in (found.usage_edit, found.bound_edit) if edit is not None]
    edits += [] if found.slot is None else [found.slot.edit(tokens)]
    return sorted(edits, key=lambda edit: edit.offset)


def as_server_gets(raw: bytes, found: Ask, tokens: int = 4096) -> Any:
    return json.loads(edited(raw, all_edits(found, tokens)), object_pairs_hook=no_twins)


@settings(max_examples=200, deadline=None)
@given(layouts())
@example((b'{"x":{"max_tokens":null},"model":"llama","max_tokens" : null}', {}))
@example((b'{"max_tokens":null,"model":"llama","x":{"max_tokens":null}}', {}))
@example(
    (
        b'{"x":{"stream_options":{}},"model":"llama","stream":true,"stream_options":{"a":0}}',
        {},
    )
)
def test_exactly_the_bound_and_the_usage_are_changed(case: tuple[bytes, dict[str, Any]]) -> None:
    raw, meant = case
    meant = meant or json.loads(raw)
    found = read(raw, CHAT)
    if isinstance(found, Fault):  # never a guess; and only where the names stand many times
        assert found.reason is Reason.AMBIGUOUS_BODY, found
        names = (b"include_usage", b"max_tokens", b"max_completion_tokens")
        assert sum(map(raw.count, names)) > 16
        return
    expected = dict(meant)
    if meant.get("max_tokens") is None:
        newer = meant.get("max_completion_tokens")
        expected["max_tokens"] = 4096 if newer is None else newer
        if "max_tokens" not in meant:
            expected.pop("max_completion_tokens", None)
    if meant.get("stream"):
        expected["stream_options"] = (meant.get("stream_options") or {}) | {"include_usage": True}
    assert as_server_gets(raw, found) == expected
    wanted = (meant.get("stream_options") or {}).get("include_usage") is True
    assert (found.usage_edit is None) == (wanted or not meant.get("stream"))


@pytest.mark.parametrize("shape", GENERATING.values())
def test_a_bound_is_put_in_front_of_all_members(shape: Shape) -> None:
    raw = b' {\n "model" : "llama"}'
    found = read(raw, shape)
    assert isinstance(found, Ask)
    assert found.slot is not None
    written = edited(raw, [found.slot.edit(10)])
    assert written == b' {"%s":10,\n "model" : "llama"}' % shape.bounds[0].encode()


def test_a_null_is_replaced_where_it_stands() -> None:
    raw = b'{"model":"llama","max_tokens"\t:\r\n null ,"n":1}'
    found = read(raw, CHAT)
    assert isinstance(found, Ask)
    assert edited(raw, all_edits(found, 10)) == b'{"model":"llama","max_tokens"\t:\r\n 10 ,"n":1}'


def test_no_edits_where_there_is_nothing_to_do() -> None:
    found = ask_of(CHAT, max_tokens=1, stream=True, stream_options={"include_usage": True})
    assert (found.slot, found.bound_edit, found.usage_edit) == (None, None, None)


@pytest.mark.parametrize("shape", [RESPONSES, MESSAGES])
def test_streams_that_always_end_with_their_usage_are_let_be(shape: Shape) -> None:
    assert ask_of(shape, stream=True).usage_edit is None


def test_an_answer_that_is_not_streamed_has_its_usage() -> None:
    assert ask_of(CHAT).usage_edit is None
    assert ask_of(CHAT, stream=False, stream_options={"include_usage": False}).usage_edit is None
    assert ask_of(CHAT, stream=None).usage_edit is None


@pytest.mark.parametrize("options", [[], "yes", 1, True, {"include_usage": 1}])
def test_options_that_are_none(options: Any) -> None:
    fault = fault_of(CHAT, stream=True, stream_options=options)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "stream_options")


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (
            rb'{"model":"llama","max\u005ftokens":null,"x":{"max_tokens":null}}',
            "max_tokens",
        ),
        (rb'{"model":"llama","max\u005ftokens":null}', "max_tokens"),
        (rb'{"model":"llama","max_completion\u005ftokens":5}', "max_completion_tokens"),
        (
            rb'{"model":"llama","stream":true,"stream\u005foptions":null,'
            rb'"x":{"stream_options":null}}',
            "stream_options",
        ),
        (
            rb'{"model":"llama","stream":true,"stream_options":{"include\u005fusage":false},'
            rb'"x":{"include_usage":false}}',
            "stream_options",
        ),
    ],
)
def test_an_edit_never_goes_where_the_server_would_not_look(raw: bytes, param: str) -> None:
    """A name spelled with escapes, and one elsewhere that is spelled as usual."""
    fault = read(raw, CHAT)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.param) == (Reason.AMBIGUOUS_BODY, param)


def test_the_right_one_of_many_places_is_found() -> None:
    raw = (
        b'{"a":{"include_usage":false},"stream":true,"model":"llama",'
        b'"stream_options":{"a":{"include_usage":null},"include_usage":null},'
        b'"b":[{"include_usage":false}],"max_tokens":3}'
    )
    found = read(raw, CHAT)
    assert isinstance(found, Ask)
    options = as_server_gets(raw, found)["stream_options"]
    assert options == {"a": {"include_usage": None}, "include_usage": True}


def test_a_body_that_was_mended_to_be_read_is_edited_at_the_same_bytes() -> None:
    raw = (
        rb'{"seed":123456789012345678901234567890,"model":"llama","stop":"\ud83d",'
        rb'"stream":true,"stream_options":null,"max_tokens":null}'
    )
    found = read(raw, CHAT)
    assert isinstance(found, Ask)
    assert edited(raw, all_edits(found, 9)) == raw.replace(
        b'"stream_options":null,"max_tokens":null',
        b'"stream_options":{"include_usage":true},"max_tokens":9',
    )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"llama","max_tokens":null,"max_tokens":null}',
        b'{"model":"llama","max_tokens":5,"max_tokens":500}',
        b'{"model":"llama","max_tokens":5,"Max_Tokens":500}',
        b'{"model":"llama","max_tokens":5,"max_to\xe2\x84\xaaens":500}',
        b'{"model":"llama","max_tokens":5,"max_tokens\\u0000":500}',
        b'{"model":"llama","n":1,"N":5}',
        b'{"model":"llama","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}',
        b'{"model":"llama","stream":true,"stream_options":{"include_usage":true,"Include_Usage":false}}',
        b'{"model":"llama","messages":[{"role":"user","content":"a","content":[{"type":"image"}]}]}',
        b'{"model":"llama","messages":[{"role":"user","content":[{"type":"text","Type":"image"}]}]}',
        b'{"model":"llama","tools":[{"type":"function","TYPE":"web_search"}]}',
    ],
)
def test_what_servers_could_read_in_two_ways(raw: bytes) -> None:
    fault = read(raw, CHAT)
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.AMBIGUOUS_BODY


def test_many_places_take_no_long_time() -> None:
    raw = b'{"model":"llama","x":[%s{}],"max\\u005ftokens":null}' % (
        b'{"max_tokens":null},' * 50_000
    )
    started = time.perf_counter()
    assert isinstance(read(raw, CHAT), Fault)
    assert time.perf_counter() - started < 2


# -- text


CLAUDE_CODE: dict[str, Any] = {
    "max_tokens": 32000,
    "stream": True,
    "metadata": {"user_id": "user_0f_account__session_1"},
    "system": [
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ],
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "tools": [
        {"name": "Bash", "description": "Run it", "input_schema": {"type": "object"}},
        {
            "type": "custom",
            "name": "Edit",
            "input_schema": {"type": "object", "properties": {"content": {"type": "string"}}},
            "cache_control": {"type": "ephemeral"},
        },
    ],
    "messages": [
        {"role": "user", "content": "fix the test"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCgIYAhIM"},
                {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
                {"type": "text", "text": "Looking.", "citations": None},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "Bash",
                    "input": {"command": "ls", "type": "image", "content": [{"type": "image"}]},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "a.py"}],
                    "is_error": False,
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "ok",
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "text", "text": "<system-reminder>"},
            ],
        },
    ],
}
OPENAI_AGENT: dict[str, Any] = {
    "tools": [
        {
            "type": "function",
            "function": {"name": "run", "parameters": {"type": "object"}, "strict": True},
        }
    ],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "run it"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "run", "arguments": '{"type":"image_url"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
}
CODEX: dict[str, Any] = {
    "instructions": "You are Codex.",
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199",
    "reasoning": {"effort": "medium", "summary": "auto"},
    "text": {"verbosity": "low"},
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "tools": [
        {"type": "function", "name": "shell", "parameters": {"type": "object"}},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "local_shell"},
    ],
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "<permissions>"}],
        },
        {"role": "user", "content": "fix it"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "**Looking**"}],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "encrypted_content": "gAAAA",
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "shell",
            "arguments": "{}",
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "a.py"}],
        },
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "Done"},
        {
            "type": "local_shell_call",
            "call_id": "d",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "local_shell_call_output", "call_id": "d", "output": "a.py"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Done.", "annotations": [], "logprobs": []}
            ],
        },
    ],
}


@pytest.mark.parametrize(
    ("shape", "members"),
    [(MESSAGES, CLAUDE_CODE), (CHAT, OPENAI_AGENT), (RESPONSES, CODEX)],
    ids=["Claude Code", "an agent on chat", "Codex"],
)
def test_agents_are_text(shape: Shape, members: dict[str, Any]) -> None:
    found = ask_of(shape, **members)
    assert found.text_only
    assert (found.stored, found.unbounded) == (None, None)


def test_plain_text() -> None:
    assert ask_of(CHAT, messages=[{"role": "user", "content": "hi"}]).text_only
    assert ask_of(RESPONSES, input="hi").text_only
    assert ask_of(MESSAGES, messages=[{"role": "user", "content": "hi"}], system="be").text_only
    assert ask_of(CHAT, messages=[{"role": "user", "content": [{"text": "hi"}]}]).text_only


@pytest.mark.parametrize("nothing", [None, []])
def test_what_is_empty_brings_no_input(nothing: Any) -> None:
    """LangChain sends Ollama a list of no images with each message."""
    message = {"role": "user", "content": "hi", "images": nothing}
    assert ask_of(CHAT, messages=[message]).text_only
    assert ask_of(CHAT, messages=[{"role": "user", "content": "hi"}], images=nothing).text_only
    assert ask_of(MESSAGES, messages=[], mcp_servers=nothing).text_only


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


OTHER_PARTS: dict[str, tuple[Shape, dict[str, Any]]] = {
    "an image": (CHAT, said({"type": "image_url", "image_url": {"url": "https://x.example/i"}})),
    "an image in line": (
        CHAT,
        said({"type": "image_url", "image_url": {"url": "data:image/png;"}}),
    ),
    "audio": (CHAT, said({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}})),
    "video": (CHAT, said({"type": "video_url", "video_url": {"url": "https://x.example/v"}})),
    "a file": (CHAT, said({"type": "file", "file": {"file_id": "file-1"}})),
    "a part that nobody knows": (CHAT, said({"type": "hologram", "text": "hi"})),
    "a part of another type than text": (CHAT, said({"type": ["text"], "text": "hi"})),
    "a part whose type is an object": (CHAT, said({"type": {"text": 1}, "text": "hi"})),
    "a part whose type is null": (CHAT, said({"type": None, "image_url": "https://x.example/i"})),
    "an image without a type": (CHAT, said({"image_url": "https://x.example/i"})),
    "an image beside a text": (
        CHAT,
        said({"type": "text", "text": "", "uuid": "1", "image_url": {"url": "https://x.example"}}),
    ),
    "a message that says it is text": (
        CHAT,
        {
            "messages": [
                {"role": "user", "type": "text", "content": [{"type": "image_url"}]},
            ]
        },
    ),
    "a message that says it is a call": (
        CHAT,
        {"messages": [{"role": "user", "type": "tool_use", "content": [{"type": "image_url"}]}]},
    ),
    "images beside the content": (
        CHAT,
        {"messages": [{"role": "user", "content": "look", "images": ["aGk="]}]},
    ),
    "an answer of audio": (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    "content that is an object": (CHAT, {"messages": [{"role": "user", "content": {"url": "x"}}]}),
    "content that is a number": (CHAT, {"messages": [{"role": "user", "content": 5}]}),
    "a list in a list": (CHAT, said(["text"])),
    "messages that are an object": (CHAT, {"messages": {"role": "user"}}),
    "too deep to follow": (
        MESSAGES,
        {"messages": json.loads('[{"content":' * 6 + '[{"type":"image","source":1}]' + "}]" * 6)},
    ),
    "an image of Anthropic's": (
        MESSAGES,
        said({"type": "image", "source": {"type": "url", "url": "https://x.example/i"}}),
    ),
    "a document": (MESSAGES, said({"type": "document", "source": {"type": "file"}})),
    "an image in a result": (
        MESSAGES,
        said(
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "text", "text": ""}, {"type": "image", "source": {}}],
            }
        ),
    ),
    "an image in the system": (MESSAGES, {"system": [{"type": "image"}], "messages": []}),
    "a search of the server's": (
        MESSAGES,
        {"messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ),
    "servers of tools": (
        MESSAGES,
        {"messages": [], "mcp_servers": [{"type": "url", "url": "https://x.example"}]},
    ),
    "a container": (MESSAGES, {"messages": [], "container": "container_1"}),
    "a search in chat": (CHAT, {"messages": [], "web_search_options": {}}),
    "an answer in audio": (CHAT, {"messages": [], "audio": {"voice": "alloy"}}),
    "a tool that is none": (CHAT, {"messages": [], "tools": ["web_search"]}),
    "tools that are none": (CHAT, {"messages": [], "tools": {"type": "function"}}),
    "a tool without a meaning": (CHAT, {"messages": [], "tools": [{"type": None}]}),
    "files": (RESPONSES, {"input": [], "tools": [{"type": "file_search"}]}),
    "an interpreter": (RESPONSES, {"input": [], "tools": [{"type": "code_interpreter"}]}),
    "tools from afar": (RESPONSES, {"input": [], "tools": [{"type": "mcp", "server_url": "x"}]}),
    "an input image": (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
    ),
    "an input file": (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}]},
    ),
    "a call that the server made": (RESPONSES, {"input": [{"type": "web_search_call", "id": "w"}]}),
    "a screenshot": (
        RESPONSES,
        {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]},
    ),
    "an image as an output": (
        RESPONSES,
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
    ),
    "an image in the instructions": (
        RESPONSES,
        {"input": "hi", "instructions": [{"type": "input_image", "image_url": "x"}]},
    ),
}


@pytest.mark.parametrize("case", OTHER_PARTS)
def test_what_does_not_stand_in_the_body_as_text(case: str) -> None:
    shape, members = OTHER_PARTS[case]
    assert not ask_of(shape, **members).text_only


# -- what the server keeps, and what outlives the request


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("previous_response_id", ""),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_stored_context_is_seen(name: str, value: Any) -> None:
    found = ask_of(RESPONSES, input="go on", **{name: value})
    assert (found.stored, found.text_only) == (name, False)
    assert ask_of(RESPONSES, input="go on", **{name: None}).stored is None


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"type": None, "id": "msg_1"},
        {"id": "msg_1"},
    ],
)
def test_an_item_that_the_server_keeps_is_stored_context(item: dict[str, Any]) -> None:
    mine = {"role": "user", "content": "and?"}
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}
    found = ask_of(RESPONSES, input=[mine, image, item])
    assert (found.stored, found.text_only) == ("input", False)


@pytest.mark.parametrize(
    ("value", "unbounded"), [(True, "background"), (False, None), (None, None)]
)
def test_background(value: bool | None, unbounded: str | None) -> None:
    assert ask_of(RESPONSES, input="hi", background=value).unbounded == unbounded


def test_only_responses_have_what_the_server_keeps() -> None:
    assert ask_of(CHAT, messages=[], conversation="c", background=True).stored is None
    assert ask_of(COMPLETIONS, prompt="the prompt itself").stored is None


# -- hostile shapes

EVERY_MEMBER = sorted({n for s in (*GENERATING.values(), EMBEDDINGS) for n in s.members.ours})
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([*GENERATING.values(), EMBEDDINGS]),
    st.dictionaries(
        st.one_of(st.sampled_from(EVERY_MEMBER), st.text(max_size=3)),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), FINITE, st.text(max_size=4)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["type", "content", "output", "id", "include_usage", "x"]),
                    inner,
                    max_size=4,
                ),
            ),
        ),
        max_size=5,
    ),
)
def test_whatever_stands_in_it_the_answer_is_an_ask_or_a_fault(
    shape: Shape, members: dict[str, Any]
) -> None:
    raw = json.dumps({"model": "llama"} | members).encode()
    found = read_json(raw, shape)
    assert isinstance(found, Body | Fault)
    if isinstance(found, Body) and found.ask is not None:
        edited(raw, all_edits(found.ask, 1))
        assert found.ask.prompts >= 1
        assert found.ask.repeats >= 1


def test_a_body_of_a_model_alone() -> None:
    assert read_json(body(), CHAT) == Body("llama", False, ask_of(CHAT))


# -- what is generated, but not streamed

HIDING: list[dict[str, Any]] = [
    {"include_reasoning": False},
    {"include_reasoning": "false"},
    {"include_reasoning": 0},
    {"stream_reasoning": False},
    {"reasoning_effort": "none"},
    {"reasoning_format": "hidden"},
    {"reasoning": {"exclude": True}},
    {"reasoning": {"effort": "none"}},
    {"thinking": {"type": "enabled", "display": "omitted"}},
    {"thinking": {"display": "summarized"}},
    {"best_of": 2},
    {"best_of": 3, "n": 2},
    {"best_of": 2, "n": None},
]
SHOWING: list[dict[str, Any]] = [
    {},
    {"include_reasoning": True, "stream_reasoning": True},
    {"include_reasoning": None, "stream_reasoning": None},
    {"reasoning_effort": "low", "reasoning_format": "deepseek"},
    {"reasoning": {"effort": "high", "exclude": False}, "thinking": {"type": "enabled"}},
    {"reasoning": {"exclude": None}, "thinking": {"display": None}},
    {"reasoning": None, "thinking": "on", "think": False},
    {"reasoning": ["exclude"], "thinking": {"more": {"display": "omitted"}}},
    {"thinking": {"display": "full"}},
    {"best_of": 2, "n": 2},
    {"best_of": 1},
    {"n": 2},
    {"best_of": None},
    {"metadata": {"include_reasoning": False}},
]


@pytest.mark.parametrize("shape", GENERATING.values(), ids=GENERATING)
@pytest.mark.parametrize("members", HIDING, ids=json.dumps)
def test_a_request_that_hides_output_is_known(shape: Shape, members: dict[str, Any]) -> None:
    assert ask_of(shape, **members).hides_output


@pytest.mark.parametrize("shape", GENERATING.values(), ids=GENERATING)
@pytest.mark.parametrize("members", SHOWING, ids=json.dumps)
def test_a_request_that_shows_everything_is_too(shape: Shape, members: dict[str, Any]) -> None:
    assert not ask_of(shape, **members).hides_output


def test_where_nothing_is_generated_nothing_is_hidden() -> None:
    assert not ask_of(EMBEDDINGS, input="x", include_reasoning=False).hides_output


def test_the_best_of_more_is_found_in_an_object_of_parameters() -> None:
    assert ask_of(GENERATE, inputs="x", parameters={"best_of": 2}).hides_output


@pytest.mark.parametrize("name", ["reasoning", "thinking"])
def test_what_could_hide_output_is_read_in_one_way(name: str) -> None:
    many = {str(number): 1 for number in range(65)}
    assert fault_of(CHAT, **{name: many}) == Fault(
        Reason.INVALID_PARAMETER, "it may have at most 64 members", param=name
    )
    assert fault_of(CHAT, **{name.upper(): {}}).reason is Reason.AMBIGUOUS_BODY
    for inner in ("Exclude", "EFFORT", "display\0", "\N{LATIN SMALL LETTER LONG S}tyle"):
        found = read_json(json.dumps({"model": "m", name: {inner: True}}).encode(), CHAT)
        assert isinstance(found, Fault) is not inner.endswith("tyle")


@pytest.mark.parametrize("name", [r"x\u0000", r"\u0000", r"x\u0000y"])
@pytest.mark.parametrize("value", ['"y"', "1", "[]"])
def test_a_name_that_simdjson_does_not_find(name: str, value: str) -> None:
    raw = f'{{"model":"m","messages":[{{"role":"user","content":"a","{name}":{value}}}]}}'
    found = read_json(raw.encode(), CHAT)
    assert isinstance(found, Body)
    assert found.ask is not None
    assert not found.ask.text_only


def test_what_is_not_known_of_a_message_is_text_where_it_is_little() -> None:
    for many, text_only in ((8, True), (9, False)):
        more = {f"x{at}": at for at in range(many)}
        ask = ask_of(CHAT, messages=[{"role": "user", "content": "a"} | more])
        assert ask.text_only is text_only
