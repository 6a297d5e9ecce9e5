"""What was spent by day, team, key, model …: sums of the sums by day, proven by the rows.

Whole UTC days only. Rows that were pruned are in them, as the sums by day stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, Table, select

from store.engines import driver_errors, read_options, snapshot_options
from store.errors import StoreUnavailableError
from store.ledgerreader import Wanted
from store.ledgershape import check_readable
from store.ledgersums import (
    CALLS,
    GROUP,
    SUMS,
    Days,
    add_day,
    added_calls,
    added_up_of,
    calls,
    day_text,
    days_of,
    unequal_days,
)
from store.records import DAY_US, NANOUSD
from store.schema import AMOUNTS, daily, pruned

_COLUMNS: Final = {"account": "account_id", "key": "key_id", "month": "day"}
_MONTH_CHARS: Final = len("2026-11")

Named = dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Total:
    """Of all that was asked for."""

    calls: int
    charge_nanousd: int


def columns(by: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a line, in order."""  # FROZEN FORMAT: append only
    return (*by, "calls", *CALLS, *AMOUNTS, "charge_usd")


def usd_exact(nanousd: int) -> str:
    """`0.000040000`: always with nine decimals."""
    whole_usd, nano = divmod(nanousd, NANOUSD)
    return f"{whole_usd}.{nano:09d}"


def sums(engine: Engine, by: tuple[str, ...], wanted: Wanted) -> tuple[list[Named], Total]:
    """A line for each group that had a call, by the text of the group; and what they add up to.

    `by` are some of account, user, team, key, alias, model, day and month; the times of `wanted`
    are whole days, else ValueError. Raises StoreUnavailableError where any sum of a day, of calls,
    tokens or money, is not what its rows and the pruned ones add up to.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    names = [GROUP.index(_COLUMNS.get(name, name)) for name in by]
    for day, numbers in _proven(engine, wanted).items():
        group = tuple(_label(name, day[at]) for name, at in zip(by, names, strict=True))
        total = groups.setdefault(group, [0] * len(SUMS))
        for at, number in enumerate(numbers):
            total[at] += number
    lines = [_line(by, group, groups[group]) for group in sorted(groups)]
    return lines, Total(
        sum(sum(total[: len(CALLS)]) for total in groups.values()),
        sum(total[-1] for total in groups.values()),
    )


def pruned_calls(engine: Engine, wanted: Wanted) -> int:
    """How many rows were pruned of the days that a part of is wanted."""
    asked = select(*added_calls(pruned)).where(*_touching(pruned, wanted))
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        return calls(connection.execute(asked).mappings().one())


def _proven(engine: Engine, wanted: Wanted) -> Days:
    """The sums by day, each compared with the rows in one snapshot."""
    there: Days = {}
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**snapshot_options(engine))
        with connection.begin():
            conditions = wanted.conditions()
            check_readable(connection, conditions)
            for row in added_up_of(connection, *conditions):
                add_day(there, row)
            gone = days_of(connection, pruned, *_of(pruned, wanted))
            kept = days_of(connection, daily, *_of(daily, wanted))
    for fault in unequal_days(there, gone, kept):
        raise StoreUnavailableError(f"{fault} `tensorgate ledger verify` says all that is wrong.")
    return kept


def _label(name: str, value: Any) -> str:
    if name == "day":
        return day_text(value)
    return day_text(value)[:_MONTH_CHARS] if name == "month" else str(value)


def _line(by: tuple[str, ...], group: tuple[str, ...], total: list[int]) -> Named:
    labels: Named = dict(zip(by, group, strict=True))
    if labels.get("team") == "":  # an account without one
        labels["team"] = None
    return (
        labels
        | {"calls": sum(total[: len(CALLS)])}
        | dict(zip(SUMS, total, strict=True))
        | {"charge_usd": usd_exact(total[-1])}
    )


def _of(table: Table, wanted: Wanted) -> list[ColumnElement[bool]]:
    """The conditions on a table of sums by day."""
    for moment in (wanted.from_us, wanted.until_us):
        if moment is not None and moment % DAY_US:
            raise ValueError("sums are of whole days")
    return _touching(table, wanted)


def _touching(table: Table, wanted: Wanted) -> list[ColumnElement[bool]]:
    """The same, of every day that a part of is wanted."""
    c = table.c
    conditions = (
        None if wanted.user is None else c.user == wanted.user,
        None if wanted.team is None else c.team == wanted.team,
        None if wanted.key_id is None else c.key_id == wanted.key_id,
        None if wanted.from_us is None else c.day >= wanted.from_us // DAY_US,
        None if wanted.until_us is None else c.day < -(-wanted.until_us // DAY_US),
    )
    return [condition for condition in conditions if condition is not None]
