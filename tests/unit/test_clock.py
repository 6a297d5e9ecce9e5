"""The clocks: wall time, and one that neither goes back nor jumps with it."""

from __future__ import annotations

import time

import pytest

from store import clock
from store.records import SECOND_US


def test_both_show_microseconds_since_the_epoch() -> None:
    steady = clock.steady_clock()
    for now in (clock.wall_us, steady):
        assert abs(now() - time.time() * SECOND_US) < SECOND_US


@pytest.mark.parametrize("jump_seconds", [-3600, 3600])
def test_a_system_clock_that_is_set_moves_wall_time_only(
    monkeypatch: pytest.MonkeyPatch, jump_seconds: int
) -> None:
    steady = clock.steady_clock()
    before_wall, before_steady = clock.wall_us(), steady()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump_seconds * 1_000_000_000)
    assert abs(clock.wall_us() - before_wall - jump_seconds * SECOND_US) < SECOND_US
    assert 0 <= steady() - before_steady < SECOND_US


def test_steady_time_never_goes_back() -> None:
    steady = clock.steady_clock()
    times = [steady() for _ in range(10_000)]
    assert times == sorted(times)


def test_where_the_system_has_no_boot_time_monotonic_time_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    steady = clock.steady_clock()
    before = steady()
    monkeypatch.setattr(time, "monotonic_ns", lambda real=time.monotonic_ns: real() + 5 * 10**9)
    assert 5 * SECOND_US <= steady() - before < 6 * SECOND_US
