"""What a take asks and answers, the same for every backend.

A limit has a kind and a scope. The scopes of one `take` all belong to one account.
Times are microseconds of the counters' own clock. Structs, as several are made for each request
and a frozen dataclass takes five to ten times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from store.records import INT64_MAX, MINUTE_US, SECOND_US, Hold, Window

REMEMBERED_US: Final = MINUTE_US
"""How long a request id is known after its hold ended, or after it took without one."""

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
    `windows` are those that are counted, also of keys that were revoked since. `life` is another
    each time that counters outside of the process have forgotten the account.
    """

    account_id: str
    number: int
    now_us: int
    open_holds: tuple[str, ...]
    seeded: bool
    windows: tuple[Window, ...] = ()
    life: str = ""


class Seed(msgspec.Struct, frozen=True):
    """What SQL knows of an account: charges by window, admissions of the last minute by scope.

    `spent` names the present window of every scope that the account has, also where it is 0.
    `holds` are those that SQL has open, `ended` (request id, µs) the requests whose holds ended in
    the last minute: for counters that may have forgotten them.
    """

    spent: Mapping[Window, int]
    minutes: Mapping[str, Sequence[int]]
    holds: tuple[Hold, ...] = ()
    ended: tuple[tuple[str, int], ...] = ()


def check_draft(request_id: str, draft: Hold, scopes: Collection[str]) -> None:
    """Raise ValueError for what only a bug of the caller's could bring about.

    No row could be made of it. `scopes` are those of the money limits.
    """
    if (
        draft.request_id != request_id
        or draft.key_id not in scopes
        or not 0 <= draft.nanousd <= INT64_MAX
    ):
        raise ValueError("a draft of another request, without its key's money, or of no amount")


class Counters(Protocol):
    """What every backend does, each verb in one atomic step. Whoever asks names the account.

    Counters outside of the process raise StoreUnavailableError where nothing was done, and
    UnansweredError where nobody knows.
    """

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """Take one request and the draft's money of every limit, or nothing of any.

        Without a draft the limits are minutes only, and `account_id` says whose they are. A
        request id that took before takes nothing and is given the same hold again, as long as
        that is open (without a hold: for 60 s); after that, for 60 s, it is answered Ended. A
        minute without room answers before money. Raises ValueError for a draft that no row could
        be made of.
        """
        ...

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        """The counters' time and how the limits of an account stand. Takes nothing.

        Minutes alone need no seed.
        """
        ...

    def give_back(self, hold: Hold) -> bool:
        """One Check that was given the hold is not alive any more. True if it was the last one.

        The hold is then closed, and the caller ends it as released.
        """
        ...

    def close(self, hold: Hold) -> bool:
        """The request's end is known: no further Check is given the hold.

        True for the first to say so. The hold counts until it is settled.
        """
        ...

    def settle(self, hold: Hold, charge_nanousd: int) -> bool:
        """Turn a hold into the charge of its row in SQL, in the hold's windows.

        Only after that row is there. False if the hold was not open here: it was settled before,
        or never known, and whoever reads the account from SQL will find the row.
        """
        ...

    def beat(self, account_id: str, hold_id: str) -> bool:
        """The request is still running; False if the account has no such open hold."""
        ...

    def overdue(self, deadline_us: int) -> list[Hold]:
        """Open holds that gave no sign of life (a Check, a heartbeat) for so many microseconds.

        Closed ones too: who closed it may not have lived to settle it. Ending a hold twice is
        harmless, as the row that is there first stands.
        """
        ...

    def open_holds(self) -> list[Hold]:
        """Every open hold, the oldest first."""
        ...

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        """The account's open hold of an id."""
        ...

    def accounts(self) -> list[str]:
        """The accounts whose sums can be compared with SQL's: those that are seeded.

        Counters outside of the process may name some that are not any more.
        """
        ...

    def generation(self, account_id: str) -> Generation:
        """What a seed or a comparison of the account begins with, before SQL is read."""
        ...

    def seed(self, generation: Generation, seed: Seed) -> bool:
        """Serve the account from here on. False if anything was settled since: read SQL again.

        An account that is seeded already stays as it is.
        """
        ...

    def forget(self, account_id: str) -> None:
        """A row was added to the ledger beside the counters: the next take reads SQL anew."""
        ...

    def drift(self, generation: Generation, seed: Seed) -> int | None:
        """By how many nano-USD the account's sums are off from SQL's; None if it moved meanwhile.

        Anything but 0 is a bug of ours, or somebody's hand in the database.
        """
        ...
