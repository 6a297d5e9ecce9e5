"""The breaker before SQL: one asker at a time while a store is out."""

from __future__ import annotations

import pytest

from store.breaker import PROBE_SECONDS, Breaker


@pytest.fixture
def now() -> list[float]:
    """The time, to be set."""
    return [100.0]


@pytest.fixture
def made(now: list[float]) -> Breaker:
    """One answer that did not come opens it."""
    return Breaker(failures=1, clock=lambda: now[0])


def test_everybody_asks_a_store_that_answers(made: Breaker) -> None:
    for _ in range(3):
        assert made.enter()
        made.succeeded()


def test_one_at_a_time_tries_a_store_that_did_not(now: list[float], made: Breaker) -> None:
    made.failed()
    assert not made.enter()
    now[0] += PROBE_SECONDS - 0.001
    assert not made.enter()
    now[0] += 0.001
    assert [made.enter() for _ in range(3)] == [True, False, False]
    now[0] += PROBE_SECONDS
    assert [made.enter() for _ in range(2)] == [True, False], "the one before never came back"
    made.failed()
    assert not made.enter()


def test_an_answer_lets_everybody_in(made: Breaker) -> None:
    made.failed()
    made.succeeded()
    assert [made.enter() for _ in range(3)] == [True] * 3
