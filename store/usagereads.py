"""An account's usage, or everybody's, as the dashboard shows it: indexed and bounded queries.

Days are whole UTC days, as numbers since 1970. What was spent is read from the totals of days
(store/daytotals.py) and from the sums by day, calls from the ledger's rows. How long calls took is
of each day's last calls only (`SAMPLE` in all, no more than `SAMPLE_OF_DAY` each): exact numbers
would need every row.

Everybody's calls are in the order of their ends, an account's in that of their beginnings: there
is an index for either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
)

from store import daytotals
from store.daymemory import CHANGING_DAYS, DayMemory
from store.daytotals import KINDS
from store.engines import driver_errors, read_options
from store.ledger import read_row
from store.ledgersums import CALLS, added_calls, amount, calls, whole
from store.records import DAY_US, Basis, LedgerRow, Seen, window_at, window_ends_us
from store.schema import AMOUNTS, accounts, daily, ledger, refused, spent

SERIES: Final = 6
DEAREST_SECONDS: Final = 60.0
MAX_DAYS: Final = 366
SAMPLE: Final = 9_000
SAMPLE_OF_DAY: Final = 200
MAX_SPANS: Final = 92  # of which it is asked how long calls took
CSV_BATCH: Final = 1_000


class By(StrEnum):
    """What the spend of a day is told apart by."""

    MODEL = "model"
    KEY = "key"
    TEAM = "team"
    USER = "user"


_COLUMNS: Final = {
    By.MODEL: daily.c.model,
    By.KEY: daily.c.key_id,
    By.TEAM: daily.c.team,
    By.USER: daily.c.account_id,
}
OTHERS: Final = None


@dataclass(frozen=True, slots=True)
class Of:
    """Whose usage, of which days (both included), of one key or of all.

    No account is everybody; a key is always of an account.
    """

    account_id: str | None
    first_day: int
    last_day: int
    key_id: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.last_day - self.first_day < MAX_DAYS:
            raise ValueError(f"a range has 1 to {MAX_DAYS} days")
        if self.account_id is None and self.key_id is not None:
            raise ValueError("a key's usage is an account's")

    @property
    def days(self) -> range:
        return range(self.first_day, self.last_day + 1)

    def before(self) -> Of:
        """As many days, those just before."""
        length = len(self.days)
        return Of(self.account_id, self.first_day - length, self.first_day - 1, self.key_id)


@dataclass(frozen=True, slots=True)
class Sums:
    """What calls add up to. `input_tokens` counts those that were cached or written apart."""

    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    nanousd: int = 0

    @property
    def tokens(self) -> int:
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.output_tokens
        )

    def plus(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.nanousd + other.nanousd,
        )


@dataclass(frozen=True, slots=True)
class Series:
    """One of what spend is told apart by, by day. `name` None is all others together."""

    name: str | None
    by_day: dict[int, Sums]

    @property
    def total(self) -> Sums:
        return _all_of(self.by_day.values())


@dataclass(frozen=True, slots=True)
class Window:
    """A key's present budget period: its limits, what was spent by day, and in all."""

    starts_us: int
    ends_us: int
    nanousd: int
    by_day: dict[int, int]


@dataclass(frozen=True, slots=True)
class Took:
    """How long calls took from a day on, in µs; None where nothing is known.

    `of` calls were looked at. The first token is that of an answer that was streamed.
    """

    day: int
    of: int
    p50_us: int | None
    p95_us: int | None
    first_p50_us: int | None
    first_p95_us: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """A row of the ledger and what was seen of its end, if anything was."""

    seq: int
    row: LedgerRow
    seen: Seen | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of calls begins: behind this row. `at_us` is what they are in the order of."""

    at_us: int
    seq: int


class UsageReader:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors.

    What days that are over add up to is remembered for a while (store/daymemory.py); `today` says
    which those are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._memory = DayMemory()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with driver_errors(), self._engine.connect() as held:
            yield held.execution_options(**read_options(self._engine))

    def total(self, of: Of, today: int) -> Sums:
        """What all of it adds up to."""
        days = self._days(of, By.TEAM, today, ())
        return _all_of(each for by_name in days.values() for each in by_name.values())

    def series(self, of: Of, by: By, today: int) -> list[Series]:
        """By day: the SERIES that cost most, dearest first, then the rest together if there is any.

        Calls decide among those that cost the same. With `By.KEY` names are ids of keys, with
        `By.USER` of accounts. By key, everybody's would read all that there is.
        """
        shown = self._dearest(of, by)
        days = self._days(of, by, today, shown)
        if len(shown) < SERIES and any(OTHERS in by_name for by_name in days.values()):
            shown = self._dearest(of, by, anew=True)  # there is one that was not there before
            days = self._days(of, by, today, shown)
        found = [
            Series(name, {day: by_name[name] for day, by_name in days.items() if name in by_name})
            for name in (*shown, OTHERS)
        ]
        return [each for each in found if each.by_day]

    def _dearest(self, of: Of, by: By, *, anew: bool = False) -> tuple[str, ...]:
        """The SERIES names that cost most, remembered for a minute."""
        known: tuple[str, ...] | None = self._memory.get((of, by))
        if known is not None and not anew:
            return known
        with self._connected() as connection:
            parts = _parts(connection, of, by, of.days).c
            high, low = amount(parts.charge_nanousd, "charge")
            asked = (
                select(parts.name)
                .group_by(parts.name)
                # in 2^32 nano-USD and then the rest: those that differ by less may change places
                .order_by(high.desc(), low.desc(), func.sum(parts.calls).desc(), parts.name)
                .limit(SERIES)
            )
            dearest = tuple(str(name) for name in connection.execute(asked).scalars())
        self._memory.put((of, by), dearest, DEAREST_SECONDS)
        return dearest

    def _days(
        self, of: Of, by: By, today: int, shown: tuple[str, ...]
    ) -> dict[int, dict[str | None, Sums]]:
        """By day, by name, those that are not shown as OTHERS; a day without a call has none."""
        found: dict[int, dict[str | None, Sums]] = {}
        missing = []
        for day in of.days:
            known = self._memory.get((of.account_id, of.key_id, by, shown, day))
            if known is None:
                missing.append(day)
            found[day] = known or {}
        if not missing:
            return found
        with self._connected() as connection:
            parts = _parts(connection, of, by, missing).c
            name = case((parts.name.in_(shown), parts.name), else_=None) if shown else null()
            asked = select(
                parts.day,
                name.label("shown"),
                func.sum(parts.calls).label("calls"),
                *(half for each in AMOUNTS for half in amount(parts[each], each)),
            ).group_by(parts.day, literal_column("shown"))
            for row in connection.execute(asked).mappings():
                found[row["day"]][row["shown"]] = _added_up(row)
        for day in missing:
            if day <= today - CHANGING_DAYS:
                self._memory.put((of.account_id, of.key_id, by, shown, day), found[day])
        return found

    def refused(self, of: Of, today: int) -> list[tuple[int, str, int]]:
        """(day, reason, calls), in order."""
        over = min(of.last_day, today - CHANGING_DAYS)
        key = (of, "refused", over)
        known: list[tuple[int, str, int]] | None = self._memory.get(key)
        if known is None:
            known = self._refused(of, of.first_day, over)
            self._memory.put(key, known)
        return known + self._refused(of, max(of.first_day, over + 1), of.last_day)

    def _refused(self, of: Of, first: int, last: int) -> list[tuple[int, str, int]]:
        if first > last:
            return []
        everybody = refused.c.account_id.in_(select(accounts.c.id))  # by the primary key, too
        asked = (
            select(refused.c.day, refused.c.reason, func.sum(refused.c.calls))
            .where(
                everybody if of.account_id is None else refused.c.account_id == of.account_id,
                refused.c.day.between(first, last),
                *([] if of.key_id is None else [refused.c.key_id == of.key_id]),
            )
            .group_by(refused.c.day, refused.c.reason)
            .order_by(refused.c.day, refused.c.reason)
        )
        with self._connected() as connection:
            return [(row[0], row[1], int(row[2])) for row in connection.execute(asked)]

    def last_refused(self, account_id: str, key_id: str, today: int) -> str | None:
        """Why a key's call was last refused, today or yesterday; None if none was."""
        asked = (
            select(refused.c.reason)
            .where(
                refused.c.account_id == account_id,
                refused.c.day.between(today - 1, today),
                refused.c.key_id == key_id,
            )
            .order_by(refused.c.last_us.desc())
            .limit(1)
        )
        with self._connected() as connection:
            found = connection.execute(asked).scalar()
        return None if found is None else str(found)

    def window(self, account_id: str, scope: str, created_us: int, now_us: int) -> Window:
        """The present window of a key, or of the account itself, whose id is `scope`.

        What was spent on the window's first day may have a part of the window before in it.
        """
        number = window_at(created_us, now_us)
        ends_us = window_ends_us(created_us, number)
        starts_us = window_ends_us(created_us, number - 1)
        asked = (
            select(daily.c.day, *amount(daily.c.charge_nanousd, "charge"))
            .where(
                daily.c.account_id == account_id,
                daily.c.day.between(starts_us // DAY_US, now_us // DAY_US),
                *([] if scope == account_id else [daily.c.key_id == scope]),
            )
            .group_by(daily.c.day)
        )
        in_all = select(spent.c.nanousd).where(spent.c.scope == scope, spent.c.number == number)
        with self._connected() as connection:
            by_day = {
                int(row["day"]): whole(row, "charge")
                for row in connection.execute(asked).mappings()
            }
            nanousd = int(connection.execute(in_all).scalar() or 0)
        return Window(starts_us, ends_us, nanousd, by_day)

    def took(self, of: Of, today: int) -> list[Took]:
        """How long calls took, by day, or where there are more than MAX_SPANS, by week.

        Calls without an end that was seen (swept, or given back) say nothing of it.
        """
        length = 1 if len(of.days) <= MAX_SPANS else 7
        spans = of.days[::length]
        limit = min(SAMPLE_OF_DAY, SAMPLE // len(spans))
        moment = _ordered_by(of.account_id)
        asked = (
            select(ledger.c.seen, ledger.c.basis, ledger.c.account_id)
            .where(
                *_found_by(of.account_id, of.key_id),
                moment >= bindparam("from_us"),
                moment < bindparam("until_us"),
            )
            .order_by(moment.desc())
            .limit(limit)
        )
        found = []
        with self._connected() as connection:
            for day in spans:
                until = min(day + length, of.last_day + 1)
                key = (of.account_id, of.key_id, "took", day, until, limit)
                took = self._memory.get(key)
                if took is None:
                    bounds = {"from_us": day * DAY_US, "until_us": until * DAY_US}
                    rows = connection.execute(asked, bounds).all()
                    mine = [row[:2] for row in rows if of.account_id in (None, row[2])]
                    took = _took(day, mine)
                    if until <= today - CHANGING_DAYS:
                        self._memory.put(key, took)
                found.append(took)
        return found

    def calls(
        self,
        account_id: str | None,
        *,
        key_id: str | None = None,
        request_id: str | None = None,
        behind: Place | None = None,
        limit: int = 50,
    ) -> list[Call]:
        """The account's calls that are over, those that began last first.

        Everybody's, where there is no account: those that ended last first.
        """
        # One condition finds the rows, by its index, and what is another's is left out here: a
        # planner that may choose looks through all of an account's rows for one request.
        if request_id is not None:
            wanted: list[ColumnElement[bool]] = [ledger.c.request_id == request_id]
        else:
            wanted = _found_by(account_id, key_id)
        moment = _ordered_by(account_id)
        if behind is not None:
            same = and_(moment == behind.at_us, ledger.c.seq < behind.seq)
            wanted += [moment <= behind.at_us, or_(moment < behind.at_us, same)]
        asked = select(ledger).where(*wanted)
        if request_id is None:
            asked = asked.order_by(moment.desc(), ledger.c.seq.desc())
        with self._connected() as connection:
            found = [
                Call(row["seq"], read_row(row), _seen(row["seen"]))
                for row in connection.execute(asked.limit(limit)).mappings()
                if account_id in (None, row["account_id"]) and key_id in (None, row["key_id"])
            ]
        places = [(place_of(call, account_id), call) for call in found]
        places.sort(key=lambda each: (-each[0].at_us, -each[0].seq))
        return [call for _, call in places]

    def every_call(self, of: Of) -> Iterator[Call]:
        """The calls that began in the range, the last first, in batches: for an export.

        Everybody's: those that ended in it.
        """
        behind = Place((of.last_day + 1) * DAY_US, 0)
        while True:
            batch = self.calls(of.account_id, key_id=of.key_id, behind=behind, limit=CSV_BATCH)
            for call in batch:
                if place_of(call, of.account_id).at_us < of.first_day * DAY_US:
                    return
                yield call
            if len(batch) < CSV_BATCH:
                return
            behind = place_of(batch[-1], of.account_id)

    def lines(self, of: Of) -> Iterator[tuple[Any, ...]]:
        """Day, key's id, alias, team, model and the numbers of Sums, by day: for an export.

        A week at a time, so that neither memory nor a transaction grows with the range. Everybody's
        have the user behind the day, and are read a day at a time.
        """
        c = daily.c
        whose = [c.user] if of.account_id is None else []
        names = (c.day, *whose, c.key_id, c.alias, c.team, c.model)
        asked = (
            select(*names, *added_calls(daily), *_amounts())
            .where(c.day.in_(bindparam("some", expanding=True)))
            .group_by(*names)
            .order_by(*names)
        )
        if of.account_id is not None:
            asked = asked.where(c.account_id == of.account_id)
        if of.key_id is not None:
            asked = asked.where(c.key_id == of.key_id)
        length = 1 if of.account_id is None else 7
        for first in of.days[::length]:
            some = range(first, min(first + length, of.last_day + 1))
            with self._connected() as connection:
                rows = connection.execute(asked, {"some": list(some)}).mappings().all()
            for row in rows:
                yield (*(row[column.name] for column in names), _sums(row))


def place_of(call: Call, account_id: str | None) -> Place:
    """Where calls of the account, or everybody's, go on behind this one."""
    row = call.row
    return Place(row.settled_us if account_id is None else row.admitted_us, call.seq)


def _ordered_by(account_id: str | None) -> ColumnElement[int]:
    return ledger.c.settled_us if account_id is None else ledger.c.admitted_us


def _found_by(account_id: str | None, key_id: str | None) -> list[ColumnElement[bool]]:
    """The one condition that finds rows by an index which has them in order."""
    if key_id is not None:
        return [ledger.c.key_id == key_id]
    if account_id is not None:
        return [ledger.c.account_id == account_id]
    return [ledger.c.settled_us >= 0]  # all: so said, planners take the index


def _parts(connection: Connection, of: Of, by: By, days: Sequence[int]) -> Subquery:
    """Rows of day, name, calls and AMOUNTS, to be added up; all of an account's from totals."""
    if of.account_id is None and by is By.USER:
        each = daytotals.lines(connection, daytotals.TEAM, days).c
        amounts = (each[name] for name in AMOUNTS)
        named = select(each.day, each.account_id.label("name"), each.calls, *amounts)
        return named.subquery("parts")
    if of.account_id is None and by in KINDS:
        return daytotals.lines_of_all(connection, by.value, days)
    if of.account_id is not None and by in KINDS and of.key_id is None:
        return daytotals.lines(connection, by.value, days, [of.account_id])
    number: ColumnElement[int] = sum((daily.c[name] for name in CALLS), start=literal(0))
    wanted: list[ColumnElement[bool]] = [daily.c.day.in_(days)]
    if of.account_id is not None:
        wanted.append(daily.c.account_id == of.account_id)
    if of.key_id is not None:
        wanted.append(daily.c.key_id == of.key_id)
    return (
        select(
            daily.c.day,
            _COLUMNS[by].label("name"),
            number.label("calls"),
            *(daily.c[name] for name in AMOUNTS),
        )
        .where(*wanted)
        .subquery("parts")
    )


def _added_up(row: Any) -> Sums:
    return Sums(int(row["calls"]), *(whole(row, name) for name in AMOUNTS))


def _amounts() -> list[ColumnElement[int]]:
    return [column for name in AMOUNTS for column in amount(daily.c[name], name)]


def _sums(row: Any) -> Sums:
    return Sums(calls(row), *(whole(row, name) for name in AMOUNTS))


def _all_of(sums: Iterable[Sums]) -> Sums:
    total = Sums()
    for each in sums:
        total = total.plus(each)
    return total


def _seen(text: str | None) -> Seen | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=Seen)
    except msgspec.MsgspecError:
        return None  # `ledger verify` names such a row


def _took(day: int, rows: Any) -> Took:
    ends = [_seen(text) for text, basis in rows if basis != Basis.RELEASED]
    seen = [each for each in ends if each is not None and each.reached]
    durations = sorted(each.duration_us for each in seen)
    firsts = sorted(each.first_us for each in seen if each.first_us)
    return Took(
        day,
        len(seen),
        _percentile(durations, 50),
        _percentile(durations, 95),
        _percentile(firsts, 50),
        _percentile(firsts, 95),
    )


def _percentile(ascending: list[int], percent: int) -> int | None:
    """The smallest that at least so many percent of them do not exceed."""
    if not ascending:
        return None
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)]
