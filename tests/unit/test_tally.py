"""Refused calls are counted, handed on, and not lost while the database is out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from authz import tally as module
from authz.tally import Tally
from store.errors import StoreUnavailableError
from store.records import DAY_US
from store.refusedcalls import RefusedOf, Times

NOW = 20_000 * DAY_US


class Books:
    """Takes what it is given, unless it is out."""

    def __init__(self) -> None:
        self.out = False
        self.had: list[dict[RefusedOf, tuple[int, int]]] = []

    def add(self, counted: Mapping[RefusedOf, Times]) -> None:
        if self.out:
            raise StoreUnavailableError("out")
        self.had.append({of: (times.calls, times.last_us) for of, times in counted.items()})


class Clock:
    now_us = NOW

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def books() -> Books:
    return Books()


def refusal(key_id: str | None = "key_a", reason: str = "budget_exceeded") -> Any:
    key = None if key_id is None else SimpleNamespace(id=key_id, account_id="acc_a")
    return SimpleNamespace(key=key, fault=SimpleNamespace(reason=SimpleNamespace(value=reason)))


def note(tally: Tally, *refusals: Any) -> None:
    for each in refusals:
        tally.note(each, None)  # type: ignore[arg-type]  # the answer is not looked at


def of(key_id: str = "key_a", reason: str = "budget_exceeded", day: int = 20_000) -> RefusedOf:
    return RefusedOf("acc_a", day, key_id, reason)


def test_it_counts_by_key_reason_and_day(books: Books) -> None:
    clock = Clock()
    tally = Tally(books.add, clock)
    note(tally, refusal(), refusal(), refusal("key_b"), refusal(reason="model_not_allowed"))
    clock.now_us += DAY_US
    note(tally, refusal(), refusal(None))
    tally.flush()
    assert books.had == [
        {
            of(): (2, NOW),
            of("key_b"): (1, NOW),
            of(reason="model_not_allowed"): (1, NOW),
            of(day=20_001): (1, NOW + DAY_US),
        }
    ]
    tally.flush()  # nothing new
    assert len(books.had) == 1


def test_what_cannot_be_handed_on_waits_and_is_said_once(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    tally = Tally(books.add, clock)
    books.out = True
    with caplog.at_level(logging.WARNING):
        note(tally, refusal())
        tally.flush()
        clock.now_us += 7
        note(tally, refusal())
        tally.flush()
    assert len(caplog.records) == 1
    books.out = False
    tally.flush()
    assert books.had == [{of(): (2, NOW + 7)}]


def test_it_is_bounded(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    tally = Tally(books.add, Clock())
    note(tally, *(refusal(f"key_{n}") for n in range(5)), refusal("key_0"))
    tally.flush()
    assert books.had == [{of("key_0"): (2, NOW), of("key_1"): (1, NOW)}]


def test_its_end_hands_on_what_is_left(books: Books) -> None:
    tally = Tally(books.add, Clock())
    tally.start()
    note(tally, refusal())
    tally.stop()
    assert sum(times[0] for had in books.had for times in had.values()) == 1


def test_a_defect_does_not_end_it(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)
    calls = 0

    def add(counted: Mapping[RefusedOf, Times]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        books.add(counted)

    tally = Tally(add, Clock())
    with caplog.at_level(logging.CRITICAL):
        tally.start()
        note(tally, refusal())
        while calls < 1:
            pass
        note(tally, refusal("key_b"))
        tally.stop()
    assert books.had == [{of("key_b"): (1, NOW)}]
