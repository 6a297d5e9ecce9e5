"""Threads beside the path: they begin, rest, wake and end as they are told to."""

from __future__ import annotations

import threading
import time

import pytest

from store.background import Background

LONG = 60.0


class Counting(Background):
    """Counts its turns, each after a rest; `held` keeps it in one."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.turns = threading.Semaphore(0)
        self.held = threading.Event()
        self.held.set()

    def wake(self) -> None:
        self._wake()

    def _run(self) -> None:
        while not self._rest(LONG):
            self.turns.release()
            self.held.wait()


@pytest.fixture
def counting() -> Counting:
    return Counting()


def test_a_rest_ends_when_it_is_woken_and_the_next_one_is_whole(counting: Counting) -> None:
    counting.start()
    counting.wake()
    assert counting.turns.acquire(timeout=3)
    assert not counting.turns.acquire(timeout=0.05)
    assert counting.stop()


def test_whoever_is_woken_at_work_does_not_rest_after_it(counting: Counting) -> None:
    counting.wake()  # before it began, too
    counting.held.clear()
    counting.start()
    assert counting.turns.acquire(timeout=3)
    counting.wake()
    counting.held.set()
    assert counting.turns.acquire(timeout=3)
    assert counting.stop()


def test_stopping_ends_a_rest_and_waits_for_work_as_long_as_it_may(counting: Counting) -> None:
    counting.held.clear()
    counting.start()
    started = time.monotonic()
    counting.wake()
    assert counting.turns.acquire(timeout=3)
    assert not counting.stop(0.05), "it is at work"
    counting.held.set()
    assert counting.stop()
    assert time.monotonic() - started < LONG / 2


def test_what_never_began_is_stopped_at_once(counting: Counting) -> None:
    assert counting.stop()
