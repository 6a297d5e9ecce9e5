"""The breaker: one asker at a time while a store is out."""

from __future__ import annotations

import pytest

from store import breaker
from store.breaker import TRY_SECONDS, Breaker


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    time = [100.0]
    monkeypatch.setattr(breaker, "monotonic", lambda: time[0])
    return time


def test_everybody_asks_a_store_that_answers(now: list[float]) -> None:
    made = Breaker()
    for _ in range(3):
        assert made.lets_pass()
        made.note(answered=True)


def test_one_at_a_time_tries_a_store_that_did_not(now: list[float]) -> None:
    made = Breaker()
    made.note(answered=False)
    assert not made.lets_pass()
    now[0] += TRY_SECONDS - 0.001
    assert not made.lets_pass()
    now[0] += 0.001
    assert [made.lets_pass() for _ in range(3)] == [True, False, False]
    now[0] += TRY_SECONDS
    assert [made.lets_pass() for _ in range(2)] == [True, False], "the one before never came back"
    made.note(answered=False)
    assert not made.lets_pass()


def test_an_answer_lets_everybody_in(now: list[float]) -> None:
    made = Breaker()
    made.note(answered=False)
    made.note(answered=True)
    assert [made.lets_pass() for _ in range(3)] == [True] * 3
