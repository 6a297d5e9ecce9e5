"""The key cache: digest → KeyRecord, bounded, with entries for what is not there.

How stale an answer may be. While the feed is healthy (a beat in the last 1.5 s) every record is
as new as the last beat: a beat counts as a reading of every record that no gap made suspect.
Otherwise each record is suspect: SQL is asked for it at its next use, and then at most once a
second; where SQL does not answer, a record last read at most `stale_us` ago still counts. What is
*not* there is never answered from a store that is out: a 401 must be known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

from store.clock import Clock
from store.errors import StoreUnavailableError
from store.records import SECOND_US, Change, KeyRecord

HEALTHY_US: Final = 3 * SECOND_US // 2
REREAD_US: Final = SECOND_US
DEFAULT_CAPACITY: Final = 100_000
_LONG_AGO: Final = -(1 << 62)


class KeySource(Protocol):
    """Where records come from on a miss. Raises StoreUnavailableError."""

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None: ...


@dataclass(slots=True)
class _Entry:
    digests: tuple[bytes, ...]
    record: KeyRecord | None
    read_us: int  # when SQL was asked for what stands here
    asked_us: int  # when SQL was last asked, whether it answered or not


class KeyCache:
    """Thread-safe. `observe` is told the result of each request: hit, negative, miss, stale.

    Entries for unknown keys have a bound of their own, so that made-up keys cannot push real
    ones out.
    """

    def __init__(
        self,
        source: KeySource,
        clock: Clock,
        *,
        stale_us: int,
        capacity: int = DEFAULT_CAPACITY,
        observe: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._stale_us = stale_us
        self._capacity = capacity
        self._observe = observe
        self._lock = Lock()
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._unknown: OrderedDict[bytes, _Entry] = OrderedDict()
        self._first_of: dict[bytes, bytes] = {}  # any digest of an entry → the one it lies under
        self._version = 0  # counts changes: what was read before one is not trusted after it
        self._gap_us = _LONG_AGO  # when changes were last missed
        self._beat_us = _LONG_AGO

    def get(self, digests: tuple[bytes, ...]) -> KeyRecord | None:
        """The record that one of the digests stands for, or None if there is none.

        Raises StoreUnavailableError where nobody knows.
        """
        now = self._clock()
        with self._lock:
            entry, version = self._find(digests[0]), self._version
            result = None if entry is None else self._judge(entry, now)
        if entry is not None and result is not None:
            self._observe(result)
            return entry.record
        try:
            found = self._source.by_digests(digests)
        except StoreUnavailableError:
            with self._lock:
                entry = self._known.get(digests[0])  # it may have changed while we asked
                if entry is None or not self._may_be_stale(entry, now):
                    raise
                entry.asked_us = now
            self._observe("stale")
            return entry.record
        self._observe("miss")
        record = None if found is None else found[1]
        with self._lock:
            # A change that came in while we read may be newer than what we read.
            read_us = now if self._version == version else _LONG_AGO
            self._put(_Entry(digests, record, read_us, read_us))
        return record

    def _judge(self, entry: _Entry, now: int) -> str | None:
        """As what an entry counts without asking SQL (for `observe`), or None if it does not."""
        result = "negative" if entry.record is None else "hit"
        if now - self._beat_us <= HEALTHY_US and self._is_continuous(entry):
            return result
        if now - entry.asked_us >= REREAD_US or entry.asked_us <= self._gap_us:
            return None
        if entry.asked_us == entry.read_us:
            return result
        return "stale" if self._may_be_stale(entry, now) else None

    def _may_be_stale(self, entry: _Entry, now: int) -> bool:
        """Whether a record still counts where SQL does not answer."""
        beat_us = self._beat_us if self._is_continuous(entry) else _LONG_AGO
        return now - max(entry.read_us, beat_us) <= self._stale_us

    def _is_continuous(self, entry: _Entry) -> bool:
        """Whether every change since the entry was read has come, or will come, to `apply`."""
        return entry.read_us > self._gap_us

    def is_followed(self) -> bool:
        """Whether the feed is alive: records are as new as its last beat."""
        return self._clock() - self._beat_us <= HEALTHY_US

    def beat(self) -> None:
        """The feed is alive, and every change up to now was applied."""
        with self._lock:
            self._beat_us = self._clock()

    def apply(self, change: Change) -> None:
        """Forget what a change speaks of, so that it is read again at its next use."""
        with self._lock:
            self._version += 1
            if change.digest is not None:
                self._drop(self._first_of.get(change.digest, change.digest))
            if change.account_id is not None:
                of_account = [
                    digest
                    for digest, entry in self._known.items()
                    if entry.record is not None and entry.record.account_id == change.account_id
                ]
                for digest in of_account:
                    self._drop(digest)

    def suspect_all(self) -> None:
        """Changes may have been missed: read every record again at its next use."""
        with self._lock:
            self._gap_us = self._clock()

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    def _find(self, digest: bytes) -> _Entry | None:
        for entries in (self._known, self._unknown):
            entry = entries.get(digest)
            if entry is not None:
                entries.move_to_end(digest)
                return entry
        return None

    def _put(self, entry: _Entry) -> None:
        first = entry.digests[0]
        self._drop(first)
        entries = self._unknown if entry.record is None else self._known
        entries[first] = entry
        self._first_of.update(dict.fromkeys(entry.digests, first))
        if len(entries) > self._capacity:
            self._drop(next(iter(entries)))

    def _drop(self, first: bytes) -> None:
        entry = self._known.pop(first, None) or self._unknown.pop(first, None)
        if entry is not None:
            for digest in entry.digests:
                self._first_of.pop(digest, None)
