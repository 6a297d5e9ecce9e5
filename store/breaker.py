"""A store that does not answer is asked by one at a time, so that an outage costs no threads.

Who asks a store that is out waits as long as it may, and holds a thread meanwhile. After one has
waited in vain, all others are told so at once, and one of them tries again every 0.2 s.
"""

from __future__ import annotations

from threading import Lock
from time import monotonic
from typing import Final

TRY_SECONDS: Final = 0.2


class Breaker:
    """Whether a store is worth asking now. Thread-safe.

    Worst case: calls are refused for 0.2 s, and as long as one answer takes, after the store is
    back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._next_try: float | None = None  # by the monotonic clock; None: it answers

    def lets_pass(self) -> bool:
        """Whether to ask. Whoever does says afterwards how it went, by `note`."""
        if self._next_try is None:
            return True
        with self._lock:
            return self._take_the_try(monotonic())

    def _take_the_try(self, now: float) -> bool:
        if self._next_try is not None:  # it may have answered meanwhile
            if now < self._next_try:
                return False
            self._next_try = now + TRY_SECONDS
        return True

    def note(self, *, answered: bool) -> None:
        """It answered, or did not."""
        if not answered:
            with self._lock:
                self._next_try = monotonic() + TRY_SECONDS
        elif self._next_try is not None:
            with self._lock:
                self._next_try = None
