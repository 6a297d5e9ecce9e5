"""The ledger's books, on every database: sums by day and by window, pruning, and their proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, charge, fast_engine, hold, mint
from peers.postgres import Postgres
from sqlalchemy import Engine, Table, delete, insert, select, text
from sqlalchemy.exc import DBAPIError
from statehelp import NOW_US

from store.engines import open_engine, write_options
from store.errors import StoreUnavailableError
from store.journal import Journal
from store.ledger import Ledger
from store.ledgerreader import LedgerReader, Wanted
from store.ledgersums import GROUP, SUMS, day_text
from store.pruning import MIN_AGE_US, Pruner, journaled
from store.records import (
    DAY_US,
    INT64_MAX,
    SECOND_US,
    WINDOW_US,
    Basis,
    Charge,
    window_ends_us,
)
from store.rollups import Total, columns, sums
from store.schema import daily, ledger, pruned, pruned_spent, pruning, spent

TODAY = NOW_US // DAY_US
MUCH_LATER = NOW_US + 100 * DAY_US


@pytest.fixture
def engine(another_engine: Callable[[], Engine]) -> Engine:
    made = another_engine()
    mint(made, KEY, OTHER_KEY)
    return made


@pytest.fixture
def of_sqlite(tmp_path: Path) -> Iterator[Engine]:
    made = fast_engine(tmp_path)
    mint(made, KEY, OTHER_KEY)
    yield made
    made.dispose()


@pytest.fixture
def books(engine: Engine) -> Ledger:
    return Ledger(engine)


def kept(engine: Engine, table: Table = daily) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def count(engine: Engine) -> int:
    return LedgerReader(engine).count()


def pruned_all(engine: Engine, before_us: int, now_us: int, keep: tuple[str, ...] = ()) -> int:
    pruner = Pruner(engine, before_us, now_us, keep)
    while pruner.group(2) is not None:
        pass
    return pruner.rows


def faults(engine: Engine) -> tuple[str, ...]:
    return LedgerReader(engine).verify().faults


# -- sums by day


def test_a_row_is_in_its_day_as_it_was_called_then(engine: Engine, books: Ledger) -> None:
    late = (TODAY + 1) * DAY_US - 1
    for each, at in ((hold(), late), (hold(), late), (hold(), late + 1), (hold(team=None), late)):
        books.book([(each, charge(each, at=at))])
    other = hold(alias="renamed", model="m", user="new@example.org")
    books.book([(other, charge(other, 0, basis=Basis.RELEASED, at=late))])
    rows = sorted(kept(engine), key=lambda row: (row["day"], row["team"], row["model"]))
    assert [[row[name] for name in ("day", "user", "team", "alias", "model")] for row in rows] == [
        [TODAY, "anna@example.org", "", "laptop", "llama-3.1-8b"],
        [TODAY, "anna@example.org", "red", "laptop", "llama-3.1-8b"],
        [TODAY, "new@example.org", "red", "renamed", "m"],
        [TODAY + 1, "anna@example.org", "red", "laptop", "llama-3.1-8b"],
    ]
    assert [rows[1][name] for name in SUMS] == [2, 0, 0, 0, 22, 6, 0, 14, 80]
    assert [rows[2][name] for name in SUMS] == [0, 0, 0, 1, 11, 3, 0, 7, 0]
    assert faults(engine) == ()


def test_a_row_that_is_there_already_adds_nothing(engine: Engine, books: Ledger) -> None:
    of = hold()
    for nanousd in (40, 50):
        books.book([(of, charge(of, nanousd))])
    [row] = kept(engine)
    assert (row["calls_metered"], row["charge_nanousd"]) == (1, 40)


def test_sums_by_day_stop_at_the_largest_number(engine: Engine, books: Ledger) -> None:
    for _ in range(2):
        of = hold()
        books.book([(of, Charge(of.id, Basis.METERED, 200, *([INT64_MAX] * 5), NOW_US))])
    [row] = kept(engine)
    assert [row[name] for name in SUMS] == [2, 0, 0, 0, *([INT64_MAX] * 5)]
    assert faults(engine) == ()
    assert pruned_all(engine, MUCH_LATER, MUCH_LATER) == 2
    assert faults(engine) == ()


# -- damage


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE ledger SET output_tokens = 8 WHERE seq = 1", "output_tokens 15 and not 14"),
        ("UPDATE ledger SET cached_input_tokens = 0 WHERE seq = 1", "cached_input_tokens 3 and"),
        ("UPDATE ledger SET model = 'cheap' WHERE seq = 1", "model 'cheap' are not what is kept"),
        ("UPDATE ledger SET \"user\" = 'b@x.org' WHERE seq = 1", "of b@x.org, team red"),
        ("UPDATE ledger SET team = NULL WHERE seq = 1", "of anna@example.org, key laptop"),
        ("UPDATE ledger SET alias = 'x' WHERE seq = 1", "key x (key_laptop)"),
        ("UPDATE ledger SET basis = 'estimated' WHERE seq = 1", "calls_metered 1 and not 2"),
        (
            f"UPDATE ledger SET settled_us = settled_us + {DAY_US} WHERE seq = 1",
            f"The rows of {day_text(TODAY + 1)} of",
        ),
        ("UPDATE daily SET charge_nanousd = 0", "charge_nanousd 80 and not 0"),
        ("UPDATE daily SET calls_held = 7, model = 'odd'", "model 'odd' are not what is"),
        ("DELETE FROM daily", "calls_metered 2 and not 0"),
        ("UPDATE spent SET nanousd = 81 WHERE scope = 'acc_anna'", "window 1 of acc_anna"),
        ("INSERT INTO pruned_spent VALUES ('key_laptop', 0, 1)", "window 0 of key_laptop"),
        ("DELETE FROM ledger WHERE seq = 1", "calls_metered 1 and not 2"),
    ],
)
def test_damage_is_named(engine: Engine, books: Ledger, change: str, says: str) -> None:
    for _ in range(2):
        of = hold()
        books.book([(of, charge(of))])
    assert faults(engine) == ()
    by_hand(engine, change)
    assert says in " ".join(faults(engine))


def by_hand(engine: Engine, *changes: str) -> None:
    """Changes by somebody who takes the guards away, and puts them back."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for change in changes:
                connection.exec_driver_sql(change)
            return
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        triggers = connection.exec_driver_sql(asked).all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for change in changes:
            connection.exec_driver_sql(change)
        for _, statement in triggers:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize("seq", [1, 2])
def test_a_row_that_went_is_named_by_its_number(of_sqlite: Engine, seq: int) -> None:
    for _ in range(2):
        of = hold()
        Ledger(of_sqlite).book([(of, charge(of))])
    by_hand(of_sqlite, f"DELETE FROM ledger WHERE seq = {seq}")
    assert f"Missing are the numbers {seq}." in " ".join(faults(of_sqlite))


def test_a_number_that_is_none_is_found(of_sqlite: Engine) -> None:
    """SQLite keeps any type in any column."""
    of = hold()
    Ledger(of_sqlite).book([(of, charge(of))])
    by_hand(of_sqlite, "UPDATE daily SET calls_held = 'many', model = 'odd'")
    assert "model 'odd' are not what is" in " ".join(faults(of_sqlite))


def test_rows_that_went_with_all_their_sums_are_missed(of_sqlite: Engine) -> None:
    """What a thorough hand does: only SQLite's count of rows still knows."""
    engine = of_sqlite
    for _ in range(9):
        of = hold()
        Ledger(engine).book([(of, charge(of))])
    everything = ("ledger", "daily", "spent")
    by_hand(engine, *(f"DELETE FROM {table}" for table in everything))
    [fault] = faults(engine)
    assert fault == (
        "Rows are missing: 0 rows are there and 0 were pruned, of 9 that were booked. Missing "
        "are the numbers 1 to 9."
    )


def test_a_row_that_was_put_in_by_hand_is_noticed(of_sqlite: Engine) -> None:
    engine, books = of_sqlite, Ledger(of_sqlite)
    of = hold()
    books.book([(of, charge(of))])
    assert pruned_all(engine, MUCH_LATER, MUCH_LATER) == 1
    again = hold()
    books.book([(again, charge(again))])
    by_hand(engine, "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'ledger'")
    assert faults(engine)[0] == (
        "Rows are missing or were put in by hand: 1 rows are there and 1 were pruned, of 1 that "
        "were booked."
    )


@pytest.mark.parametrize(
    "trigger",
    [
        "ledger_refuses_update",
        "ledger_refuses_delete",
        "ledger_ignores_replace",
        "ledger_adds_to_spent",
        "ledger_adds_up_days",
        "ledger_notes_pruned",
        "audit_refuses_update",
    ],
)
def test_a_guard_that_is_gone_or_changed_is_named(of_sqlite: Engine, trigger: str) -> None:
    engine = of_sqlite
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
    assert [fault.split(":")[0] for fault in faults(engine)] == [f"The trigger {trigger} is gone"]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER {trigger} BEFORE UPDATE ON ledger BEGIN SELECT 1; END"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER extra BEFORE UPDATE ON ledger BEGIN SELECT 1; END"
        )
    changed, extra = faults(engine)
    assert changed.startswith(f"The trigger {trigger} is not as it was made: ")
    assert extra == "The trigger extra is none of Tensorgate's."


@pytest.mark.parametrize(
    ("table", "trigger"),
    [
        ("ledger", "ledger_refuses_change"),
        ("ledger", "ledger_adds_to_spent"),
        ("ledger", "ledger_adds_up_days"),
        ("ledger", "ledger_notes_pruned"),
        ("audit", "audit_refuses_change"),
    ],
)
def test_a_guard_of_postgresql_that_is_off_or_gone_is_named(
    postgres: Postgres, table: str, trigger: str
) -> None:
    with postgres.database() as url:
        engine = open_engine(url)
        assert faults(engine) == ()
        for change, what in (
            (f"ALTER TABLE {table} DISABLE TRIGGER {trigger}", "is off"),
            (f"DROP TRIGGER {trigger} ON {table}", "is gone"),
        ):
            with engine.begin() as connection:
                connection.exec_driver_sql(change)
            [fault] = faults(engine)
            assert fault.startswith(f"The trigger {trigger} {what}: ")
        engine.dispose()


def test_a_row_is_noted_as_pruned_only_while_there_is_pruning(postgres: Postgres) -> None:
    """Whoever turns off the guard, and deletes, is stopped by what would account for it."""
    with postgres.database() as url:
        engine = open_engine(url)
        mint(engine, KEY)
        of = hold()
        Ledger(engine).book([(of, charge(of))])
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER TABLE ledger DISABLE TRIGGER ledger_refuses_change")
            with pytest.raises(DBAPIError, match="append-only"):
                connection.exec_driver_sql("DELETE FROM ledger")
            connection.rollback()
        assert count(engine) == 1
        engine.dispose()


# -- pruning


def test_only_pruning_deletes(engine: Engine, books: Ledger) -> None:
    of = hold()
    books.book([(of, charge(of))])
    let_go = insert(pruning).values(id=1, before_us=NOW_US)
    for statements in (
        (delete(ledger),),
        (let_go, delete(ledger)),  # it is not older than that
        (let_go.values(before_us=NOW_US + 1), text("UPDATE ledger SET status = 1")),
    ):
        with engine.connect() as held:
            connection = held.execution_options(**write_options(engine))
            with connection.begin() as transaction:
                for statement in statements[:-1]:
                    connection.execute(statement)
                with pytest.raises(DBAPIError, match="append-only"):
                    connection.execute(statements[-1])
                transaction.rollback()
    assert count(engine) == 1
    assert kept(engine, pruning) == []


def test_what_was_pruned_stays_in_the_sums_and_is_accounted_for(
    engine: Engine, books: Ledger
) -> None:
    made = [hold() for _ in range(5)]
    for number, of in enumerate(made):
        books.book([(of, charge(of, at=NOW_US + number * DAY_US))])
    before, windows = kept(engine), kept(engine, spent)
    assert Pruner(engine, NOW_US + 3 * DAY_US, MUCH_LATER, ()).count() == (3, 120)
    assert pruned_all(engine, NOW_US + 3 * DAY_US, MUCH_LATER) == 3
    assert pruned_all(engine, NOW_US + 3 * DAY_US, MUCH_LATER) == 0
    assert [row.hold_id for row in LedgerReader(engine).rows()] == [of.id for of in made[3:]]
    assert (kept(engine), kept(engine, spent)) == (before, windows)
    assert kept(engine, pruned) == [row for row in before if row["day"] < TODAY + 3]
    assert sum(row["nanousd"] for row in kept(engine, pruned_spent)) == 2 * 120
    found = LedgerReader(engine).verify()
    assert (found.faults, found.rows, found.pruned, found.pruned_nanousd) == ((), 2, 3, 120)
    by_hand(engine, "DELETE FROM ledger WHERE seq = 5")
    told = " ".join(faults(engine))
    assert "calls_metered 0 and not 1" in told
    if engine.dialect.name == "sqlite":
        assert told.startswith(
            "Rows are missing or were put in by hand: 1 rows are there and 3 were pruned, of 5 "
            "that were booked."
        )


def test_a_row_stays_while_a_window_of_it_runs_or_has_only_just_ended(
    engine: Engine, books: Ledger
) -> None:
    of = hold()
    books.book([(of, charge(of))])
    over = max(
        window_ends_us(KEY.created_us, of.window_of(KEY.id) or 0),
        window_ends_us(ACCOUNT.created_us, of.window_of(ACCOUNT.id) or 0),
    )
    assert over > NOW_US + MIN_AGE_US
    assert pruned_all(engine, MUCH_LATER, over + DAY_US - 1) == 0
    assert pruned_all(engine, MUCH_LATER, over + DAY_US) == 1


def test_a_young_row_stays_though_its_windows_are_over(engine: Engine, books: Ledger) -> None:
    of = hold(account=False)
    ended = window_ends_us(KEY.created_us, 0)
    books.book([(of, charge(of, at=ended + 5 * DAY_US))])
    settled = ended + 5 * DAY_US
    assert pruned_all(engine, MUCH_LATER, settled + MIN_AGE_US) == 0
    assert pruned_all(engine, MUCH_LATER, settled + MIN_AGE_US + 1) == 1


def test_the_row_of_a_hold_that_a_start_would_book_stays(
    engine: Engine, books: Ledger, tmp_path: Path
) -> None:
    """Its end was booked and the process died before the journal heard of it."""
    first, second, third = (hold() for _ in range(3))
    with Journal(tmp_path / "journal") as journal:
        journal.take(first)
        journal.take(second)
        journal.end(charge(second))
        journal.take(third)
        journal.done(third.id)
    books.book([(of, charge(of)) for of in (first, second, third)])
    held = hold()
    books.book([(held, charge(held))])
    with engine.begin() as connection:  # as if its copy had been left behind
        connection.execute(
            text(
                "INSERT INTO holds SELECT hold_id, request_id, account_id, key_id, key_window, "
                "account_window, hold_nanousd, admitted_us, '' FROM ledger WHERE hold_id = :id"
            ),
            {"id": held.id},
        )
    keep = journaled(tmp_path / "journal")
    assert keep == {first.id, second.id}
    assert pruned_all(engine, MUCH_LATER, MUCH_LATER, tuple(keep)) == 1
    assert {row.hold_id for row in LedgerReader(engine).rows()} == {first.id, second.id, held.id}
    assert journaled(tmp_path / "none") == frozenset()
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        journaled(tmp_path)


def test_a_row_of_nobody_s_key_stays(engine: Engine, books: Ledger) -> None:
    of = hold(key=replace(KEY, id="key_gone"))
    books.book([(of, charge(of))])
    assert pruned_all(engine, MUCH_LATER, MUCH_LATER) == 0


Step = tuple[int, int, int, str, int] | None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.none(),  # prune
            st.tuples(
                st.integers(0, 1),
                st.integers(0, 20),
                st.integers(0, 2) | st.just(INT64_MAX // 2),
                st.sampled_from(["metered", "estimated", "held"]),
                st.integers(0, 2),
            ),
        ),
        max_size=12,
    )
)
def test_rows_and_pruned_are_the_sums_whatever_comes_and_goes(
    engine: Engine, books: Ledger, steps: list[Step]
) -> None:
    """Rows of any order of days, and pruning at any time; the database is not made anew."""
    now_us, gone = NOW_US + 40 * DAY_US, 0
    expected: dict[tuple[Any, ...], int] = {}
    for row in kept(engine):
        expected[tuple(row[name] for name in GROUP)] = row["charge_nanousd"]
    before = count(engine) + sum(
        sum(row[name] for name in SUMS[:4]) for row in kept(engine, pruned)
    )
    added = 0
    for step in steps:
        if step is None:
            now_us += 7 * DAY_US
            gone += pruned_all(engine, now_us - 30 * DAY_US, now_us)
            continue
        key, days, nanousd, basis, model = step
        of = hold(
            INT64_MAX, key=(KEY, OTHER_KEY)[key], model=f"m{model}", at=NOW_US + days * DAY_US
        )
        amount = INT64_MAX if basis == "held" else nanousd
        books.book([(of, charge(of, amount, basis=Basis(basis), at=of.admitted_us + SECOND_US))])
        added += 1
        group = (
            (of.admitted_us + SECOND_US) // DAY_US, of.account_id, of.key_id, of.user,
            of.team, of.alias, of.model,
        )  # fmt: skip
        expected[group] = min(INT64_MAX, expected.get(group, 0) + amount)
    found = LedgerReader(engine).verify()
    assert found.faults == ()
    assert found.rows + found.pruned == before + added
    assert found.pruned >= gone
    assert {
        tuple(row[name] for name in GROUP): row["charge_nanousd"] for row in kept(engine)
    } == expected


# -- sums by what one asks for


def test_sums_by_anything_are_proven_and_in_a_stable_order(engine: Engine, books: Ledger) -> None:
    month_us = 30 * DAY_US
    for key, team, model, nanousd, at in (
        (KEY, "red", "b", 5, NOW_US),
        (KEY, None, "a", 7, NOW_US),
        (OTHER_KEY, "red", "a", 11, NOW_US + DAY_US),
        (OTHER_KEY, "red", "b", 13, NOW_US + month_us),
    ):
        of = hold(key=key, team=team, model=model)
        books.book([(of, charge(of, nanousd, at=at))])

    def found(*by: str, **wanted: Any) -> list[tuple[Any, ...]]:
        lines, total = sums(engine, by, Wanted(**wanted))
        assert all(tuple(line) == columns(by) for line in lines)
        assert total.charge_nanousd == sum(int(line["charge_nanousd"] or 0) for line in lines)
        return [tuple(line[name] for name in (*by, "charge_nanousd")) for line in lines]

    assert found("team", "model") == [(None, "a", 7), ("red", "a", 11), ("red", "b", 18)]
    assert found("model", "team") == [("a", None, 7), ("a", "red", 11), ("b", "red", 18)]
    assert found("month") == [("2026-11", 23), ("2026-12", 13)]
    assert found("day") == [("2026-11-18", 12), ("2026-11-19", 11), ("2026-12-18", 13)]
    assert found("key", "alias") == [("key_build", "build", 24), ("key_laptop", "laptop", 12)]
    assert found("account", "user") == [("acc_anna", "anna@example.org", 36)]
    day = (TODAY + 1) * DAY_US
    assert found("model", from_us=day) == [("a", 11), ("b", 13)]
    assert found("model", until_us=day) == [("a", 7), ("b", 5)]
    assert found("model", team="red", key_id=KEY.id) == [("b", 5)]
    assert found("model", user="nobody@example.org") == []
    before = found("team", "model")
    assert pruned_all(engine, NOW_US + 2 * DAY_US, MUCH_LATER) == 3
    assert found("team", "model") == before
    assert sums(engine, ("team",), Wanted(team="red"))[1] == Total(3, 29)
    with pytest.raises(ValueError, match="whole days"):
        sums(engine, ("team",), Wanted(from_us=NOW_US))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE daily SET charge_nanousd = charge_nanousd - 1",
        "UPDATE daily SET calls_metered = 2",
        "UPDATE ledger SET charge_nanousd = 41",
        "INSERT INTO pruned SELECT * FROM daily",
    ],
)
def test_sums_that_the_rows_do_not_prove_are_not_given(
    engine: Engine, books: Ledger, change: str
) -> None:
    of = hold()
    books.book([(of, charge(of))])
    assert sums(engine, ("team",), Wanted())[1] == Total(1, 40)
    by_hand(engine, change)
    with pytest.raises(StoreUnavailableError, match="`tensorgate ledger verify` says all"):
        sums(engine, ("team",), Wanted())


def test_windows_are_thirty_days_and_months_are_not() -> None:
    assert WINDOW_US == 30 * DAY_US
    assert [day_text(day) for day in (0, 20_786, -1, 10**9)] == [
        "1970-01-01", "2026-11-29", "day -1", "day 1000000000",
    ]  # fmt: skip
