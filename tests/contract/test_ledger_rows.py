"""What the ledger must do, the same for every database, and what seeding makes of it.

The databases are those of conftest.py.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from moneyhelp import (
    ACCOUNT,
    KEY,
    OTHER_KEY,
    account_money,
    charge,
    draft,
    hold,
    limits,
    mint,
    money,
    seeded,
)
from moneysupport import row_of
from sqlalchemy import Engine, delete, event, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from statehelp import NOW_US, FakeClock

from store.counters.memory import REMEMBERED_US, MemoryCounters
from store.counters.model import Ended, MoneyStanding, NotSeeded, Refused, Seed, Taken
from store.engines import open_engine, write_options
from store.errors import StoreUnavailableError
from store.journal import Journal
from store.keys import KeyRepository
from store.ledger import REVOKED_US, Ledger
from store.ledgerreader import BATCH, EXPORTED, LedgerReader, Wanted, exported
from store.records import (
    INT64_MAX,
    MINUTE_US,
    SECOND_US,
    WINDOW_US,
    Basis,
    Charge,
    Hold,
    LedgerRow,
    Window,
)
from store.schema import holds, ledger, spent
from store.seeding import SeededCounters, drift, recover

OpenEngine = Callable[[], Engine]


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    engine = another_engine()
    mint(engine, KEY, OTHER_KEY)
    return engine


@pytest.fixture
def books(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def reader(engine: Engine) -> LedgerReader:
    return LedgerReader(engine)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def booked(books: Ledger, nanousd: int = 40, **given: object) -> Hold:
    opened = hold(**given)  # type: ignore[arg-type]
    books.book([(opened, charge(opened, nanousd))])
    return opened


# --- booking


def test_a_row_says_all_of_hold_and_charge(books: Ledger, reader: LedgerReader) -> None:
    opened = hold(100, team=None, model='m:"é😀"')
    end = Charge(opened.id, Basis.ESTIMATED, 499, 1, 2, 3, 4, 5, NOW_US + 6)
    assert books.book([(opened, end)]) == {}
    row = books.rows([opened.id])[opened.id]
    assert row == LedgerRow(
        hold_id=opened.id,
        request_id=opened.request_id,
        account_id=ACCOUNT.id,
        key_id=KEY.id,
        user="anna@example.org",
        team=None,
        alias="laptop",
        model='m:"é😀"',
        endpoint="chat/completions",
        status=499,
        basis=Basis.ESTIMATED,
        input_tokens=1,
        cached_input_tokens=2,
        cache_write_tokens=3,
        output_tokens=4,
        charge_nanousd=5,
        hold_nanousd=100,
        key_window=0,
        account_window=1,
        admitted_us=NOW_US,
        settled_us=NOW_US + 6,
    )
    assert books.rows([opened.id, "nobody's"]) == {opened.id: row}
    assert list(reader.rows()) == [row]
    without = booked(books, 1, account=False)
    assert books.rows([without.id])[without.id].account_window is None


def test_a_row_is_final_and_is_what_later_ends_are_given(
    books: Ledger, reader: LedgerReader
) -> None:
    first, second = hold(100), hold(100)
    assert books.book([(first, charge(first, 40))]) == {}
    (row,) = reader.rows()
    rows = books.book(
        [
            (second, charge(second, 1)),
            (first, charge(first, 100, basis=Basis.HELD)),
            (second, charge(second, 2)),
        ]
    )
    assert {hold_id: r.charge_nanousd for hold_id, r in rows.items()} == {
        first.id: 40,
        second.id: 1,
    }
    assert rows[first.id] == row
    assert [r.hold_id for r in reader.rows()] == [first.id, second.id]
    assert books.book([]) == {}


def test_many_who_end_the_same_holds_at_once_make_one_row_of_each(
    another_engine: OpenEngine, engine: Engine, reader: LedgerReader
) -> None:
    opened = [hold() for _ in range(40)]
    barrier = threading.Barrier(4)

    def end_all(nanousd: int) -> list[LedgerRow]:
        mine = Ledger(another_engine())
        barrier.wait()
        order = opened if nanousd % 2 else opened[::-1]
        told = []
        for at in range(0, len(order), 8):
            ends = [(h, charge(h, nanousd)) for h in order[at : at + 8]]
            rows = mine.book(ends)
            assert not rows or rows.keys() == {h.id for h, _ in ends}
            told += [rows[h.id] if rows else row_of(h, end) for h, end in ends]
        return sorted(told, key=lambda row: row.hold_id)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(end_all, range(1, 5)))
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert sorted(reader.rows(), key=lambda row: row.hold_id) == answers[0]


def test_a_group_is_booked_as_a_whole_or_not_at_all(books: Ledger, reader: LedgerReader) -> None:
    good, bad = hold(), hold(account=False, key=replace(KEY, id="key_x"))
    bad = msgspec.structs.replace(bad, windows=())
    with pytest.raises(ValueError, match="window"):
        books.book([(good, charge(good)), (bad, charge(bad))])
    with pytest.raises(ValueError, match="another hold"):
        books.book([(good, charge(good)), (hold(), charge(good))])
    assert list(reader.rows()) == []


def test_more_holds_than_one_statement_can_name(books: Ledger) -> None:
    opened = [hold() for _ in range(1203)]
    books.copy_holds(opened)
    assert len(books.open_holds()) == 1203
    assert books.book([(h, charge(h, n)) for n, h in enumerate(opened)]) == {}
    rows = books.rows([h.id for h in opened])
    assert [rows[h.id].charge_nanousd for h in opened] == list(range(1203))
    assert books.open_holds() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"nanousd": -1},
        {"nanousd": INT64_MAX + 1},
        {"output_tokens": 10**30},
        {"input_tokens": -1},
        {"status": 1000},
        {"basis": Basis.RELEASED, "nanousd": 1},
    ],
)
def test_a_charge_that_no_row_can_hold_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"charge|costs"):
        msgspec.structs.replace(charge(hold(), 0), **wrong)


def test_the_largest_numbers_are_kept(books: Ledger) -> None:
    opened = hold(INT64_MAX)
    end = Charge(opened.id, Basis.METERED, 999, *([INT64_MAX] * 6))
    books.book([(opened, end)])
    row = books.rows([opened.id])[opened.id]
    assert row.charge_nanousd == row.output_tokens == row.hold_nanousd == INT64_MAX


@pytest.mark.parametrize(
    "change",
    [
        update(ledger).values(charge_nanousd=0),
        delete(ledger),
        text("DELETE FROM ledger WHERE seq = 1"),
        text("UPDATE ledger SET \"user\" = 'x' WHERE 1 = 1"),
        text("DELETE FROM ledger WHERE hold_id IN (SELECT hold_id FROM ledger)"),
    ],
)
def test_rows_cannot_be_changed_or_taken_away(
    change: object, engine: Engine, books: Ledger, reader: LedgerReader
) -> None:
    booked(books)
    before = list(reader.rows())
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(change)  # type: ignore[call-overload]
    assert list(reader.rows()) == before


@pytest.mark.parametrize("column", ["hold_id", "seq"])
def test_rows_cannot_be_replaced(
    column: str, engine: Engine, books: Ledger, reader: LedgerReader
) -> None:
    booked(books)
    with engine.connect() as connection:
        before = connection.execute(select(ledger)).mappings().one()
    other = {**before, "charge_nanousd": 0, "hold_id": "another", "seq": 77}
    other[column] = before[column]
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            connection.execute(insert(ledger).prefix_with("OR REPLACE"), other)
    else:
        replacing = postgresql.insert(ledger).on_conflict_do_update(
            index_elements=[column], set_={"charge_nanousd": 0}
        )
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(replacing, other)
    assert [row.charge_nanousd for row in reader.rows()] == [40]


# --- the copy of open holds


def test_open_holds_are_copied_whole_and_leave_with_their_row(books: Ledger) -> None:
    first, second = hold(1, model='m:"é😀"'), hold(2, at=NOW_US - 1, account=False)
    books.copy_holds([])
    books.copy_holds([first])
    books.copy_holds([first, second])
    assert books.open_holds() == [second, first]
    books.book([(first, charge(first, 1))])
    assert books.open_holds() == [second]


def test_a_hold_that_was_booked_meanwhile_is_not_copied(books: Ledger, engine: Engine) -> None:
    ended, opened = booked(books), hold()
    books.copy_holds([ended, opened])
    with engine.connect() as connection:
        assert connection.execute(select(holds.c.hold_id)).scalars().all() == [opened.id]


def test_a_copy_that_outlived_its_row_is_not_open(books: Ledger, engine: Engine) -> None:
    """PostgreSQL lets a copy and a booking pass each other; sweeping it then finds the row."""
    opened = hold()
    books.copy_holds([opened])
    with engine.begin() as connection:
        kept = dict(connection.execute(select(holds)).mappings().one())
    books.book([(opened, charge(opened))])
    with engine.begin() as connection:
        connection.execute(insert(holds), kept)
    assert books.open_holds() == []
    books.book([(opened, charge(opened, 9))])
    with engine.connect() as connection:
        assert connection.execute(select(holds)).all() == []


def test_others_can_read_what_is_held(books: Ledger, engine: Engine) -> None:
    opened = hold(77)
    books.copy_holds([opened])
    with engine.connect() as connection:
        row = connection.execute(select(holds)).mappings().one()
    assert {k: v for k, v in row.items() if k != "record"} == {
        "hold_id": opened.id,
        "request_id": opened.request_id,
        "account_id": ACCOUNT.id,
        "key_id": KEY.id,
        "key_window": 0,
        "account_window": 1,
        "nanousd": 77,
        "admitted_us": NOW_US,
    }
    assert json.loads(row["record"])[0] == opened.id


def test_a_copied_hold_of_a_later_form_is_told(books: Ledger, engine: Engine) -> None:
    books.copy_holds([hold()])
    with engine.begin() as connection:
        connection.execute(update(holds).values(record='{"version": 9}'))
    with pytest.raises(StoreUnavailableError, match="newest version"):
        books.open_holds()


# --- what an account has spent


def test_sums_are_of_the_present_windows_only(books: Ledger) -> None:
    last = {"at": KEY.created_us + WINDOW_US - 1}
    booked(books, 1, **last)
    booked(books, 2, **last)
    booked(books, 4, at=last["at"] + 1)
    booked(books, 8, at=last["at"] + 1, key=OTHER_KEY)
    booked(books, 16, at=last["at"] + 1, account=False)
    old, new = Window(KEY.id, 0), Window(KEY.id, 1)
    # the account's second window ends within the key's first, the other key's much later
    mine = {Window(ACCOUNT.id, 2): 15, Window(OTHER_KEY.id, 0): 8}
    assert books.seed(ACCOUNT.id, last["at"]).spent == mine | {old: 3, new: 20}
    assert books.seed(ACCOUNT.id, last["at"] + 1).spent == mine | {new: 20}
    empty = {Window(s, n): 0 for s, n in ((KEY.id, 2), (OTHER_KEY.id, 2), (ACCOUNT.id, 3))}
    assert (
        books.seed(ACCOUNT.id, KEY.created_us + 2 * WINDOW_US + 15 * 86_400 * SECOND_US).spent
        == empty
    )
    assert books.seed("acc_nobody", NOW_US) == Seed({}, {})


def test_sums_are_of_the_account_only_and_of_revoked_keys_what_may_still_be_counted(
    books: Ledger, engine: Engine
) -> None:
    other = replace(ACCOUNT, id="acc_ben", email="ben@example.org")
    key = replace(KEY, id="key_ben", account_id=other.id)
    mint(engine, key, account=other)
    booked(books, 3)
    booked(books, 5, key=key)
    booked(books, 7, key=OTHER_KEY)
    with KeyRepository(engine) as keys, keys.changing("cli:tester", NOW_US) as writer:
        writer.change_key(OTHER_KEY, replace(OTHER_KEY, revoked_us=NOW_US), action="key.revoke")
    late = NOW_US + REVOKED_US
    known = {Window(KEY.id, 0): 3, Window(ACCOUNT.id, 1): 10}
    revoked = {Window(OTHER_KEY.id, 0): 7}
    assert books.seed(ACCOUNT.id, late - 1).spent == known | revoked, "a cache may still know it"
    assert books.seed(ACCOUNT.id, late).spent == known
    counted = [Window(OTHER_KEY.id, 0), Window(OTHER_KEY.id, 1)]
    assert books.seed(ACCOUNT.id, late, (), counted).spent == (
        known | revoked | {Window(OTHER_KEY.id, 1): 0}
    )


def test_drift_of_a_revoked_key_is_seen(books: Ledger, engine: Engine, clock: FakeClock) -> None:
    """Its window is known from before, and the counters go on with it."""
    counters = MemoryCounters(clock, lambda _: None)
    asked = draft(300)
    taken = SeededCounters(counters, books).take(asked.request_id, asked, limits())
    assert isinstance(taken, Taken)
    assert taken.hold is not None
    books.book([(taken.hold, charge(taken.hold, 40))])
    assert counters.settle(taken.hold, 40)
    with KeyRepository(engine) as keys, keys.changing("cli:tester", NOW_US) as writer:
        writer.change_key(KEY, replace(KEY, revoked_us=NOW_US), action="key.revoke")
    clock.now_us += REVOKED_US + 1
    assert drift(counters, books, ACCOUNT.id) == 0
    with engine.begin() as connection:
        connection.execute(update(spent).where(spent.c.scope == KEY.id).values(nanousd=39))
    assert drift(counters, books, ACCOUNT.id) == 1


def test_a_key_made_in_the_future_is_in_its_first_window(books: Ledger, engine: Engine) -> None:
    key = replace(KEY, id="key_soon", alias="soon", created_us=NOW_US + 5 * SECOND_US)
    mint(engine, key, add_account=False)
    booked(books, 3, key=key)
    assert books.seed(ACCOUNT.id, NOW_US).spent[Window(key.id, 0)] == 3


def test_rows_of_holds_that_are_open_in_the_counters_are_left_out(books: Ledger) -> None:
    left_out = booked(books, 3)
    booked(books, 5)
    found = books.seed(ACCOUNT.id, NOW_US, [left_out.id, "without a row"])
    assert found.spent[Window(KEY.id, 0)] == found.spent[Window(ACCOUNT.id, 1)] == 5
    assert found.minutes == {KEY.id: [NOW_US]}


def test_the_minute_is_what_was_admitted_in_it_whatever_became_of_it(books: Ledger) -> None:
    for ago in (0, 59, 60, 61):
        booked(books, 0, at=NOW_US - ago * SECOND_US)
    released = hold(5, key=OTHER_KEY)
    books.book([(released, charge(released, 0, basis=Basis.RELEASED))])
    minutes = books.seed(ACCOUNT.id, NOW_US).minutes
    assert {key: sorted(times) for key, times in minutes.items()} == {
        KEY.id: [NOW_US - 59 * SECOND_US, NOW_US],
        OTHER_KEY.id: [NOW_US],
    }


def test_a_seed_is_one_moment_though_rows_come_in_between(
    books: Ledger, another_engine: OpenEngine, engine: Engine
) -> None:
    """Sums and what they leave out are read by several statements: all must see the same rows."""
    opened = hold(50)
    others = Ledger(another_engine())
    statements = 0

    @event.listens_for(engine, "after_cursor_execute")
    def _book_in_between(*_: object) -> None:
        nonlocal statements
        statements += 1
        if statements == interrupted:
            others.book([(opened, charge(opened, 40))])

    interrupted = 3
    found = books.seed(ACCOUNT.id, NOW_US, [opened.id])
    assert statements > interrupted
    assert books.rows([opened.id])
    assert found.spent[Window(KEY.id, 0)] == 0


def test_a_seed_searches_and_never_scans(books: Ledger, engine: Engine) -> None:
    asked: list[tuple[str, object]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _remember(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        asked.append((statement, parameters))

    books.seed(ACCOUNT.id, NOW_US, ["some"])
    books.ended_since(NOW_US)
    reads = [(sql, parameters) for sql, parameters in asked if sql.startswith("SELECT")]
    plans = plans_of(engine, reads)
    if engine.dialect.name == "postgresql":
        assert not any("Seq Scan" in plan for plan in plans)
        assert any("pk_spent" in plan for plan in plans)
        return
    of_ledger = [plan for plan in plans if "ledger" in plan]
    assert len(of_ledger) == 3  # rows to leave out, the minute, what ended; none is for a sum
    assert sum("spent USING PRIMARY KEY" in plan for plan in plans) == 2
    assert not any(plan.startswith("SCAN") for plan in plans)


def plans_of(engine: Engine, asked: list[tuple[str, object]]) -> list[str]:
    """The lines of the plans of some statements; PostgreSQL scans only what has no index."""
    with engine.begin() as connection:
        how = "EXPLAIN QUERY PLAN"
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            how = "EXPLAIN"
        return [
            row[-1]
            for statement, parameters in asked
            for row in connection.exec_driver_sql(f"{how} {statement}", parameters)
        ]


@pytest.mark.soak
def test_seeding_an_account_with_a_million_rows_takes_milliseconds(
    books: Ledger, engine: Engine
) -> None:
    first = booked(books, 1)
    with engine.connect() as held:
        connection = held.execution_options(**write_options(engine))
        with connection.begin():
            row = dict(connection.execute(select(ledger)).mappings().one())
            ids = {"seq", "hold_id", "request_id"}
            rest = ", ".join(f'"{name}"' for name in row if name not in ids)
            connection.exec_driver_sql(
                f"INSERT INTO ledger (hold_id, request_id, {rest}) WITH RECURSIVE many(n) AS "
                "(SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 1000000) "
                f"SELECT 'h' || n, 'r' || n, {rest} FROM many, ledger "
                f"WHERE hold_id = '{first.id}'"
            )
    later = NOW_US + 2 * MINUTE_US
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        found = books.seed(ACCOUNT.id, later)
        seconds.append(time.perf_counter() - started)
    sums = {Window(KEY.id, 0): 1_000_001, Window(OTHER_KEY.id, 0): 0}
    assert found == Seed(sums | {Window(ACCOUNT.id, 1): 1_000_001}, {})
    assert min(seconds) < 0.1, seconds
    assert LedgerReader(engine).verify().faults == ()


# --- the sums that the database keeps


def sums_of(engine: Engine) -> dict[Window, int]:
    with engine.connect() as connection:
        return {Window(row[0], row[1]): row[2] for row in connection.execute(select(spent))}


def test_a_row_adds_to_its_windows_once_and_with_its_transaction(
    books: Ledger, engine: Engine
) -> None:
    opened = booked(books, 40)
    booked(books, 2, account=False)
    booked(books, 0)
    mine = {Window(KEY.id, 0): 42, Window(ACCOUNT.id, 1): 40}
    assert sums_of(engine) == mine
    books.book([(opened, charge(opened, 9)), (new := hold(), charge(new, 3))])
    mine = {Window(KEY.id, 0): 45, Window(ACCOUNT.id, 1): 43}
    assert sums_of(engine) == mine
    with engine.connect() as held:
        connection = held.execution_options(**write_options(engine))
        with connection.begin() as transaction:
            row = dict(connection.execute(select(ledger).limit(1)).mappings().one())
            connection.execute(insert(ledger), row | {"seq": 99, "hold_id": "undone"})
            assert connection.execute(select(spent.c.nanousd)).scalars().all() == [83, 85]
            transaction.rollback()
    assert sums_of(engine) == mine


@pytest.mark.parametrize("how", ["OR REPLACE", "OR IGNORE", "OR ABORT"])
def test_whatever_an_insert_does_about_conflicts_its_sums_are_added(
    how: str, books: Ledger, engine: Engine
) -> None:
    """SQLite lets the outer statement's way with conflicts reach into triggers."""
    booked(books, 40)
    with engine.begin() as connection:
        row = dict(connection.execute(select(ledger)).mappings().one())
        adding = insert(ledger).prefix_with(how, dialect="sqlite")
        if engine.dialect.name == "postgresql":
            adding = postgresql.insert(ledger).on_conflict_do_nothing()
        connection.execute(adding, row | {"seq": 2, "hold_id": "another"})
        connection.execute(adding, row | {"seq": 3})  # that hold has a row
    assert sums_of(engine) == {Window(KEY.id, 0): 80, Window(ACCOUNT.id, 1): 80}


def test_a_sum_stops_at_the_largest_number(books: Ledger, engine: Engine) -> None:
    """Two such rows must not undo the group, nor make a sum that is none."""
    for _ in range(3):
        booked(books, INT64_MAX)
    assert set(sums_of(engine).values()) == {INT64_MAX}
    assert set(books.seed(ACCOUNT.id, NOW_US).spent.values()) == {0, INT64_MAX}
    assert LedgerReader(engine).verify().faults == ()


def test_ended_requests_are_known_by_when_they_ended(books: Ledger) -> None:
    opened = hold(at=NOW_US - 300 * SECOND_US)
    books.book([(opened, charge(opened, at=NOW_US))])
    assert books.ended_since(NOW_US - 1) == [(opened.request_id, NOW_US)]
    assert books.ended_since(NOW_US) == []


# --- when the database is out


def test_driver_errors_are_wrapped_once(
    another_engine: OpenEngine, engine: Engine, books: Ledger
) -> None:
    url = engine.url
    hasty = open_engine(url, timeout_seconds=0.05)
    with another_engine().connect() as held:
        blocking = held.execution_options(**write_options(engine))
        with blocking.begin():
            if engine.dialect.name == "postgresql":
                blocking.exec_driver_sql("LOCK TABLE ledger IN EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailableError, match="locked"):
                Ledger(hasty).book([(opened := hold(), charge(opened))])
    hasty.dispose()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger"))
    for ask in (
        lambda: books.rows(["x"]),
        books.open_holds,
        lambda: books.copy_holds([opened]),
        lambda: books.seed(ACCOUNT.id, NOW_US),
        lambda: books.ended_since(0),
        lambda: list(LedgerReader(engine).rows()),
        lambda: LedgerReader(engine).count(),
        lambda: LedgerReader(engine).verify(),
    ):
        with pytest.raises(StoreUnavailableError):
            ask()


# --- export


def test_an_export_has_the_columns_of_the_contract(books: Ledger) -> None:
    opened = hold(100, at=NOW_US)
    row = row_of(opened, charge(opened, 40, at=NOW_US + 1_234_567))
    books.book([(opened, charge(opened, 40, at=NOW_US + 1_234_567))])
    assert list(LedgerReader(books._engine).rows()) == [row]
    said = exported(row)
    assert tuple(said) == EXPORTED
    assert said["admitted_at"] == "2026-11-18T11:06:40.000000Z"
    assert said["settled_at"] == "2026-11-18T11:06:41.234567Z"
    assert said["basis"] == "metered"
    assert json.dumps(said)
    same = {field.name for field in fields(LedgerRow)} & set(EXPORTED)
    assert {name: said[name] for name in same} == {name: getattr(row, name) for name in same}
    assert set(EXPORTED) - same == {"admitted_at", "settled_at"}


def test_rows_are_read_in_batches_in_the_order_of_booking(
    books: Ledger, reader: LedgerReader
) -> None:
    opened = [hold() for _ in range(2 * BATCH + 7)]
    books.book([(h, charge(h, 1)) for h in opened])
    rows = reader.rows()
    assert next(rows).hold_id == opened[0].id
    late = booked(books)
    assert [row.hold_id for row in rows] == [*(h.id for h in opened[1:]), late.id]
    assert reader.count() == len(opened) + 1


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [0, 1, 2, 3]),
        (Wanted(user="anna@example.org"), [0, 1, 2]),
        (Wanted(team="blue"), [3]),
        (Wanted(key_id=OTHER_KEY.id), [2]),
        (Wanted(from_us=NOW_US + 1), [1, 2, 3]),
        (Wanted(until_us=NOW_US + 1), [0]),
        (Wanted(user="anna@example.org", from_us=NOW_US + 1, until_us=NOW_US + 2), [1]),
        (Wanted(user="' OR 1=1 --"), []),
    ],
)
def test_rows_can_be_chosen(
    wanted: Wanted, found: list[int], books: Ledger, reader: LedgerReader
) -> None:
    given = [
        hold(),
        hold(),
        hold(key=OTHER_KEY),
        hold(key=replace(KEY, user="ben@example.org", team="blue")),
    ]
    books.book([(h, charge(h, at=NOW_US + n)) for n, h in enumerate(given)])
    assert [row.hold_id for row in reader.rows(wanted)] == [given[n].id for n in found]
    assert reader.count(wanted) == len(found)


# --- verify


def test_a_ledger_in_order_has_no_faults(books: Ledger, reader: LedgerReader) -> None:
    for n in range(BATCH + 1):
        booked(books, n % 3)
    books.copy_holds([hold(30), hold(12)])
    told: list[int] = []
    found = reader.verify(told.append)
    assert (found.rows, found.open_holds, found.held_nanousd) == (BATCH + 1, 2, 42)
    assert found.charged_nanousd == sum(n % 3 for n in range(BATCH + 1))
    assert found.faults == ()
    assert told == [BATCH, BATCH + 1]


def test_what_is_out_of_order_is_named(books: Ledger, reader: LedgerReader, engine: Engine) -> None:
    twice, both, elsewhere, stranger, part, above = (
        hold(),
        hold(),
        hold(at=KEY.created_us + WINDOW_US),
        hold(key=replace(KEY, id="key_gone")),
        hold(100),
        hold(100),
    )
    elsewhere = msgspec.structs.replace(elsewhere, admitted_us=NOW_US)
    books.copy_holds([both])
    with engine.connect() as connection:
        copied = dict(connection.execute(select(holds)).mappings().one())
    again = hold(request_id=twice.request_id)
    books.book([(h, charge(h)) for h in (twice, again, both, elsewhere, stranger)])
    books.book([(part, charge(part, 99, basis=Basis.HELD))])
    books.book([(above, charge(above, 101, basis=Basis.ESTIMATED))])
    with engine.begin() as connection:
        connection.execute(insert(holds), copied)
    faults = reader.verify().faults
    for said, of in (
        ("has 2 rows", twice.request_id),
        ("both open and booked", both.id),
        ("window 1 of key_laptop", elsewhere.id),
        ("no key_gone", stranger.id),
        ("not charged the whole hold", part.id),
        ("above the hold", above.id),
    ):
        assert sum(said in fault and of in fault for fault in faults) == 1, said
    assert len(faults) == 7, "the second row of the account's window too"


# --- seeding, and a start


def counted(
    folder: Path, books: Ledger, clock: FakeClock
) -> tuple[Journal, MemoryCounters, SeededCounters]:
    journal = Journal(folder / "journal")
    counters = MemoryCounters(clock, journal.take)
    return journal, counters, SeededCounters(counters, books)


def test_the_first_take_of_an_account_reads_what_it_has_spent(
    books: Ledger, clock: FakeClock
) -> None:
    booked(books, 950)
    counters = SeededCounters(MemoryCounters(clock), books)
    asked = draft(51)
    refused = counters.take(asked.request_id, asked, limits())
    assert isinstance(refused, Refused)
    assert not refused.held
    now, standings = SeededCounters(MemoryCounters(clock), books).peek(limits(), ACCOUNT.id)
    assert now == NOW_US
    assert isinstance(standings[0], MoneyStanding)
    assert standings[0].spent_nanousd == 950


def test_an_account_is_read_once_for_all_who_wait(
    books: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    seed = books.seed

    def slowly(account_id: str, *given: object) -> Seed:
        reads.append(account_id)
        time.sleep(0.1)
        return seed(account_id, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(books, "seed", slowly)
    counters = SeededCounters(MemoryCounters(clock), books)
    drafts = [draft(100) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda d: counters.take(d.request_id, d, limits()), drafts))
    assert sum(isinstance(answer, Taken) for answer in answers) == 10
    assert reads == [ACCOUNT.id]


def test_seeding_does_not_wait_for_ever(
    books: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.seeding.WAIT_SECONDS", 0.05)
    entered, leave = threading.Event(), threading.Event()
    seed = books.seed

    def stuck(account_id: str, *given: object) -> Seed:
        entered.set()
        leave.wait(10)
        return seed(account_id, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(books, "seed", stuck)
    counters = SeededCounters(MemoryCounters(clock), books)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(counters.peek, limits(), ACCOUNT.id)
        entered.wait()
        with pytest.raises(StoreUnavailableError, match="in time"):
            counters.peek(limits(), ACCOUNT.id)
        leave.set()
        first.result()


def test_an_account_whose_holds_keep_ending_is_read_again(
    books: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [hold(100, at=NOW_US) for _ in range(9)]
    counters = MemoryCounters(clock)
    counters.restore(opened)
    gate = SeededCounters(counters, books)
    seed, ends = books.seed, iter(opened)

    def outrun(account_id: str, *given: object) -> Seed:
        found = seed(account_id, *given)  # type: ignore[arg-type]
        for ended in [next(ends)] if moving else []:
            books.book([(ended, charge(ended, 10))])
            counters.settle(ended, 10)
        return found

    monkeypatch.setattr(books, "seed", outrun)
    moving = True
    with pytest.raises(StoreUnavailableError, match="in time"):
        gate.peek(limits(), ACCOUNT.id)
    moving = False
    _, (stands,) = gate.peek(limits(), ACCOUNT.id)
    assert isinstance(stands, MoneyStanding)
    assert (stands.spent_nanousd, stands.held_nanousd) == (50, 400)
    assert drift(counters, books, ACCOUNT.id) == 0


def test_drift_finds_a_row_that_the_counters_do_not_know(books: Ledger, clock: FakeClock) -> None:
    counters = MemoryCounters(clock)
    assert drift(counters, books, ACCOUNT.id) is None, "not seeded"
    gate = SeededCounters(counters, books)
    asked = draft(100)
    taken = gate.take(asked.request_id, asked, (money(), account_money()))
    assert isinstance(taken, Taken)
    assert taken.hold is not None
    assert drift(counters, books, ACCOUNT.id) == 0
    books.book([(taken.hold, charge(taken.hold, 70))])
    assert drift(counters, books, ACCOUNT.id) == 0, "booked, and not settled yet"
    counters.settle(taken.hold, 70)
    assert drift(counters, books, ACCOUNT.id) == 0
    booked(books, 9)
    assert drift(counters, books, ACCOUNT.id) == 18, "in the key's window and the account's"


def test_a_start_brings_back_what_was_open(books: Ledger, clock: FakeClock, tmp_path: Path) -> None:
    journal, counters, gate = counted(tmp_path, books, clock)
    assert recover(counters, journal, books, clock()) == []
    drafts = [draft(100) for _ in range(4)]
    for asked in drafts:
        gate.take(asked.request_id, asked, limits())
    running, ending, done, lost_done = counters.open_holds()
    books.copy_holds([running])
    for ended in (ending, done, lost_done):
        journal.end(charge(ended, 30))
    for ended in (done, lost_done):
        books.book([(ended, charge(ended, 30))])
        counters.settle(ended, 30)
    journal.done(done.id)
    journal.close()

    clock.now_us += REMEMBERED_US - 1
    journal, counters, gate = counted(tmp_path, books, clock)
    assert recover(counters, journal, books, clock()) == [(ending, charge(ending, 30))]
    assert counters.open_holds() == [running, ending]
    for known in (ending, done, lost_done):
        again = draft(1, request_id=known.request_id)
        assert gate.take(known.request_id, again, limits()) == Ended(clock.now_us)
    repeated = gate.take(running.request_id, draft(1, request_id=running.request_id), limits())
    assert isinstance(repeated, Taken)
    assert repeated.hold == running
    assert isinstance(repeated.standings[0], MoneyStanding)
    assert repeated.standings[0].spent_nanousd == 60
    assert repeated.standings[0].held_nanousd == 200
    journal.close()
    with Journal(tmp_path / "journal") as journal:
        assert journal.found.holds == (running, ending)


def test_a_start_without_its_journal_takes_the_copy(
    books: Ledger, clock: FakeClock, tmp_path: Path
) -> None:
    opened, ended = hold(100), hold(50)
    books.copy_holds([opened, ended])
    books.book([(ended, charge(ended, 20))])
    journal, counters, _ = counted(tmp_path, books, clock)
    for _ in range(2):
        counters = MemoryCounters(clock, journal.take)
        assert recover(counters, journal, books, clock()) == []
        assert counters.open_holds() == [opened]
    journal.close()
    with Journal(tmp_path / "journal") as journal:
        assert journal.found.holds == (opened,)


def test_a_start_while_the_database_is_out_can_be_tried_again(
    books: Ledger, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.take(opened := hold())
    journal, counters, _ = counted(tmp_path, books, clock)
    with monkeypatch.context() as out:

        def refuse(*_: object) -> None:
            raise StoreUnavailableError("out")

        out.setattr(books, "open_holds", refuse)
        with pytest.raises(StoreUnavailableError):
            recover(counters, journal, books, clock())
    assert counters.open_holds() == []
    recover(counters, journal, books, clock())
    assert counters.open_holds() == [opened]
    journal.close()


def test_takes_and_settlements_of_many_threads_agree_with_sql(
    books: Ledger, clock: FakeClock, tmp_path: Path
) -> None:
    """Takes, ends in groups and comparisons, all at once, over a start in the middle."""
    journal, counters, gate = counted(tmp_path, books, clock)
    budget = limits(account_budget=100_000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(number: int) -> None:
        for turn in range(12):
            mine = []
            for size in range(5):
                asked = draft(10 + size)
                answer = gate.take(asked.request_id, asked, budget)
                if isinstance(answer, Taken) and answer.hold is not None:
                    mine.append((answer.hold, charge(answer.hold, (number + turn + size) % 9)))
            for _, end in mine:
                journal.end(end)
            assert books.book(mine) == {}
            for ended, end in mine:
                counters.settle(ended, end.nanousd)
                journal.done(ended.id)
            assert drift(counters, books, ACCOUNT.id) in {0, None}

    try:
        for _ in range(2):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))
            assert drift(counters, books, ACCOUNT.id) == 0
            assert counters.outstanding == 0
            journal.close()
            journal, counters, gate = counted(tmp_path, books, clock)
            recover(counters, journal, books, clock())
            assert counters.peek(budget, ACCOUNT.id) == NotSeeded(ACCOUNT.id)
    finally:
        sys.setswitchinterval(interval)
        journal.close()
    assert LedgerReader(books._engine).verify().faults == ()


def test_a_minute_lives_over_a_start(books: Ledger, clock: FakeClock, tmp_path: Path) -> None:
    key = replace(KEY, rpm=3)
    journal, counters, gate = counted(tmp_path, books, clock)
    for step in range(2):
        asked = draft(1, key=key)
        taken = gate.take(asked.request_id, asked, limits(key))
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        if not step:
            books.book([(taken.hold, charge(taken.hold, 0, basis=Basis.RELEASED))])
            counters.settle(taken.hold, 0)
            journal.done(taken.hold.id)
        clock.now_us += 10 * SECOND_US
    journal.close()
    journal, counters, gate = counted(tmp_path, books, clock)
    recover(counters, journal, books, clock())
    answers = []
    for _ in range(2):
        asked = draft(1, key=key)
        answers.append(gate.take(asked.request_id, asked, limits(key)))
    assert isinstance(answers[0], Taken)
    assert isinstance(answers[1], Refused)
    assert answers[1].retry_us == MINUTE_US - 20 * SECOND_US
    journal.close()


def test_a_seed_replaces_what_was_settled_before_it(clock: FakeClock) -> None:
    """Whatever was added up while nothing was known: SQL is the truth."""
    counters = MemoryCounters(clock)
    opened = hold(100)
    counters.restore([opened])
    counters.settle(opened, 70)
    seeded(counters, {Window(KEY.id, 0): 0})
    looked = counters.peek(limits(), ACCOUNT.id)
    assert not isinstance(looked, NotSeeded)
    assert isinstance(looked[1][0], MoneyStanding)
    assert looked[1][0].spent_nanousd == 0
