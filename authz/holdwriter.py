"""Holds that were taken in Redis, on their way into SQL: written down within 100 ms, in groups.

With counters in process a journal is the truth for open holds; with Redis it is SQL's `holds`, as
Redis may be lost. A worker keeps each hold that it took until SQL has it. Two who write the same
hold (a Check that was repeated elsewhere) do no harm, and one that was booked meanwhile stays out.

Worst cases. A hold is in SQL `GROUP_SECONDS` after its take, plus SQL's own time. While SQL is out
holds wait here, at most `MAX_WAITING`, and beyond that nothing more is taken. A worker that is
killed takes along what it took in its last 100 ms: Redis still has it. Redis lost together with
such a worker is the one hole: those holds count nowhere, until their ends are booked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Final

from authz.groupwriter import GroupWriter
from authz.metrics import Metrics
from authz.observe import SQL, observed
from store.errors import StoreUnavailableError
from store.records import Hold

GROUP_SECONDS: Final = 0.05
GROUP_HOLDS: Final = 512
_WAKING: Final = frozenset({1, GROUP_HOLDS})  # at so many the writer is woken, and not at each
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.4)
MAX_WAITING: Final = 100_000

_log = logging.getLogger(__name__)


class HoldWriter(GroupWriter[Hold]):
    """Thread-safe. Whoever takes calls `begin` before and `finish` after, whatever came of it.

    `copy` puts holds into SQL, all or none, and may be called again with the same.
    """

    def __init__(self, copy: Callable[[Sequence[Hold]], None], metrics: Metrics) -> None:
        super().__init__("holds", "holds", RETRY_SECONDS)
        self._copy = copy
        self._metrics = metrics
        self._waiting: dict[str, tuple[int, Hold]] = {}  # by hold id, the oldest first
        self._kept = 0  # how many were ever kept: the number of the last
        self._taking: dict[str, int] = {}  # takes under way, and the round that they began in
        self._round = 0
        self._hurried = 0  # how many wait for all that is kept to be written

    @property
    def waiting(self) -> int:
        """How many holds are not in SQL yet."""
        return len(self._waiting)

    def begin(self, hold_id: str) -> None:
        """A take of this draft is under way. Raises StoreUnavailableError if too many wait."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise StoreUnavailableError(
                    "Too many holds wait for the database. Try again when it is back."
                )
            self._taking[hold_id] = self._round

    def finish(self, hold_id: str, hold: Hold | None) -> None:
        """It is over, and this is its hold, which may be one that was open before."""
        with self._changed:
            del self._taking[hold_id]
            if hold is not None and hold.id not in self._waiting:
                self._kept += 1
                self._waiting[hold.id] = (self._kept, hold)
            if self._hurried or len(self._waiting) in _WAKING:
                self._changed.notify_all()

    def drop(self, hold_id: str) -> None:
        """The hold was given back: if it is not in SQL yet, it need not be."""
        with self._changed:
            self._waiting.pop(hold_id, None)
            if self._hurried:
                self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until SQL has all that was taken before this call. False if it took longer.

        A take that is under way counts as taken before: Redis may have done it already.
        """
        until = monotonic() + seconds
        with self._changed:
            self._round += 1
            present = self._round
            self._hurried += 1
            try:
                taken = self._changed.wait_for(
                    lambda: all(began >= present for began in self._taking.values()), seconds
                )
                if not taken:
                    return False
                last = self._kept
                self._changed.notify_all()
                return self._changed.wait_for(
                    lambda: self._first_waiting() > last, max(0.0, until - monotonic())
                )
            finally:
                self._hurried -= 1

    def _first_waiting(self) -> int:
        return next((number for number, _ in self._waiting.values()), self._kept + 1)

    def _turn(self) -> bool:
        """Write the next group once there is one. True if there is no more to be done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if not self._waiting:
                return True
            self._changed.wait_for(self._is_due, GROUP_SECONDS)
            group = [hold for _, hold in islice(self._waiting.values(), GROUP_HOLDS)]
        if not self._write(group):
            return self._pause(self._back_off())
        with self._changed:
            for hold in group:
                self._waiting.pop(hold.id, None)
            self._changed.notify_all()
        return False

    def _is_due(self) -> bool:
        return self._stopping or bool(self._hurried) or len(self._waiting) >= GROUP_HOLDS

    def _put(self, group: Sequence[Hold]) -> None:
        with observed(self._metrics, SQL, "copy_holds"):
            self._copy(group)

    def _drop(self, one: Hold) -> None:
        _log.exception("hold %s cannot be written down", one.id)

    def _is_left(self) -> bool:
        return bool(self._waiting)
