"""The circuit breaker of a Redis node, with a clock that is moved by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from store.breaker import Breaker

PROBE = 0.2


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.breaker = Breaker(failures=3, probe_seconds=PROBE, clock=lambda: self.now)

    def fail(self, times: int) -> None:
        for _ in range(times):
            assert self.breaker.enter()
            self.breaker.failed()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_passes_all_until_enough_have_failed_in_a_row(rig: Rig) -> None:
    rig.fail(2)
    assert not rig.breaker.is_open
    rig.breaker.succeeded()
    rig.fail(2)
    assert rig.breaker.enter(), "the first two were forgotten"
    rig.breaker.failed()
    assert rig.breaker.is_open
    assert not rig.breaker.enter()


def test_open_it_passes_one_probe_at_a_time(rig: Rig) -> None:
    rig.fail(3)
    rig.now += PROBE - 0.001
    assert not rig.breaker.enter()
    rig.now += 0.001
    assert [rig.breaker.enter() for _ in range(5)] == [True, False, False, False, False]
    rig.now += PROBE
    assert rig.breaker.enter(), "the probe before may never come back"


def test_a_probe_that_fails_is_followed_by_another_a_while_later(rig: Rig) -> None:
    rig.fail(3)
    rig.now += PROBE
    assert rig.breaker.enter()
    rig.now += 0.07  # its timeout
    rig.breaker.failed()
    rig.now += PROBE - 0.01
    assert not rig.breaker.enter()
    rig.now += 0.01
    assert rig.breaker.enter()


def test_the_first_success_closes_it(rig: Rig) -> None:
    rig.fail(3)
    rig.now += PROBE
    assert rig.breaker.enter()
    rig.breaker.succeeded()
    assert not rig.breaker.is_open
    assert all(rig.breaker.enter() for _ in range(5))
    rig.fail(2)
    assert not rig.breaker.is_open


def test_of_many_threads_one_is_the_probe(rig: Rig) -> None:
    rig.fail(3)
    rig.now += PROBE
    together = Barrier(8)

    def ask(_: int) -> bool:
        together.wait()
        return rig.breaker.enter()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1
