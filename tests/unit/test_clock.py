"""The clocks: wall time, and one that neither goes back nor jumps with it."""

from __future__ import annotations

import logging
import time

import pytest

from store import clock
from store.clock import FollowingClock
from store.records import DAY_US, SECOND_US


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


# -- the one that follows


class System:
    """A machine's two clocks, to be moved by hand. Seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed = 1_000.0
        self.wall = 1_795_000_000.0
        monkeypatch.setattr(clock, "_elapsed_ns", lambda: round(self.elapsed * 1e9))
        monkeypatch.setattr(time, "time_ns", lambda: round(self.wall * 1e9))

    def wait(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += seconds

    def watched_by(self, following: FollowingClock, seconds: int) -> int:
        """Let so many seconds pass, with a look at each. How often it went forward."""
        forward = 0
        for _ in range(seconds):
            self.wait(1)
            before = following()
            forward += following.follow()
            assert following() >= before
        return forward

    def apart_us(self, following: FollowingClock) -> int:
        """By how much the system's clock is ahead."""
        return round(self.wall * SECOND_US) - following()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


def test_a_clock_that_was_wrong_at_the_start_is_followed_forward(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that was switched off for a month, until NTP answers."""
    following = FollowingClock()
    assert system.watched_by(following, 60) == 0
    system.wall += 30 * DAY_US / SECOND_US
    assert system.watched_by(following, 10) == 0
    assert system.apart_us(following) == 30 * DAY_US
    assert system.watched_by(following, 1) == 1
    assert system.apart_us(following) == 0
    assert system.watched_by(following, 60) == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "2592000.0 s ahead" in caplog.text


def test_a_step_that_is_taken_back_moves_nothing(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    following = FollowingClock()
    for _ in range(5):
        system.wall += 3600
        assert system.watched_by(following, 9) == 0
        system.wall -= 3600
        assert system.watched_by(following, 9) == 0
    assert system.apart_us(following) == 0
    assert caplog.records == []


def test_a_clock_that_is_slewed_is_near_enough(system: System) -> None:
    following = FollowingClock()
    system.wall += 0.9
    assert system.watched_by(following, 60) == 0
    assert system.apart_us(following) == 0.9 * SECOND_US


def test_a_clock_that_is_behind_is_not_followed_and_that_is_said_once(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    following = FollowingClock()
    system.wall -= 3600
    assert system.watched_by(following, 60) == 0
    assert system.apart_us(following) == -3600 * SECOND_US
    [said] = [record.getMessage() for record in caplog.records]
    assert "3600.0 s behind" in said
    assert "restart authz" in said
