"""The ledger of a whole gate: its prices, its export, and what accidents leave of it.

That it is the model server's book is in test_money_soak.py, and at full size in tests/load.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from typing import Any, Final

import pytest
from load.audit import Audit, admitted_ids, all_booked, rows
from load.calls import CATALOG, DEADLINE_SECONDS, QUICK_DEADLINES, SHARED_NANOUSD, Key, draw
from load.mixed import drive
from load.standing import check_budgets
from moneygate import BODY, booked, hold_of, metric
from peers.book import Book
from peers.client import CHAT, MESSAGES, call
from peers.orders import Order, order_member
from peers.recorder import (
    Hangup,
    Pause,
    Recorder,
    Until,
    chat_completion,
    json_reply,
    sse_reply,
)
from peers.stack import Stack, StartStack
from waiting import until

from authz.bound import MARGIN_SECONDS

SEED: Final = 20_260_711


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, server: Recorder) -> Stack:
    """A gate whose catalog has models of all prices; each test mints keys of its own."""
    return start_stack(server.address, catalog=CATALOG, env=QUICK_DEADLINES)


@pytest.fixture
def recorder(server: Recorder) -> Recorder:
    server.forget()
    return server


@pytest.fixture
def book(recorder: Recorder) -> Book:
    """What the recorder keeps."""
    kept = Book()
    recorder.answer = kept.answer
    return kept


def test_the_ledger_is_exported_and_verified(gate: Stack, book: Book) -> None:
    keys = [Key.mint(gate, user="exported@example.com")]
    outcomes = drive(gate.address, [draw(n, SEED, keys) for n in range(80)], threads=16)
    all_booked(gate, admitted_ids(outcomes, book), seconds=2 * DEADLINE_SECONDS)
    expected = rows(gate)
    done = gate.run("ledger", "export", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    done = gate.run("ledger", "export", "--format", "csv")
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(found[0]) == list(expected[0]) == COLUMNS
    as_text = [{n: "" if v is None else str(v) for n, v in row.items()} for row in expected]
    assert [dict(row) for row in found] == as_text
    verified = gate.run("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert gate.cli("ledger", "verify")["rows"] == len(expected)
    bases = Counter(str(row["basis"]) for row in expected)
    assert set(bases) == {"metered", "estimated", "held", "released"}
    for basis, count in bases.items():
        assert metric(gate, f'tensorgate_settlements_total{{basis="{basis}"}}') == count
    for none in ("drift_nanousd", "late_settlements_total", "settlements_dropped_total"):
        assert metric(gate, f"tensorgate_{none}") == 0


COLUMNS: Final = [
    *("hold_id", "request_id", "key_id", "user", "team", "alias", "model", "endpoint", "status"),
    *("basis", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    *("charge_nanousd", "hold_nanousd", "admitted_at", "settled_at"),
]


def chunk_of(number: int) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": f"token-{number} "}, "finish_reason": None}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def delta_of(number: int) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": f"token-{number} "}
    return {"type": "content_block_delta", "index": 0, "delta": delta}


@pytest.mark.parametrize(("path", "event"), [(CHAT, chunk_of), (MESSAGES, delta_of)])
def test_a_stream_is_not_held_back(
    gate: Stack,
    recorder: Recorder,
    path: str,
    event: Callable[[int], dict[str, Any]],
) -> None:
    """The server goes on only once the client has said, beside the gate, that it has an event.

    Whoever keeps anything back, to read it or to fill a buffer, brings both to a stand.
    """
    seen = [threading.Event() for _ in range(20)]
    steps: list[Any] = []
    for number, confirmed in enumerate(seen):
        steps += [event(number), Until(confirmed)]
    recorder.answer = sse_reply(*steps)
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {gate.address}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {gate.mint(budget_usd=5)['key']}\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    try:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as client:
            client.sendall(head.encode() + body)
            answer = b""
            for number, confirmed in enumerate(seen):
                while f"token-{number} ".encode() not in answer:
                    data = client.recv(65536)
                    assert data, answer
                    answer += data
                assert f"token-{number + 1} ".encode() not in answer
                confirmed.set()
            while data := client.recv(65536):
                answer += data
    finally:
        for confirmed in seen:
            confirmed.set()
    assert answer.partition(b" ")[2].startswith(b"200")


# -- prices


def test_the_account_has_a_ceiling_over_all_its_keys(gate: Stack, recorder: Recorder) -> None:
    body = BODY.replace(b"100", b"16000")  # holds 0.0246 USD at most, of the account's 0.1
    user = "shared@example.com"
    keys = [gate.mint(user=user, plan="shared", budget_usd=each) for each in ("none", 5)]
    other = gate.mint(budget_usd=5)
    with ThreadPoolExecutor(4) as pool, recorder.held():
        answers = [
            pool.submit(call, gate, key=keys[i % 2]["key"], body=body, timeout=20) for i in range(4)
        ]
        recorder.wait_for(4)
        for key in keys:
            refused = call(gate, key=key["key"], body=body)
            assert (refused.status, refused.code) == (429, "budget_held")
            assert refused.headers["x-budget-limit-usd"] == "0.1"
            assert "account" in refused.json()["error"]["message"]
        recorder.next.append(json_reply(chat_completion()))
        assert call(gate, key=other["key"], body=body).status == 200
    assert {each.result().status for each in answers} == {200}
    until(lambda: call(gate, key=keys[1]["key"], body=body).status == 200, 5, "room again")
    recorder.answer = json_reply(chat_completion(sent=1000, said=16_000))

    def spent() -> bool:
        answer = call(gate, key=keys[0]["key"], body=body)
        return answer.status == 429 and answer.code == "budget_exceeded"

    until(spent, 10, "a spent account")
    for key in keys:
        refused = call(gate, key=key["key"], body=body)
        assert (refused.status, refused.code) == (429, "budget_exceeded")
    assert_at_most(gate, [key["id"] for key in keys], SHARED_NANOUSD)


def assert_at_most(gate: Stack, key_ids: list[str], most: int) -> None:
    assert sum(row["charge_nanousd"] for row in rows(gate) if row["key_id"] in key_ids) <= most


def test_a_free_model_stays_usable_and_is_booked(gate: Stack, recorder: Recorder) -> None:
    key = gate.mint(budget_usd="0")
    assert call(gate, key=key["key"], body=BODY).code == "budget_exceeded"
    answer = call(gate, key=key["key"], body=BODY.replace(b"recorder", b"free"))
    assert (answer.status, hold_of(answer)) == (200, 0)
    [row] = booked(gate, key)
    assert (row["model"], row["charge_nanousd"], row["basis"]) == ("free", 0, "metered")
    assert (row["input_tokens"], row["output_tokens"]) == (7, 2)


def test_a_model_without_a_price_is_for_keys_without_a_budget(
    gate: Stack, recorder: Recorder
) -> None:
    body = BODY.replace(b"recorder", b"unheard-of")
    refused = call(gate, key=gate.mint(budget_usd=5)["key"], body=body)
    assert (refused.status, refused.code) == (403, "model_not_priced")
    key = gate.mint()
    answer = call(gate, key=key["key"], body=body)
    assert (answer.status, hold_of(answer)) == (200, 0)
    [row] = booked(gate, key)
    assert (row["model"], row["charge_nanousd"]) == ("unheard-of", 0)
    assert row["request_id"] == answer.headers["x-request-id"]


def test_seconds_are_charged_from_admission_to_end(gate: Stack, recorder: Recorder) -> None:
    recorder.answer = replace(json_reply(chat_completion()), before=(Pause(0.4),))
    key = gate.mint(budget_usd=5)
    answer = call(gate, key=key["key"], body=BODY.replace(b"recorder", b"timed"))
    # an hour's, the longest call, and of the margin
    assert (answer.status, hold_of(answer)) == (200, (3600 + MARGIN_SECONDS) * 10**6)
    [row] = booked(gate, key)
    assert row["basis"] == "metered"
    assert 400_000 <= row["charge_nanousd"] < 1_000_000


def test_a_call_that_never_ends_costs_no_more_than_its_hold(
    start_stack: StartStack, server: Recorder
) -> None:
    """Its seconds are counted a little beyond the limit that cuts it off."""
    server.forget()
    gate = start_stack(server.address, catalog=CATALOG, env={"TENSORGATE_STREAM_SECONDS": "2"})
    key, never = gate.mint(budget_usd=5), threading.Event()
    said = {"choices": [{"index": 0, "delta": {"content": "Well"}}]}
    silent = replace(json_reply({}), before=(Until(never),))
    server.next += [silent, sse_reply(said, Until(never))]
    body = json.loads(BODY) | {"model": "timed"}
    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(call, gate, key=key["key"], body=json.dumps(sent).encode())
            for sent in (body, body | {"stream": True})
        ]
        found = booked(gate, key, 2)
        never.set()
        for each in answers:
            each.exception()
    for row in found:
        assert (row["basis"], row["hold_nanousd"]) == ("estimated", (2 + MARGIN_SECONDS) * 10**6)
        assert 1_900_000 < row["charge_nanousd"] < 3 * 10**6, "to its end, and not capped"
        assert row["charge_nanousd"] < row["hold_nanousd"]
    assert metric(gate, 'tensorgate_hold_exceeded_total{model="timed"}') == 0


def test_what_was_seen_of_a_cut_call_of_a_free_model_is_booked(
    gate: Stack, recorder: Recorder
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "Well"}}]}
    recorder.answer = sse_reply(said, Pause(0.1), Hangup())
    key = gate.mint(budget_usd="0")
    body = json.loads(BODY) | {"model": "free", "stream": True}
    with suppress(HTTPException, OSError):
        call(gate, key=key["key"], body=json.dumps(body).encode())
    [row] = booked(gate, key)
    assert (row["basis"], row["output_tokens"], row["charge_nanousd"]) == ("estimated", 4, 0)


@pytest.mark.parametrize(
    "foreign", [{"choices": [{"delta": {"thoughts": "x" * 900}}]}, {"token": "x" * 900}]
)
def test_a_cut_stream_is_not_cheap_for_a_fashion_that_nobody_knows(
    gate: Stack, recorder: Recorder, foreign: dict[str, Any]
) -> None:
    """Where some of its content is found, what else was generated counts too."""
    said = {"choices": [{"index": 0, "delta": {"content": "Well"}}]}
    recorder.answer = sse_reply(said, foreign, Pause(0.1), Hangup())
    key = gate.mint(budget_usd="5")
    body = json.loads(BODY) | {"max_tokens": 2000, "stream": True}
    with suppress(HTTPException, OSError):
        call(gate, key=key["key"], body=json.dumps(body).encode())
    [row] = booked(gate, key)
    assert (row["basis"], row["output_tokens"]) == ("estimated", 904)
    assert row["output_tokens"] * 1500 < row["charge_nanousd"] < row["hold_nanousd"]


def test_the_same_prompt_costs_the_same_in_both_dialects(gate: Stack, book: Book) -> None:
    key = gate.mint()
    order = Order(1, input=70, cached=30, output=40)
    prompt = {"model": "dear", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps(prompt | order_member(order)).encode()
    for path in (CHAT, MESSAGES, "/v1/responses"):
        sent = body.replace(b'"messages"', b'"input"') if path == "/v1/responses" else body
        assert call(gate, path, key=key["key"], body=sent).status == 200
    charged = {
        (row["charge_nanousd"], row["input_tokens"], row["cached_input_tokens"])
        for row in booked(gate, key, 3)
    }
    # 70 at 3, 30 at 0.300000001, 40 at 15 USD per million, 0.000012 USD for the call
    assert charged == {(210_000 + 9_001 + 600_000 + 12_000, 70, 30)}


# -- accidents: last, as what the gate has counted since its start is not all after them


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_no_end_is_booked_twice_or_lost(gate: Stack, book: Book, how: signal.Signals) -> None:
    """authz ends under load, as it is asked to or by force; `up` starts it again."""
    before = {row["request_id"] for row in rows(gate)}
    users = [f"{how.name.lower()}-{each}@example.com" for each in "ab"]
    keys = [Key.mint(gate, user=user) for user in users]

    def strike() -> None:
        until(lambda: len(book.entries) > 60, 20, "load")
        os.kill(gate.children()["authz"][0], how)

    calls = [draw(n, SEED + how, keys) for n in range(300)]
    outcomes = drive(gate.address, calls, threads=16, meanwhile=strike)
    ledger = all_booked(gate, admitted_ids(outcomes, book), seconds=2 * DEADLINE_SECONDS + 2)
    ledger = [row for row in ledger if row["request_id"] not in before]
    counted = Audit(outcomes, book, ledger, lossy=how is signal.SIGKILL, outage=True).run()
    assert counted["metered"] > 100, counted
    check_budgets(gate, keys, ledger)
