"""The bound is a bound: no usage that fits a request costs more than what is held for it."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moneyhelp import hold as made_hold
from moneysupport import ALLOWED, ask_of, body, entry, model

from authz.body import Body, read_json
from authz.bound import FREE, MARGIN_SECONDS, Bound, bound, tokens
from authz.model import Ask, Edit, Shape, Slot
from authz.pricing import charge
from authz.shape import Content
from authz.shapes import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES
from authz.usage import read_ending
from store.catalog import Model
from store.records import Basis, Hold, Price
from tensorgate.envoy.options import RenderOptions

SHAPES = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
SECONDS = 600
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


def bound_of(ask: Ask, row: Model, size: int = 100, *, seconds: int = SECONDS) -> Bound:
    return bound(ask, row, size, has_output=True, seconds=seconds)


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def hold_of(most: Bound, row: Model) -> Hold:
    return made_hold(
        most.nanousd,
        price=row.price,
        tokens_per_byte=row.tokens_per_byte_text,
        input_bound=most.input_tokens,
        output_bound=most.output_tokens,
    )


# -- the parts of it


def test_input_is_the_bodys_bytes_and_what_templates_add() -> None:
    most = bound_of(Ask(output=10), model(overhead_tokens=1024), 500)
    assert (most.input_tokens, most.output_tokens) == (1524, 10)
    assert most.nanousd == 1524 * 3000 + 10 * 15000


def test_a_server_that_goes_on_behind_its_context_is_held_to_the_bound_alone() -> None:
    row = model(context_tokens=4096, overhead_tokens=0, max_output_tokens=None)
    endless = replace(row, endless=True)
    ask = ask_of(CHAT, messages=[said("count to a million")], max_tokens=40_000)
    assert bound_of(ask, row).output_tokens == 4096
    most = bound_of(ask, endless)
    assert most.output_tokens == 40_000
    assert most.nanousd == most.input_tokens * 3000 + 40_000 * 15000, "they share no context"
    unset = bound_of(ask_of(CHAT, messages=[said("count")]), endless)
    assert unset.output_tokens == 4096
    assert [edit.text for edit in unset.edits] == ['"max_tokens":4096,'], "nothing else ends it"


def test_what_a_tokenizer_takes_apart_counts_as_long_as_it_gets() -> None:
    row = model(overhead_tokens=0, context_tokens=1_000_000)
    note = "\N{MUSICAL SYMBOL EIGHTH NOTE}"  # three characters in NFC, as Qwen's tokenizer reads it
    for notes in (1, 5_000):
        members = {"model": "llama", "max_tokens": 1, "messages": [said(note * notes)]}
        raw = json.dumps(members, ensure_ascii=False).encode()
        read = read_json(raw, CHAT)
        assert isinstance(read, Body)
        assert read.ask is not None
        ask = read.ask
        assert ask.text_only
        longer = len(unicodedata.normalize("NFC", raw.decode()).encode())
        assert longer == len(raw) + 8 * notes
        assert longer <= bound_of(ask, row, len(raw)).input_tokens <= 3 * len(raw)
    again = Ask(output=None, prompts=3, again_bytes=40, growth=8)
    assert bound_of(again, row, 100).input_tokens == 100 + 8 + 2 * 3 * 40


def test_fewer_tokens_a_byte_trade_certainty_for_room() -> None:
    row = model(tokens_per_byte=Decimal("0.3"), overhead_tokens=0)
    assert bound_of(Ask(output=1), row, 101).input_tokens == 31
    assert (tokens(10, Decimal("0.3")), tokens(11, Decimal("0.3"))) == (3, 4)


def test_input_is_at_most_the_context() -> None:
    most = bound_of(Ask(output=1), model(context_tokens=1000), 50_000)
    assert most.input_tokens == 1000


@pytest.mark.parametrize("kind", ["input", "cached_input", "cache_write"])
def test_input_is_held_at_its_dearest_price(kind: str) -> None:
    price = Price(**({"input": 10, "cached_input": 10, "cache_write": 10} | {kind: 5_000_000}))
    row = model(price, overhead_tokens=0)
    assert bound_of(Ask(output=1), row, 100).nanousd == 100 * 5


def test_what_is_not_text_holds_the_context() -> None:
    most = bound_of(Ask(output=1, text_only=False), model(context_tokens=5000), 10)
    assert most.input_tokens == 5000


def test_where_the_client_set_no_bound_the_models_is_put_in() -> None:
    slot = Slot(1, 0, '"max_tokens":', ",")
    most = bound_of(Ask(output=None, slot=slot), model(max_output_tokens=4000))
    assert most.output_tokens == 4000
    assert most.edits == (Edit(1, 0, '"max_tokens":4000,'),)


def test_a_bound_that_some_servers_prefer_counts_beside_the_one_that_is_put_in() -> None:
    slot = Slot(1, 0, '"max_tokens":', ",")
    most = bound_of(Ask(output=None, slot=slot, also=50_000), model(max_output_tokens=4000))
    assert most.output_tokens == 50_000
    assert most.edits == (Edit(1, 0, '"max_tokens":4000,'),)
    less = bound_of(Ask(output=None, slot=slot, also=5), model(max_output_tokens=4000))
    assert less.output_tokens == 4000


@pytest.mark.parametrize("slot", [None, Slot(1, 0, '"max_tokens":', ",")])
def test_without_a_place_or_a_number_the_context_is_held(slot: Slot | None) -> None:
    row = model(max_output_tokens=4000 if slot is None else None, context_tokens=9000)
    most = bound_of(Ask(output=None, slot=slot), row)
    assert (most.output_tokens, most.edits) == (9000, ())


def test_a_bound_above_the_context_is_the_context() -> None:
    assert bound_of(Ask(output=1 << 40), model(context_tokens=9000)).output_tokens == 9000


def test_an_endpoint_without_output_holds_none() -> None:
    row = model(Price(input=1_000_000, output=1_000_000), overhead_tokens=0)
    most = bound(Ask(output=None), row, 100, has_output=False, seconds=1)
    assert (most.output_tokens, most.nanousd) == (0, 100)


def test_every_prompt_has_its_answers_and_a_context_of_its_own() -> None:
    row = model(Price(input=1_000_000, output=1_000_000), context_tokens=1000, overhead_tokens=0)
    most = bound_of(Ask(output=10, prompts=3, repeats=4, text_only=False), row)
    assert (most.input_tokens, most.output_tokens) == (3000, 120)
    assert most.nanousd == 3120


def test_one_prompt_and_its_answer_share_the_context() -> None:
    both = Price(input=1_000_000, output=1_000_000)
    row = model(both, context_tokens=1000, overhead_tokens=0)
    assert bound_of(Ask(output=800), row, 900).nanousd == 1000
    dear_input = model(Price(input=5_000_000, output=1_000_000), context_tokens=1000)
    assert bound_of(Ask(output=800), dear_input, 900).nanousd == 1000 * 5
    dear_input = model(
        Price(input=5_000_000, output=1_000_000), context_tokens=1000, overhead_tokens=0
    )
    assert bound_of(Ask(output=800), dear_input, 900).nanousd == 900 * 5 + 100


def test_each_answer_shares_the_context_with_the_prompt() -> None:
    row = model(Price(input=3_000_000, output=1_000_000), context_tokens=1000, overhead_tokens=0)
    # four answers cost more than the input that they would have to make room for
    assert bound_of(Ask(output=400, repeats=4), row, 900).nanousd == 600 * 3 + 400 * 4


def test_the_bound_of_the_input_is_not_lowered_by_that_of_the_output() -> None:
    """What was read of a cut stream is charged by it: see authz/pricing.py."""
    row = model(context_tokens=32_768, max_output_tokens=32_000, overhead_tokens=0)
    slot = Slot(1, 0, '"max_tokens":', ",")
    assert bound_of(Ask(output=None, slot=slot), row, 20_000).input_tokens == 20_000


def test_a_query_counts_with_each_document_and_so_do_templates() -> None:
    row = model(Price(input=1_000_000), context_tokens=1000, overhead_tokens=10)
    ask = Ask(output=None, prompts=5, again_bytes=40)
    most = bound(ask, row, 300, has_output=False, seconds=1)
    assert most.input_tokens == 300 + 4 * 40 + 5 * 10
    assert bound(Ask(output=None, prompts=5, again_bytes=0), row, 300, has_output=False, seconds=1)
    assert bound(ask, row, 9000, has_output=False, seconds=1).input_tokens == 5 * 1000
    blind = Ask(output=None, prompts=5, again_bytes=40, text_only=False)
    assert bound(blind, row, 300, has_output=False, seconds=1).input_tokens == 5 * 1000


@given(
    st.text(min_size=1, max_size=30),
    st.lists(st.text(max_size=20), min_size=1, max_size=6),
    st.integers(0, 50),
)
def test_no_reranker_reads_more_than_is_held(query: str, docs: list[str], template: int) -> None:
    """One that reads each byte as a token, every document after the query, in its template."""
    row = model(Price(input=1_000_000), context_tokens=10**6, overhead_tokens=template)
    members = {"query": query, "documents": docs}
    raw = body(**members)
    most = bound(ask_of(RERANK, **members), row, len(raw), has_output=False, seconds=1)
    read = sum(len((query + doc).encode()) + template for doc in docs)
    assert most.input_tokens >= read


def test_a_server_that_shifts_its_context_is_held_for_all_of_the_bound() -> None:
    slot = Slot(1, 0, '"options":{"num_predict":', "},")
    row = model(max_output_tokens=None, context_tokens=1000, overhead_tokens=0)
    most = bound_of(Ask(output=5000, endless=True), row)
    assert most.output_tokens == 5000
    assert most.nanousd == 100 * 3000 + 5000 * 15000
    most = bound_of(Ask(output=None, slot=slot, endless=True), row)
    assert most.output_tokens == 1000
    assert most.edits == (slot.edit(1000),)
    most = bound_of(Ask(output=None, slot=slot, endless=True), model(max_output_tokens=400))
    assert most.edits == (slot.edit(400),)


def test_a_price_of_a_request_is_for_all_of_its_images() -> None:
    row = model(Price(per_request=7), context_tokens=1000)
    assert bound_of(Ask(output=None, repeats=4), row).nanousd == 7


def test_requests_and_seconds() -> None:
    row = model(Price(per_request=7, per_second=11))
    assert bound_of(Ask(output=1), row, seconds=100).nanousd == 7 + 11 * (100 + MARGIN_SECONDS)


def test_the_margin_of_seconds_has_room_for_the_check_and_for_a_late_end() -> None:
    assert RenderOptions().check_seconds + 2 <= MARGIN_SECONDS


def test_a_free_model_holds_nothing() -> None:
    assert bound_of(Ask(output=5), model(Price())).nanousd == 0
    assert (FREE.nanousd, FREE.edits) == (0, ())


def test_it_is_rounded_up_once() -> None:
    row = model(Price(input=1, output=1), overhead_tokens=0)
    assert bound_of(Ask(output=1), row, 1).nanousd == 1
    row = model(Price(input=600_000, output=600_000), overhead_tokens=0)
    assert bound_of(Ask(output=1), row, 1).nanousd == 2  # 0.6 + 0.6


def test_the_clients_bound_is_made_one_that_every_server_heeds() -> None:
    most = bound_of(ask_of(CHAT, max_completion_tokens=70), model(max_output_tokens=9))
    assert most.output_tokens == 70
    [edit] = most.edits
    assert edit.text == '"max_tokens":70'


def test_edits_at_one_place_are_one_edit() -> None:
    ask = ask_of(CHAT, stream=True)
    most = bound_of(ask, model(max_output_tokens=9))
    assert most.edits == (Edit(1, 0, '"stream_options":{"include_usage":true},"max_tokens":9,'),)


def test_edits_ascend() -> None:
    members: dict[str, Any] = {"stream": True, "max_tokens": None, "stream_options": None}
    most = bound_of(ask_of(CHAT, **members), model(max_output_tokens=9))
    offsets = [edit.offset for edit in most.edits]
    assert len(offsets) == 2
    assert offsets == sorted(offsets)


# -- the whole of it

PRICES = st.one_of(st.just(0), st.integers(0, 10**5), st.integers(0, 10**11))
COUNTS = st.one_of(st.none(), st.integers(1, 50), st.integers(1, 10**7))
FEW = st.one_of(st.none(), st.integers(1, 4))
CONTENT = st.one_of(
    st.text(max_size=30),
    st.integers(0, 3000).map(lambda size: "x" * size),
    st.lists(st.text(max_size=9), max_size=4),
    st.lists(st.integers(0, 99), max_size=9),
    st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=3),
)


@st.composite
def rows(draw: st.DrawFn) -> Model:
    context = draw(st.one_of(st.integers(2, 60), st.integers(2, 200_000)))
    per_byte = draw(st.sampled_from(["1", "0.25", "0.3333333", "3.7", "0.000001"]))
    return model(
        Price(*(draw(PRICES) for _ in range(6))),
        context_tokens=context,
        max_output_tokens=draw(st.one_of(st.none(), st.integers(1, context - 1))),
        tokens_per_byte=Decimal(per_byte),
        overhead_tokens=draw(st.sampled_from([0, 1, 1024])),
    )


@st.composite
def calls(draw: st.DrawFn) -> tuple[Shape, dict[str, Any]]:
    shape = draw(st.sampled_from(SHAPES))
    members: dict[str, Any] = (
        {
            name: draw(COUNTS)
            for name in draw(st.sets(st.sampled_from([*shape.bounds, *shape.also])))
        }
        if shape.bounds
        else {}
    )
    if shape.repeats:
        members |= {name: draw(FEW) for name in draw(st.sets(st.sampled_from(shape.repeats)))}
    if shape.kind is Content.PROMPTS:
        members[shape.content] = draw(CONTENT)
    else:
        text = {"role": "user", "content": draw(st.text(max_size=40))}
        members[shape.content] = [draw(st.sampled_from([text, IMAGE]))]
    return shape, members


@st.composite
def reports(draw: st.DrawFn) -> tuple[Model, Shape, bytes, Ask, dict[str, str], int]:
    """A call and the most hostile usage that still keeps to what was asked."""
    row = draw(rows())
    shape, members = draw(calls())
    raw = body(**members)
    ask = ask_of(shape, **members)
    context = row.context_tokens
    text = tokens(len(raw), row.tokens_per_byte) + row.overhead_tokens
    left = text if ask.text_only else ask.prompts * context
    given_bounds = [members.get(name) or 0 for name in (*shape.bounds, *shape.also)]
    own = [members[name] for name in shape.bounds if members.get(name)]
    if own:
        most_out = max(given_bounds)
    elif row.max_output_tokens is not None:
        most_out = max(row.max_output_tokens, *given_bounds, 0)
    else:
        most_out = context
    tokens_in = tokens_out = 0
    for _ in range(ask.prompts):
        one_in = draw(st.sampled_from([0, 1, min(left, context) // 2, min(left, context)]))
        one_in = min(one_in, left, context)
        left -= one_in
        tokens_in += one_in
        for _ in range(ask.repeats if shape.bounds else 0):
            room = min(most_out, context - one_in)
            tokens_out += draw(st.sampled_from([0, room // 2, room]))
    cached = draw(st.integers(0, tokens_in))
    written = draw(st.integers(0, tokens_in - cached))
    inside = draw(st.booleans())
    seen = {
        "output": str(tokens_out),
        "cached": str(cached),
        "final": "1",
        "cached_inside": "1" if inside else "0",
        "input": str(tokens_in if inside else tokens_in - cached - written),
    }
    if not inside:
        seen["cache_write"] = str(written)
    return row, shape, raw, ask, seen, draw(st.sampled_from([0, 1, SECONDS * 1000]))


@settings(max_examples=250, deadline=None)
@given(reports())
def test_no_honest_usage_costs_more_than_its_hold(
    case: tuple[Model, Shape, bytes, Ask, dict[str, str], int],
) -> None:
    row, shape, raw, ask, seen, duration_ms = case
    most = bound(ask, row, len(raw), has_output=bool(shape.bounds), seconds=SECONDS)
    hold = hold_of(most, row)
    ending = read_ending(entry(ALLOWED, seen, upload_ms=5, duration_ms=5 + duration_ms))
    end = charge(hold, ending, hold.admitted_us)
    assert end.basis is Basis.METERED
    assert end.nanousd <= hold.nanousd


@settings(max_examples=100, deadline=None)
@given(reports(), st.integers(0, 10**9), st.integers(0, 10**6), st.booleans())
def test_nor_does_an_estimate(
    case: tuple[Model, Shape, bytes, Ask, dict[str, str], int],
    content_bytes: int,
    events: int,
    partial: bool,
) -> None:
    row, shape, raw, ask, seen, duration_ms = case
    most = bound(ask, row, len(raw), has_output=bool(shape.bounds), seconds=SECONDS)
    cut = {"format": "sse", "events": str(events), "content_bytes": str(content_bytes)}
    if partial:
        cut |= seen | {"final": "0"}
    ending = read_ending(
        entry(ALLOWED, cut, details="downstream_remote_disconnect", duration_ms=duration_ms + 10)
    )
    end = charge(hold_of(most, row), ending, 0)
    assert end.nanousd <= most.nanousd
    assert end.basis is not Basis.METERED
