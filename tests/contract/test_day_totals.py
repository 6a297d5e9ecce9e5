"""Totals of days that are over: pages say the same with and without them, on every database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, STRANGERS, charge, hold, with_a_stranger
from sqlalchemy import Engine, delete, func, select, update
from statehelp import NOW_US, FakeClock

from store.accountlist import AccountList
from store.daytotals import YOUNG_DAYS, DayTotals, Keeper
from store.errors import StoreUnavailableError
from store.ledger import Ledger
from store.records import DAY_US, INT64_MAX
from store.schema import daily, day_totals, totalled
from store.teamspend import TeamSpend, last_months
from store.usagereads import By, Of, UsageReader

OpenEngine = Callable[[], Engine]

TODAY = NOW_US // DAY_US
MONTHS = Of(ACCOUNT.id, TODAY - 60, TODAY)
EVERYBODY = replace(MONTHS, account_id=None)


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    made = with_a_stranger(another_engine())
    for age in range(40):
        for key, nanousd in ((KEY, 70), (OTHER_KEY, 5), (STRANGERS, 9)):
            book(made, nanousd + age, age, key=key, model=f"model-{age % 9}")
    return made


def book(engine: Engine, nanousd: int, age: int, **more: Any) -> None:
    """A call that was over so many days ago."""
    at = NOW_US - age * DAY_US
    one = hold(at=at, **more)
    Ledger(engine).book([(one, charge(one, nanousd, at=at))])


def said(engine: Engine) -> list[Any]:
    """All that pages show of sums, read by processes that remember nothing."""
    found: list[Any] = []
    for of in (
        *(MONTHS, replace(MONTHS, key_id=KEY.id), replace(MONTHS, last_day=TODAY - 7)),
        EVERYBODY,
    ):
        found.append(UsageReader(engine).total(of, TODAY))
        found += [UsageReader(engine).series(of, by, TODAY) for by in By]
    found.append(TeamSpend(engine).months(last_months(NOW_US, 3), NOW_US))
    found.append([line.spent_nanousd for line in AccountList(engine).page(NOW_US).lines])
    return found


def totals(engine: Engine, clock: FakeClock | None = None) -> DayTotals:
    return DayTotals(engine, clock or FakeClock())


def emptied(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(delete(day_totals))
        connection.execute(delete(totalled))


def test_pages_say_the_same_with_and_without(engine: Engine) -> None:
    without = said(engine)
    assert totals(engine).round(every_day=True) == 38, "all but today and yesterday"
    assert said(engine) == without
    assert totals(engine).round(every_day=True) == 0
    book(engine, 11, 0)
    book(engine, 12, 1)
    later = said(engine)
    assert later != without
    emptied(engine)
    assert said(engine) == later


def test_pages_read_the_totals(engine: Engine) -> None:
    """And not the sums of those days, which may be many."""
    totals(engine).round(every_day=True)
    with_totals = said(engine)[0]
    with engine.begin() as connection:
        connection.execute(delete(daily).where(daily.c.day < TODAY - 1))
    assert said(engine)[0] == with_totals


def test_everybodys_are_read_whole_and_not_account_by_account(engine: Engine) -> None:
    totals(engine).round(every_day=True)
    before = UsageReader(engine).series(EVERYBODY, By.MODEL, TODAY)
    with engine.begin() as connection:
        connection.execute(delete(day_totals).where(day_totals.c.kind.in_(("model", "team"))))
        connection.execute(delete(daily).where(daily.c.day < TODAY - 1))
    assert UsageReader(engine).series(EVERYBODY, By.MODEL, TODAY) == before


def test_a_day_that_an_older_version_made_is_made_anew(engine: Engine) -> None:
    """That knew no totals of everybody: it made none, or left those of before beside its own."""
    totals(engine).round(every_day=True)
    found = said(engine)
    of_all = day_totals.c.kind.in_(("models", "teams"))
    with engine.begin() as connection:
        connection.execute(delete(day_totals).where(of_all, day_totals.c.day < TODAY - 20))
        stale = update(day_totals).where(of_all, day_totals.c.day == TODAY - 5)
        connection.execute(stale.values(calls=day_totals.c.calls - 1, charge_nanousd=10**9))
    assert said(engine) == found, "such a day is read from the sums by day"
    assert totals(engine).round(every_day=False) == 19 + 1
    assert said(engine) == found


def test_a_call_that_is_booked_late_is_in_them(engine: Engine) -> None:
    totals(engine).round(every_day=True)
    book(engine, 1000, 5)
    assert totals(engine).round(every_day=False) == 1
    book(engine, 1000, 5 + YOUNG_DAYS)
    assert totals(engine).round(every_day=False) == 0, "of older days it is seen once a day"
    assert totals(engine).round(every_day=True) == 1
    found = said(engine)
    emptied(engine)
    assert said(engine) == found


def test_a_day_has_totals_when_it_is_over(engine: Engine) -> None:
    clock = FakeClock()
    totals(engine, clock).round(every_day=True)
    clock.now_us += 2 * DAY_US
    assert totals(engine, clock).round(every_day=False) == 2
    clock.now_us += DAY_US
    assert totals(engine, clock).round(every_day=False) == 1, "a day without a call has them, too"
    assert totals(engine, clock).round(every_day=True) == 0


def test_a_total_too_is_or_more(engine: Engine) -> None:
    """What no column can hold stops at the largest number; with a second key it would be more."""
    for key in (KEY, OTHER_KEY):
        book(engine, INT64_MAX, 20, model="dear", key=key)
    totals(engine).round(every_day=True)
    (dear, *_) = UsageReader(engine).series(MONTHS, By.MODEL, TODAY)
    assert (dear.name, dear.total.nanousd, dear.total.calls) == ("dear", INT64_MAX, 2)


def test_a_thread_keeps_them_and_outlives_a_fault(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = totals(engine)
    made = kept.round

    def failing(**more: Any) -> int:
        monkeypatch.setattr(kept, "round", made)
        raise StoreUnavailableError("It is out. Try again.")

    monkeypatch.setattr(kept, "round", failing)
    keeper = Keeper(kept, seconds=0.01)
    keeper.start()
    deadline = time.monotonic() + 30
    while count(engine) < 38:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    keeper.stop()


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(totalled)).scalar_one())
