"""Open holds that SQL has and Redis does not: of accounts that it lost, and nobody asked for since.

The next call of such an account seeds it, and its holds are in Redis again. Until then there is
no heartbeat of theirs there, so the sweeper remembers here what it heard of them.

Worst case: such a hold ends two deadlines, and the time between two sweeps, after its last sign of
life.
"""

from __future__ import annotations

from threading import Lock
from typing import Protocol

from store.clock import Clock, elapsed_seconds
from store.records import SECOND_US, Hold


class CountedHolds(Protocol):
    """The counters, as telling strays needs them."""

    def hold(self, account_id: str, hold_id: str) -> Hold | None: ...

    def overdue(self, deadline_us: int) -> list[Hold]: ...


class CopiedHolds(Protocol):
    """SQL's open holds, as telling strays needs them."""

    def admitted_before(self, before_us: int) -> list[Hold]: ...

    def tidy(self) -> int: ...


class EverySilentHold:
    """The holds that gave no sign of life, of Redis and of SQL. Thread-safe."""

    def __init__(self, counters: CountedHolds, copies: CopiedHolds, clock: Clock) -> None:
        self._counters = counters
        self._copies = copies
        self._clock = clock
        self._lock = Lock()
        self._since: dict[str, float] = {}  # strays, and when we last heard of them or saw them

    def heard(self, hold_id: str) -> None:
        """A hold that the counters do not know gave a sign of life."""
        with self._lock:
            if hold_id in self._since:
                self._since[hold_id] = elapsed_seconds()

    def overdue(self, deadline_us: int) -> list[Hold]:
        """Those without a sign of life for so long. Raises StoreUnavailableError."""
        silent = self._counters.overdue(deadline_us)
        self._copies.tidy()
        old = self._copies.admitted_before(self._clock() - deadline_us)
        strays = [hold for hold in old if self._counters.hold(hold.account_id, hold.id) is None]
        now = elapsed_seconds()
        with self._lock:
            self._since = {hold.id: self._since.get(hold.id, now) for hold in strays}
            horizon = now - deadline_us / SECOND_US
            lost = [hold for hold in strays if self._since[hold.id] <= horizon]
        return silent + lost
