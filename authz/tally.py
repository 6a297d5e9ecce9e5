"""How often each key's calls were refused: counted here, and added to SQL once a second.

For the owner of a key to see (store/refusedcalls.py); nothing is decided by it. A process that is
killed loses what it counted in its last second; while SQL is out the counts wait, and what would
be the count of ever more keys and reasons is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from authz.denial import Answer
from authz.words import Occasion
from store.background import Background
from store.clock import Clock
from store.errors import StoreError
from store.refusedcalls import RefusedOf, Times

EVERY_SECONDS: Final = 1.0
MOST: Final = 100_000  # of different days, keys and reasons that wait

_log = logging.getLogger(__name__)

Counted = dict[RefusedOf, Times]


class Tally(Background):
    """Counts in memory, and hands it on in a thread of its own, at its end too. Thread-safe."""

    def __init__(self, add: Callable[[Mapping[RefusedOf, Times]], None], clock: Clock) -> None:
        super().__init__("tally")
        self._add = add
        self._clock = clock
        self._lock = Lock()
        self._counted: Counted = {}
        self._failed = False

    def note(self, occasion: Occasion, _answer: Answer) -> None:
        """Count a refusal, on its path. Without a key it is nobody's."""
        key = occasion.key
        if key is None:
            return
        now_us = self._clock()
        of = RefusedOf.at(key.account_id, key.id, occasion.fault.reason.value, now_us)
        with self._lock:
            self._count(of, Times(1, now_us))

    def flush(self) -> None:
        """Hand on what was counted. It stays counted here where that fails."""
        with self._lock:
            counted, self._counted = self._counted, {}
        if not counted:
            return
        try:
            self._add(counted)
        except StoreError as fault:
            with self._lock:
                for of, times in counted.items():
                    self._count(of, times)
            if not self._failed:
                _log.warning("refused calls cannot be added to the database yet: %s", fault)
            self._failed = True
        else:
            self._failed = False

    def _count(self, of: RefusedOf, times: Times) -> None:
        known = self._counted.get(of)
        if known is not None:
            known.calls += times.calls
            known.last_us = max(known.last_us, times.last_us)
        elif len(self._counted) < MOST:
            self._counted[of] = times

    def _run(self) -> None:
        over = False
        while not over:
            over = self._rest(EVERY_SECONDS)
            try:
                self.flush()
            except Exception:  # noqa: BLE001  a defect of ours: what comes next is counted again
                _log.exception("refused calls could not be added up")
