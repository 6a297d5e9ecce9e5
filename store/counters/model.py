"""What a take asks and answers, the same for every backend.

A limit has a kind and a scope. The scopes of one `take` all belong to one account.
Times are microseconds of the counters' own clock. Structs, as several are made for each request
and a frozen dataclass takes five to ten times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from store.records import SECOND_US, Hold, Window

HELD_RETRY_US: Final = 2 * SECOND_US
"""When to ask again where only holds in flight stand in the way: they end at any moment."""


class MinuteLimit(msgspec.Struct, frozen=True):
    """At most `max_requests` (1 or more) in any 60 seconds of `scope`: a key, or a key's lane."""

    scope: str
    max_requests: int


class MoneyLimit(msgspec.Struct, frozen=True):
    """At most `budget_nanousd` in each window of `scope` (a key or an account); None: only counted.

    `ceiling` "hold" admits what fits for certain: spent + held + hold ≤ budget. "start" admits
    while anything is left, so a scope may overrun by what is in flight.
    """

    scope: str
    created_us: int
    budget_nanousd: int | None
    ceiling: Literal["hold", "start"] = "hold"


Limit = MinuteLimit | MoneyLimit


class Standing(msgspec.Struct, frozen=True):
    """How a minute stands: `used` now; `remaining` next grows in `grows_in_us` (0: it is whole)."""

    limit: MinuteLimit
    used: int
    grows_in_us: int

    @property
    def remaining(self) -> int:
        return max(0, self.limit.max_requests - self.used)


class MoneyStanding(msgspec.Struct, frozen=True):
    """How money stands in the limit's present window, which is over at `resets_us` (absolute)."""

    limit: MoneyLimit
    spent_nanousd: int
    held_nanousd: int
    window: int
    resets_us: int

    @property
    def remaining_nanousd(self) -> int | None:
        """What another hold may cost at most; None without a budget."""
        budget = self.limit.budget_nanousd
        return None if budget is None else max(0, budget - self.spent_nanousd - self.held_nanousd)


Standings = tuple[Standing | MoneyStanding, ...]


class Taken(msgspec.Struct, frozen=True):
    """All limits had room and all were taken, or had been by this request id before.

    `hold` is None for what holds no money. `standings` are in the order of the limits, after
    the take.
    """

    now_us: int
    hold: Hold | None
    standings: Standings


class Refused(msgspec.Struct, frozen=True):
    """Nothing was taken. `limit` stands in the way; all have room in `retry_us`.

    For money `held` tells whether only holds in flight stand in the way (then `retry_us` is
    HELD_RETRY_US, a guess); if not, `retry_us` is until the window is over.
    """

    now_us: int
    limit: Limit
    retry_us: int
    standings: Standings
    held: bool = False


class Ended(msgspec.Struct, frozen=True):
    """The request has ended already: whoever still asks must not be served."""

    now_us: int


class NotSeeded(msgspec.Struct, frozen=True):
    """Nothing was taken: what the account has spent is not known here. Seed it, and ask again."""

    account_id: str


class Generation(msgspec.Struct, frozen=True):
    """What the counters know of an account before it is read from SQL.

    A seed with a generation counts only if nothing was taken or settled since. `open_holds` are
    ids: their rows, if there are any yet, stay out of the sums, as settling will add them.
    `windows` are those that are counted, also of keys that were revoked since.
    """

    account_id: str
    number: int
    now_us: int
    open_holds: tuple[str, ...]
    seeded: bool
    windows: tuple[Window, ...] = ()


class Seed(msgspec.Struct, frozen=True):
    """What SQL knows of an account: charges by window, admissions of the last minute by scope.

    `spent` names the present window of every scope that the account has, also where it is 0.
    """

    spent: Mapping[Window, int]
    minutes: Mapping[str, Sequence[int]]
