"""A heartbeat of a hold that Redis does not know brings its account back there.

Redis lost the account, and no call of it has come since. Seeded from SQL, it has its open holds
again, and every meter sees their signs of life, and not only the one that hears them. Where the
account is there, the hold has ended, and nothing is done.

Worst case: the accounts of `MAX_WAITING` wait; heartbeats beyond that are for the next time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from store.background import Background
from store.errors import StoreError

MAX_WAITING: Final = 10_000
RETRY_SECONDS: Final = 0.25

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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                account_id = next(iter(self._waiting))
                del self._waiting[account_id]
            try:
                self._seed(account_id)
            except StoreError as fault:
                _log.debug("account %s cannot be seeded yet: %s", account_id, fault)
                self.heard(account_id)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS)
            except Exception:  # noqa: BLE001  a defect of ours: the others are seeded all the same
                _log.exception("account %s cannot be seeded", account_id)
