"""The key cache: digest → KeyRecord, bounded, with entries for what is not there.

How stale an answer may be. While the feed is healthy (a beat in the last 1.5 s) every record is
as new as the last beat: a beat counts as a reading of every record that no gap made suspect.
Otherwise each record is suspect: SQL is asked for it at its next use, and then at most once a
second; where SQL does not answer (in the short time that `Reading` gives it, where there is a
record that counts without), a record last read at most `stale_us` ago still counts. What is *not*
there is never answered from a store that is out: a 401 must be known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
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


class Reading(Protocol):
    """How a record is read: for all who want it at once, and for how long one waits for it.

    `name` stands for the record and for what was known to have changed before it was asked for: a
    reading that began before a change is not for those who come after it. `needed` says that it
    is worth waiting for. Raises StoreUnavailableError, also where it takes too long;
    it goes on then.
    """

    def __call__(
        self, name: Hashable, read: Callable[[], KeyRecord | None], *, needed: bool
    ) -> KeyRecord | None: ...


def _alone(
    name: Hashable,  # noqa: ARG001  as Reading
    read: Callable[[], KeyRecord | None],
    *,
    needed: bool,  # noqa: ARG001  likewise
) -> KeyRecord | None:
    """By each for itself, however long it takes."""
    return read()


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
        reading: Reading = _alone,
    ) -> None:
        self._source = source
        self._reading = reading
        self._clock = clock
        self._stale_us = stale_us
        self._capacity = capacity
        self._observe = observe
        self._lock = Lock()
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._unknown: OrderedDict[bytes, _Entry] = OrderedDict()
        self._first_of: dict[bytes, bytes] = {}  # any digest of an entry → the one it lies under
        # Where those of an account lie: most have one key, and a set would cost more than it.
        self._of_account: dict[str, bytes | set[bytes]] = {}
        self._version = 0  # counts changes: what was read before one is not trusted after it
        self._gap_us = _LONG_AGO  # when changes were last missed
        self._beat_us = _LONG_AGO

    def get(self, digests: tuple[bytes, ...]) -> KeyRecord | None:
        """The record that one of the digests stands for, or None if there is none.

        Raises StoreUnavailableError where nobody knows.
        """
        now = self._clock()
        with self._lock:
            entry = self._find(digests[0])
            name = (digests, self._version, self._gap_us)
            result = None if entry is None else self._judge(entry, now)
            needed = entry is None or self._is_needed(entry, now)
        if entry is not None and result is not None:
            self._observe(result)
            return entry.record
        try:
            record = self._reading(name, lambda: self._read(digests), needed=needed)
        except StoreUnavailableError:
            with self._lock:
                entry = self._known.get(digests[0])  # it may have changed while we asked
                if entry is None or not self._may_be_stale(entry, now):
                    raise
                entry.asked_us = max(entry.asked_us, now)
            self._observe("stale")
            return entry.record
        self._observe("miss")
        return record

    def _read(self, digests: tuple[bytes, ...]) -> KeyRecord | None:
        with self._lock:
            now, version = self._clock(), self._version
        found = self._source.by_digests(digests)
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

    def _is_needed(self, entry: _Entry, now: int) -> bool:
        """Whether a reading is to be waited for: nothing else counts, and no outage is the cause.

        Where the feed is silent, and a known record has lapsed by that, SQL is out or just back.
        """
        if entry.record is None:
            return True
        return now - self._beat_us <= HEALTHY_US and not self._may_be_stale(entry, now)

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
                for first in self._of(change.account_id):
                    self._drop(first)

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
        if entry.record is not None:
            self._join_account(entry.record.account_id, first)
        if len(entries) > self._capacity:
            self._drop(next(iter(entries)))

    def _drop(self, first: bytes) -> None:
        entry = self._known.pop(first, None) or self._unknown.pop(first, None)
        if entry is not None:
            for digest in entry.digests:
                self._first_of.pop(digest, None)
            if entry.record is not None:
                self._leave_account(entry.record.account_id, first)

    def _of(self, account_id: str) -> tuple[bytes, ...]:
        there = self._of_account.get(account_id, ())
        return (there,) if isinstance(there, bytes) else tuple(there)

    def _join_account(self, account_id: str, first: bytes) -> None:
        there = self._of_account.get(account_id)
        if there is None:
            self._of_account[account_id] = first
        elif isinstance(there, set):
            there.add(first)
        else:
            self._of_account[account_id] = {there, first}

    def _leave_account(self, account_id: str, first: bytes) -> None:
        there = self._of_account[account_id]
        if isinstance(there, set):
            there.remove(first)
            if there:
                return
        del self._of_account[account_id]
