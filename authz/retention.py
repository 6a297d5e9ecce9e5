"""Once a day, rows of the ledger that are older than it keeps them leave it (store/pruning.py).

A group at a turn, so that no end waits for it: at the pace of upkeep 500 rows a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from store.clock import Clock
from store.records import DAY_US

ROWS: Final = 200

_log = logging.getLogger(__name__)


class Groups(Protocol):
    """A pruner, as keeping the ledger short needs it."""

    rows: int

    def group(self, rows: int) -> int | None: ...


class Retention:
    """Does a little at each call, once `days` have made something old; None keeps all for ever.

    `begin` gives what prunes rows of before a moment, as of now (both µs of `clock`).
    """

    def __init__(self, days: int | None, begin: Callable[[int, int], Groups], clock: Clock) -> None:
        self._days = days
        self._begin = begin
        self._clock = clock
        self._done_day = -1
        self._pruner: Groups | None = None

    def __call__(self) -> None:
        """Take out the next few rows. Raises StoreError; it goes on where it was."""
        if self._days is None:
            return
        now_us = self._clock()
        today = now_us // DAY_US
        if self._pruner is None:
            if today == self._done_day:
                return
            self._pruner = self._begin((today - self._days) * DAY_US, now_us)
        if self._pruner.group(ROWS) is None:
            if self._pruner.rows:
                _log.info("%d rows older than %d days were pruned", self._pruner.rows, self._days)
            self._pruner, self._done_day = None, today
