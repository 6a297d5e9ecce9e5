"""Holds whose end nobody told us: swept after a deadline without a sign of life, as held.

Only who would have heard of an end may conclude from silence: after a start, after a log stream
broke, and after this process did not run for a while, a whole deadline passes first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol

from authz.pricing import lost
from authz.settle import Settler
from store.background import Background
from store.clock import Clock, elapsed_seconds
from store.records import SECOND_US, Hold

PULSE_SECONDS: Final = 0.25
LATE_SECONDS: Final = 1.5  # a quarter of the deadline where that is shorter

_log = logging.getLogger(__name__)


class SilentHolds(Protocol):
    """The counters, as sweeping needs them."""

    def overdue(self, deadline_us: int) -> list[Hold]: ...


class Pulse(Background):
    """Notices that this process did not run: stopped, starved, or asleep with its machine.

    What was sent meanwhile lies in the sockets, unread. A thread that does nothing else beats, so
    that a late beat means just that, and not that a database was slow.
    """

    def __init__(self, gap: Callable[[], None], *, deadline_seconds: float) -> None:
        super().__init__("pulse")
        self._gap = gap
        self._allowed = PULSE_SECONDS + min(LATE_SECONDS, deadline_seconds / 4)
        self._lock = Lock()
        self._last = elapsed_seconds()

    def start(self) -> None:
        """Begin; a gap before that is none."""
        self._last = elapsed_seconds()
        super().start()

    def check(self) -> None:
        """A beat. Whoever comes first after a gap tells of it."""
        with self._lock:
            now = elapsed_seconds()
            silent, self._last = now - self._last, now
            if silent > self._allowed:
                self._gap()
                _log.warning("this process did not run for %.1f s", silent)

    def _run(self) -> None:
        while not self._rest(PULSE_SECONDS):
            self.check()


class Sweeper:
    """Sweeps when it is told to (see authz/upkeep.py)."""

    def __init__(
        self,
        counters: SilentHolds,
        settler: Settler,
        unbroken_seconds: Callable[[], float],
        clock: Clock,
        *,
        deadline_seconds: float,
    ) -> None:
        self._counters = counters
        self._settler = settler
        self._unbroken_seconds = unbroken_seconds
        self._clock = clock
        self._deadline = deadline_seconds

    def sweep(self) -> int:
        """End what is overdue, if we would have heard of it. Returns how many."""
        silent = self._counters.overdue(int(self._deadline * SECOND_US))
        # asked after that: whatever kept us from hearing of these is known by now
        if self._unbroken_seconds() < self._deadline:
            return 0
        # while SQL is out, those whose end is known are open too
        overdue = [hold for hold in silent if not self._settler.is_ending(hold.id)]
        if overdue:
            self._settler.end_all([(hold, lost(hold, 0, self._clock())) for hold in overdue])
            _log.warning("%d holds gave no sign of life and were swept as held", len(overdue))
        return len(overdue)
