"""What days that are over add up to by model and by team, of each account and of all, kept ready.

`daily` has a row for each key that was used, and a page that shows months of an account with many
keys, or of everybody, would read them all. The dashboard's process makes totals of each day that
is over, in the background, and pages read them; of a day that has none yet they read `daily`.

A row may still be booked into a day that is over, seconds after midnight or when a database is
back. Such a day is made anew as its number of calls is another: of the last YOUNG_DAYS that is
seen at each round (ROUND_SECONDS), of any other day at the first round of a process and then once
in DAILY_ROUNDS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Subquery,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    union_all,
)

from store.background import Background
from store.clock import Clock, elapsed_seconds
from store.daymemory import CHANGING_DAYS
from store.engines import driver_errors, read_options, writing
from store.errors import StoreError
from store.ledgersums import CALLS, added_calls, amount, calls, whole
from store.records import DAY_US, INT64_MAX
from store.schema import AMOUNTS, daily, day_totals, totalled

MODEL: Final = "model"
TEAM: Final = "team"
KINDS: Final = (MODEL, TEAM)
OF_ALL: Final = {MODEL: "models", TEAM: "teams"}  # of all accounts together, under NOBODY
NOBODY: Final = ""
YOUNG_DAYS: Final = 8
ROUND_SECONDS: Final = 600.0
DAILY_ROUNDS: Final = 144
RESTS: Final = 3  # as many times as long as a day took is rested: pages come first

_NAMES: Final = {MODEL: daily.c.model, TEAM: daily.c.team}

_log = logging.getLogger(__name__)


def ready(connection: Connection, days: Sequence[int]) -> frozenset[int]:
    """Those of the days (a range without gaps) of which there are totals."""
    if not days:
        return frozenset()
    asked = select(totalled.c.day).where(totalled.c.day.between(min(days), max(days)))
    return frozenset(connection.execute(asked).scalars()) & frozenset(days)


def _whole(connection: Connection, first: int, last: int) -> dict[int, int]:
    """Of how many calls there are totals, by day; of those days that have them of all accounts.

    A version that knew no such totals left days without, or beside a day that it made anew.
    """
    together = (
        select(day_totals.c.day, func.sum(day_totals.c.calls).label("calls"))
        .where(day_totals.c.kind == OF_ALL[TEAM], day_totals.c.day.between(first, last))
        .group_by(day_totals.c.day)
        .subquery("together")
    )
    asked = (
        select(totalled.c.day, totalled.c.calls)
        .outerjoin(together, together.c.day == totalled.c.day)
        .where(
            totalled.c.day.between(first, last),
            totalled.c.calls == func.coalesce(together.c.calls, 0),
        )
    )
    return {row[0]: row[1] for row in connection.execute(asked)}


def lines(
    connection: Connection,
    kind: str,
    days: Sequence[int],
    accounts: Collection[str] | None = None,
) -> Subquery:
    """Rows of day, account_id, name, calls and AMOUNTS, to be added up; of all accounts or some.

    From totals where there are some, else from the sums by day.
    """
    kept = ready(connection, days)
    if accounts is None:
        return _lines(kind, kind, days, kept)
    mine = (day_totals.c.account_id.in_(accounts), daily.c.account_id.in_(accounts))
    return _lines(kind, kind, days, kept, mine)


def lines_of_all(connection: Connection, kind: str, days: Sequence[int]) -> Subquery:
    """The same of all accounts together: account_id says nothing."""
    kept = frozenset(_whole(connection, min(days), max(days))) if days else frozenset()
    return _lines(kind, OF_ALL[kind], days, kept & frozenset(days))


def _lines(
    kind: str,
    stored: str,
    days: Sequence[int],
    kept: frozenset[int],
    mine: tuple[ColumnElement[bool], ColumnElement[bool]] = (true(), true()),
) -> Subquery:
    """Totals of the kind `stored` of the days `kept`, sums of the others; each as `mine` says."""
    of_totals = select(
        day_totals.c.day,
        day_totals.c.account_id,
        day_totals.c.name,
        day_totals.c.calls,
        *(day_totals.c[name] for name in AMOUNTS),
    ).where(day_totals.c.kind == stored, day_totals.c.day.in_(sorted(kept)), mine[0])
    number: ColumnElement[int] = sum((daily.c[name] for name in CALLS), start=literal(0))
    of_sums = select(
        daily.c.day,
        daily.c.account_id,
        _NAMES[kind].label("name"),
        number.label("calls"),
        *(daily.c[name] for name in AMOUNTS),
    ).where(daily.c.day.in_([day for day in days if day not in kept]), mine[1])
    return union_all(of_totals, of_sums).subquery("parts")


class DayTotals:
    """Keeps the totals of one database. StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def round(
        self, *, every_day: bool, rest: Callable[[float], bool] = lambda _seconds: False
    ) -> int:
        """Make what is missing or is not as it was; of how many days that was.

        `rest` waits for so many seconds, and says whether to end.
        """
        last = self._clock() // DAY_US - CHANGING_DAYS
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            known = _whole(connection, 0, last)
            first = connection.execute(select(func.min(daily.c.day))).scalar()
        made = 0
        for day in () if first is None else range(last, int(first) - 1, -1):
            if day in known and not every_day and day <= last - YOUNG_DAYS:
                continue
            if self._calls(day) == known.get(day):
                continue
            begun = elapsed_seconds()
            self._make(day)
            made += 1
            if rest(RESTS * (elapsed_seconds() - begun)):
                break
        return made

    def _calls(self, day: int) -> int:
        asked = select(*added_calls(daily)).where(daily.c.day == day)
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return calls(connection.execute(asked).mappings().one())

    def _make(self, day: int) -> None:
        """One day's, in one transaction. Whoever makes the same one beside us makes the same."""
        with writing(self._engine) as connection:
            known = insert(totalled).values(day=day, calls=0)
            connection.execute(delete(totalled).where(totalled.c.day == day))
            connection.execute(known)  # PostgreSQL: a second one waits here, and then fails
            connection.execute(delete(day_totals).where(day_totals.c.day == day, _ANY_KIND))
            number = 0
            for kind, name in _NAMES.items():
                asked = (
                    select(
                        daily.c.account_id,
                        name.label("name"),
                        *added_calls(daily),
                        *(half for each in AMOUNTS for half in amount(daily.c[each], each)),
                    )
                    .where(daily.c.day == day)
                    .group_by(daily.c.account_id, name)
                )
                rows = [_total(kind, day, row) for row in connection.execute(asked).mappings()]
                if rows:
                    connection.execute(insert(day_totals), rows + _together(kind, day, rows))
                number = sum(row["calls"] for row in rows)
            said = totalled.update().where(totalled.c.day == day).values(calls=number)
            connection.execute(said)


_ANY_KIND: Final = day_totals.c.kind.in_([*KINDS, *OF_ALL.values()])  # as the primary key begins


def _total(kind: str, day: int, row: Any) -> dict[str, Any]:
    amounts = {name: min(whole(row, name), INT64_MAX) for name in AMOUNTS}
    names = {"kind": kind, "day": day, "account_id": row["account_id"], "name": row["name"]}
    return {**names, "calls": calls(row), **amounts}


def _together(kind: str, day: int, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What rows of accounts add up to, by name."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        nothing = {"kind": OF_ALL[kind], "day": day, "account_id": NOBODY, "name": row["name"]}
        total = found.setdefault(row["name"], nothing)
        for number in ("calls", *AMOUNTS):
            total[number] = min(total.get(number, 0) + row[number], INT64_MAX)
    return list(found.values())


class Keeper(Background):
    """Keeps totals until it is stopped, and then ends within one day's making.

    A fault is logged; the next round is due.
    """

    def __init__(self, totals: DayTotals, seconds: float = ROUND_SECONDS) -> None:
        super().__init__("day-totals")
        self._totals = totals
        self._seconds = seconds

    def _run(self) -> None:
        rounds = 0
        over = False
        while not over:
            try:
                made = self._totals.round(every_day=rounds % DAILY_ROUNDS == 0, rest=self._rest)
                rounds += 1
                if made:
                    _log.info("made the totals of %d days", made)
            except StoreError as fault:
                _log.warning("totals of days are late: %s", fault)
            over = self._rest(self._seconds)
