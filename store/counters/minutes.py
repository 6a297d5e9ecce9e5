"""Sliding minutes: when each scope's requests of the last 60 seconds were admitted.

A request that was taken at t counts in [t, t + 60 s). O(1) amortised a take. Memory is at most
the largest `max_requests` integers a scope; a scope that was idle for a minute is dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from store.counters.model import MinuteLimit, Refused, Standing
from store.records import MINUTE_US

_FIRST_PRUNE: Final = 1024


class Minutes:
    """Not thread-safe: whoever has it locks. `now` never goes back."""

    def __init__(self) -> None:
        self._scopes: dict[str, deque[int]] = {}
        self._prune_at = _FIRST_PRUNE

    def refusal(self, now: int, limits: Sequence[MinuteLimit]) -> Refused | None:
        """What is answered if one of the limits has no room, without its standings."""
        full = None
        room_us = 0
        for limit in limits:
            times = self._trimmed(now, limit.scope)
            if times is not None and len(times) >= limit.max_requests:
                full = full or limit
                room_us = max(room_us, times[len(times) - limit.max_requests])
        return None if full is None else Refused(now, full, room_us + MINUTE_US - now, ())

    def take(self, now: int, limits: Sequence[MinuteLimit]) -> None:
        """One more request in each."""
        if len(self._scopes) >= self._prune_at:
            self._prune(now)
        for limit in limits:
            times = self._scopes.get(limit.scope)
            if times is None:
                times = self._scopes[limit.scope] = deque()
            times.append(now)

    def standing(self, now: int, limit: MinuteLimit) -> Standing:
        times = self._trimmed(now, limit.scope)
        if not times:
            return Standing(limit, 0, 0)
        over = max(0, len(times) - limit.max_requests)  # a limit may have been lowered
        return Standing(limit, len(times), times[over] + MINUTE_US - now)

    def restore(self, now: int, scope: str, admitted: Iterable[int]) -> None:
        """Replace what is known of a scope. A time that is still to come counts as now.

        Such times come from a process whose clock was ahead: they must not block the scope
        for longer than the minute that they are owed.
        """
        times = sorted(min(at, now) for at in admitted)
        self._scopes[scope] = deque(times[bisect_right(times, now - MINUTE_US) :])

    def _trimmed(self, now: int, scope: str) -> deque[int] | None:
        times = self._scopes.get(scope)
        if times:
            horizon = now - MINUTE_US
            while times and times[0] <= horizon:
                times.popleft()
        return times

    def _prune(self, now: int) -> None:
        """Drop idle scopes; the next prune is due when their number has doubled."""
        horizon = now - MINUTE_US
        self._scopes = {s: t for s, t in self._scopes.items() if t and t[-1] > horizon}
        self._prune_at = max(_FIRST_PRUNE, 2 * len(self._scopes))
