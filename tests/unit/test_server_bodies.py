"""What the bodies of each server's own API ask for: bounds in objects, input, adapters, models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moneysupport import edited

from authz import shapes
from authz.ask import MAX_BOUND, MAX_SEQUENCES
from authz.body import Body, read_json
from authz.model import Ask, Edit, Fault, Reason, Shape

NESTED = {
    "gemini": (shapes.GEMINI, "contents"),
    "gemini stream": (shapes.GEMINI_STREAM, "contents"),
    "ollama chat": (shapes.OLLAMA_CHAT, "messages"),
    "ollama generate": (shapes.OLLAMA_GENERATE, "prompt"),
    "tgi": (shapes.GENERATE, "inputs"),
    "tgi stream": (shapes.GENERATE_STREAM, "inputs"),
}
FLAT = {
    "triton": (shapes.TRITON_GENERATE, "text_input"),
    "llama.cpp": (shapes.COMPLETION, "prompt"),
    "infill": (shapes.INFILL, "input_prefix"),
}
GENERATING = [shape for shape, _ in (*NESTED.values(), *FLAT.values())]


def read(shape: Shape, named: str | None = "m", **members: Any) -> Body | Fault:
    return read_json(json.dumps(members).encode(), shape, named)


def body_of(shape: Shape, named: str | None = "m", **members: Any) -> Body:
    found = read(shape, named, **members)
    assert isinstance(found, Body), found
    return found


def ask_of(shape: Shape, **members: Any) -> Ask:
    ask = body_of(shape, **members).ask
    assert ask is not None
    return ask


def fault_of(shape: Shape, named: str | None = "m", **members: Any) -> Fault:
    found = read(shape, named, **members)
    assert isinstance(found, Fault), found
    return found


def with_bound(raw: bytes, ask: Ask, tokens: int = 4096) -> Any:
    """What the server reads, strictly: no member twice anywhere."""
    edits = [ask.slot.edit(tokens)] if ask.slot is not None else []
    edits += [ask.bound_edit] if ask.bound_edit is not None else []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    return json.loads(edited(raw, edits), object_pairs_hook=once)


def nest(name: str, value: Any) -> dict[str, Any]:
    """`a.b` as the members of a body."""
    outer, _, inner = name.partition(".")
    return {outer: {inner: value}} if inner else {outer: value}


def at(document: Any, name: str) -> Any:
    for part in name.split("."):
        document = document[part]
    return document


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────


def test_the_members_that_bound_an_output() -> None:
    first = {name: shape.bounds[0] for name, (shape, _) in (NESTED | FLAT).items()}
    assert first == {
        "gemini": "generationConfig.maxOutputTokens",
        "gemini stream": "generationConfig.maxOutputTokens",
        "ollama chat": "options.num_predict",
        "ollama generate": "options.num_predict",
        "tgi": "parameters.max_new_tokens",
        "tgi stream": "parameters.max_new_tokens",
        "triton": "max_tokens",
        "llama.cpp": "n_predict",
        "infill": "n_predict",
    }


@pytest.mark.parametrize("shape", GENERATING)
@pytest.mark.parametrize("value", [0, -1, -2, 1.5, "5", True, [5], {}, MAX_BOUND + 1])
def test_what_is_no_bound_is_refused_by_name(shape: Shape, value: Any) -> None:
    for name in (*shape.bounds, *shape.also, *shape.repeats):
        fault = fault_of(shape, **nest(name, value))
        assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, name)


@pytest.mark.parametrize("shape", GENERATING)
def test_a_bound_of_the_clients_counts(shape: Shape) -> None:
    ask = ask_of(shape, **nest(shape.bounds[0], 7))
    assert (ask.output, ask.bound_name, ask.slot) == (7, shape.bounds[0], None)
    assert ask.bound_edit is None


@pytest.mark.parametrize("shape", GENERATING)
@pytest.mark.parametrize("members", [{}, {"x": 1}, {"x": {"y": [1]}, "z": "{"}])
def test_where_there_is_none_one_can_be_put_in(shape: Shape, members: dict[str, Any]) -> None:
    name = shape.bounds[0]
    outer = name.partition(".")[0]
    for more in ({}, {outer: None}, nest(name, None), {outer: {"k": 1}} if "." in name else {}):
        for written in (members | more, more | members):
            raw = json.dumps(written).encode()
            found = read_json(raw, shape, "m")
            assert isinstance(found, Body)
            assert found.ask is not None
            assert found.ask.output is None
            got = with_bound(raw, found.ask)
            assert at(got, name) == 4096
            if "." in name:
                inner = got[outer]
                assert inner == (written.get(outer) or {}) | {name.partition(".")[2]: 4096}
            assert {k: v for k, v in got.items() if k != outer} == {
                k: v for k, v in written.items() if k != outer
            }


SPACE = st.sampled_from(["", " ", "\n", "\r\n\t "])
MARKS = st.sampled_from(["options", "num_predict", "messages", "x", "é", '"options":{'])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), MARKS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(MARKS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def layouts(draw: st.DrawFn) -> bytes:
    """A body for Ollama written in some way, with the bound missing somewhere."""
    names = st.sampled_from(["x", "é", "format", "tools_"])
    members: dict[str, Any] = draw(st.dictionaries(names, VALUES, max_size=3))
    options = draw(st.sampled_from(["absent", None, {}, {"num_predict": None}, {"seed": 1}]))
    if options != "absent":
        if isinstance(options, dict):
            options = options | draw(st.dictionaries(st.sampled_from(["a", "b"]), VALUES))
        members["options"] = options
    ascii_only = draw(st.booleans())

    def write(value: Any) -> str:
        if isinstance(value, dict):
            pairs = [f"{write(k)}{draw(SPACE)}:{draw(SPACE)}{write(v)}" for k, v in value.items()]
            return "{" + draw(SPACE) + f"{draw(SPACE)},".join(pairs) + draw(SPACE) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        return json.dumps(value, ensure_ascii=ascii_only)

    shuffled = dict(draw(st.permutations(list(members.items()))))
    return (draw(SPACE) + write(shuffled)).encode()


@settings(max_examples=250, deadline=None)
@given(layouts())
@example(b'{"x":{"options":{}},"options":{}}')
@example(b'{"x":[{"options":null}],"options":null}')
@example(b'{"x":{"num_predict":null},"options":{"num_predict":null}}')
@example(rb'{"x":{"options":{"a":1}},"opt\u0069ons":{}}')
def test_exactly_the_bound_is_changed(raw: bytes) -> None:
    found = read_json(raw, shapes.OLLAMA_CHAT, "m")
    if isinstance(found, Fault):  # never a guess
        assert found.reason is Reason.AMBIGUOUS_BODY, found
        assert rb"\u" in raw or raw.count(b"options") + raw.count(b"num_predict") > 16
        return
    meant = json.loads(raw)
    assert found.ask is not None
    expected = meant | {"options": (meant.get("options") or {}) | {"num_predict": 4096}}
    assert with_bound(raw, found.ask) == expected


@pytest.mark.parametrize("inner", [[], "x", 5, True, [{}]])
def test_what_holds_a_bound_is_an_object(inner: Any) -> None:
    fault = fault_of(shapes.OLLAMA_CHAT, options=inner)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "options")
    fault = fault_of(shapes.GEMINI, generation_config=inner)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "generationConfig")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"options":{"num_predict":5,"num_predict":5}}',
        b'{"options":{"x":5,"x":6}}',
        b'{"options":{"num_predict":5,"Num_Predict":6}}',
        '{"options":{"num_\N{LATIN SMALL LETTER LONG S}eed":1,"num_predict\\u0000":6}}'.encode(),
        b'{"Options":{"num_predict":5}}',
        b'{"options":{"num_predict":5},"optionS":{}}',
        '{"option\N{LATIN SMALL LETTER LONG S}":{"num_predict":5}}'.encode(),
        b'{"\\u006fptions":{"num_predict":5},"options":{"num_predict":5}}',
        b'{"options":{"KEEP_ALIVE":5}}',
    ],
)
def test_an_object_inside_is_read_in_one_way_only(raw: bytes) -> None:
    for _ in range(2):
        found = read_json(raw, shapes.OLLAMA_CHAT, "m")
        assert isinstance(found, Fault)
        assert found.reason is Reason.AMBIGUOUS_BODY


def test_an_object_has_an_end() -> None:
    fault = fault_of(shapes.OLLAMA_CHAT, options={str(n): n for n in range(65)})
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "options")


@pytest.mark.parametrize(
    ("shape", "members", "also"),
    [
        (shapes.GENERATE, {"sampling_params": {"max_new_tokens": 900}}, 900),  # SGLang's
        (shapes.GENERATE, {"max_tokens": 900}, 900),  # vLLM's
        (shapes.OLLAMA_CHAT, {"max_tokens": 900}, 900),  # llama.cpp, under Ollama's path
        (shapes.COMPLETION, {"max_tokens": 900}, 900),
        (shapes.TRITON_GENERATE, {"parameters": {"max_new_tokens": 900}}, 900),
    ],
)
def test_a_bound_that_only_some_servers_know(
    shape: Shape, members: dict[str, Any], also: int
) -> None:
    ask = ask_of(shape, **members)
    assert (ask.output, ask.also) == (None, also)
    assert ask.slot is not None
    assert ask_of(shape, **members, **nest("x", 1)).also == also


def test_tritons_parameters_are_as_good_as_its_own_members() -> None:
    ask = ask_of(shapes.TRITON_GENERATE, text_input="x", parameters={"max_tokens": 5})
    assert (ask.output, ask.slot, ask.bound_edit) == (5, None, None)
    ask = ask_of(shapes.TRITON_GENERATE, max_tokens=6, parameters={"max_tokens": 5})
    assert (ask.output, ask.bound_name) == (6, "max_tokens")


# ── Gemini ───────────────────────────────────────────────────────────────────────────────────────

TEXT = [{"role": "user", "parts": [{"text": "hi"}]}]


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("bound", ["maxOutputTokens", "max_output_tokens"])
@pytest.mark.parametrize("count", ["candidateCount", "candidate_count"])
def test_both_spellings_are_read(config: str, bound: str, count: str) -> None:
    ask = ask_of(shapes.GEMINI, contents=TEXT, **{config: {bound: 7, count: 3}})
    assert (ask.output, ask.repeats) == (7, 3)
    for written in ({config: {}}, {config: {bound: None}}, {config: None}, {config: {count: 1}}):
        raw = json.dumps({"contents": TEXT} | written).encode()
        found = read_json(raw, shapes.GEMINI, "m")
        assert isinstance(found, Body)
        assert found.ask is not None
        got = with_bound(raw, found.ask)
        assert read_json(json.dumps(got).encode(), shapes.GEMINI, "m").ask.output == 4096  # type: ignore[union-attr]
        assert len(got) == 2


@pytest.mark.parametrize(
    "members",
    [
        {"generationConfig": {}, "generation_config": {}},
        {"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 5}},
        {"generation_config": {"candidateCount": 1, "candidate_count": 9}},
        {"cachedContent": None, "cached_content": None},
        {"GenerationConfig": {"maxOutputTokens": 5}},
        {"generationconfig": {"maxOutputTokens": 5}},
        {"generationConfig": {"maxoutputtokens": 5}},
    ],
)
def test_two_spellings_at_once_are_none(members: dict[str, Any]) -> None:
    assert fault_of(shapes.GEMINI, **members).reason is Reason.AMBIGUOUS_BODY


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"contents": TEXT}, True),
        ({"contents": TEXT[0]}, True),
        ({"contents": [{"parts": [{"text": "a", "thought": True}, {"text": "b"}]}]}, True),
        ({"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}]}, True),
        ({"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]}, True),
        ({"contents": TEXT, "systemInstruction": {"parts": [{"text": "s"}]}}, True),
        ({"contents": TEXT, "system_instruction": {"parts": [{"text": "s"}]}}, True),
        ({"contents": TEXT, "tools": [{"functionDeclarations": [{"name": "f"}]}]}, True),
        ({"contents": TEXT, "tools": []}, True),
        ({"contents": [{"parts": [{"inlineData": {"data": "aGk="}}]}]}, False),
        ({"contents": [{"parts": [{"inline_data": {"data": "aGk="}}]}]}, False),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "x"}}]}]}, False),
        ({"contents": [{"parts": [{"functionResponse": {"parts": [{}]}}]}]}, False),
        ({"contents": [{"parts": [{"executableCode": {"code": "x"}}]}]}, False),
        ({"contents": [{"parts": [{"text": "a", "videoMetadata": {}}]}]}, False),
        ({"contents": [{"parts": {"text": "a"}}]}, False),
        ({"contents": "hi"}, False),
        ({"contents": TEXT, "systemInstruction": {"parts": [{"fileData": {}}]}}, False),
        ({"contents": TEXT, "tools": [{"googleSearch": {}}]}, False),
        ({"contents": TEXT, "tools": [{"google_search": {}}]}, False),
        ({"contents": TEXT, "tools": [{"codeExecution": {}}]}, False),
        ({"contents": TEXT, "tools": [{"urlContext": {}, "functionDeclarations": []}]}, False),
        ({"contents": TEXT, "tools": {"functionDeclarations": []}}, False),
    ],
)
def test_geminis_parts(members: dict[str, Any], text: bool) -> None:
    assert ask_of(shapes.GEMINI, **members).text_only is text


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_cached_content_is_stored(name: str) -> None:
    ask = ask_of(shapes.GEMINI, contents=TEXT, **{name: "cachedContents/x"})
    assert (ask.stored, ask.text_only) == ("cachedContent", False)


def test_geminis_embeddings() -> None:
    ask = ask_of(shapes.GEMINI_EMBED, model="models/m", content=TEXT[0])
    assert (ask.text_only, ask.prompts, ask.slot) == (True, 1, None)
    assert not ask_of(shapes.GEMINI_EMBED, content={"parts": [{"inlineData": {}}]}).text_only


def test_geminis_embeddings_of_many() -> None:
    one = {"model": "models/m", "content": TEXT[0], "taskType": "CLUSTERING"}
    ask = ask_of(shapes.GEMINI_EMBED_BATCH, requests=[one, {"content": TEXT[0]}, one])
    assert (ask.text_only, ask.prompts, ask.slot) == (True, 3, None)
    for other in ({"content": {"parts": [{"fileData": {}}]}}, {"content": TEXT[0], "file": "x"}, 1):
        ask = ask_of(shapes.GEMINI_EMBED_BATCH, requests=[one, other])
        assert (ask.text_only, ask.prompts) == (False, 2)
    assert ask_of(shapes.GEMINI_EMBED_BATCH, requests=None).prompts == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"model": "models/other"}, Reason.AMBIGUOUS_BODY),
        ({"model": 1}, Reason.AMBIGUOUS_BODY),
        ({"Model": "models/m"}, Reason.AMBIGUOUS_BODY),
        ({"model\0": "models/m"}, Reason.AMBIGUOUS_BODY),
        ({f"x{at}": 1 for at in range(65)}, Reason.INVALID_PARAMETER),
    ],
)
def test_each_of_many_embeddings_is_of_the_model_in_the_path(
    request_: dict[str, Any], reason: Reason
) -> None:
    one = {"model": "models/m", "content": TEXT[0]}
    assert fault_of(shapes.GEMINI_EMBED_BATCH, requests=[one, request_]).reason is reason


def test_there_are_not_too_many_embeddings() -> None:
    assert ask_of(shapes.GEMINI_EMBED_BATCH, requests=[{}] * 1000).prompts == 1000
    fault = fault_of(shapes.GEMINI_EMBED_BATCH, requests=[{}] * 1001)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "requests")


def test_all_embeddings_together_have_not_too_many_members() -> None:
    eight = {f"x{at}": 1 for at in range(8)}
    assert ask_of(shapes.GEMINI_EMBED_BATCH, requests=[eight] * 1000).prompts == 1000
    sixty = {f"x{at}": 1 for at in range(60)}
    assert ask_of(shapes.GEMINI_EMBED_BATCH, requests=[sixty] * 136).prompts == 136
    fault = fault_of(shapes.GEMINI_EMBED_BATCH, requests=[sixty] * 137)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "requests")


def test_all_tensors_together_have_not_too_many_dimensions() -> None:
    assert ask_of(shapes.INFER, inputs=[{"shape": [3, 1, 1, 1]}] * 1024).prompts == 3
    assert ask_of(shapes.INFER, inputs=[{"shape": [1] * 64}] * 64).prompts == 1
    fault = fault_of(shapes.INFER, inputs=[{"shape": [1] * 64}] * 64 + [{"shape": [1]}])
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "inputs")


@pytest.mark.parametrize("times", [300, 3000])
def test_of_what_would_take_long_to_look_at_the_context_is_held(times: int) -> None:
    """Some thousand things are looked at, and of many members only so many items of one form."""
    few = times < 1000
    tool = {"type": "function"} | {f"x{at}": 1 for at in range(63)}
    assert ask_of(shapes.CHAT, model="m", messages=[], tools=[tool] * times).text_only is few
    call = {"functionCall": {}, "functionResponse": {}, "text": "a"}
    contents = [{"parts": [call] * times}]
    assert ask_of(shapes.GEMINI, contents=contents).text_only is few


def test_who_streams() -> None:
    assert not body_of(shapes.GEMINI, contents=TEXT).stream
    assert body_of(shapes.GEMINI_STREAM, contents=TEXT).stream
    assert body_of(shapes.GEMINI_STREAM, contents=TEXT, stream=False).stream
    assert body_of(shapes.TRITON_GENERATE_STREAM, text_input="x", stream=False).stream
    assert body_of(shapes.OLLAMA_CHAT).stream
    assert body_of(shapes.OLLAMA_CHAT, stream=None).stream
    assert not body_of(shapes.OLLAMA_CHAT, stream=False).stream
    assert not body_of(shapes.OLLAMA_EMBED).stream
    assert not body_of(shapes.COMPLETION).stream
    assert body_of(shapes.COMPLETION, stream=True).stream


# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "members", "text"),
    [
        (shapes.OLLAMA_CHAT, {"messages": [{"role": "user", "content": "hi"}]}, True),
        (
            shapes.OLLAMA_CHAT,
            {"messages": [{"role": "tool", "tool_name": "f", "content": "hi"}], "tools": []},
            True,
        ),
        (
            shapes.OLLAMA_CHAT,
            {"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]},
            False,
        ),
        (shapes.OLLAMA_GENERATE, {"prompt": "a", "suffix": "b", "system": "c"}, True),
        (shapes.OLLAMA_GENERATE, {"prompt": "a", "context": [1, 2, 3], "raw": True}, True),
        (shapes.OLLAMA_GENERATE, {"prompt": "a", "images": ["aGk="]}, False),
        (shapes.OLLAMA_GENERATE, {"prompt": "a", "template": "{{ .Prompt }}" * 9}, False),
        (shapes.OLLAMA_EMBED, {"input": ["a", "b"]}, True),
        (shapes.OLLAMA_EMBEDDINGS, {"prompt": "a"}, True),
    ],
)
def test_ollamas_input(shape: Shape, members: dict[str, Any], text: bool) -> None:
    assert ask_of(shape, **members).text_only is text


@pytest.mark.parametrize(
    "name",
    [
        *("image_input", "image_bytes_input", "image_url_input", "video_bytes_input"),
        *("prompt_embedding_table", "image_url"),
    ],
)
def test_tritons_media(name: str) -> None:
    for shape in (shapes.TRITON_GENERATE, shapes.TRITON_GENERATE_STREAM):
        assert not ask_of(shape, text_input="x", **{name: "https://example.org/cat"}).text_only
    assert ask_of(shapes.TRITON_GENERATE, text_input="x").text_only


def test_a_bound_of_sglangs_that_is_null_is_none_and_no_other_holds() -> None:
    """Left out it is 128 there; null is what its context has room for."""
    ask = ask_of(shapes.GENERATE, text="x", sampling_params={"max_new_tokens": None})
    assert (ask.output, ask.slot) == (None, None)
    assert ask_of(shapes.GENERATE, text="x", sampling_params={}).slot is not None
    bounds = {"parameters": {"max_new_tokens": 5}, "sampling_params": {"max_new_tokens": None}}
    assert ask_of(shapes.GENERATE, text="x", **bounds).output is None


def test_ollamas_prompts() -> None:
    assert ask_of(shapes.OLLAMA_EMBED, input=["a", "b", "c"]).prompts == 3
    assert ask_of(shapes.OLLAMA_GENERATE, prompt="a", context=[1, 2, 3]).prompts == 1


def test_the_context_that_ollama_is_to_make() -> None:
    ask = ask_of(shapes.OLLAMA_CHAT, options={"num_ctx": 4096})
    assert (ask.context, ask.context_name, ask.endless) == (4096, "options.num_ctx", True)
    assert ask_of(shapes.OLLAMA_CHAT).context == 0
    assert ask_of(shapes.OLLAMA_EMBED, options={"num_ctx": 5}).context == 5
    fault = fault_of(shapes.OLLAMA_CHAT, options={"num_ctx": -1})
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "options.num_ctx")


@pytest.mark.parametrize("name", ["num_gpu", "num_thread", "use_mmap", "keep_alive"])
def test_what_loads_the_model_anew_is_a_control(name: str) -> None:
    body = body_of(shapes.OLLAMA_CHAT, options={name: 1, "seed": 1})
    assert body.controls == (f"options.{name}",)


def test_a_model_is_shown_by_either_name() -> None:
    assert body_of(shapes.OLLAMA_SHOW, None, model="x").model == "x"
    assert body_of(shapes.OLLAMA_SHOW, None, name="x").model == "x"
    assert body_of(shapes.OLLAMA_SHOW, None, name="x", model="x").model == "x"
    fault = fault_of(shapes.OLLAMA_SHOW, None, name="x", model="y")
    assert fault == Fault(Reason.AMBIGUOUS_BODY, "it names another model", param="name")
    assert fault_of(shapes.OLLAMA_SHOW, None, name=None).reason is Reason.MODEL_REQUIRED


# ── Rerank, score, images, speech ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "members", "prompts", "again", "text"),
    [
        (shapes.RERANK, {"query": "four", "documents": ["a", "b", "c"]}, 3, 4, True),
        (shapes.RERANK, {"query": "four", "documents": ["only"]}, 1, 8, True),
        (shapes.RERANK, {"query": "four", "texts": ["a", "b"]}, 2, 4, True),
        (shapes.RERANK, {"query": "ü", "documents": [{"text": "a"}, "b"]}, 2, 2, True),
        (shapes.RERANK, {"query": "q", "documents": [{"text": ["a"]}]}, 1, 13, False),
        (shapes.RERANK, {"query": "q", "documents": [{"image": "a"}, "b"]}, 2, 1, False),
        (shapes.RERANK, {"query": "q", "documents": {"content": []}}, 1, 14, False),
        (shapes.RERANK, {"query": {"content": []}, "documents": ["a", "b"]}, 2, 14, False),
        (shapes.RERANK, {"query": "q", "instruction": "do", "documents": ["a", "b"]}, 2, 3, True),
        (shapes.RERANK, {"query": "q", "instruct": "do", "documents": ["a", "b"]}, 2, 3, True),
        (shapes.SCORE, {"text_1": "four", "text_2": ["a", "b"]}, 2, 4, True),
        (shapes.SCORE, {"text_1": ["four"], "text_2": ["a", "b"]}, 2, 4, True),
        (shapes.SCORE, {"text_1": ["a", "b"], "text_2": ["c", "d"]}, 2, 0, True),
        (shapes.SCORE, {"text_1": ["a", "b", "c"], "text_2": "four"}, 3, 4, True),
        (shapes.SCORE, {"data_1": "four", "data_2": ["a", "b"]}, 2, 4, True),
        (shapes.SCORE, {"query": "four", "items": ["a", "b"]}, 2, 4, True),
        (shapes.SCORE, {"query": [1, 2], "items": [[1], [2]]}, 2, 5, False),
    ],
)
def test_what_is_read_with_each_document(
    shape: Shape, members: dict[str, Any], prompts: int, again: int, text: bool
) -> None:
    ask = ask_of(shape, **members)
    assert (ask.prompts, ask.text_only) == (prompts, text)
    if text:
        assert ask.again_bytes == again
    assert (ask.slot, shape.generates) == (None, False)


def test_images_and_speech_have_no_bound() -> None:
    ask = ask_of(shapes.IMAGES, prompt="a cat", n=4)
    assert (ask.repeats, ask.text_only, ask.slot) == (4, True, None)
    assert not ask_of(shapes.IMAGES, prompt="a cat", image=["x"]).text_only
    assert ask_of(shapes.SPEECH, input="hello", instructions="loud").text_only
    assert not ask_of(shapes.SPEECH, input="hello", ref_audio="aGk=").text_only
    assert shapes.IMAGES.generates
    assert shapes.SPEECH.generates


def test_moderations() -> None:
    assert ask_of(shapes.MODERATIONS, input=["a", "b"]).prompts == 2
    part = {"type": "image_url", "image_url": {"url": "x"}}
    assert not ask_of(shapes.MODERATIONS, input=[part]).text_only


# ── Tensors ──────────────────────────────────────────────────────────────────────────────────────


def test_tensors_are_no_text() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["hi"]}
    ask = ask_of(shapes.INFER, inputs=[tensor])
    assert (ask.text_only, ask.slot, ask.prompts) == (False, None, 1)
    assert not ask_of(shapes.PREDICT, instances=["hi"]).text_only
    assert shapes.INFER.generates
    assert shapes.PREDICT.generates


@pytest.mark.parametrize(
    ("members", "controls"),
    [
        ({"inputs": [{"name": "x", "parameters": {"binary_data_size": 4}}]}, ()),
        (
            {"inputs": [{"name": "x", "parameters": {"shared_memory_region": "r"}}]},
            ("shared_memory_region",),
        ),
        (
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            ("shared_memory_region",),
        ),
        ({"inputs": [{"name": "lora_task_id", "data": [1]}]}, ("lora_task_id",)),
        ({"inputs": [{"name": "sampling_parameters"}]}, ("sampling_parameters",)),
        ({"parameters": {"priority": 1}}, ("parameters.priority",)),
        ({"outputs": [{"name": "priority"}]}, ()),
        ({"inputs": "x", "outputs": [1, None]}, ()),
    ],
)
def test_tensors_that_steer_the_server(members: dict[str, Any], controls: tuple[str, ...]) -> None:
    assert body_of(shapes.INFER, **members).controls == controls


def test_a_sequence_is_stored_context() -> None:
    assert ask_of(shapes.INFER, parameters={"sequence_id": 3}).stored == "parameters.sequence_id"
    assert ask_of(shapes.TRITON_GENERATE, sequence_id=3).stored == "sequence_id"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"inputs":[{"name":"x","name":"priority"}]}',
        b'{"inputs":[{"name":"x","Parameters":{}}]}',
        b'{"inputs":[{"parameters":{"a":1,"a":2}}]}',
        b'{"inputs":[{"parameters":{"Shared_Memory_Region":"r"}}]}',
    ],
)
def test_tensors_are_read_in_one_way_only(raw: bytes) -> None:
    found = read_json(raw, shapes.INFER, "m")
    assert isinstance(found, Fault)
    assert found.reason is Reason.AMBIGUOUS_BODY


def test_there_are_not_too_many_tensors() -> None:
    fault = fault_of(shapes.INFER, inputs=[{}] * 1025)
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "inputs")


# ── The model ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [*GENERATING, shapes.INFER, shapes.PREDICT, shapes.NOTHING])
def test_a_model_in_the_body_is_the_one_that_is_named_elsewhere(shape: Shape) -> None:
    assert body_of(shape, "m").model == "m"
    assert body_of(shape, "m", model=None).model == "m"
    assert body_of(shape, "m", model="m").model == "m"
    for other in ("M", "m2", "models/m2", "m:latest"):
        fault = fault_of(shape, "m", model=other)
        assert fault == Fault(Reason.AMBIGUOUS_BODY, "it names another model", param="model")
    for none in (1, [], "", " m", {"a": 1}, False):
        assert fault_of(shape, "m", model=none).reason is Reason.MODEL_REQUIRED


def test_geminis_name_of_a_model() -> None:
    assert body_of(shapes.GEMINI, "m", model="models/m").model == "m"
    assert fault_of(shapes.COMPLETION, "m", model="models/m").reason is Reason.AMBIGUOUS_BODY
    inner = {"model": "models/m", "contents": TEXT}
    assert body_of(shapes.GEMINI_COUNT, "m", generateContentRequest=inner).model == "m"
    for name in ("generateContentRequest", "generate_content_request"):
        fault = fault_of(shapes.GEMINI_COUNT, "m", **{name: inner | {"model": "models/other"}})
        assert fault.param == "generateContentRequest.model"
        assert fault.reason is Reason.AMBIGUOUS_BODY


# ── Adapters and controls ────────────────────────────────────────────────────────────────────────

NESTS = [(shape, nest) for shape in GENERATING for nest in ("", *shape.nests)]


def inside(name: str, value: Any, where: str) -> dict[str, Any]:
    return {where: {name: value}} if where else {name: value}


@pytest.mark.parametrize(("shape", "where"), [(shapes.CHAT, ""), (shapes.SPEECH, ""), *NESTS])
@pytest.mark.parametrize("name", ["lora_path", "adapter_id", "lora", "lora_name", "adapters"])
def test_an_adapter_beside_the_model(shape: Shape, where: str, name: str) -> None:
    full = f"{where}.{name}" if where else name
    assert body_of(shape, None, model="m", **inside(name, "sql", where)).adapter == "sql"
    assert body_of(shape, None, model="m", **inside(name, None, where)).adapter is None
    for value in (["a", "b"], [], {}, 1, True, "", " x", [{"id": 0, "scale": 1.0}]):
        fault = fault_of(shape, None, model="m", **inside(name, value, where))
        assert (fault.reason, fault.param) == (Reason.PARAMETER_NOT_ALLOWED, full)


def test_two_adapters_are_none() -> None:
    body = body_of(shapes.GENERATE, lora_path="a", parameters={"adapter_id": "a"})
    assert body.adapter == "a"
    fault = fault_of(shapes.GENERATE, lora_path="a", parameters={"adapter_id": "b"})
    assert fault.reason is Reason.PARAMETER_NOT_ALLOWED


@pytest.mark.parametrize("written", [r"\ud800", r"a\udc00b", "a 18446744073709551616 b"])
def test_an_adapter_whose_name_readers_dispute(written: str) -> None:
    raw = f'{{"model":"m","lora_path":"{written}","x":"\\ud800"}}'.encode()
    fault = read_json(raw, shapes.CHAT)
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.AMBIGUOUS_BODY
    plain = read_json(raw.replace(written.encode(), b"a"), shapes.CHAT)
    assert isinstance(plain, Body)
    assert plain.adapter == "a"


@pytest.mark.parametrize("name", ["lora_request", "models", "fallbacks", "merged_adapters"])
def test_what_names_another_model_in_its_own_way_is_refused(name: str) -> None:
    fault = fault_of(shapes.CHAT, None, model="m", **{name: ["other"]})
    assert (fault.reason, fault.param) == (Reason.PARAMETER_NOT_ALLOWED, name)
    assert body_of(shapes.CHAT, None, model="m", **{name: None}).adapter is None


CONTROLS = "keep_alive kv_transfer_params id_slot priority chat_template cache_salt rid slot_id"


@pytest.mark.parametrize(("shape", "where"), [(shapes.CHAT, ""), (shapes.NOTHING, ""), *NESTS])
@pytest.mark.parametrize("name", CONTROLS.split())
def test_controls(shape: Shape, where: str, name: str) -> None:
    full = f"{where}.{name}" if where else name
    for value in (0, -1, "x", {}, [], False):
        found = body_of(shape, None, model="m", **inside(name, value, where))
        assert found.controls == (full,)
    assert body_of(shape, None, model="m", **inside(name, None, where)).controls == ()


TALKS = [shapes.CHAT, shapes.RESPONSES, shapes.MESSAGES, shapes.EMBEDDINGS, shapes.NOTHING]


@pytest.mark.parametrize("shape", TALKS)
@pytest.mark.parametrize("name", ["chat_template", "conversation", "tokenize", "max_length"])
def test_what_is_given_to_a_template_may_be_another_one(shape: Shape, name: str) -> None:
    given = {"chat_template_kwargs": {name: "{{x}}", "enable_thinking": False}}
    found = body_of(shape, None, model="m", **given)
    assert found.controls == (f"chat_template_kwargs.{name}",)
    given["chat_template_kwargs"][name] = None
    assert body_of(shape, None, model="m", **given).controls == ()
    for other in ("chat_Template", "chat_template\0", "CHAT_TEMPLATE"):
        fault = fault_of(shape, None, model="m", chat_template_kwargs={other: "{{x}}"})
        assert fault.reason is Reason.AMBIGUOUS_BODY
    fault = fault_of(shape, None, model="m", chat_template_kwargs='{"chat_template":"x"}')
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "chat_template_kwargs")


STEERING = """routed_dp_rank disagg_prefill_dp_rank decode_tp_size bootstrap_pair_key
http_worker_ipc encoder_urls kv_router_hint routing_key session_id ec_transfer_params
nvext vllm_xargs
kv_hints mm_hashes perf_dump_path diffusers_kwargs extra_body extra_headers extra_query
disaggregated_params migration_request"""


@pytest.mark.parametrize("name", STEERING.split())
def test_what_steers_servers_of_today(name: str) -> None:
    for shape in (shapes.CHAT, shapes.COMPLETIONS, shapes.GENERATE, shapes.EMBEDDINGS):
        for value in (0, "x", {"a": 1}, ["x"]):
            assert body_of(shape, None, model="m", **{name: value}).controls == (name,)


def test_what_steers_one_kind_of_server() -> None:
    assert body_of(shapes.GENERATE, background=True).controls == ("background",)
    assert body_of(shapes.MESSAGES, None, model="m", speed="fast").controls == ("speed",)
    for outer, inner in (
        ("generationConfig", "routingConfig"),
        ("generation_config", "routing_config"),
    ):
        found = body_of(shapes.GEMINI, contents=TEXT, **{outer: {inner: {"manualMode": {}}}})
        assert found.controls == ("generationConfig.routingConfig",)


OTHERS = """lora_id model_list user_config api_base base_url deployment_id litellm_credential_name
router_settings_override context_window_fallbacks context_window_fallback_dict
content_policy_fallbacks upscaling_model_path"""


@pytest.mark.parametrize("name", OTHERS.split())
def test_what_names_another_model_or_server_is_refused(name: str) -> None:
    for shape in (shapes.GENERATE, shapes.CHAT, shapes.IMAGES):
        fault = fault_of(shape, None, model="m", **{name: "x"})
        assert (fault.reason, fault.param) == (Reason.PARAMETER_NOT_ALLOWED, name)


@pytest.mark.parametrize("name", ["cheap,dear", "cheap, dear", ",", "cheap,"])
def test_several_models_are_no_model(name: str) -> None:
    fault = fault_of(shapes.CHAT, None, model=name, messages=[])
    assert (fault.reason, fault.param) == (Reason.MODEL_REQUIRED, "model")


@pytest.mark.parametrize(
    "shape", [shapes.CHAT, shapes.COMPLETIONS, shapes.RESPONSES, shapes.GENERATE]
)
def test_a_session_of_sglang_is_stored_context(shape: Shape) -> None:
    ask = body_of(shape, None, model="m", session_params={"id": "x", "rid": "y"}).ask
    assert ask is not None
    assert (ask.stored, ask.text_only) == ("session_params", False)


@pytest.mark.parametrize(
    ("embeds", "prompts"),
    [
        ([[0.5, 1], [2, 3]], 1),  # SGLang: one where the very first number is a fraction
        ([[1, 0.5], [2, 3]], 2),
        ([[[0.5]], [[0.5]], [[0.5]]], 3),
        ([[], [0.5]], 1),
        ([0.5, 0.5], 1),
        ("x", 1),
        (None, 1),
    ],
)
def test_embeddings_as_input_may_be_many_prompts(embeds: Any, prompts: int) -> None:
    ask = ask_of(shapes.GENERATE, input_embeds=embeds)
    assert (ask.prompts, ask.text_only) == (prompts, embeds is None)


def test_beams_and_returned_sequences_are_answers() -> None:
    names = ("n", "best_of", "beam_width", "num_return_sequences")
    for name in (*names, *(f"parameters.{each}" for each in names)):
        assert ask_of(shapes.TRITON_GENERATE, text_input="x", **nest(name, 3)).repeats == 3
    for name in ("request_output_len", "parameters.request_output_len"):
        ask = ask_of(shapes.TRITON_GENERATE, text_input="x", **nest(name, 900))
        assert (ask.output, ask.also) == (None, 900)
    for name in ("sampling_params.beam_width", "parameters.num_return_sequences"):
        assert ask_of(shapes.GENERATE, inputs="x", **nest(name, 3)).repeats == 3
    assert ask_of(shapes.CHAT, model="m", beam_width=3).repeats == 3


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ([], 1),
        ("x", 1),
        ([{"name": "x"}], 1),
        ([{"name": "x", "shape": [3, 4], "datatype": "FP32"}], 3),
        ([{"name": "x", "shape": [3, 4], "datatype": "BYTES"}], 12),
        ([{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["a", "b"]}], 2),
        ([{"name": "x", "shape": [2, 0], "datatype": "BYTES"}], 2),
        ([{"name": "x", "shape": None, "data": [1, 2, 3]}], 3),
        ([{"name": "x", "shape": [2, 3]}], 6),  # of what is not known to be numbers
        ([{"shape": [], "datatype": "INT32", "data": [1]}], 1),
        ([{"shape": [2], "datatype": "INT32"}, {"shape": [5], "datatype": "INT8"}], 5),
        ([{"shape": [1 << 40], "datatype": "INT8"}], MAX_SEQUENCES),
    ],
)
def test_rows_of_tensors_may_each_be_a_prompt(tensors: Any, rows: int) -> None:
    ask = ask_of(shapes.INFER, inputs=tensors)
    assert (ask.prompts, ask.text_only, ask.output) == (rows, False, None)
    assert ask_of(shapes.INFER, inputs=[], outputs=tensors).prompts == 1


@pytest.mark.parametrize("sizes", [3, "3", [-1], [1.0], ["2"], [True], [None], [[1]], [1] * 65])
def test_a_shape_that_is_none(sizes: Any) -> None:
    fault = fault_of(shapes.INFER, inputs=[{"name": "x", "shape": sizes, "datatype": "FP32"}])
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "inputs")


@pytest.mark.parametrize(
    ("members", "rows"),
    [
        ({"instances": [[1.0, 2.0]]}, 1),
        ({"instances": [1, 2, 3]}, 3),
        ({"instances": ["a", {"b": 1}]}, 2),
        ({"specversion": "1.0", "data": {"instances": [1, 2, 3, 4]}}, 4),  # a CloudEvent, to KServe
        ({"data": {"inputs": {"a": [1, 2], "b": [1, 2, 3]}}}, 3),
        ({"inputs": {"a": [[1], [2]], "b": [[1], [2]]}}, 2),
        ({"inputs": [1, 2, 3, 4]}, 4),
        ({"inputs": "x"}, 1),
        ({"examples": [{}, {}]}, 2),
        ({}, 1),
    ],
)
def test_instances_may_each_be_a_prompt(members: dict[str, Any], rows: int) -> None:
    assert ask_of(shapes.PREDICT, **members).prompts == rows


def test_columns_of_instances_are_bounded() -> None:
    fault = fault_of(shapes.PREDICT, inputs={f"x{at}": [] for at in range(65)})
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "inputs")


def test_what_servers_do_not_look_into_is_not_looked_into() -> None:
    body = body_of(shapes.CHAT, None, model="m", metadata={"lora_path": "a", "priority": 1})
    assert (body.adapter, body.controls) == (None, ())
    body = body_of(shapes.CHAT, None, model="m", chat_template_kwargs={"enable_thinking": False})
    assert body.controls == ()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([shape for shape in vars(shapes).values() if isinstance(shape, Shape)]),
    st.data(),
)
def test_whatever_stands_in_it_the_answer_is_a_body_or_a_fault(
    shape: Shape, data: st.DataObject
) -> None:
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["parts", "text", "name", "parameters", "content", "type"]),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=8,
    )
    members = data.draw(
        st.dictionaries(st.sampled_from(sorted(shape.members.ours)), values, max_size=5)
    )
    for outer, names in shape.nested:
        inner = st.dictionaries(st.sampled_from(sorted(names.ours)), values, max_size=3)
        members |= data.draw(st.sampled_from([{}, {outer: data.draw(inner)}]))
    raw = json.dumps(members).encode()
    found = read_json(raw, shape, "m")
    assert isinstance(found, Body | Fault)
    if isinstance(found, Body) and found.ask is not None:
        edits: list[Edit] = [] if found.ask.slot is None else [found.ask.slot.edit(1)]
        assert isinstance(json.loads(edited(raw, edits)), dict)
        assert found.ask.prompts >= 1
