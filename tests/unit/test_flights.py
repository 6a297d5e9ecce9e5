"""What many want at once is done once, and nobody waits for it longer than he can."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from store.errors import StoreUnavailableError
from store.flights import Flights

LONG = 5.0
SHORT = 0.05


@pytest.fixture
def flights() -> Iterator[Flights[str, int]]:
    made = Flights[str, int]("test", 2)
    yield made
    made.close()


class Slow:
    """Something that is over when it is told to be."""

    def __init__(self, answer: int | Exception = 7) -> None:
        self.answer = answer
        self.begun, self.over = Event(), Event()
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        self.begun.set()
        assert self.over.wait(LONG)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def seconds_of(flights: Flights[str, int], slow: Slow, patience: float) -> float:
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="in time"):
        flights.join("a", slow, patience)
    return time.monotonic() - began


def test_all_who_want_it_at_once_get_what_one_does(flights: Flights[str, int]) -> None:
    slow = Slow()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(flights.join, "a", slow, LONG) for _ in range(6)]
        assert slow.begun.wait(LONG)
        time.sleep(SHORT)
        slow.over.set()
        assert [each.result() for each in asked] == [7] * 6
    assert slow.times == 1
    assert flights.join("a", slow, LONG) == 7
    assert slow.times == 2, "what is over is not kept"


def test_one_waits_for_so_long_and_who_comes_late_not_at_all(flights: Flights[str, int]) -> None:
    slow = Slow()
    assert SHORT <= seconds_of(flights, slow, SHORT) < SHORT + 0.1
    assert seconds_of(flights, slow, SHORT) < SHORT, "it is under way for that long already"
    assert slow.times == 1
    slow.over.set()


def test_it_goes_on_when_nobody_waits(flights: Flights[str, int]) -> None:
    slow = Slow()
    seconds_of(flights, slow, 0)
    assert slow.begun.wait(LONG)
    slow.over.set()
    assert flights.join("a", slow, LONG) == 7


@pytest.mark.parametrize("fault", [StoreUnavailableError("out"), ValueError("ours")])
def test_a_fault_is_raised_to_all_and_the_next_begins_anew(
    flights: Flights[str, int], fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(fault)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(flights.join, "a", slow, LONG) for _ in range(2)]
        assert slow.begun.wait(LONG)
        time.sleep(SHORT)
        slow.over.set()
        assert [each.exception() for each in asked] == [fault] * 2
    slow.answer = 8
    assert flights.join("a", slow, LONG) == 8
    assert bool(caplog.records) == isinstance(fault, ValueError), "a defect of ours is not silent"


def test_keys_do_not_wait_for_each_other(flights: Flights[str, int]) -> None:
    slow = Slow()
    seconds_of(flights, slow, 0)
    assert flights.join("b", lambda: 1, LONG) == 1
    slow.over.set()


def test_after_its_end_nothing_begins(flights: Flights[str, int]) -> None:
    flights.close()
    with pytest.raises(StoreUnavailableError, match="ends"):
        flights.join("a", lambda: 1, LONG)
    with pytest.raises(StoreUnavailableError, match="ends"):
        flights.join("a", lambda: 1, LONG)
