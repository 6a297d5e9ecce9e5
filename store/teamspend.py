"""What teams spent in each month, from the totals of days (store/daytotals.py).

A month is one of UTC. What days that are over add up to is remembered (store/daymemory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import Engine, func, select

from store.daymemory import CHANGING_DAYS, DayMemory
from store.daytotals import TEAM, lines_of_all
from store.engines import driver_errors, read_options
from store.ledgersums import amount, whole
from store.records import DAY_US, SECOND_US
from store.schema import daily

MONTHS: Final = 6
MOST_MONTHS: Final = 120
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of UTC; `text` is `2026-11`."""

    year: int
    month: int

    @property
    def text(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @property
    def first_day(self) -> int:
        """In days since 1970."""
        return (date(self.year, self.month, 1) - _EPOCH).days

    def next(self) -> Month:
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    def before(self) -> Month:
        return Month(self.year - (self.month == 1), (self.month - 2) % 12 + 1)


def month_at(now_us: int) -> Month:
    """The month of a moment."""
    moment = datetime.fromtimestamp(now_us // SECOND_US, UTC)
    return Month(moment.year, moment.month)


def last_months(now_us: int, number: int) -> list[Month]:
    """The last so many months, the newest first."""
    found = [month_at(now_us)]
    while len(found) < number:
        found.append(found[-1].before())
    return found


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one team in one month. `team` None: accounts without one."""

    team: str | None
    calls: int
    nanousd: int

    def plus(self, other: Spent) -> Spent:
        return Spent(self.team, self.calls + other.calls, self.nanousd + other.nanousd)


class TeamSpend:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._over = DayMemory()

    def months(self, months: Sequence[Month], now_us: int) -> dict[Month, tuple[Spent, ...]]:
        """What each team spent in each of the months, by name of the team."""
        return {month: self._month(month, now_us) for month in months}

    def first_month(self, now_us: int) -> Month:
        """The month of the oldest sums; this month, if there are none."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            day = connection.execute(select(func.min(daily.c.day))).scalar()
        if day is None:
            return month_at(now_us)
        moment = _EPOCH + timedelta(days=int(day))
        return Month(moment.year, moment.month)

    def _month(self, month: Month, now_us: int) -> tuple[Spent, ...]:
        first, last = month.first_day, month.next().first_day
        over = min(max(now_us // DAY_US + 1 - CHANGING_DAYS, first), last)
        known: tuple[Spent, ...] | None = self._over.get((first, over))
        if known is None:
            known = self._read(first, over)
            self._over.put((first, over), known)
        return _together(known, self._read(over, last))

    def _read(self, first: int, last: int) -> tuple[Spent, ...]:
        """Of the days from `first` to before `last`."""
        if first == last:
            return ()
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            parts = lines_of_all(connection, TEAM, range(first, last)).c
            asked = (
                select(
                    parts.name,
                    func.sum(parts.calls).label("calls"),
                    *amount(parts.charge_nanousd, "charge"),
                )
                .group_by(parts.name)
                .order_by(parts.name)
            )
            rows = connection.execute(asked).mappings().all()
        return tuple(
            Spent(row["name"] or None, int(row["calls"]), whole(row, "charge")) for row in rows
        )


def _together(*parts: tuple[Spent, ...]) -> tuple[Spent, ...]:
    """One for each team, by name."""
    found: dict[str | None, Spent] = {}
    for part in parts:
        for each in part:
            known = found.get(each.team)
            found[each.team] = each if known is None else known.plus(each)
    return tuple(found[team] for team in sorted(found, key=lambda team: team or ""))
