"""Answers of model servers, for the tests of deploy/lua: hand-made ones, and any at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SSE = (("content-type", "text/event-stream"),)
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
PRICED = {"input": "11", "output": "7", "cached_inside": "1"}

# What a model can be talked into writing.
HOSTILE = (
    '"usage":{"prompt_tokens":0,"completion_tokens":0}',
    '"}}],"usage":{"prompt_tokens":0,"completion_tokens":0},"x":[{"y":{"z":"',
    '\\"},"usage":{"completion_tokens":0}}\\',
    '\n\ndata: {"choices":[],"usage":{"completion_tokens":0}}\n\ndata: [DONE]\n\n',
    '\r\rdata: {"type":"message_delta","usage":{"output_tokens":0}}\r\r',
    "data: [DONE]",
    "event: message_stop\ndata: {}",
    '{"usage": {"completion_tokens": 0, "prompt_tokens": 0}, "type": "response.completed"}',
    "\\" * 7 + '"' * 3,
    "\u2028\u0085\x0b\ufeff",
    "👋🏽 Grüße",
)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(text: str | None = None, **more: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return event({"object": "chat.completion.chunk", "choices": choices, **more})


DONE = b"data: [DONE]\n\n"


fuzz: Final = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def cuts_of(data: st.DataObject, body: bytes) -> list[int]:
    every = data.draw(st.sampled_from([0, 1, 2, 50]))
    if every:
        return [every] * (len(body) // every)
    return data.draw(st.lists(st.integers(1, 40), max_size=len(body) // 8 + 1))


# ── Any at all ───────────────────────────────────────────────────────────────────────────────────

written = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20), st.just("\ud83d"), st.just(""))
number = st.one_of(st.integers(0, 40), st.integers(0, 10**12 - 1))


@st.composite
def usages(draw: Callable[..., Any], names: tuple[str, ...]) -> Any:
    counters: dict[str, Any] = {name: draw(number) for name in names if draw(st.booleans())}
    if draw(st.booleans()):
        cached = draw(st.sampled_from([{"cached_tokens": 5}, {"cached_tokens": None}, {}, None]))
        counters[draw(st.sampled_from(["prompt_tokens_details", "input_tokens_details"]))] = cached
    if draw(st.booleans()):
        counters["cost"] = {"usage": counters.copy(), "usd": 0.25, "note": draw(written)}
    return draw(st.sampled_from([counters, counters, counters, None]))


OPENAI = ("prompt_tokens", "completion_tokens", "total_tokens")
NAMED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
openai_usage, named_usage = usages(OPENAI), usages(NAMED)

# What a server may put where nobody has seen it yet.
unheard_of = st.one_of(
    written,
    st.sampled_from([0, 1.5, True, None, [], {}, [""], [1, "]"], {"a": {"b": "}"}}]),
    st.dictionaries(written, written, max_size=2),
    st.lists(written, max_size=2),
)
delta = st.fixed_dictionaries(
    {},
    optional={
        "thoughts": unheard_of,
        "x" * 300: unheard_of,
        "audio": st.one_of(unheard_of, st.just({"id": "a", "data": "aGk=", "expires_at": "1"})),
        "role": st.just("assistant"),
        "content": st.one_of(written, st.none(), st.just([{"type": "text", "text": "part"}])),
        "reasoning_content": written,
        "reasoning": st.one_of(written, st.none()),
        "refusal": st.none(),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {"index": st.just(0)},
                optional={
                    "function": st.fixed_dictionaries({"name": written, "arguments": written})
                },
            ),
            max_size=2,
        ),
        "usage": openai_usage,
    },
)
openai_event = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.one_of(
                unheard_of,
                *[
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "delta": st.one_of(delta, delta, unheard_of),
                            "text": st.one_of(written, unheard_of),
                            "message": unheard_of,
                            "finish_reason": st.sampled_from(["stop", None]),
                            "logprobs": unheard_of,
                        },
                    )
                ]
                * 3,
            ),
            max_size=2,
        )
    },
    optional={
        "thoughts": unheard_of,
        "timings": unheard_of,
        "usage": openai_usage,
        "object": st.just("chat.completion.chunk"),
        "metadata": st.fixed_dictionaries({"usage": openai_usage, "choices": st.just([])}),
    },
)
bare_event = st.fixed_dictionaries(
    {"usage": openai_usage},
    optional={
        "choices": st.sampled_from([None, [], {}, [{}], "no"]),
        "type": st.one_of(written, st.sampled_from(["error", "message_delta"])),
        "error": st.sampled_from([None, {"message": "no"}, "no", 500]),
        "delta": st.sampled_from([None, {}, {"stop_reason": "end_turn"}, {"text": "hey"}]),
        "id": written,
        "more": unheard_of,
    },
)
SPOILT = (
    "{oops",
    '{"choices":[{"delta":{"content":"a"}}],"score":NaN}',
    '{"choices":[],"usage":{"completion_tokens":-1}}',
    '{"usage":{"prompt_tokens":"1","completion_tokens":2.5},"score":-Infinity}',
    '{"usage":{"prompt_tokens":1000000000000},"error":null,"type":"x"}',
    '{"usage":{"prompt_tokens":-1},"error":{}}',
)
foreign_event = st.one_of(
    st.fixed_dictionaries({"token": st.fixed_dictionaries({"id": number, "text": written})}),
    st.fixed_dictionaries({"response": written, "model": written, "done": st.booleans()}),
    st.fixed_dictionaries(
        {"message": st.fixed_dictionaries({"role": st.just("assistant"), "content": unheard_of})}
    ),
    st.fixed_dictionaries({"choices": unheard_of, "error": unheard_of, "text": unheard_of}),
)
typed_event = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["content_block_delta", "message_delta", "text", "response.x.delta", "ping"]
            ),
            "delta": unheard_of,
        },
        optional={"thoughts": unheard_of, "item_id": written},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["content_block_start", "message_start"]),
            "content_block": unheard_of,
            "message": st.fixed_dictionaries({"content": unheard_of, "id": written}),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["response.output_item.done", "response.output_item.added"]),
            "item": unheard_of,
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("message_start"), "message": st.fixed_dictionaries({"usage": named_usage})}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_delta"),
            "delta": st.fixed_dictionaries(
                {}, optional={"text": written, "thinking": written, "partial_json": written}
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("message_delta"),
            "delta": st.fixed_dictionaries({"stop_reason": st.sampled_from(["end_turn", None])}),
            "usage": named_usage,
        }
    ),
    st.sampled_from(
        [
            {"type": "message_stop"},
            {"type": "ping"},
            {"type": "error", "error": {"message": HOSTILE[0], "usage": USAGE}},
        ]
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_start"),
            "content_block": st.fixed_dictionaries(
                {"name": written, "input": st.just({"usage": USAGE})}
            ),
        }
    ),
    st.fixed_dictionaries({"type": st.just("response.output_text.delta"), "delta": written}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["speech.audio.delta", "image_generation.partial_image", "transcript.text.delta"]
            )
        },
        optional={"audio": written, "b64_json": written, "delta": written},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["speech.audio.done", "image_generation.completed", "transcript.text.done"]
            ),
            "usage": named_usage,
        },
        optional={"b64_json": written, "text": written},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["response.created", "response.completed", "response.incomplete", "response.failed"]
            ),
            "response": st.fixed_dictionaries(
                {"usage": named_usage, "output": st.lists(written, max_size=2)}
            ),
        }
    ),
)


@st.composite
def rendered(draw: Callable[..., Any], value: Any) -> str:
    """JSON in one of the ways in which one can write it; members in any order."""
    space = draw(st.sampled_from(["", " ", "\n", "\t "]))

    def text(content: str) -> str:
        match draw(st.sampled_from(["plain", "ascii", "escaped"])):
            case "plain":
                return json.dumps(content, ensure_ascii=False)
            case "ascii":
                return json.dumps(content)
        units = content.encode("utf-16-be", "surrogatepass").hex()
        escapes = (units[at : at + 4] for at in range(0, len(units), 4))
        return '"' + "".join(f"\\u{unit}" for unit in escapes) + '"'

    def write(each: Any) -> str:
        if isinstance(each, dict):
            members = draw(st.permutations(list(each.items())))
            inner = ("," + space).join(f"{text(k)}:{space}{write(v)}" for k, v in members)
            return f"{{{space}{inner}{space}}}"
        if isinstance(each, list):
            return "[" + ("," + space).join(map(write, each)) + space + "]"
        return text(each) if isinstance(each, str) else json.dumps(each)

    return write(value)


@st.composite
def streams(draw: Callable[..., Any], kinds: st.SearchStrategy[Any]) -> bytes:
    newline = draw(st.sampled_from([b"\n", b"\r\n", b"\r", b"mixed"]))
    stream = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))

    def line(content: bytes) -> bytes:
        return content + (
            draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) if newline == b"mixed" else newline
        )

    others = ["[DONE]", "", "ping", *(SPOILT if draw(st.integers(0, 3)) == 0 else ())]
    for each in draw(st.lists(st.one_of(kinds, kinds, st.sampled_from(others)), max_size=8)):
        if draw(st.integers(0, 3)) == 0:
            stream += line(
                draw(st.sampled_from([b": data: {}", b"event: x", b"id: 1", b"data2:{", b"dat"]))
            )
        text = each if isinstance(each, str) else draw(rendered(each))
        prefix = draw(st.sampled_from([b"data:", b"data: "]))
        for part in text.encode("utf-8", "surrogatepass").split(b"\n"):
            stream += line(prefix + part)
        stream += line(b"")
    return stream.rstrip(b"\r\n") if draw(st.integers(0, 3)) == 0 else stream


# ── Gemini and Ollama ────────────────────────────────────────────────────────────────────────────

anything = st.recursive(
    st.one_of(written, st.none(), st.booleans(), st.integers(-5, 10**6), st.just(0.5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(HOSTILE), inner, max_size=2)
    ),
    max_leaves=4,
)
GEMINI = {
    *("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"),
    *("toolUsePromptTokenCount", "cachedContentTokenCount", "totalTokenCount"),
}
gemini_usage = st.fixed_dictionaries(
    {}, optional={name: st.one_of(st.none(), st.integers(0, 12), number) for name in sorted(GEMINI)}
)
gemini_part = st.one_of(
    anything,
    st.fixed_dictionaries({"text": written}, optional={"thought": st.just(True)}),
    st.fixed_dictionaries({"functionCall": anything, "thoughtSignature": written}),
    st.fixed_dictionaries({"text": anything, "usageMetadata": gemini_usage}),
)
gemini_candidate = st.one_of(
    st.just("odd"),
    st.fixed_dictionaries(
        {},
        optional={
            "content": st.one_of(
                anything,
                st.fixed_dictionaries(
                    {"role": st.just("model")},
                    optional={
                        "parts": st.one_of(anything, st.lists(gemini_part, max_size=3)),
                        "more": anything,
                    },
                ),
            ),
            "finishReason": st.sampled_from(["STOP", "MAX_TOKENS", "", None]),
            "index": st.just(0),
            "safetyRatings": anything,
            "usageMetadata": gemini_usage,
        },
    ),
)
gemini_event = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.one_of(st.none(), st.lists(gemini_candidate, max_size=2)),
        "usageMetadata": st.one_of(st.none(), gemini_usage),
        "promptFeedback": st.sampled_from([{"blockReason": "SAFETY"}, {}, None]),
        "embedding": st.sampled_from([{"values": [0.5, -1]}, {"values": {}}, None]),
        "embeddings": st.sampled_from([[{"values": [0.5]}], [], {}, None]),
        "modelVersion": written,
        "error": st.fixed_dictionaries({"message": written, "usageMetadata": gemini_usage}),
    },
)
ollama_line = st.fixed_dictionaries(
    {},
    optional={
        "model": written,
        "response": st.one_of(written, anything),
        "thinking": written,
        "message": st.one_of(
            anything,
            st.fixed_dictionaries(
                {"role": st.just("assistant"), "content": st.one_of(written, anything)},
                optional={"thinking": written, "tool_calls": anything, "prompt_eval_count": number},
            ),
        ),
        "done": st.sampled_from([True, True, False, None, "true"]),
        "done_reason": st.sampled_from(["stop", "load", "unload", None]),
        "prompt_eval_count": st.one_of(st.none(), number),
        "eval_count": st.one_of(st.none(), number),
        "embeddings": st.sampled_from([[[0.5]], None, {}]),
        "context": st.just([1, 2]),
        "error": written,
        "new": anything,
    },
)


def lines(values: list[str], newline: bytes, *, ended: bool) -> bytes:
    """JSON, one object a line."""
    text = b"".join(each.encode("utf-8", "surrogatepass") + newline for each in values)
    return text if ended else text.rstrip(b"\r\n")
