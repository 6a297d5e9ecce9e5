"""Holds whose end nobody told us: swept after a deadline without a sign of life, as held.

Only who would have heard of an end may conclude from silence: after a start, and after a log
stream broke, a whole deadline passes first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from authz.pricing import lost
from authz.settle import Settler
from store.clock import Clock
from store.records import SECOND_US, Hold

_log = logging.getLogger(__name__)


class SilentHolds(Protocol):
    """The counters, as sweeping needs them."""

    def overdue(self, deadline_us: int) -> list[Hold]: ...


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
        if self._unbroken_seconds() < self._deadline:
            return 0
        silent = self._counters.overdue(int(self._deadline * SECOND_US))
        # while SQL is out, those whose end is known are open too
        overdue = [hold for hold in silent if not self._settler.is_ending(hold.id)]
        if overdue:
            self._settler.end_all([(hold, lost(hold, 0, self._clock())) for hold in overdue])
            _log.warning("%d holds gave no sign of life and were swept as held", len(overdue))
        return len(overdue)
