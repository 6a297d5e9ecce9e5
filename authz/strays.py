"""Open holds that SQL has and Redis does not: of accounts that it lost, and nobody asked for since.

The next call of such an account, and any heartbeat (authz/revive.py), seeds it, and its holds are
in Redis again. So one that stays without for a deadline gave no sign of life in that time.

Worst case: such a hold ends two deadlines, and the time between two sweeps, after its last sign of
life.
"""

from __future__ import annotations

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


class EverySilentHold:
    """The holds that gave no sign of life, of Redis and of SQL. For one thread."""

    def __init__(self, counters: CountedHolds, copies: CopiedHolds, clock: Clock) -> None:
        self._counters = counters
        self._copies = copies
        self._clock = clock
        self._since: dict[str, float] = {}  # strays, and when they were first seen as such

    def overdue(self, deadline_us: int) -> list[Hold]:
        """Those without a sign of life for so long. Raises StoreUnavailableError."""
        silent = self._counters.overdue(deadline_us)
        old = self._copies.admitted_before(self._clock() - deadline_us)
        strays = [hold for hold in old if self._counters.hold(hold.account_id, hold.id) is None]
        now = elapsed_seconds()
        self._since = {hold.id: self._since.get(hold.id, now) for hold in strays}
        horizon = now - deadline_us / SECOND_US
        return silent + [hold for hold in strays if self._since[hold.id] <= horizon]
