"""Whether the ledger's rows are what the database keeps as their sums, and all that there were.

Four things are made apart, and must agree: the rows; `daily` and `spent`, which triggers keep as
rows come; `pruned` and `pruned_spent`, which a trigger keeps as rows go; and (SQLite's) count of
the rows that there ever were. Whoever changes one of them by hand is found out; whoever changes
all of them alike is not: for that, keep exports elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Table,
    func,
    literal_column,
    select,
)

from store.engines import driver_errors, open_engine, snapshot_options
from store.records import DAY_US, INT64_MAX, SECOND_US, Basis
from store.schema import AMOUNTS, daily, ledger, pruned, pruned_spent, spent
from store.text import usd
from store.upgrades import upgrade

ADDED_AT_ONCE: Final = 50_000
MAX_GAPS: Final = 5
GROUP: Final = ("day", "account_id", "key_id", "user", "team", "alias", "model")
CALLS: Final = tuple(f"calls_{basis.value}" for basis in Basis)
SUMS: Final = (*CALLS, *AMOUNTS)

_HALF: Final = 32
_DAYS: Final = 2_900_000  # until the year 9909; Python's dates end soon after
_WINDOWS: Final = ("key_id", "key_window", "account_id", "account_window")

Windows = dict[tuple[str, int], int]
Days = dict[tuple[Any, ...], list[int]]
"""By GROUP, the numbers of SUMS."""


def unequal(engine: Engine, added_up: Callable[[int], None]) -> list[str]:
    """A sentence for each thing that does not add up.

    In one snapshot, as rows are being added: a few seconds a million rows, for which SQLite's log
    is not folded in. `added_up` is told of how many rows.
    """
    windows: Windows = {}
    days: Days = {}
    rows = 0
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**snapshot_options(engine))
        with connection.begin():
            kept, gone = _windows(connection, spent), _windows(connection, pruned_spent)
            kept_days, gone_days = days_of(connection, daily), days_of(connection, pruned)
            for row in _added_up(connection):
                _add_windows(windows, row)
                add_day(days, row)
                rows += row["rows"]
                added_up(rows)
            faults = list(_lost(connection, rows, gone_days))
    for window, nanousd in gone.items():
        windows[window] = windows.get(window, 0) + nanousd
    return [*faults, *_unequal_windows(windows, kept), *unequal_days(days, gone_days, kept_days)]


def amount(column: ColumnElement[Any], name: str) -> list[ColumnElement[int]]:
    """A sum as its two halves, by 2^32: SQLite cannot add what does not fit into 64 bits."""
    table = column.table.name
    shifted = f"sum({table}.{column.name} >> {_HALF})"
    rest = f"sum({table}.{column.name} & {(1 << _HALF) - 1})"
    return [
        literal_column(shifted, BigInteger).label(f"{name}_high"),
        literal_column(rest, BigInteger).label(f"{name}_low"),
    ]


def added_calls(table: Table) -> list[ColumnElement[int]]:
    """The sums of a table's calls, named as `calls` reads them."""
    return [func.coalesce(func.sum(table.c[name]), 0).label(name) for name in CALLS]


def whole(row: Any, name: str) -> int:
    """The two halves of `amount` put together; 0 of no rows."""
    return (int(row[f"{name}_high"] or 0) << _HALF) + int(row[f"{name}_low"] or 0)


def calls(row: Any) -> int:
    """How many calls a row has, of whatever basis."""
    return sum(int(row[name]) for name in CALLS)


def day_text(day: int) -> str:
    """`2026-11-23`, of days since 1970; any other number as it is."""
    if not isinstance(day, int) or not 0 <= day < _DAYS:
        return f"day {day}"
    return f"{datetime.fromtimestamp(day * DAY_US // SECOND_US, UTC):%Y-%m-%d}"


def _nothing() -> list[int]:
    return [0] * len(SUMS)


def _windows(connection: Connection, table: Table) -> Windows:
    return {(row[0], row[1]): _number(row[2]) for row in connection.execute(select(table))}


def days_of(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> Days:
    """What `daily` or `pruned` has of the days that fulfil conditions."""
    width = len(GROUP)
    asked = select(*(table.c[name] for name in (*GROUP, *SUMS))).where(*conditions)
    return {
        tuple(row[:width]): [_number(each) for each in row[width:]]
        for row in connection.execute(asked)
    }


def _number(kept: object) -> int:
    """-1, which no rows add up to, for what a hand has put in a number's place.

    SQLite keeps any type in any column.
    """
    return kept if isinstance(kept, int) else -1


def _added_up(connection: Connection) -> Iterator[Any]:
    """Rows that were added up in the database, a part of the ledger at a time."""
    seq = ledger.c.seq
    first = connection.execute(select(func.min(seq))).scalar()
    while first is not None:
        behind = first + ADDED_AT_ONCE
        yield from added_up_of(connection, seq >= first, seq < behind)
        # the next that is there: a hand may have left a hole without an end
        first = connection.execute(select(func.min(seq)).where(seq >= behind)).scalar()


def added_up_of(connection: Connection, *conditions: ColumnElement[bool]) -> Iterator[Any]:
    """Rows that fulfil conditions, added up in the database: what `add_day` reads."""
    columns = ledger.c
    day = literal_column(f"ledger.settled_us / {DAY_US}", BigInteger)
    labels = [*(columns[name] for name in (*_WINDOWS, "user", "team", "alias", "model", "basis"))]
    amounts = [half for name in AMOUNTS for half in amount(columns[name], name)]
    asked = select(func.count().label("rows"), day.label("day"), *labels, *amounts)
    grouped = asked.where(*conditions).group_by(day, *labels)
    yield from connection.execute(grouped).mappings()


def _add_windows(windows: Windows, row: Any) -> None:
    nanousd = whole(row, "charge_nanousd")
    for scope, number in (
        (row["key_id"], row["key_window"]),
        (row["account_id"], row["account_window"]),
    ):
        if number is not None:
            windows[scope, number] = windows.get((scope, number), 0) + nanousd


def add_day(days: Days, row: Any) -> None:
    """Count a row of `added_up_of` to its day."""
    group = tuple((row[name] or "") if name == "team" else row[name] for name in GROUP)
    sums = days.setdefault(group, _nothing())
    sums[CALLS.index(f"calls_{row['basis']}")] += row["rows"]
    for at, name in enumerate(AMOUNTS, len(CALLS)):
        sums[at] += whole(row, name)


def _unequal_windows(found: Windows, kept: Windows) -> Iterator[str]:
    for window in sorted(found.keys() | kept.keys(), key=str):
        total = min(found.get(window, 0), INT64_MAX)
        if total != kept.get(window, 0):
            scope, number = window
            yield (
                f"The rows of window {number} of {scope} add up to {usd(total)}, and not to "
                f"{usd(kept.get(window, 0))}, which is kept as spent."
            )


def unequal_days(there: Days, gone: Days, kept: Days) -> Iterator[str]:
    """A sentence for each group whose rows, there or pruned, are not what is kept of them."""
    for group in sorted(there.keys() | gone.keys() | kept.keys(), key=str):
        both = zip(there.get(group, _nothing()), gone.get(group, _nothing()), strict=True)
        total = [min(a + b, INT64_MAX) for a, b in both]
        said = kept.get(group, _nothing())
        if total != said:
            day, _, key_id, user, team, alias, model = group
            off = ", ".join(
                f"{name} {ours:,} and not {theirs:,}"
                for name, ours, theirs in zip(SUMS, total, said, strict=True)
                if ours != theirs
            )
            of = f"{user}, team {team}" if team else user
            yield (
                f"The rows of {day_text(day)} of {of}, key {alias} ({key_id}), model {model!r} "
                f"are not what is kept of that day: they have {off}."
            )


def _lost(connection: Connection, rows: int, gone: Days) -> Iterator[str]:
    """Rows that SQLite has numbered, and that are neither there nor pruned."""
    if connection.dialect.name != "sqlite":
        return  # its numbers have holes of their own
    numbered = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'ledger'")
    last = _number(numbered.scalar() or 0)
    taken = sum(sum(sums[: len(CALLS)]) for sums in gone.values())
    highest = connection.execute(select(func.coalesce(func.max(ledger.c.seq), 0))).scalar_one()
    if rows + taken == last and highest <= last:
        return
    what = f"{rows:,} rows are there and {taken:,} were pruned, of {last:,} that were booked"
    if taken or rows > last:
        yield f"Rows are missing or were put in by hand: {what}."
        return
    holes = connection.exec_driver_sql(
        "SELECT before + 1, seq - 1 FROM (SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS before "
        "FROM (SELECT seq FROM ledger UNION ALL SELECT ?)) WHERE seq > before + 1 LIMIT ?",
        (last + 1, MAX_GAPS),
    )
    named = ", ".join(f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in holes)
    yield f"Rows are missing: {what}. Missing are the numbers {named}."


def unguarded(engine: Engine) -> list[str]:
    """Triggers that a fresh database has, and this one has not, or (SQLite's) not as made."""
    if engine.dialect.name != "sqlite":
        return _unguarded_postgresql(engine)
    expected, found = _fresh_triggers(), _triggers(engine)
    faults = [
        f"The trigger {name} {'is not as it was made' if name in found else 'is gone'}: rows can "
        "be changed, or come without their sums. Make the database anew from a backup."
        for name in sorted(expected)
        if found.get(name) != expected[name]
    ]
    return faults + [
        f"The trigger {name} is none of Tensorgate's." for name in sorted(found.keys() - expected)
    ]


_GUARDS: Final = (  # in PostgreSQL, as the migrations make them
    "audit_refuses_change",
    "ledger_adds_to_spent",
    "ledger_adds_up_days",
    "ledger_notes_pruned",
    "ledger_refuses_change",
)


def _unguarded_postgresql(engine: Engine) -> list[str]:
    asked = (
        "SELECT tgname, tgenabled IN ('O', 'A') FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgrelid IN ('ledger'::regclass, 'audit'::regclass)"
    )
    with driver_errors(), engine.connect() as connection:
        found = {row[0]: row[1] for row in connection.exec_driver_sql(asked)}
    return [
        f"The trigger {name} {'is off' if name in found else 'is gone'}: rows can be changed, or "
        "come without their sums. Make the database anew from a backup."
        for name in _GUARDS
        if not found.get(name)
    ]


def _triggers(engine: Engine) -> dict[str, str]:
    with driver_errors(), engine.connect() as connection:
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        return {row[0]: row[1] for row in connection.exec_driver_sql(asked)}


@cache
def _fresh_triggers() -> dict[str, str]:
    """As the migrations make them: what is expected is written in one place only."""
    with tempfile.TemporaryDirectory(prefix="tensorgate-") as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'fresh.db'}")
        try:
            upgrade(engine)
            return _triggers(engine)
        finally:
            engine.dispose()
