"""`tensorgate`, but for authz's clock, which is ahead by what a file says.

`python clocked.py tensorgate up …` starts the gate as it is, and its authz through this file
again, under the same name; only that process has another clock. A `Leap` is the file's other end.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LEAP_FILE: Final = "SOAK_LEAP_FILE"
_FORM: Final = struct.Struct("<qqd")  # by how many µs it is ahead, how many of them the last
# leap was, and when that was by CLOCK_MONOTONIC, which all processes of a machine share


class Leap:
    """How far a gate's clock is ahead. Kept in a file, so that it outlives every process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_FORM.pack(0, 0, 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _FORM.size)
        self.path = path

    @property
    def ahead_us(self) -> int:
        return int(_FORM.unpack_from(self._shared)[0])

    def leap(self, us: int) -> None:
        """Set the clock ahead at once."""
        _FORM.pack_into(self._shared, 0, self.ahead_us + us, us, time.monotonic())

    def within(self, seconds: float) -> int:
        """How much of the last so many seconds, in µs, was leapt over and not lived through."""
        _, last_us, at = _FORM.unpack_from(self._shared)
        return int(last_us) if time.monotonic() - at <= seconds else 0


def set_ahead(leap: Leap) -> None:
    """Give this process, which has not yet imported what counts, the other clock.

    A hold that gave no sign of life since before a leap has been silent for as long as it really
    was: no machine of which the clock leaps keeps its connections, but the soak's does.
    """
    from store import clock
    from store.counters import memory

    wall, steady = clock.wall_us, clock.steady_clock

    def steady_clock() -> Callable[[], int]:
        now = steady()
        return lambda: now() + leap.ahead_us

    class Counters(memory.MemoryCounters):
        def overdue(self, deadline_us: int) -> Any:
            return super().overdue(deadline_us + leap.within(deadline_us / 10**6))

    clock.wall_us = lambda: wall() + leap.ahead_us
    clock.steady_clock = steady_clock
    memory.MemoryCounters = Counters  # type: ignore[misc]  # the same, but for its time


def start_authz_here() -> None:
    """Let `up` start authz by this file."""
    from tensorgate import stack

    program = stack.Stack._program

    def through(self: stack.Stack, name: str, words: tuple[str, ...]) -> Any:
        made = program(self, name, words)
        if name != "authz":
            return made
        argv = (sys.executable, "-P", __file__, "tensorgate", *words)
        return type(made)(made.name, argv, made.log, made.environ)

    stack.Stack._program = through  # type: ignore[method-assign]


def main() -> None:
    words = sys.argv[2:]
    if words[0] == "authz":
        set_ahead(Leap(Path(os.environ[LEAP_FILE])))
    else:
        start_authz_here()
    from tensorgate import cli

    sys.exit(cli.run(words))


if __name__ == "__main__":
    main()
