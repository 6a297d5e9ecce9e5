"""How counters are brought into agreement with SQL, which is the truth.

In process, at a start: `recover`, from the journal. At an account's first use after that, and in
Redis whenever that has lost it: `SeededCounters`, which reads the account's sums and asks again: a
few milliseconds, however many rows it has. Continuously: `drift`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep
from typing import Final, Protocol

from store.counters.memory import MemoryCounters
from store.counters.model import (
    REMEMBERED_US,
    Counters,
    Ended,
    Generation,
    Limit,
    NotSeeded,
    Refused,
    Seed,
    Standings,
    Taken,
)
from store.errors import StoreUnavailableError
from store.flights import Flights
from store.journal import Journal
from store.ledger import Ledger
from store.records import Charge, Hold

ATTEMPTS: Final = 5
WAIT_SECONDS: Final = 1.0
FIRST_WAIT_SECONDS: Final = 0.5  # in a fleet; about 0.1 is what it takes
LOST_WAIT_SECONDS: Final = 0.025  # where all accounts may be lost at once, and threads are few
BESIDE_SECONDS: Final = 1.0  # what waiting for others may take where nobody waits for it
SEEDING_THREADS: Final = 8
POLL_SECONDS: Final = 0.01
MAX_FOUND: Final = 10_000
MAX_SERVED: Final = 100_000
LOST_WITHIN_SECONDS: Final = 1800.0  # after an hour of rest it is Redis that gives an account up
_STRIPES: Final = 64


def recover(
    counters: MemoryCounters, journal: Journal, ledger: Ledger, now_us: int
) -> list[tuple[Hold, Charge]]:
    """Give fresh counters the holds that were open, and say which ends are still to be booked.

    `now_us` is the counters' time. The journal is the truth for open holds, with two exceptions:
    one that has a row has ended (the journal is from before that row), and one that only SQL's
    copy has is open (the journal is from before the hold, or lost it with the power).
    Raises StoreUnavailableError; it can be called again then. Serve nothing before it is done.
    """
    found = journal.found
    rows = ledger.rows([hold.id for hold in found.holds])
    ended = ledger.ended_since(now_us - REMEMBERED_US)
    journaled = {hold.id for hold in found.holds}
    only_copied = [hold for hold in ledger.open_holds() if hold.id not in journaled]
    journal.done(*rows)
    for hold in only_copied:
        journal.take(hold)
    opened = [hold for hold in found.holds if hold.id not in rows] + only_copied
    ends = {end.hold_id: end for end in found.ends}
    counters.restore(opened, closed=ends.keys(), ended=ended)
    return [(hold, ends[hold.id]) for hold in opened if hold.id in ends]


def drift(counters: Counters, ledger: Ledger, account_id: str) -> int | None:
    """By how many nano-USD an account's counters are off from SQL; None if that cannot be told.

    Compared are two sums of the same charges that were made apart: ours, by settling one hold
    after the other, and the database's, by its trigger as each row came. So what shows is a row
    that we did not settle, or twice, or in another window; a charge without a row; and another's
    rows. What does not is a row that was changed or lost behind the sums: that those are the
    rows' is `ledger verify`'s to prove (LedgerReader.verify).

    It cannot while the account is not seeded, or if it took or settled between the two readings
    (about a millisecond): ask again later. Raises StoreUnavailableError.
    """
    generation = counters.generation(account_id)
    if not generation.seeded:
        return None
    known = _known(ledger, generation)
    return counters.drift(generation, known)


def _known(ledger: Ledger, generation: Generation) -> Seed:
    return ledger.seed(
        generation.account_id, generation.now_us, generation.open_holds, generation.windows
    )


class Seedable(Protocol):
    """Counters, as seeding needs them."""

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded: ...

    def peek(
        self, limits: Sequence[Limit], account_id: str
    ) -> tuple[int, Standings] | NotSeeded: ...

    def generation(self, account_id: str) -> Generation: ...

    def seed(self, generation: Generation, seed: Seed) -> bool: ...


class Claims(Protocol):
    """Who of several workers reads an account: for a short while, as that one may die meanwhile."""

    def claim(self, account_id: str) -> bool: ...

    def unclaim(self, account_id: str) -> None: ...


class SeededCounters:
    """Counters whose takes and looks seed the account first where that is needed. Thread-safe.

    An account's first take after a start reads SQL once, for all who wait for it; they wait at
    most a second, as does everyone while SQL is slow: StoreUnavailableError then. Accounts that
    are seeded wait for nothing. (Accounts that share a stripe of the lock wait for each other.)

    Counters outside of the process may have lost what was in them: they are given SQL's open holds
    as well, and `barrier` returns once SQL has all that anybody took before a moment (of the
    monotonic clock). It may raise, after so many seconds at most; who comes later for the same
    account has waited since before. With `claims`, one worker reads an account while the others
    wait for it. All that is done in a thread beside, once for all calls. They wait for an account
    until `FIRST_WAIT_SECONDS` after that began; for one that was served here of late, and is lost,
    `LOST_WAIT_SECONDS`: a refusal for an outage is fast, and what comes later finds it done.
    """

    def __init__(
        self,
        counters: Seedable,
        ledger: Ledger,
        barrier: Callable[[float, float], None] | None = None,
        claims: Claims | None = None,
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._barrier = barrier
        self._claims = claims
        self._wait_seconds = WAIT_SECONDS if barrier is None else FIRST_WAIT_SECONDS
        self._found: OrderedDict[str, float] = OrderedDict()  # lives of accounts, and since when
        self._served: OrderedDict[str, float] = OrderedDict()  # accounts, and when last
        self._locks = tuple(Lock() for _ in range(_STRIPES))
        self._flights = Flights[str, None]("seed", SEEDING_THREADS)

    def close(self) -> None:
        """Wait for what is being seeded; nothing more is."""
        self._flights.close()

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended:
        """As Counters.take. Raises StoreUnavailableError where SQL or journal are out."""
        until = None
        for _ in range(ATTEMPTS):
            answer = self._counters.take(request_id, draft, limits, account_id)
            if not isinstance(answer, NotSeeded):
                self._serves(account_id or (draft.account_id if draft is not None else None))
                return answer
            until = until or self._until(answer.account_id)
            self.seed(answer.account_id, until)
        raise _unavailable()  # holds of it kept ending while we read

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings]:
        """As Counters.peek. Raises StoreUnavailableError where SQL is out."""
        until = None
        for _ in range(ATTEMPTS):
            answer = self._counters.peek(limits, account_id)
            if not isinstance(answer, NotSeeded):
                self._serves(account_id)
                return answer
            until = until or self._until(answer.account_id)
            self.seed(answer.account_id, until)
        raise _unavailable()

    def _serves(self, account_id: str | None) -> None:
        """The account was there just now."""
        if self._barrier is None or account_id is None:
            return
        self._served[account_id] = monotonic()
        if len(self._served) > MAX_SERVED:
            with suppress(KeyError):
                self._served.popitem(last=False)

    def _until(self, account_id: str) -> float:
        """Until when a call waits for an account, by the monotonic clock."""
        now = monotonic()
        lost = now - self._served.get(account_id, -LOST_WITHIN_SECONDS) < LOST_WITHIN_SECONDS
        return now + (LOST_WAIT_SECONDS if lost else self._wait_seconds)

    def seed(self, account_id: str, until: float | None = None) -> None:
        """Have the account seeded if it is not; another's way to do that may have come between.

        Waits no longer than `until` (of the monotonic clock). Raises StoreUnavailableError.
        """
        if until is None:
            until = monotonic() + self._wait_seconds
        if self._barrier is None:
            self._seed_here(account_id, until)
            return
        # Now, and not when a thread is free for it: what is waited for is for all found by then.
        if self._find(account_id) is None:
            return
        seconds = max(0.0, until - monotonic())
        self._flights.join(account_id, lambda: self._seed_lost(account_id), seconds)

    def _seed_here(self, account_id: str, until: float) -> None:
        """From SQL; where something came in between, the account is as it was."""
        lock = self._locks[hash(account_id) % _STRIPES]
        if not lock.acquire(timeout=max(0.0, until - monotonic())):
            raise _unavailable()
        try:
            generation = self._counters.generation(account_id)
            if not generation.seeded:
                self._counters.seed(generation, _known(self._ledger, generation))
        finally:
            lock.release()

    def _seed_lost(self, account_id: str) -> None:
        """Once all is in SQL, from there; likewise."""
        assert self._barrier is not None  # noqa: S101  for the checker of types
        lost = self._find(account_id)
        if lost is None:
            return
        found, since = lost
        until = monotonic() + BESIDE_SECONDS
        self._barrier(since, BESIDE_SECONDS)
        if self._claims is None:
            self._read_lost(found)
        elif self._is_ours_to_read(account_id, self._claims, until):
            try:
                self._read_lost(found)
            finally:
                with suppress(StoreUnavailableError):  # it lapses by itself
                    self._claims.unclaim(account_id)

    def _is_ours_to_read(self, account_id: str, claims: Claims, until: float) -> bool:
        """False once another worker has seeded the account."""
        while not claims.claim(account_id):
            if monotonic() >= until:
                raise _unavailable()
            sleep(POLL_SECONDS)
            if self._counters.generation(account_id).seeded:
                return False
        return True

    def _read_lost(self, found: Generation) -> None:
        generation = self._counters.generation(found.account_id)
        if generation.life == found.life and not generation.seeded:  # not lost again meanwhile
            known = self._ledger.seed(
                generation.account_id,
                generation.now_us,
                generation.open_holds,
                generation.windows,
                lost=True,
            )
            self._counters.seed(generation, known)

    def _find(self, account_id: str) -> tuple[Generation, float] | None:
        """An account without a seed, and when it was first found so in this life of it."""
        found = self._counters.generation(account_id)
        if found.seeded:
            return None
        since = self._found.setdefault(found.life, monotonic())
        if len(self._found) > MAX_FOUND:
            with suppress(KeyError):
                self._found.popitem(last=False)
        return found, since


def _unavailable() -> StoreUnavailableError:
    return StoreUnavailableError(
        "What this account has spent could not be read in time. Try again in a second."
    )
