"""Open holds that SQL has and Redis does not: of accounts that it lost, and nobody asked for since.

The next call of such an account, and any heartbeat (authz/revive.py), seeds it, and its holds are
in Redis again. So one that stays without for a deadline gave no sign of life in that time.

A node's clock that is set forward makes every hold look old, and so does another node with another
clock: that is a gap, as if we had not heard of them.

Of several meters one looks at a part of Redis's index at a time, and leaves that to others while it
could not end what it finds.

Worst cases. A hold that SQL alone has ends two deadlines, and the time between two sweeps, after
its last sign of life. One of Redis's ends a deadline and that time after it; where a meter died
just as it had looked, `CLAIMED_PART` of a deadline later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from store.clock import Clock, elapsed_seconds
from store.records import SECOND_US, Hold

JUMP_SECONDS: Final = 2.0
CLAIMED_PART: Final = 0.2
"""For what part of a deadline others leave it to who looked: less than passes between two looks
(authz/upkeep.py), so that a meter alone looks each time."""

_log = logging.getLogger(__name__)


class CountedHolds(Protocol):
    """The counters, as telling strays needs them."""

    def hold(self, account_id: str, hold_id: str) -> Hold | None: ...

    def overdue(self, deadline_us: int, claim_us: int = 0) -> list[Hold]: ...

    def clocks(self) -> list[int]: ...


class CopiedHolds(Protocol):
    """SQL's open holds, as telling strays needs them."""

    def admitted_before(self, before_us: int) -> list[Hold]: ...


class EverySilentHold:
    """The holds that gave no sign of life, of Redis and of SQL. For one thread.

    `gap` is told that what looks silent may not be (see authz/sweep.py). `has_ended` knows holds of
    whose end we heard, and which are only not found yet (authz/seek.py): these are not silent.
    `may_end` says whether what is found would be ended here, and soon.
    """

    def __init__(
        self,
        counters: CountedHolds,
        copies: CopiedHolds,
        clock: Clock,
        gap: Callable[[], None],
        *,
        has_ended: Callable[[Hold], bool],
        may_end: Callable[[], bool],
    ) -> None:
        self._counters = counters
        self._copies = copies
        self._clock = clock
        self._gap = gap
        self._has_ended = has_ended
        self._may_end = may_end
        self._ahead: list[float] = []  # by how many seconds each clock was ahead of ours
        self._since: dict[str, float] = {}  # strays, and when they were first seen as such

    def overdue(self, deadline_us: int) -> list[Hold]:
        """Those without a sign of life for so long. Raises StoreUnavailableError."""
        # SQL first: while that is out nothing is ended here, and so nothing is claimed
        old = self._copies.admitted_before(self._clock() - deadline_us)
        claim_us = int(deadline_us * CLAIMED_PART) if self._may_end() else 0
        silent = self._counters.overdue(deadline_us, claim_us)
        self._look_at_clocks()
        strays = [hold for hold in old if self._counters.hold(hold.account_id, hold.id) is None]
        now = elapsed_seconds()
        self._since = {hold.id: self._since.get(hold.id, now) for hold in strays}
        horizon = now - deadline_us / SECOND_US
        silent += [hold for hold in strays if self._since[hold.id] <= horizon]
        return [hold for hold in silent if not self._has_ended(hold)]

    def _look_at_clocks(self) -> None:
        """After the holds were looked at: what was jumped over by then is known now."""
        before = elapsed_seconds()
        ahead = [us / SECOND_US - before for us in self._counters.clocks()]
        jumps = [now - then for now, then in zip(ahead, self._ahead, strict=False)]
        if max(jumps, default=0.0) > JUMP_SECONDS:
            _log.warning("the clock of Redis went forward by %.1f s at once", max(jumps))
            self._gap()
        self._ahead = ahead
