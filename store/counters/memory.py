"""Counters in process: exact, for the one worker that holds the lease.

One lock, one step: either every limit has room and all are taken, or nothing is. No SQL and no
fsync happens under the lock; a take writes its hold to the journal there (one `write`), before
anything counts.

Nothing here survives the process. Open holds come back from the journal (`restore`), what was
spent from SQL, account by account, at its first use (`generation`, `seed`); until then a take of
the account is answered NotSeeded.

Worst cases. Memory: for each open hold about 2 KB; for each request that ended in the last 60 s
about 250 bytes; for each account that was used in the last hour, or has open holds, about 1 KB
and 0.5 KB for each of its scopes; minutes as in `store.counters.minutes`. Time under the lock:
microseconds, but for one pass over all accounts each time that their number has doubled, and one
over all open holds in `overdue` and `open_holds` (a millisecond for 10,000).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from itertools import count
from threading import Lock
from typing import Final

from store.clock import Clock
from store.counters.minutes import Minutes
from store.counters.model import (
    REMEMBERED_US,
    Counters,
    Ended,
    Generation,
    Limit,
    MinuteLimit,
    MoneyLimit,
    MoneyStanding,
    NotSeeded,
    Refused,
    Seed,
    Standing,
    Standings,
    Taken,
    check_draft,
)
from store.counters.money import AccountMoney, Sums, refusal
from store.records import MINUTE_US, Hold

IDLE_US: Final = 60 * MINUTE_US
_FIRST_PRUNE: Final = 1024


class _Mark(Enum):
    ENDED = "ended"
    PASSED = "passed"  # took, and held no money


_ENDED: Final = _Mark.ENDED
_PASSED: Final = _Mark.PASSED


class _Open:
    """An open hold. `checks` is how many Checks were given it; `closed`: no more are."""

    __slots__ = ("account", "beat_us", "checks", "closed", "hold")

    def __init__(self, hold: Hold, account: AccountMoney, now: int, *, closed: bool) -> None:
        self.hold = hold
        self.account = account
        self.beat_us = now
        self.checks = 1
        self.closed = closed


def _nowhere(_: Hold) -> None:
    """The journal of counters that may forget: those of tests, and of limits without money."""


class MemoryCounters(Counters):
    """Thread-safe. `journal` writes a hold down before it counts; what it raises, `take` raises."""

    def __init__(self, clock: Clock, journal: Callable[[Hold], None] = _nowhere) -> None:
        self._clock = clock
        self._journal = journal
        self._lock = Lock()
        self._minutes = Minutes()
        self._accounts: dict[str, AccountMoney] = {}
        self._prune_at = _FIRST_PRUNE
        self._generations = count(1)
        self._open: dict[str, _Open] = {}  # by hold id
        self._requests: dict[str, _Open | _Mark] = {}  # by request id
        self._leaving: deque[tuple[int, str]] = deque()  # (when, request id) to be forgotten

    @property
    def outstanding(self) -> int:
        """How many holds are open."""
        return len(self._open)

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """As Counters.take. A request id is known whosever it is."""
        if draft is None and account_id is None:
            raise ValueError("neither a draft nor an account")
        with self._lock:
            now = self._clock()
            self._forget(now)
            known = self._requests.get(request_id)
            if known is _ENDED:
                return Ended(now)
            account = None
            if draft is not None:
                account = self._accounts.get(draft.account_id)
                if account is None or not account.seeded:
                    return NotSeeded(draft.account_id)
                account.used_us = now
            hold = None
            if known is None:
                taken = self._admit(now, request_id, draft, account, limits)
                if isinstance(taken, Refused):
                    return taken
                hold = taken
            elif isinstance(known, _Open):
                if known.closed:
                    return Ended(now)
                known.checks += 1
                known.beat_us = now
                hold = known.hold
            return Taken(now, hold, self._standings(now, account, limits))

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        with self._lock:
            now = self._clock()
            account = self._accounts.get(account_id)
            if (account is None or not account.seeded) and any(
                isinstance(limit, MoneyLimit) for limit in limits
            ):
                return NotSeeded(account_id)
            return now, self._standings(now, account, limits)

    def give_back(self, hold: Hold) -> bool:
        with self._lock:
            known = self._open.get(hold.id)
            if known is None or known.closed:
                return False
            known.checks -= 1
            known.closed = known.checks <= 0
            return known.closed

    def close(self, hold: Hold) -> bool:
        with self._lock:
            known = self._open.get(hold.id)
            if known is None or known.closed:
                return False
            known.closed = True
            return True

    def abandon(self, request_id: str) -> Hold | None:
        """The request is over, and nothing is known but its id.

        The answer is its open hold if it has one that nobody closed yet; it is closed now, and
        the caller ends it. Without one, a Check of it that comes late is answered Ended in the
        next 60 s; each such id is kept for so long, so do not say this of requests that
        certainly had no Check.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            known = self._requests.get(request_id)
            if isinstance(known, _Open):
                if known.closed:
                    return None
                known.closed = True
                return known.hold
            if known is None:
                self._mark(now, request_id, _ENDED)
            return None

    def settle(self, hold: Hold, charge_nanousd: int) -> bool:
        with self._lock:
            now = self._clock()
            account = self._accounts.get(hold.account_id)
            if account is not None:
                account.generation = next(self._generations)
            known = self._open.pop(hold.id, None)
            if known is None:
                return False
            hold = known.hold
            known.account.settle(hold.id, hold.nanousd, hold.windows, charge_nanousd)
            known.account.used_us = now
            self._mark(now, hold.request_id, _ENDED)
            return True

    def beat(self, account_id: str, hold_id: str) -> bool:
        with self._lock:
            known = self._open.get(hold_id)
            if known is None or known.hold.account_id != account_id:
                return False
            known.beat_us = self._clock()
            return True

    def overdue(self, deadline_us: int) -> list[Hold]:
        with self._lock:
            horizon = self._clock() - deadline_us
            return [known.hold for known in self._open.values() if known.beat_us <= horizon]

    def open_holds(self) -> list[Hold]:
        with self._lock:
            return [known.hold for known in self._open.values()]

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        known = self._open.get(hold_id)
        return None if known is None or known.hold.account_id != account_id else known.hold

    def by_request(self, request_id: str) -> Hold | None:
        """The open hold of a request."""
        known = self._requests.get(request_id)
        return known.hold if isinstance(known, _Open) else None

    def accounts(self) -> list[str]:
        with self._lock:
            return [name for name, account in self._accounts.items() if account.seeded]

    def restore(
        self,
        holds: Iterable[Hold],
        *,
        closed: Collection[str] = (),
        ended: Iterable[tuple[str, int]] = (),
    ) -> None:
        """After a start: open holds, ids of those whose end is known, (request id, ended µs).

        Each hold counts as given to one Check, even if nobody was: too many are swept in the
        end, too few would end what still runs.
        """
        with self._lock:
            now = self._clock()
            for hold in holds:
                account = self._account(hold.account_id, now)
                known = _Open(hold, account, now, closed=hold.id in closed)
                account.hold(hold.id, hold.nanousd, map(account.sums, hold.windows))
                self._open[hold.id] = self._requests[hold.request_id] = known
            for request_id, ended_us in sorted(ended, key=lambda pair: pair[1]):
                if request_id not in self._requests:
                    self._mark(min(ended_us, now), request_id, _ENDED)

    def generation(self, account_id: str) -> Generation:
        with self._lock:
            now = self._clock()
            account = self._account(account_id, now)
            opened = tuple(account.open_holds)
            return Generation(
                account_id, account.generation, now, opened, account.seeded, account.windows()
            )

    def seed(self, generation: Generation, seed: Seed) -> bool:
        with self._lock:
            now = self._clock()
            account = self._accounts.get(generation.account_id)
            if account is None or account.generation != generation.number:
                return False
            if not account.seeded:
                account.seed(seed)
                minutes = {scope: list(times) for scope, times in seed.minutes.items()}
                for hold in (self._open[hold_id].hold for hold_id in account.open_holds):
                    if hold.minute is not None:
                        minutes.setdefault(hold.minute, []).append(hold.admitted_us)
                for scope, times in minutes.items():
                    self._minutes.restore(now, scope, times)
            return True

    def forget(self, account_id: str) -> None:
        with self._lock:
            account = self._accounts.get(account_id)
            if account is not None:
                account.seeded = False
                account.generation = next(self._generations)

    def drift(self, generation: Generation, seed: Seed) -> int | None:
        with self._lock:
            account = self._accounts.get(generation.account_id)
            if account is None or account.generation != generation.number or not account.seeded:
                return None
            return account.drift(seed)

    def _admit(
        self,
        now: int,
        request_id: str,
        draft: Hold | None,
        account: AccountMoney | None,
        limits: Sequence[Limit],
    ) -> Hold | Refused | None:
        minutes: list[MinuteLimit] = []
        money: list[tuple[MoneyLimit, Sums]] = []
        for limit in limits:
            if isinstance(limit, MinuteLimit):
                minutes.append(limit)
            elif account is None:
                raise ValueError("a money limit without a draft")
            else:
                money.append((limit, account.present(limit, now)))
        nanousd = 0 if draft is None else draft.nanousd
        refused = self._minutes.refusal(now, minutes) or refusal(now, nanousd, money)
        if refused is not None:
            standings = self._standings(now, account, limits)
            return Refused(now, refused.limit, refused.retry_us, standings, refused.held)
        hold = None
        if draft is None or account is None:
            self._mark(now, request_id, _PASSED)
        else:
            check_draft(request_id, draft, [limit.scope for limit, _ in money])
            windows = [sums for _, sums in money]
            hold = draft.admitted(now, tuple([sums.window for sums in windows]))
            self._journal(hold)  # may raise: nothing was changed yet
            account.hold(hold.id, nanousd, windows)
            account.generation = next(self._generations)
            known = _Open(hold, account, now, closed=False)
            self._open[hold.id] = self._requests[request_id] = known
        self._minutes.take(now, minutes)
        return hold

    def _standings(
        self, now: int, account: AccountMoney | None, limits: Sequence[Limit]
    ) -> Standings:
        standings: list[Standing | MoneyStanding] = []
        for limit in limits:
            if isinstance(limit, MinuteLimit):
                standings.append(self._minutes.standing(now, limit))
            elif account is None:
                raise AssertionError("money was asked for of an account that is not seeded")
            else:
                standings.append(account.standing(now, limit))
        return tuple(standings)

    def _account(self, account_id: str, now: int) -> AccountMoney:
        account = self._accounts.get(account_id)
        if account is None:
            if len(self._accounts) >= self._prune_at:
                self._prune(now)
            account = AccountMoney(now, next(self._generations))
            self._accounts[account_id] = account
        account.used_us = now
        return account

    def _prune(self, now: int) -> None:
        """Drop accounts that are idle; the next prune is due when their number has doubled."""
        self._accounts = {
            name: account
            for name, account in self._accounts.items()
            if account.open_holds or now - account.used_us < IDLE_US
        }
        self._prune_at = max(_FIRST_PRUNE, 2 * len(self._accounts))

    def _mark(self, now: int, request_id: str, mark: _Mark) -> None:
        self._requests[request_id] = mark
        self._leaving.append((now + REMEMBERED_US, request_id))

    def _forget(self, now: int) -> None:
        while self._leaving and self._leaving[0][0] <= now:
            self._requests.pop(self._leaving.popleft()[1], None)
