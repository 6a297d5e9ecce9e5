"""What was spent by day, team, key, model …: sums of the sums by day, proven by the rows.

Whole UTC days only. Rows that were pruned are in them, as the sums by day stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, Table, func, select

from store.engines import driver_errors, snapshot_options
from store.errors import StoreUnavailableError
from store.ledgerreader import Wanted
from store.ledgersums import AMOUNTS, CALLS, SUMS, added_calls, amount, calls, day_text, whole
from store.records import DAY_US, NANOUSD
from store.schema import daily, ledger, pruned
from store.text import usd

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
    are whole days, else ValueError. Raises StoreUnavailableError where the sums are not what the
    rows and the pruned ones add up to.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    names = [_COLUMNS.get(name, name) for name in by]
    asked = select(*(daily.c[name] for name in (*names, *SUMS))).where(*_of(daily, wanted))
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**snapshot_options(engine))
        with connection.begin():
            for row in connection.execute(asked):
                group = tuple(
                    _label(name, value) for name, value in zip(by, row[: len(by)], strict=True)
                )
                total = groups.setdefault(group, [0] * len(SUMS))
                for at, number in enumerate(row[len(by) :]):
                    total[at] += number
            rows, gone = _rows(connection, wanted), _pruned(connection, wanted)
    lines = [_line(by, group, groups[group]) for group in sorted(groups)]
    found = Total(
        sum(sum(total[: len(CALLS)]) for total in groups.values()),
        sum(total[-1] for total in groups.values()),
    )
    expected = Total(rows.calls + gone.calls, rows.charge_nanousd + gone.charge_nanousd)
    if found != expected:
        raise StoreUnavailableError(
            f"The sums by day have {found.calls:,} calls for {usd(found.charge_nanousd)}, and "
            f"their rows {expected.calls:,} for {usd(expected.charge_nanousd)}. "
            "`tensorgate ledger verify` says where they differ."
        )
    return lines, found


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
    c = table.c
    conditions = (
        None if wanted.user is None else c.user == wanted.user,
        None if wanted.team is None else c.team == wanted.team,
        None if wanted.key_id is None else c.key_id == wanted.key_id,
        None if wanted.from_us is None else c.day >= wanted.from_us // DAY_US,
        None if wanted.until_us is None else c.day < wanted.until_us // DAY_US,
    )
    return [condition for condition in conditions if condition is not None]


def _rows(connection: Connection, wanted: Wanted) -> Total:
    asked = select(func.count().label("calls"), *amount(ledger.c.charge_nanousd, "charge"))
    asked = asked.select_from(ledger).where(*wanted.conditions())
    found = connection.execute(asked).mappings().one()
    return Total(int(found["calls"]), whole(found, "charge"))


def _pruned(connection: Connection, wanted: Wanted) -> Total:
    asked = select(*added_calls(pruned), *amount(pruned.c.charge_nanousd, "charge"))
    found = connection.execute(asked.where(*_of(pruned, wanted))).mappings().one()
    return Total(calls(found), whole(found, "charge"))
