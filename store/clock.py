"""Clocks, read in the shell and handed down as plain microseconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], int]

APART_NS: Final = 1_000_000_000
"""How far the system's clock may be off before anything is made of it."""

APART_SECONDS: Final = 10.0
"""For how long it must be: a step that is taken back at once moves nothing."""

_log = logging.getLogger(__name__)


def wall_us() -> int:
    """Microseconds since the Unix epoch, as the system has it now; it may be set back."""
    return time.time_ns() // 1000


def _elapsed_ns() -> int:
    """Nanoseconds that never go back and, on Linux, go on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if boottime is None else time.clock_gettime_ns(boottime)


def elapsed_seconds() -> float:
    """Seconds since some moment: for spans. By the same clock as the steady ones below."""
    return _elapsed_ns() / 1e9


def steady_clock() -> Clock:
    """A clock that shows wall time as of its making and never goes back nor jumps."""
    offset_ns = time.time_ns() - _elapsed_ns()

    def now_us() -> int:
        return (_elapsed_ns() + offset_ns) // 1000

    return now_us


class FollowingClock:
    """The clock of counters in process. Never goes back; goes forward with the system's.

    A system clock that is set back would otherwise admit a minute twice. One that is set forward
    by mistake, and put right within `APART_SECONDS`, would forget a minute, and end budgets. But
    one that stays ahead was put right just then: a machine without a clock of its own starts in
    1970, or where it was switched off, until NTP answers. It is followed in one step, as no slew
    would catch up with years; at that moment a minute may be admitted twice, and request ids that
    ended are forgotten. A clock that stays behind is not followed: windows that have begun would
    be as if they had not. That is said, once, and a restart starts with the right time.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - _elapsed_ns()
        self._apart = 0  # where the system's clock was at the last look: behind, with us, ahead
        self._since = 0.0
        self._said = False

    def __call__(self) -> int:
        """Microseconds since the Unix epoch."""
        return (_elapsed_ns() + self._offset_ns) // 1000

    def follow(self) -> bool:
        """Look at the system's clock, from one thread, about every second or more often.

        True if this clock has just gone forward with it: all that has an age is older now.
        """
        elapsed_ns = _elapsed_ns()
        ahead_ns = time.time_ns() - elapsed_ns - self._offset_ns
        apart = (ahead_ns > APART_NS) - (ahead_ns < -APART_NS)
        if apart != self._apart:
            self._apart, self._since, self._said = apart, elapsed_ns / 1e9, False
        if not apart or elapsed_ns / 1e9 - self._since < APART_SECONDS:
            return False
        if apart > 0:
            self._offset_ns += ahead_ns
            self._apart = 0
            _log.warning(
                "the system's clock is %.1f s ahead, and stays there: minutes and windows follow",
                ahead_ns / 1e9,
            )
            return True
        if not self._said:
            self._said = True
            _log.warning(
                "the system's clock is %.1f s behind that of minutes and windows, which never goes "
                "back; if the system is right, restart authz",
                -ahead_ns / 1e9,
            )
        return False
