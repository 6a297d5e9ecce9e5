"""How far something long is, told on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

QUIET_SECONDS: Final = 0.5  # what is done by then needs no progress
EVERY_SECONDS: Final = 0.2
_CLEAR_LINE: Final = "\r\x1b[K"

Told = Callable[[int], None]


@contextmanager
def progress(what: str, total: int | None = None, *, seen: bool) -> Iterator[Told]:
    """Tell how many of `what` are done; the line is taken away at the end.

    `seen` is whether there is a terminal for it, which nothing else is written to meanwhile.
    """
    due = monotonic() + QUIET_SECONDS
    written = False
    whole = "" if total is None else f" of {total:,}"

    def tell(done: int) -> None:
        nonlocal due, written
        now = monotonic()
        if seen and now >= due:
            due, written = now + EVERY_SECONDS, True
            print(f"{_CLEAR_LINE}{done:,}{whole} {what}", end="", file=sys.stderr, flush=True)  # noqa: T201  it is for the terminal

    try:
        yield tell
    finally:
        if written:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)  # noqa: T201  likewise
