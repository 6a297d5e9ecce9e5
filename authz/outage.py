"""`TENSORGATE_ON_COUNTER_OUTAGE=local`: known keys are served while Redis is out, on a share.

Each replica counts for itself then, in process, and gives out its share of what was left of each
limit when it last saw it: 1/n of the money, where n is the number of live replicas last known, and
1/n of the requests in a minute (rounded down: a key with fewer requests a minute than there are
replicas is not served). Only accounts count as known that this replica saw counted in the last
`KNOWN_SECONDS` before the outage, and since it last served them like this; others are unavailable,
as all are with `deny`. What was held as it began counts as spent for as long as it lasts.

Holds are written to SQL as always, so whoever meters ends them, and their rows are exact. When
Redis answers again, every account that was served here is first made to be read from SQL anew.

Worst cases, for those who choose it. Money: a budget may be overrun by what other replicas admitted
between this one's last look at the account and the outage (60 s at most), times its share; by the
whole share, where Redis is out for this replica only and the others go on with all of it; likewise
by what is taken elsewhere in the moment between Redis's return and this replica's notice of it.
Minutes: for the same reasons at most twice the limit in any 60 s that the outage begins or ends in.
A request whose Check is repeated by another replica may have a hold on both: the one that nobody
ends is swept, as held. While it lasts, answers tell of the share and not of the whole limit.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from time import monotonic
from typing import Final, Protocol

from msgspec.structs import replace

from authz.holdwriter import HoldWriter
from authz.ids import Ids
from store.clock import Clock, steady_clock
from store.counters.memory import MemoryCounters
from store.counters.model import (
    Ended,
    Generation,
    Limit,
    MinuteLimit,
    MoneyLimit,
    NotSeeded,
    Refused,
    Seed,
    Standing,
    Standings,
    Taken,
)
from store.errors import StoreError, StoreUnavailableError
from store.records import Hold, LedgerRow, Window, window_at
from store.seeding import Seedable

KNOWN_SECONDS: Final = 60.0
MAX_KNOWN: Final = 100_000
REFRESH_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Kept(Seedable, Protocol):
    """Counters in Redis whose holds are kept (authz/keeping.py)."""

    def give_back(self, hold: Hold) -> bool: ...

    def recover(self) -> None: ...


class _Sight:
    """How an account's limits stood when they were last seen."""

    __slots__ = ("at", "standings")

    def __init__(self, at: float, standings: Standings) -> None:
        self.at = at  # by the monotonic clock
        self.standings = standings


class _Outage:
    """What is counted here while Redis is out."""

    def __init__(self, clock: Clock) -> None:
        self.began = monotonic()
        self.clock = clock
        self.counters = MemoryCounters(clock)
        self.served: dict[str, None] = {}  # accounts, in the order of their first call
        self.refreshed = self.began


class LocalCounters:
    """Thread-safe. As `kept` is while Redis answers, and a share of it while it does not.

    `replicas` is how many live, `rows` reads rows of the ledger by hold id, and `forget` makes
    Redis read an account from SQL anew.
    """

    def __init__(
        self,
        kept: Kept,
        writer: HoldWriter,
        *,
        replicas: Callable[[], int],
        rows: Callable[[Sequence[str]], dict[str, LedgerRow]],
        forget: Callable[[str], None],
        new_clock: Callable[[], Clock] = steady_clock,
    ) -> None:
        self._kept = kept
        self._writer = writer
        self._new_clock = new_clock
        self._replicas = replicas
        self._rows = rows
        self._forget = forget
        self._new_id = Ids()
        self._lock = Lock()
        self._known: OrderedDict[str, _Sight] = OrderedDict()
        self._outage: _Outage | None = None

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """As Counters.take. Raises StoreUnavailableError where an account is not known here."""
        outage = self._outage
        try:
            if outage is not None:
                self._forget_served(outage)
            answer = self._kept.take(request_id, draft, limits, account_id)
        except StoreUnavailableError as fault:
            return self._take_here(fault, request_id, draft, limits, account_id)
        if outage is not None:
            self._end(outage)
        if draft is not None and isinstance(answer, Taken | Refused):
            self._see(draft.account_id, answer.standings)
        return answer

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        """As Counters.peek: unavailable during an outage."""
        return self._kept.peek(limits, account_id)

    def give_back(self, hold: Hold) -> bool:
        """As Counters.give_back."""
        outage = self._outage
        if outage is None or outage.counters.hold(hold.account_id, hold.id) is None:
            return self._kept.give_back(hold)
        last = outage.counters.give_back(hold)
        if last:
            self._writer.drop(hold.id)
        return last

    def generation(self, account_id: str) -> Generation:
        """As Counters.generation."""
        return self._kept.generation(account_id)

    def seed(self, generation: Generation, seed: Seed) -> bool:
        """As Counters.seed."""
        return self._kept.seed(generation, seed)

    def recover(self) -> None:
        """Do what Redis could not be asked to do. Raises StoreUnavailableError: it is out still."""
        self._kept.recover()
        if (outage := self._outage) is not None:
            self._forget_served(outage)
            self._end(outage)

    def _see(self, account_id: str, standings: Standings) -> None:
        sight = _Sight(monotonic(), standings)
        with self._lock:
            self._known[account_id] = sight
            self._known.move_to_end(account_id)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def _forget_served(self, outage: _Outage) -> None:
        """Have Redis read anew what was served here. Raises StoreUnavailableError: still out."""
        with self._lock:
            for account_id in list(outage.served):
                self._forget(account_id)
                del outage.served[account_id]
                # A further outage must not give the same share out again.
                self._known.pop(account_id, None)

    def _end(self, outage: _Outage) -> None:
        """Redis answered: the outage is over, unless somebody was served here just now."""
        with self._lock:
            over = self._outage is outage and not outage.served
            if over:
                self._outage = None
        if over:
            seconds = monotonic() - outage.began
            _log.warning("counters answer again, after %.1f s on a share of the limits", seconds)

    def _take_here(
        self,
        fault: StoreUnavailableError,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None,
    ) -> Taken | Refused | Ended | NotSeeded:
        with self._lock:
            if self._outage is None:
                _log.warning("known keys are served on a share of their limits: %s", fault)
                self._outage = _Outage(self._new_clock())
            outage = self._outage
            if draft is None:
                shared = self._shared(outage, limits, (), fault)
                return outage.counters.take(request_id, None, shared, account_id)
            sight = self._known.get(draft.account_id)
            if sight is None or outage.began - sight.at > KNOWN_SECONDS:
                raise fault
            shared = self._shared(outage, limits, sight.standings, fault)
            if draft.account_id not in outage.served:
                _seed(outage.counters, draft.account_id, sight.standings)
                outage.served[draft.account_id] = None
        self._refresh(outage)
        return self._hold_here(outage, request_id, draft, shared)

    def _hold_here(
        self, outage: _Outage, request_id: str, draft: Hold, limits: Sequence[Limit]
    ) -> Taken | Refused | Ended | NotSeeded:
        """Under an id of its own: the draft's may be withdrawn once Redis is back."""
        draft = replace(draft, id=self._new_id())
        hold: Hold | None = None
        self._writer.begin(draft.id)
        try:
            answer = outage.counters.take(request_id, draft, limits)
            if isinstance(answer, Taken):
                hold = answer.hold
        finally:
            self._writer.finish(draft.id, hold)
        return answer

    def _shared(
        self,
        outage: _Outage,
        limits: Sequence[Limit],
        seen: Standings,
        fault: StoreUnavailableError,
    ) -> tuple[Limit, ...]:
        """This replica's share of the limits. Raises `fault` for one that it has none of."""
        replicas = max(1, self._replicas())
        now_us = outage.clock()
        money = {each.limit.scope: each for each in seen if not isinstance(each, Standing)}
        shared: list[Limit] = []
        for limit in limits:
            if isinstance(limit, MinuteLimit):
                if limit.max_requests < replicas:
                    raise fault
                shared.append(MinuteLimit(limit.scope, limit.max_requests // replicas))
                continue
            standing = money.get(limit.scope)
            if standing is None:
                raise fault
            if limit.budget_nanousd is None:
                shared.append(limit)
                continue
            gone = 0  # of a window that has begun since nothing is known to be
            if standing.window == window_at(limit.created_us, now_us):
                gone = standing.spent_nanousd + standing.held_nanousd
            left = max(0, limit.budget_nanousd - gone)
            budget = gone + left // replicas
            shared.append(MoneyLimit(limit.scope, limit.created_us, budget, limit.ceiling))
        return tuple(shared)

    def _refresh(self, outage: _Outage) -> None:
        """Turn holds of here that have rows by now into their charges. Who comes second goes on."""
        if monotonic() - outage.refreshed < REFRESH_SECONDS:
            return
        outage.refreshed = monotonic()
        opened = {hold.id: hold for hold in outage.counters.open_holds()}
        try:
            rows = self._rows(list(opened))
        except StoreError:
            return  # they count as held a while longer
        for hold_id, row in rows.items():
            outage.counters.settle(opened[hold_id], row.charge_nanousd)


def _seed(counters: MemoryCounters, account_id: str, seen: Standings) -> None:
    """All that was spent and held counts as spent, and every request of the minute as just made."""
    generation = counters.generation(account_id)
    spent: dict[Window, int] = {}
    minutes: dict[str, list[int]] = {}
    for standing in seen:
        if isinstance(standing, Standing):
            minutes[standing.limit.scope] = [generation.now_us] * standing.used
        else:
            window = Window(standing.limit.scope, standing.window)
            spent[window] = standing.spent_nanousd + standing.held_nanousd
    counters.seed(generation, Seed(spent, minutes))
