"""The change feed: how a key that was revoked elsewhere stops counting here.

The numbered rows of `changes` in SQL are the truth. They are asked for every 150 ms; each answer,
empty or not, is the beat that says the feed is alive. Where somebody can push (Redis, PostgreSQL),
a listener (authz/listen.py) tells of changes the moment they are made: what it says is forgotten
at once, and SQL is asked at once as well. While it hears its own beats, asking goes on slowly, for
the change whose push was lost (who made it died after its commit); when it hears none, quickly.

Worst cases. With the push: a round trip. Without: 150 ms. A push that was lost: 0.75 s. With SQL
out, beats of the push count for 1.5 s after the last answer, and then nothing is trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Final, Protocol

from authz.cache import HEALTHY_US, KeyCache
from store.background import Background
from store.clock import wall_us
from store.errors import StoreError
from store.keys import everything_changed
from store.records import SECOND_US, Change

POLL_SECONDS: Final = 0.15
SLOW_POLL_SECONDS: Final = 0.75
_TOLD_AT_MOST: Final = 10_000

_log = logging.getLogger(__name__)


class ChangeSource(Protocol):
    """Numbered changes, ascending. Raises StoreError."""

    def changes_since(self, seq: int) -> list[Change]: ...

    def last_change(self) -> int: ...


class Feed(Background):
    """Follows the changes and applies them to a cache, in a thread of its own. Thread-safe.

    `applied` is told the number of the newest change that the cache is up to date with, whenever
    that is another; `lag` how many seconds after it was made each change was applied; `recount`
    the account of whose sums the counters have to read SQL anew.
    """

    def __init__(
        self,
        source: ChangeSource,
        cache: KeyCache,
        *,
        applied: Callable[[int], None] = lambda _: None,
        lag: Callable[[float], None] = lambda _: None,
        recount: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__("feed")
        self._source = source
        self._cache = cache
        self._applied = applied
        self._lag = lag
        self._recount = recount
        self._seq: int | None = None
        self._polled = 0.0  # by the monotonic clock: when SQL last answered
        self._told: dict[int, Change] = {}  # applied by a push, and not yet seen in SQL
        self._pushed = False
        self._lock = Lock()  # of `_seq`: whoever changed something may have it polled at once
        self._failing = False

    def start(self) -> None:
        """Read the feed's position, then follow it. Raises StoreError."""
        self.poll()
        super().start()

    def poll(self) -> None:
        """Apply what changed since the last poll, then beat. Raises StoreError."""
        with self._lock:
            before, asked = self._seq, monotonic()
            if self._seq is None:
                self._seq = self._source.last_change()
                self._cache.suspect_all()
            while changes := self._source.changes_since(self._seq):
                for change in changes:
                    self._apply(change)
                self._seq = changes[-1].seq
            self._polled = asked
            self._cache.beat()
            if self._seq != before:
                self._applied(self._seq)
                for seq in list(self._told):  # at once: whoever listens adds to it meanwhile
                    if seq <= self._seq:
                        del self._told[seq]

    def _apply(self, change: Change) -> None:
        if everything_changed(change):
            self._cache.suspect_all()
            return
        self._put(change)  # whatever a push has said: it may have been said too early
        if self._told.get(change.seq) != change:
            self._note_lag(change)

    def _put(self, change: Change) -> None:
        if change.digest is not None and change.account_id is not None:
            try:
                self._recount(change.account_id)
            except StoreError as fault:  # they are out, and read SQL when they are back
                _log.warning("an account cannot be counted anew: %s", fault)
        self._cache.apply(change)

    def hear(self, change: Change) -> None:
        """A push tells of a change. Applied at once; SQL is asked for the rest."""
        if len(self._told) < _TOLD_AT_MOST:  # first: a poll at the same time need not count it
            self._told[change.seq] = change
        self._put(change)
        self._note_lag(change)
        self._wake()

    def hear_beat(self) -> None:
        """The push is alive, and told all that was told before. SQL has to have answered lately."""
        if not self._pushed:
            self._pushed = True
            self._wake()  # what was told of before the push was there
        if monotonic() - self._polled <= HEALTHY_US / SECOND_US:
            self._cache.beat()

    def miss(self, *, lost: bool) -> None:
        """The push may have told of something that was not heard; `lost`: nothing is heard now."""
        if lost:
            self._pushed = False
        self._cache.suspect_all()
        self._wake()

    def _note_lag(self, change: Change) -> None:
        """By two clocks of machines: below 0 is 0."""
        self._lag(max(0, wall_us() - change.at_us) / SECOND_US)

    def _run(self) -> None:
        while not self._rest(SLOW_POLL_SECONDS if self._pushed else POLL_SECONDS):
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
