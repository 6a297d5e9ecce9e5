"""Proofs of money under drains, stops and deadlines: `make soak`. Each prints its figures."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from load.audit import Audit, Tariff, admitted_ids, all_booked, reader, rows
from load.calls import CATALOG, DEADLINE_SECONDS, QUICK_DEADLINES, Call, Key, draw
from load.latency import compare
from load.mixed import drive
from load.standing import check_budgets
from peers.book import Book
from peers.client import Answer, call
from peers.orders import End, Order, order_member
from peers.recorder import Recorder
from peers.stack import Stack
from waiting import until

pytestmark = pytest.mark.soak

THREADS = 32
SEED = 5


@pytest.fixture
def book(recorder: Recorder) -> Book:
    """What the recorder keeps."""
    kept = Book()
    recorder.answer = kept.answer
    return kept


@pytest.fixture
def gate(recorder: Recorder, tmp_path: Path) -> Iterator[Stack]:
    """A gate of this test's own, with short deadlines."""
    running = Stack.start(recorder.address, folder=tmp_path, catalog=CATALOG, env=QUICK_DEADLINES)
    yield running
    try:
        if running.running:
            running.stop()
    finally:
        running.kill()


def mint_keys(gate: Stack) -> list[Key]:
    """Keys with and without budgets, some too tight for the load, two with a ceiling together."""
    return [
        Key.mint(gate, user="free@example.com"),
        Key.mint(gate, user="one@example.com", budget_usd="500"),
        Key.mint(gate, user="one@example.com", budget_usd="0.3"),
        Key.mint(gate, user="pair@example.com", plan="shared"),
        Key.mint(gate, user="pair@example.com", plan="shared", budget_usd="0.07"),
    ]


def plan(gate: Stack, count: int, seed: int) -> tuple[list[Key], list[Call]]:
    keys = mint_keys(gate)
    return keys, [draw(number, seed, keys) for number in range(count)]


def report(what: str, began: float, count: int, counted: object) -> None:
    took = time.monotonic() - began
    print(f"\n{what}: {count} calls in {took:.1f} s, {count / took:.0f} a second; {counted}")


def strikes(
    gate: Stack, book: Book, blows: list[tuple[str, signal.Signals]], every: int
) -> Callable[[], None]:
    """Strikes one part after the other, each when the server has got `every` further calls and
    the part that was struck before is there again."""

    def run() -> None:
        for part, how in blows:
            target = len(book) + every
            until(lambda: len(book) >= target, 60, f"load before {part} is struck")  # noqa: B023  waits here
            pid = gate.children()[part][0]
            os.kill(pid, how)
            until(
                lambda: gate.children().get(part, [pid])[0] != pid,  # noqa: B023  waits here
                20,
                f"another {part}",
            )

    return run


def test_drains_lose_nothing(gate: Stack, book: Book) -> None:
    """authz is asked to end three times under load."""
    keys, calls = plan(gate, 3000, SEED + 2)
    blows = [("authz", signal.SIGTERM)] * 3
    began = time.monotonic()
    outcomes = drive(
        gate.address, calls, threads=THREADS, meanwhile=strikes(gate, book, blows, 150)
    )
    ledger = all_booked(gate, admitted_ids(outcomes, book), seconds=2 * DEADLINE_SECONDS)
    counted = Audit(outcomes, book, ledger, outage=True).run()
    report("authz drained 3 times", began, len(calls), counted)
    check_budgets(gate, keys, ledger)


@pytest.mark.parametrize("whom", ["up", "its group"])
def test_a_stop_of_the_whole_gate_loses_nothing(gate: Stack, book: Book, whom: str) -> None:
    """All that was begun when `up` is asked to end is in the ledger when it has ended."""
    _, calls = plan(gate, 3000, SEED + 3)

    def stop() -> None:
        until(lambda: len(book) > 400, 30, "load")
        if whom == "up":
            os.kill(gate.pid, signal.SIGTERM)
            until(lambda: not gate.running, 20, "its end")
        gate.stop(signal.SIGTERM)

    began = time.monotonic()
    outcomes = drive(gate.address, calls, threads=THREADS, meanwhile=stop, patience=1)
    outcomes = [outcome for outcome in outcomes if outcome.sent]
    assert len(outcomes) < len(calls)
    ledger = rows(gate)
    assert {row["request_id"] for row in ledger} >= admitted_ids(outcomes, book)
    with reader(gate) as found:
        assert found.verify().open_holds == 0
    counted = Audit(outcomes, book, ledger, outage=whom != "up").run()
    report(f"SIGTERM to {whom}", began, len(outcomes), counted)


def test_calls_that_outlast_deadlines_are_not_swept(gate: Stack, book: Book) -> None:
    """A stream, and an answer that is long in coming: heartbeats keep their holds alive."""
    key = gate.mint(budget_usd=5)["key"]
    seconds = 2.5 * DEADLINE_SECONDS
    slow = Order(1, input=9, output=20, gap=seconds / 25)
    late = Order(2, input=9, output=20, end=End.STALL, gap=seconds)

    def make(order: Order, stream: bool) -> Answer:
        asked = {"model": "dear", "stream": stream, "messages": []}
        body = json.dumps(asked | order_member(order)).encode()
        return call(gate, key=key, body=body, timeout=60)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(make, (slow, late), (True, False)))
    ids = [answer.headers["x-request-id"] for answer in answers]
    ledger = all_booked(gate, ids, seconds=5)
    assert {row["basis"] for row in ledger} == {"metered"}
    assert {row["charge_nanousd"] for row in ledger} == {Tariff().nanousd("dear", slow, 20)}


def test_an_end_is_in_the_ledger_within_a_second(gate: Stack, book: Book) -> None:
    key = gate.mint(budget_usd=5)["key"]
    lags = []
    with reader(gate) as ledger:
        for number in range(50):
            body = json.dumps({"model": "dear", "messages": []} | order_member(Order(number, 9, 9)))
            call(gate, key=key, body=body.encode())
            ended = time.monotonic()
            until(lambda: ledger.count() > number, 5, "its row")  # noqa: B023  waits here
            lags.append(time.monotonic() - ended)
            time.sleep(0.013)  # so that ends fall anywhere between two flushes of Envoy's log
    middle, most = sorted(lags)[25], max(lags)
    print(f"\nfrom an answer's end to its row: median {middle:.3f} s, most {most:.3f} s")
    assert most < 1


def test_what_the_gate_adds_to_streams(tmp_path: Path) -> None:
    """Prints it, of 50 streams at once: a figure to look at, as no test here judges speed.

    That nothing is held back is proved in tests/e2e/test_money_book.py.
    """
    compared = compare(tmp_path, streams=50, tokens=40, rounds=5)
    print(f"\n{compared}")
