"""What a row of ours can look like, for those who read a database that a hand may have been in.

SQLite keeps any type in any column. Who reads for people says so of a row or a hold that nobody
wrote like that, and does not fall over it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    exists,
    literal_column,
    or_,
    select,
)

from store.engines import driver_errors, read_options
from store.errors import StoreUnavailableError
from store.ledger import hold_columns
from store.ledgersums import GROUP
from store.openholds import read_hold
from store.records import DAY_US, INT64_MAX, Basis, Hold, Price, Seen
from store.schema import AMOUNTS, holds, ledger

_AT_ONCE: Final = 500  # ids in one statement
_LAST_US: Final = 2_900_000 * DAY_US  # in the year 9909; Python's dates end soon after
_LAST_WINDOW: Final = 96_000
_BASES: Final = frozenset(Basis)
_TEXTS: Final = frozenset(
    {"hold_id", "request_id", "account_id", "key_id", "user", "alias", "model", "endpoint"}
)
_OPTIONAL: Final[dict[str, type]] = {
    "team": str,
    "account_window": int,
    "price": str,
    "tokens_per_byte": str,
    "input_bound": int,
    "output_bound": int,
    "seen": str,
}
_MOST: Final = {
    "admitted_us": _LAST_US,
    "settled_us": _LAST_US,
    "key_window": _LAST_WINDOW,
    "account_window": _LAST_WINDOW,
}
_PACKED: Final[dict[str, type]] = {"price": Price, "seen": Seen}


def is_moment(us: object) -> bool:
    """Whether it is a time that can be told."""
    return isinstance(us, int) and 0 <= us <= _LAST_US


def misshapen(found: Mapping[str, Any] | RowMapping) -> str:
    """The first column of a row of `ledger` with what we never write, or nothing."""
    return next((str(name) for name, value in found.items() if not _is_ours(name, value)), "")


def _is_ours(name: str, value: object) -> bool:
    if value is None:
        return name in _OPTIONAL
    if name == "basis":
        return value in _BASES
    if name in _PACKED:
        return isinstance(value, str) and _unpacks(value, _PACKED[name])
    if name in _TEXTS or _OPTIONAL.get(name) is str:
        return isinstance(value, str)
    return isinstance(value, int) and 0 <= value <= _MOST.get(name, INT64_MAX)


def _unpacks(text: str, kind: type) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except ValueError:
        return False
    return True


def not_ours(seq: int) -> StoreUnavailableError:
    """The one sentence for a row that is misshapen."""
    return StoreUnavailableError(
        f"Row {seq} of the ledger was not written by Tensorgate. "
        "`tensorgate ledger verify` says what is wrong with it."
    )


def check_readable(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> None:
    """Raises StoreUnavailableError where a row that fulfils conditions cannot be added up.

    SQLite adds what is no number as if it were one.
    """
    if connection.dialect.name != "sqlite":
        return
    strange = [
        *(f"typeof(ledger.{name}) <> 'integer'" for name in ("settled_us", *AMOUNTS)),
        *(f"typeof(ledger.\"{name}\") <> 'text'" for name in GROUP[1:] if name != "team"),
        "typeof(ledger.team) NOT IN ('text', 'null')",
    ]
    either = or_(literal_column(" OR ".join(strange)), ledger.c.basis.not_in(_BASES))
    found = connection.execute(select(ledger.c.seq).where(*conditions, either).limit(1)).scalar()
    if found is not None:
        raise not_ours(found)


def open_copy(engine: Engine) -> tuple[list[Hold], list[str]]:
    """The open holds of the database's copy, and a sentence for each that is not as we copy it."""
    asked = (
        select(holds)
        .where(~exists().where(ledger.c.hold_id == holds.c.hold_id))
        .order_by(holds.c.admitted_us, holds.c.hold_id)
    )
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        found = connection.execute(asked).mappings().all()
    good, faults = list[Hold](), list[str]()
    for row in found:
        try:
            hold = read_hold(row["hold_id"], row["record"])
        except StoreUnavailableError as fault:
            faults.append(str(fault))
            continue
        good.append(hold)
        expected = hold_columns(hold)
        other = next((name for name, value in row.items() if expected[name] != value), None)
        if other is not None:
            faults.append(f"Hold {row['hold_id']} is copied with another {other} than its own.")
    return good, faults


def booked(engine: Engine, hold_ids: Collection[str]) -> set[str]:
    """Those holds that have a row, whatever that looks like."""
    ids, found = sorted(hold_ids), set[str]()
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        for at in range(0, len(ids), _AT_ONCE):
            asked = select(ledger.c.hold_id).where(ledger.c.hold_id.in_(ids[at : at + _AT_ONCE]))
            found |= set(connection.execute(asked).scalars())
    return found
