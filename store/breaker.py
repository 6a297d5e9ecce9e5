"""A circuit breaker: an outage of a store costs a timeout or a few, and not a thread each time.

Closed, everything passes. After some failures in a row it is open: nothing passes but one probe at
a time, each a while after the last. The first success closes it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Final

FAILURES: Final = 3
PROBE_SECONDS: Final = 0.2


class Breaker:
    """Thread-safe. Whoever `enter`s tells how it went: `succeeded` or `failed`.

    Worst case: who enters before it opens waits for its own timeout, so at an outage's start each
    thread loses one, and after that one thread loses one every `probe_seconds`.
    """

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        probe_seconds: float = PROBE_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._most = failures
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._lock = Lock()
        self._failed = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether only probes pass."""
        return self._failed >= self._most

    def enter(self) -> bool:
        """Whether to try. Where it is open, True makes the caller the probe."""
        if self._failed < self._most:
            return True
        with self._lock:
            now = self._clock()
            if self._failed < self._most:
                return True
            if now < self._probe_at:
                return False
            self._probe_at = now + self._probe_seconds
            return True

    def succeeded(self) -> None:
        """It answered."""
        if self._failed:
            with self._lock:
                self._failed = 0

    def failed(self) -> None:
        """It did not, or not in time."""
        with self._lock:
            self._failed += 1
            if self._failed >= self._most:
                self._probe_at = self._clock() + self._probe_seconds
