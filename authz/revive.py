"""A heartbeat of a hold that Redis does not know brings its account back there.

Redis lost the account, and no call of it has come since. Seeded from SQL, it has its open holds
again, and every meter sees their signs of life, and not only the one that hears them. Where the
account is there, the hold has ended, and nothing is done.

Some are seeded at a time, as they then wait together for what all workers have to say first
(authz/barrier.py): about 0.1 s. One after the other, a Redis that was emptied under more than some
hundreds of accounts would not have them all back within a deadline, and who has not is swept.

Worst case: the accounts of `MAX_WAITING` wait; heartbeats beyond that are for the next time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from store.background import Background
from store.errors import StoreError

MAX_WAITING: Final = 10_000
RETRY_SECONDS: Final = 0.25
TOGETHER: Final = 8

_log = logging.getLogger(__name__)


class Reviver(Background):
    """Thread-safe. `seed` sees to it that an account is in Redis; it may raise StoreError."""

    def __init__(self, seed: Callable[[str], None]) -> None:
        super().__init__("revive")
        self._seed = seed
        self._waiting: dict[str, None] = {}  # account ids, the oldest first

    def heard(self, account_id: str) -> None:
        """A hold of the account that Redis does not know gave a sign of life."""
        with self._changed:
            if len(self._waiting) < MAX_WAITING:
                self._waiting[account_id] = None
                self._changed.notify()

    def _run(self) -> None:
        with ThreadPoolExecutor(TOGETHER, thread_name_prefix="revive") as pool:
            while group := self._next():
                done = list(pool.map(self._try, group))
                for account_id, is_done in zip(group, done, strict=True):
                    if not is_done:
                        self.heard(account_id)  # behind the others
                if not any(done):
                    with self._changed:
                        self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS)

    def _next(self) -> list[str]:
        """Wait for some; none once this is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return []
            group = list(islice(self._waiting, TOGETHER))
            for account_id in group:
                del self._waiting[account_id]
            return group

    def _try(self, account_id: str) -> bool:
        """False if it is to be tried again."""
        try:
            self._seed(account_id)
        except StoreError as fault:
            _log.debug("account %s cannot be seeded yet: %s", account_id, fault)
            return False
        except Exception:  # noqa: BLE001  a defect of ours: the others are seeded all the same
            _log.exception("account %s cannot be seeded", account_id)
        return True
