"""Clocks, read in the shell and handed down as plain microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]


def wall_us() -> int:
    """Microseconds since the Unix epoch, as the system has it now; it may be set back."""
    return time.time_ns() // 1000


def _elapsed_ns() -> int:
    """Nanoseconds that never go back and, on Linux, go on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if boottime is None else time.clock_gettime_ns(boottime)


def steady_clock() -> Clock:
    """A clock that shows wall time as of its making and never goes back nor jumps.

    Counters in process use it: a system clock that is set back would otherwise admit a
    minute twice, one that is set forward would forget a minute.
    """
    offset_ns = time.time_ns() - _elapsed_ns()

    def now_us() -> int:
        return (_elapsed_ns() + offset_ns) // 1000

    return now_us
