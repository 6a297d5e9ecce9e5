"""Usage in every event, where a server can: what is asked for, and what the filter is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moneysupport import Gate, edited
from support import metadata

from authz.body import read_json
from authz.continuous import counting
from authz.model import Ask, Edit
from authz.shapes import CHAT

CATALOG = """\
models:
  llama:
    price: {input: 1, output: 2}
    context_tokens: 10000
    max_output_tokens: 1000
    continuous_usage: true
  plain: {price: {input: 1, output: 2}, context_tokens: 10000, max_output_tokens: 1000}
plans: {free: {}}
default_plan: free
"""
BOTH = {"include_usage": True, "continuous_usage_stats": True}


def asked(raw: bytes) -> Ask:
    reading: Any = read_json(raw, CHAT)
    found = reading.ask
    assert isinstance(found, Ask)
    return found


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def server_gets(raw: bytes) -> Any:
    found = counting(raw, asked(raw))
    assert found is not None
    after = raw if found.edit is None else edited(raw, [found.edit])
    return json.loads(after, object_pairs_hook=no_twins)


OPTIONS = [
    {},
    {"stream_options": None},
    {"stream_options": {}},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": False}},
    {"stream_options": {"include_usage": None, "more": [{"include_usage": True}]}},
    {"stream_options": {"more": {"continuous_usage_stats": False}}},
    {"stream_options": {"continuous_usage_stats": True}},
    {"stream_options": BOTH},
    {"x": {"stream_options": {"include_usage": True}}, "stream_options": {"include_usage": True}},
    {"x": '"stream_options":{', "stream_options": {"include_usage": True}},
]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(OPTIONS),
    st.randoms(use_true_random=False),
    st.sampled_from([None, (",", ":"), (" ,\n", " :\t")]),
)
def test_the_server_is_asked_for_both_and_nothing_else_changes(
    options: dict[str, Any], dice: Any, separators: Any
) -> None:
    members = [*({"model": "llama", "stream": True, "messages": []} | options).items()]
    dice.shuffle(members)
    raw = json.dumps(dict(members), separators=separators).encode()
    expected = dict(members)
    expected["stream_options"] = (options.get("stream_options") or {}) | BOTH
    assert server_gets(raw) == expected


@pytest.mark.parametrize("value", [False, None, 1, "true"])
def test_the_clients_own_word_stands(value: object) -> None:
    options = {"include_usage": True, "continuous_usage_stats": value}
    raw = json.dumps({"model": "llama", "stream": True, "stream_options": options}).encode()
    assert counting(raw, asked(raw)) is None


def test_what_cannot_be_found_is_left() -> None:
    raw = rb'{"model":"llama","stream":true,"stream\u005foptions":{"include_usage":true}}'
    assert counting(raw, asked(raw)) is None
    nested = b'{"stream_options":{"include_usage":true}},' * 20
    raw = b'{"x":[' + nested + b"0]," + raw[1:]
    assert counting(raw, asked(raw)) is None


@pytest.mark.parametrize("more", [{"n": 2}, {"best_of": 3}])
def test_of_several_answers_each_event_counts_its_own_alone(more: dict[str, int]) -> None:
    raw = json.dumps({"model": "llama", "stream": True} | more).encode()
    assert counting(raw, asked(raw)) is None


def told(gate: Gate, **members: Any) -> tuple[Any, dict[str, str]]:
    """The body that the server gets, and what the filter is told."""
    sent = gate.message(**members)
    said = dict(metadata(gate.answer(sent)))
    edits = [Edit(*each) for each in json.loads(said.get("edits", "[]"))]
    return json.loads(edited(sent.attributes.request.http.raw_body, edits)), said


def test_the_filter_is_told() -> None:
    gate = Gate(catalog=CATALOG)
    body, said = told(gate, stream=True)
    assert (body["stream_options"], body["max_tokens"]) == (BOTH, 1000)
    assert (said["continuous_usage"], said["hide_usage"]) == ("1", "1")
    body, said = told(gate, stream=True, stream_options={"include_usage": True})
    assert body["stream_options"] == BOTH
    assert said["continuous_usage"] == "1"
    assert "hide_usage" not in said


@pytest.mark.parametrize(
    "members",
    [
        {"model": "plain", "stream": True},
        {"stream": False},
        {"stream": True, "n": 2},
        {"path": "/v1/responses", "stream": True, "input": "x", "messages": None},
    ],
)
def test_only_where_the_server_can_and_there_is_a_stream(members: dict[str, Any]) -> None:
    body, said = told(Gate(catalog=CATALOG), **members)
    assert "continuous_usage" not in said
    assert "continuous_usage_stats" not in json.dumps(body)


@pytest.mark.parametrize("content", [r"half a pair: \ud83d", 'x","y":18446744073709551616,"z":"'])
@pytest.mark.parametrize("options", ['"stream_options":{"include_usage":true},', ""])
def test_a_body_that_only_a_mended_copy_of_could_be_read(content: str, options: str) -> None:
    """It is admitted, and served: the server is asked for usage at the end, if for any."""
    raw = f'{{{options}"stream":true,"model":"llama","prompt":"{content}","messages":[]}}'.encode()
    found = counting(raw, asked(raw))
    assert found is None if options else found is not None
