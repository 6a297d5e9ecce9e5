"""The change feed by polling: how a key that was revoked elsewhere stops counting here.

With SQLite there is nobody who could push, so the numbered rows of `changes` are asked for every
150 ms; each answer, empty or not, is the beat that says the feed is alive.
"""

from __future__ import annotations

import logging
from threading import Event, Lock, Thread
from typing import Final, Protocol

from authz.cache import KeyCache
from store.errors import StoreError
from store.keys import everything_changed
from store.records import Change

POLL_SECONDS: Final = 0.15

_log = logging.getLogger(__name__)


class ChangeSource(Protocol):
    """Numbered changes, ascending. Raises StoreError."""

    def changes_since(self, seq: int) -> list[Change]: ...

    def last_change(self) -> int: ...


class Feed:
    """Follows the changes and applies them to a cache, in a thread of its own. Thread-safe."""

    def __init__(self, source: ChangeSource, cache: KeyCache) -> None:
        self._source = source
        self._cache = cache
        self._seq: int | None = None
        self._lock = Lock()  # of `_seq`: whoever changed something may have it polled at once
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="feed", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Read the feed's position, then follow it. Raises StoreError."""
        self.poll()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; nothing is applied after this returns."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def poll(self) -> None:
        """Apply what changed since the last poll, then beat. Raises StoreError."""
        with self._lock:
            if self._seq is None:
                self._seq = self._source.last_change()
                self._cache.suspect_all()
            while changes := self._source.changes_since(self._seq):
                for change in changes:
                    if everything_changed(change):
                        self._cache.suspect_all()
                    else:
                        self._cache.apply(change)
                self._seq = changes[-1].seq
            self._cache.beat()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self.poll()
            except StoreError as fault:
                if not self._failing:
                    _log.warning("the change feed is interrupted: %s", fault)
                self._failing = True
            except Exception:  # noqa: BLE001  a defect of ours; without a beat nothing is trusted
                if not self._failing:
                    _log.exception("the change feed failed")
                self._failing = True
            else:
                if self._failing:
                    _log.info("the change feed is back")
                self._failing = False
