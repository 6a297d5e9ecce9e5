"""The book and the audit: what the proofs of money rest on must itself notice what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from load.audit import Audit, Row, Tariff
from load.calls import Call, Key, draw
from load.clocked import Leap, set_ahead
from load.mixed import Outcome
from load.standing import check_minutes
from peers.answers import events, usage, whole_body
from peers.book import Book
from peers.dialects import framing
from peers.orders import (
    ENDPOINTS,
    MAY_STREAM,
    ON_REQUEST,
    STREAMS,
    Api,
    End,
    Order,
    order_member,
    pieces,
    says_usage,
)
from peers.recorder import Recorded, Reply

from store import clock
from store.records import DAY_US

KEY = Key("key_1", "laptop", "ann@example.com", "sk-tg_x", None, "test")
ORDERS = [
    Order(number, input=number, output=20, cached=5, variety=number * 7) for number in range(40)
]


@pytest.mark.parametrize("order", ORDERS[:10])
def test_an_answer_is_what_was_ordered(order: Order) -> None:
    made = pieces(order)
    assert sum(piece.tokens for piece in made) == order.output
    assert all(len(piece.text.encode()) >= piece.tokens for piece in made)
    assert made == pieces(order)
    for api in set(Api) - STREAMS - {Api.SPEECH}:
        said = json.loads(whole_body(api, order))
        silent = json.loads(whole_body(api, replace(order, end=End.SILENT)))
        if says_usage(api, stream=False):
            counts = usage(api, order)
            found = said.get("usage") or said.get("usageMetadata") or said
            assert found.items() >= counts.items()
            assert not silent.keys() & {"usage", "usageMetadata", *counts}
        else:
            assert said == silent


SERVER_SENT = sorted((MAY_STREAM | STREAMS) - {Api.OLLAMA_CHAT, Api.OLLAMA_GENERATE})


@pytest.mark.parametrize("api", [api for api in SERVER_SENT if api is not Api.GEMINI_STREAM])
def test_a_stream_says_its_usage_once_and_to_those_who_ask(api: Api) -> None:
    for order in ORDERS:
        asked = events(api, order, with_usage=True)
        assert sum(event.tokens for event in asked) == order.output
        assert all(event.data.endswith((b"\n\n", b"\r\n\r\n")) for event in asked)
        assert sum(event.asked for event in asked) == (api in ON_REQUEST)
        if api in ON_REQUEST:
            plain = events(api, order, with_usage=False)
            assert b'"usage": {' not in b"".join(event.data for event in plain)


def test_geminis_stream_is_an_array_or_events_and_ollamas_are_lines() -> None:
    kinds = set()
    for order in ORDERS:
        made = events(Api.GEMINI_STREAM, order, with_usage=False)
        text = b"".join(event.data for event in made)
        kinds.add(framing(Api.GEMINI_STREAM, order))
        if framing(Api.GEMINI_STREAM, order) == "array":
            last = json.loads(text)[-1]
        else:
            last = json.loads(text.strip().rpartition(b"data:")[2])
        assert last["usageMetadata"] == usage(Api.GEMINI_STREAM, order)
        assert sum(event.tokens for event in made) == order.output
        *_, last = events(Api.OLLAMA_CHAT, order, with_usage=False)
        assert json.loads(last.data).items() >= usage(Api.OLLAMA_CHAT, order).items()
    assert kinds == {"array", "sse"}


def test_every_target_is_of_its_api() -> None:
    calls = [draw(number, 1, [KEY]) for number in range(600)]
    assert {Api.of(call.target) for call in calls} == set(Api)
    assert all(Api.of(call.target) is call.api for call in calls)


def asked(call: Call, request_id: str = "req-1") -> Recorded:
    """A call as its server gets it."""
    named = {
        "x-request-id": request_id,
        "x-tensorgate-model": call.model,
        "x-tensorgate-key-id": KEY.id,
    }
    return Recorded("POST", call.target, tuple(named.items()), call.body)


def test_a_busy_server_answers_the_second_time() -> None:
    book = Book()
    call = next(c for n in range(200) if (c := draw(n, 1, [KEY])).order.end is End.BUSY)
    replies = [book.answer(asked(call, each)) for each in ("req-1", "req-2")]
    assert [reply.status for reply in replies] == [call.order.status, 200]
    assert [entry.order.end for entry in book.entries] == [End.ERROR, End.WHOLE]


def test_the_server_writes_down_what_it_was_sent() -> None:
    book, order = Book(), Order(3, input=5, output=2, end=End.ERROR, status=529)
    body = json.dumps({"model": "m", **order_member(order)}).encode()
    named = {"x-request-id": "req-1", "x-tensorgate-model": "m", "x-tensorgate-key-id": "key_1"}
    reply = book.answer(Recorded("POST", "/v1/messages", tuple(named.items()), body))
    assert reply.status == 529
    [entry] = book.entries
    assert (entry.request_id, entry.order, entry.api) == ("req-1", order, Api.MESSAGES)
    assert book.answer(Recorded("GET", "/version", (), b"")) == Reply(404)


def test_a_charge_is_rounded_up_once() -> None:
    tariff = Tariff("models: {m: {price: {input: 0.0001, cached_input: 0.0002, output: 0.0003}}}")
    assert tariff.nanousd("m", Order(1, input=1, output=1, cached=1), 1) == 1  # 0.6 nano-dollars
    assert tariff.nanousd("m", Order(1, input=4, output=2, cached=0), 2) == 1
    assert tariff.nanousd("m", Order(1, input=4, output=3, cached=0), 3) == 2


# -- the audit


def called(**changes: Any) -> tuple[Outcome, Book, Row]:
    """A finished call with its entry and its row, all as it should be."""
    number = next(
        n for n in range(100) if (c := draw(n, 1, [KEY])).whole and c.model == "dear" and c.stream
    )
    call: Call = draw(number, 1, [KEY])
    order, book = call.order, Book()
    headers = {"x-request-id": "req-1", "x-tensorgate-hold-usd": "0.5"}
    outcome = Outcome(call, 200, headers, complete=True, sent=True)
    outcome.received = b"".join(event.data for event in outcome.expected_events())
    book.answer(asked(call))
    row: Row = {
        "hold_id": "hold-1",
        "request_id": "req-1",
        "key_id": KEY.id,
        "user": KEY.user,
        "alias": KEY.alias,
        "model": call.model,
        "endpoint": ENDPOINTS[call.api],
        "status": 200,
        "basis": "metered",
        "input_tokens": order.input,
        "cached_input_tokens": order.cached,
        "cache_write_tokens": order.written,
        "output_tokens": order.output,
        "charge_nanousd": Tariff().nanousd(call.model, order, order.output),
        "hold_nanousd": 500_000_000,
    }
    return outcome, book, row | changes


def test_what_is_right_passes() -> None:
    outcome, book, row = called()
    assert Audit([outcome], book, [row]).run()["metered"] == 1


WRONG: dict[str, Callable[[Row], list[Row]]] = {
    "no row": lambda _: [],
    "two rows": lambda row: [row, row | {"hold_id": "hold-2"}],
    "one hold twice": lambda row: [row, row | {"request_id": "req-2"}],
    "nobody's row": lambda row: [row, row | {"hold_id": "hold-2", "request_id": "req-2"}],
    "a nano-dollar too little": lambda row: [row | {"charge_nanousd": row["charge_nanousd"] - 1}],
    "a nano-dollar too much": lambda row: [row | {"charge_nanousd": row["charge_nanousd"] + 1}],
    "a token too many": lambda row: [row | {"output_tokens": row["output_tokens"] + 1}],
    "cached as plain": lambda row: [
        row | {"input_tokens": row["input_tokens"] + 1, "cached_input_tokens": -1}
    ],
    "estimated": lambda row: [row | {"basis": "estimated"}],
    "held": lambda row: [row | {"basis": "held", "charge_nanousd": 500_000_000}],
    "released": lambda row: [
        row
        | {"basis": "released", "charge_nanousd": 0, "input_tokens": 0, "output_tokens": 0}
        | {"cached_input_tokens": 0, "cache_write_tokens": 0}
    ],
    "another hold": lambda row: [row | {"hold_nanousd": 499_999_999}],
    "another key": lambda row: [row | {"key_id": "key_2"}],
    "another model": lambda row: [row | {"model": "cheap"}],
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_noticed(what: str) -> None:
    outcome, book, row = called()
    with pytest.raises(AssertionError, match=r"\d+ faults"):
        Audit([outcome], book, WRONG[what](row)).run()


def test_a_cut_answer_costs_what_came_and_no_more_than_its_hold() -> None:
    outcome, book, row = called(basis="estimated")
    half = outcome.received[: len(outcome.received) // 2]
    cut = Outcome(outcome.call, 200, outcome.headers, half, sent=True)
    assert 0 < cut.tokens < outcome.call.order.output
    least = Tariff().nanousd(outcome.call.model, outcome.call.order, cut.tokens)
    for charge in (least, 500_000_000):
        assert Audit([cut], book, [row | {"charge_nanousd": charge}]).run()["estimated"] == 1
    for charge in (least - 1, 500_000_001):
        with pytest.raises(AssertionError, match="1 faults"):
            Audit([cut], book, [row | {"charge_nanousd": charge}]).run()


def test_other_bytes_than_the_servers_are_noticed() -> None:
    outcome, book, row = called()
    outcome.received = outcome.received.replace(b"data:", b"data :", 1)
    with pytest.raises(AssertionError, match="other bytes"):
        Audit([outcome], book, [row]).run()


def test_a_refused_call_leaves_no_trace() -> None:
    outcome, _, row = called()
    headers = {"x-request-id": "req-1", "x-tensorgate-reason": "budget_held"}
    refused = Outcome(outcome.call, 429, headers, complete=True, sent=True)
    with pytest.raises(AssertionError, match="it has a row"):
        Audit([refused], Book(), [row]).run()
    with pytest.raises(AssertionError, match="not to be refused"):
        Audit([refused], Book(), []).run()


def test_a_whole_hold_covers_the_whole_answer() -> None:
    """After a kill nobody may know how a call ended; it is never charged less than it cost."""
    outcome, book, row = called(basis="held")
    exact = row["charge_nanousd"]
    for nanousd in (exact, 500_000_000):
        headers = dict(outcome.headers) | {"x-tensorgate-hold-usd": str(Fraction(nanousd, 10**9))}
        held = row | {"charge_nanousd": nanousd, "hold_nanousd": nanousd}
        there = replace(outcome, headers=headers)
        assert Audit([there], book, [held], lossy=True).run()["held"] == 1
    headers = dict(outcome.headers) | {"x-tensorgate-hold-usd": str(Fraction(exact - 1, 10**9))}
    held = row | {"charge_nanousd": exact - 1, "hold_nanousd": exact - 1}
    with pytest.raises(AssertionError, match="below what was streamed or served"):
        Audit([replace(outcome, headers=headers)], book, [held], lossy=True).run()


def test_seconds_are_charged_as_long_as_the_client_waited() -> None:
    tariff = Tariff("models: {m: {price: {per_second: 0.001, per_request: 0.5}}}")
    assert tariff.needs_no_tokens("m")
    assert tariff.nanousd("m", Order(1, input=9, output=9), 9) == 500_000_000
    assert tariff.seconds_nanousd("m", 2.5) == 2_500_000


def test_a_minute_that_was_too_full_is_noticed() -> None:
    mine: list[Row] = [{"admitted_at": f"2026-11-23T10:0{n}:00Z"} for n in range(4)]
    check_minutes(replace(KEY, rpm=2), mine[:2])
    check_minutes(replace(KEY, rpm=1), mine)
    with pytest.raises(AssertionError):
        check_minutes(replace(KEY, rpm=1), [mine[0], {"admitted_at": "2026-11-23T10:00:59.9Z"}])


def test_a_clock_follows_a_leap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("time", "APART_SECONDS"):
        monkeypatch.setattr(clock, name, getattr(clock, name))
    leap = Leap(tmp_path / "leap")
    set_ahead(leap)
    before, following = clock.wall_us(), clock.FollowingClock()
    leap.leap(31 * DAY_US)
    assert clock.wall_us() - before >= 31 * DAY_US
    assert following() - before < DAY_US
    assert following.follow()
    assert following() - before >= 31 * DAY_US
