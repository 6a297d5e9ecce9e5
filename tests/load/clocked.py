"""`tensorgate`, but authz's machine has a clock that is ahead by what a file says.

`python clocked.py tensorgate up …` starts the gate as it is, and its authz through this file
again, under the same name; only that process sees another time. A `Leap` is the file's other end.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

LEAP_FILE: Final = "SOAK_LEAP_FILE"
_FORM: Final = struct.Struct("<q")  # µs


class Leap:
    """How far a gate's clock is ahead. Kept in a file, so that it outlives every process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_FORM.pack(0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _FORM.size)
        self.path = path

    @property
    def ahead_us(self) -> int:
        return int(_FORM.unpack_from(self._shared)[0])

    def leap(self, us: int) -> None:
        """Set the clock ahead at once."""
        _FORM.pack_into(self._shared, 0, self.ahead_us + us)


class Ahead:
    """The module `time` on a machine whose clock was set ahead; it is `time` in all else."""

    def __init__(self, leap: Leap) -> None:
        self._leap = leap

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time_ns(self) -> int:
        return time.time_ns() + self._leap.ahead_us * 1000


def set_ahead(leap: Leap) -> None:
    """Let the clocks of this process read that time, and follow it at their next look.

    What is done then to what is under way is the product's own: see store.clock.FollowingClock.
    """
    from store import clock

    clock.time = Ahead(leap)  # type: ignore[assignment]
    clock.APART_SECONDS = 0.0  # type: ignore[misc]


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
