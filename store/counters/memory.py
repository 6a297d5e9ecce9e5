"""Counters in process: exact, for the one worker that holds the lease.

The minute is a sliding window over the times of what was admitted: a request that was taken
at t counts in [t, t + 60 s). Cost is O(1) amortised a take; memory is at most the largest
`max_requests` integers a scope and one request id for each take of the last minute; a scope
that was idle for a minute is dropped.

Nothing here survives the process: after a start the minute is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock

from store.clock import Clock
from store.counters.model import Limit, Refused, Standing, Taken
from store.records import MINUTE_US

_FIRST_PRUNE = 1024


class MemoryCounters:
    """One lock, one step: either every limit has room and all are taken, or nothing is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._minutes: dict[str, deque[int]] = {}
        self._prune_at = _FIRST_PRUNE
        self._holds: dict[str, str] = {}  # request id → hold id, for a minute
        self._taken_at: deque[tuple[int, str]] = deque()  # the same request ids, oldest first

    def take(self, request_id: str, hold_id: str, limits: Sequence[Limit]) -> Taken | Refused:
        """Take one request of every limit, or of none.

        A request id that took before (at most 60 s ago) takes nothing and gets the hold id
        of then: Envoy repeats a Check whose answer it did not get.
        """
        with self._lock:
            now = self._clock()
            self._forget_takes(now)
            before = self._holds.get(request_id)
            if before is not None:
                return Taken(now, before, self._standings(now, limits))
            if len(self._minutes) >= self._prune_at:
                self._prune(now)
            standings = self._standings(now, limits)
            full = [standing for standing in standings if not standing.remaining]
            if full:
                retry_us = max(standing.grows_in_us for standing in full)
                return Refused(now, full[0].limit, retry_us, standings)
            for limit in limits:
                self._minutes.setdefault(limit.scope, deque()).append(now)
            self._holds[request_id] = hold_id
            self._taken_at.append((now, request_id))
            return Taken(now, hold_id, self._standings(now, limits))

    def peek(self, limits: Sequence[Limit]) -> tuple[int, tuple[Standing, ...]]:
        """The counters' time and how the limits stand. Takes nothing."""
        with self._lock:
            now = self._clock()
            return now, self._standings(now, limits)

    def _standings(self, now: int, limits: Sequence[Limit]) -> tuple[Standing, ...]:
        return tuple(self._standing(now, limit) for limit in limits)

    def _standing(self, now: int, limit: Limit) -> Standing:
        window = self._minutes.get(limit.scope)
        if window is None:
            return Standing(limit, 0, 0)
        horizon = now - MINUTE_US
        while window and window[0] <= horizon:
            window.popleft()
        if not window:
            return Standing(limit, 0, 0)
        over = max(0, len(window) - limit.max_requests)  # a limit may have been lowered
        return Standing(limit, len(window), window[over] + MINUTE_US - now)

    def _prune(self, now: int) -> None:
        """Drop idle scopes; the next prune is due when their number has doubled."""
        horizon = now - MINUTE_US
        self._minutes = {s: w for s, w in self._minutes.items() if w and w[-1] > horizon}
        self._prune_at = max(_FIRST_PRUNE, 2 * len(self._minutes))

    def _forget_takes(self, now: int) -> None:
        horizon = now - MINUTE_US
        while self._taken_at and self._taken_at[0][0] <= horizon:
            del self._holds[self._taken_at.popleft()[1]]
