"""SQL's open holds, asked about, on every database."""

from __future__ import annotations

import pytest
from conftest import OpenEngine
from moneyhelp import KEY, OTHER_KEY, charge, hold, mint
from sqlalchemy import Engine, func, insert, select, update
from statehelp import NOW_US

from store.errors import StoreUnavailableError
from store.holdformat import pack_hold
from store.ledger import Ledger
from store.openholds import OpenHolds
from store.records import SECOND_US, Hold
from store.schema import holds


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    made = another_engine()
    mint(made, KEY, OTHER_KEY)
    return made


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def opened(engine: Engine) -> OpenHolds:
    return OpenHolds(engine)


def left_behind(engine: Engine, *left: Hold) -> None:
    """Copies that came when their row was there already."""
    with engine.begin() as connection:
        for each in left:
            connection.execute(
                insert(holds).values(
                    hold_id=each.id,
                    request_id=each.request_id,
                    account_id=each.account_id,
                    key_id=each.key_id,
                    key_window=0,
                    account_window=None,
                    nanousd=each.nanousd,
                    admitted_us=each.admitted_us,
                    record=pack_hold(each).decode(),
                )
            )


def copies(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(holds)).scalar_one()


def test_holds_are_found_by_their_id_and_by_their_request(
    ledger: Ledger, opened: OpenHolds
) -> None:
    one, two, booked = hold(), hold(), hold()
    ledger.copy_holds([one, two])
    ledger.book([(booked, charge(booked))])
    found = opened.find([one.id, booked.id, "nobody's"], [two.request_id, booked.request_id, "?"])
    assert sorted(found.opened, key=lambda each: each.id) == [one, two]
    assert found.booked == {booked.id}
    assert opened.find([], []).opened == ()


def test_many_are_found_in_one_question(ledger: Ledger, opened: OpenHolds) -> None:
    many = [hold() for _ in range(1203)]
    ledger.copy_holds(many)
    assert len(opened.find([each.id for each in many], []).opened) == 1203
    assert len(opened.find([], [each.request_id for each in many]).opened) == 1203


def test_a_copy_whose_row_is_there_is_not_open_and_is_tidied_away(
    engine: Engine, ledger: Ledger, opened: OpenHolds
) -> None:
    ended, running = hold(), hold()
    ledger.book([(ended, charge(ended))])
    ledger.copy_holds([running])
    left_behind(engine, ended)
    assert opened.find([ended.id], [ended.request_id]).opened == ()
    assert opened.admitted_before(NOW_US + 1) == [running]
    assert ledger.seed(KEY.account_id, NOW_US, lost=True).holds == (running,)
    assert copies(engine) == 2
    assert opened.count() == 1
    assert copies(engine) == 1
    assert opened.count() == 1


def test_the_old_ones_are_told_the_oldest_first(ledger: Ledger, opened: OpenHolds) -> None:
    by_age = [hold(at=NOW_US - seconds * SECOND_US) for seconds in (90, 60, 30)]
    ledger.copy_holds(by_age[::-1])
    assert opened.admitted_before(NOW_US - 30 * SECOND_US) == by_age[:2]


def test_a_seed_has_the_open_holds_of_its_account_where_it_is_asked_for_them(
    ledger: Ledger,
) -> None:
    ours, theirs = hold(), hold(account_id="acc_other")
    ledger.copy_holds([ours, theirs])
    assert ledger.seed(KEY.account_id, NOW_US, lost=True).holds == (ours,)
    assert ledger.seed(KEY.account_id, NOW_US).holds == ()


def test_one_that_cannot_be_read_is_told_of(
    engine: Engine, ledger: Ledger, opened: OpenHolds
) -> None:
    made = hold()
    ledger.copy_holds([made])
    with engine.begin() as connection:
        connection.execute(update(holds).values(record="[]"))
    with pytest.raises(StoreUnavailableError, match=made.id):
        opened.find([made.id], [])
