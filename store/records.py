"""Frozen records that cross rooms. Money is integer nano-USD, time integer microseconds.

A `*_us` is microseconds since the Unix epoch, UTC. A `*_nanousd` is 1e-9 USD.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
DAY_US: Final = 86_400 * SECOND_US
WINDOW_US: Final = 30 * DAY_US
NANOUSD: Final = 1_000_000_000

INT64_MAX: Final = (1 << 63) - 1
"""The largest number that a store holds; sums of money must stay below it (9.2 billion USD)."""

_MAX_STATUS: Final = 999
_MILLION: Final = 1_000_000

DEFAULT_EXPIRY_DAYS: Final = 90
MAX_EXPIRY_DAYS: Final = 365


class Role(StrEnum):
    """What an account may see: its own (user), everybody's spend (auditor), everything (admin)."""

    USER = "user"
    AUDITOR = "auditor"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """A user. `team` is a label; a service account has no password and never signs in.

    `disabled_us` is since when nobody may come in as it and none of its keys passes; None: they do.
    """

    id: str
    email: str
    team: str | None
    plan: str
    role: Role
    service: bool
    created_us: int
    disabled_us: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key and what it may do, with what is needed of its account. Never the plaintext.

    `models` None means every model, also future ones; `budget_nanousd` and `rpm` None mean no
    limit. `hint` is the prefix and the last four characters. `disabled_us` is the account's.
    """

    id: str
    account_id: str
    user: str
    team: str | None
    plan: str
    account_created_us: int
    alias: str
    hint: str
    models: frozenset[str] | None
    budget_nanousd: int | None
    rpm: int | None
    created_us: int
    expires_us: int
    revoked_us: int | None
    disabled_us: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change feed: a key (by digest) or a whole account is to be read again.

    With both, what the account has spent is to be read again as well: a row was added to the
    ledger beside the counters.
    """

    seq: int
    digest: bytes | None
    account_id: str | None
    at_us: int = field(default=0, compare=False)  # when it was made, by the clock of who made it


class Price(msgspec.Struct, frozen=True, array_like=True):
    """Nano-USD: per million tokens of each kind, per request, per wall second.

    FROZEN FORMAT, as it is a part of a hold.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    per_request: int = 0
    per_second: int = 0

    def cost_nanousd(
        self,
        input_tokens: int,
        cached_input_tokens: int,
        cache_write_tokens: int,
        output_tokens: int,
        duration_us: int,
    ) -> int:
        """What one request costs: exact, and rounded up once, at the end."""
        millionths = (
            input_tokens * self.input
            + cached_input_tokens * self.cached_input
            + cache_write_tokens * self.cache_write
            + output_tokens * self.output
            + self.per_request * _MILLION
            + self.per_second * duration_us
        )
        return -(-millionths // _MILLION)


class Basis(StrEnum):
    """What a charge rests on. Append only: rows of the ledger are for ever."""

    METERED = "metered"  # the whole answer's usage was seen
    ESTIMATED = "estimated"  # a cut stream: what was seen of it
    HELD = "held"  # the server was reached and nothing is known: the whole hold
    RELEASED = "released"  # never reached the server, or no token came of it: nothing


def window_at(created_us: int, now_us: int) -> int:
    """Which budget period it is for what was made at `created_us`: 0 for its first 30 days.

    Also 0 before that: the clock that made it may be ahead of the one that counts.
    """
    return max(0, (now_us - created_us) // WINDOW_US)


def window_ends_us(created_us: int, number: int) -> int:
    """When a budget period is over: the first moment of the next one."""
    return created_us + (number + 1) * WINDOW_US


class Window(msgspec.Struct, frozen=True, array_like=True):
    """One budget period of one scope, which is the id of a key or of an account.

    FROZEN FORMAT, as it is a part of a hold.
    """

    scope: str
    number: int


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """Money reserved for one request, and all that its settlement needs.

    `nanousd` is the most that the request can cost; it was computed from the two bounds
    (tokens), `tokens_per_byte` (a decimal, as text) and `price`, which stays what it was at
    admission. `minute` is the scope of the minute that the request counted in, None without one.
    `windows` has one entry for each money limit, the key's always. A *draft* is a hold that was
    not admitted yet: no windows, and `admitted_us` is 0. `team` is a label and may be None.

    A struct, as two are made for each request and one is written down: a frozen dataclass takes
    ten times as long for either (`msgspec.structs.replace` is its `replace`).
    FROZEN FORMAT: this order of fields is that of the journal and of the table of open holds.
    Fields are appended, with a default; none is moved, or given another meaning.
    """

    id: str
    request_id: str
    account_id: str
    key_id: str
    user: str
    team: str | None
    alias: str
    model: str
    endpoint: str
    nanousd: int
    price: Price
    tokens_per_byte: str
    input_bound: int
    output_bound: int
    minute: str | None
    windows: tuple[Window, ...] = ()
    admitted_us: int = 0

    def admitted(self, now_us: int, windows: tuple[Window, ...]) -> Hold:
        """This draft as a hold. Spelled out, as it is on the path of every request."""
        return Hold(
            self.id,
            self.request_id,
            self.account_id,
            self.key_id,
            self.user,
            self.team,
            self.alias,
            self.model,
            self.endpoint,
            self.nanousd,
            self.price,
            self.tokens_per_byte,
            self.input_bound,
            self.output_bound,
            self.minute,
            windows,
            now_us,
        )

    def window_of(self, scope: str) -> int | None:
        """The number of the hold's window of a scope."""
        return next((window.number for window in self.windows if window.scope == scope), None)


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What was seen of a request's end, for whoever asks why it cost what it did.

    `reached`: a model server got some of it; `answered`: the status is the server's own;
    `complete`: and so is the answer's end. `events` (with content) and `content_bytes` (of UTF-8)
    are what was counted of a stream. `duration_us` is from admission to end, `first_us` to the
    first event of a stream in which something was generated (to the millisecond; 0: none seen).
    FROZEN FORMAT: journal and ledger have these names. Fields are appended, with a default.
    """

    reached: bool
    answered: bool
    complete: bool
    events: int
    content_bytes: int
    duration_us: int
    first_us: int = 0


class Charge(msgspec.Struct, frozen=True, gc=False):
    """How a hold ended. `status` is the HTTP status that the client got, 0 if unknown.

    `seen` is None where nobody saw an end: what was swept, or given back.

    Raises ValueError for what the ledger could not keep: a negative number, one above INT64_MAX,
    a status of more than three digits, a released hold that costs something. One such row would
    hold up all that are booked with it.
    FROZEN FORMAT: the journal has these names. Fields are appended, with a default.
    """

    hold_id: str
    basis: Basis
    status: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    nanousd: int
    settled_us: int
    seen: Seen | None = None

    def __post_init__(self) -> None:
        if not (
            0 <= self.status <= _MAX_STATUS
            and 0 <= self.input_tokens <= INT64_MAX
            and 0 <= self.cached_input_tokens <= INT64_MAX
            and 0 <= self.cache_write_tokens <= INT64_MAX
            and 0 <= self.output_tokens <= INT64_MAX
            and 0 <= self.nanousd <= INT64_MAX
            and 0 <= self.settled_us <= INT64_MAX
        ):
            raise ValueError("a charge has a number that no row can hold")
        if self.nanousd and self.basis is Basis.RELEASED:
            raise ValueError("a released hold costs nothing")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One row of the ledger: how one request ended and what it cost. Final once it is there.

    `account_window` is None where the account had no money limit.
    """

    hold_id: str
    request_id: str
    account_id: str
    key_id: str
    user: str
    team: str | None
    alias: str
    model: str
    endpoint: str
    status: int
    basis: Basis
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    charge_nanousd: int
    hold_nanousd: int
    key_window: int
    account_window: int | None
    admitted_us: int
    settled_us: int
