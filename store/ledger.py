"""The ledger in SQL: one final row for each hold that ended, and a copy of the open ones.

Whoever ends a hold books it. The row that is there first stands; who comes later is given that
row and settles the counters with its charge, so nobody has to be the only one. Rows are only ever
added (triggers refuse all else), and a hold leaves the copy in the transaction that adds its row.
What the rows of a window add up to the database keeps itself, by a trigger in that transaction
(`spent`), so that a seed reads a few sums however many rows there are.

Booking is spelled out down to the driver: many rows a statement, as SQLite's driver gives the
interpreter away at each, and has to fight for it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, lru_cache
from operator import itemgetter
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    RowMapping,
    Table,
    and_,
    exists,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from store.counters.model import Seed
from store.engines import driver_errors, snapshot_options, writing
from store.holdformat import pack_hold
from store.openholds import holds_of, read_holds
from store.records import (
    MINUTE_US,
    WINDOW_US,
    Basis,
    Charge,
    Hold,
    LedgerRow,
    Price,
    Window,
    window_at,
)
from store.schema import accounts, holds, keys, ledger, spent

REVOKED_US: Final = 10 * MINUTE_US
"""For how long a cache may go on with a key at most, twice (`KEY_STALE_SECONDS` is at most 300)."""

_CHUNK: Final = 500  # ids in one statement; SQLite's limit is in the ten thousands

Columns = dict[str, str | int | None]
Values = tuple[str | int | None, ...]
_Part = TypeVar("_Part")
_INSERTS: Final[dict[str, Callable[[Table], Any]]] = {
    "sqlite": lambda table: sqlite.insert(table).on_conflict_do_nothing(),
    "postgresql": lambda table: postgresql.insert(table).on_conflict_do_nothing(),
}


class Ledger:
    """Charges and open holds of one database. Thread-safe; StoreUnavailableError on driver errors.

    A transaction is undone as a whole, and can be repeated: all of it is idempotent. ValueError
    for what could not be kept however often.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._insert_new = _INSERTS[engine.dialect.name]

    def book(self, ended: Sequence[tuple[Hold, Charge]]) -> dict[str, LedgerRow]:
        """Make each hold's row where there is none yet, in one transaction.

        The answer is empty if all rows are now as `ended` says. If one was there before, or a
        hold ended twice in it (the first end counts), it has the rows that stand for all of
        `ended`, by hold id.
        """
        if not ended:
            return {}
        with writing(self._engine) as connection:
            return book_in(connection, ended)

    def rows(self, hold_ids: Sequence[str]) -> dict[str, LedgerRow]:
        """The rows of those holds that have one."""
        with self._snapshot() as connection:
            return _rows(connection, hold_ids)

    def copy_holds(self, opened: Sequence[Hold]) -> None:
        """Put open holds into the copy. One that was booked meanwhile stays out of it."""
        if not opened:
            return
        with writing(self._engine) as connection:
            booked = _rows(connection, [hold.id for hold in opened])
            # By hold, as they are booked: two who wait for each other's rows do so in one order.
            ordered = sorted(opened, key=lambda hold: hold.id)
            new = [hold_columns(hold) for hold in ordered if hold.id not in booked]
            if new:
                connection.execute(self._insert_new(holds), new)

    def open_holds(self) -> list[Hold]:
        """The copy of open holds, the oldest first. With a journal, that is the truth instead."""
        asked = (
            select(holds.c.hold_id, holds.c.record)
            .where(~exists().where(ledger.c.hold_id == holds.c.hold_id))
            .order_by(holds.c.admitted_us, holds.c.hold_id)
        )
        with self._snapshot() as connection:
            return list(read_holds(connection.execute(asked)))

    def ended_since(self, since_us: int) -> list[tuple[str, int]]:
        """(request id, settled µs) of holds that ended after a moment."""
        asked = select(ledger.c.request_id, ledger.c.settled_us).where(
            ledger.c.settled_us > since_us
        )
        with self._snapshot() as connection:
            return [(row[0], row[1]) for row in connection.execute(asked)]

    def seed(
        self,
        account_id: str,
        now_us: int,
        without: Collection[str] = (),
        counted: Collection[Window] = (),
        *,
        lost: bool = False,
    ) -> Seed:
        """What an account has spent in the present windows, and its admissions of the last minute.

        Rows of the holds `without` are left out: who asks has them open still. All is read from
        one snapshot, as a row that appeared half-way would be counted twice, or not at all.
        Windows later than the present one count too: another clock may have been ahead. Of a key
        that was revoked there are those that are `counted`; while it may still be known to a cache
        (REVOKED_US) the present one as well. For counters that may have `lost` what they knew, also
        the account's open holds, and which of its requests ended in the last minute.
        """
        with self._snapshot() as connection:
            sums = _present_windows(connection, account_id, now_us)
            for window, nanousd in _sums(connection, account_id, now_us, sums):
                sums[window] = nanousd
            scopes = {window.scope for window in sums}
            sums |= _spent_in(connection, [each for each in counted if each.scope not in scopes])
            for row in _rows(connection, without).values():
                for window in _windows(row):
                    if window in sums:
                        sums[window] -= row.charge_nanousd
            asked = select(ledger.c.hold_id, ledger.c.key_id, ledger.c.admitted_us).where(
                ledger.c.account_id == account_id, ledger.c.admitted_us > now_us - MINUTE_US
            )
            minutes: dict[str, list[int]] = {}
            left_out = frozenset(without)
            for hold_id, key_id, admitted_us in connection.execute(asked):
                if hold_id not in left_out:
                    minutes.setdefault(key_id, []).append(admitted_us)
            if not lost:
                return Seed(sums, minutes)
            opened = [hold for hold in holds_of(connection, account_id) if hold.id not in left_out]
            ended = connection.execute(
                select(ledger.c.request_id, ledger.c.settled_us).where(
                    ledger.c.account_id == account_id, ledger.c.settled_us > now_us - MINUTE_US
                )
            )
            return Seed(sums, minutes, tuple(opened), tuple((row[0], row[1]) for row in ended))

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**snapshot_options(self._engine))
            with connection.begin():
                yield connection


def book_in(connection: Connection, ended: Sequence[tuple[Hold, Charge]]) -> dict[str, LedgerRow]:
    """As `Ledger.book`, in a transaction that is the caller's."""
    add, leave = _BOOKING[connection.dialect.name]
    added = [_ledger_values(hold, charge) for hold, charge in ended]
    ids = [hold.id for hold, _ in ended]
    new = add(connection, added)
    leave(connection, ids)
    return {} if new == len(added) else _rows(connection, ids)


_ROW: Final = tuple(field.name for field in fields(LedgerRow))


def read_row(row: RowMapping) -> LedgerRow:
    """A row of `ledger`, without its number and what only explains it."""
    values = {name: row[name] for name in _ROW}
    return LedgerRow(**{**values, "basis": Basis(values["basis"])})


def _rows(connection: Connection, hold_ids: Iterable[str]) -> dict[str, LedgerRow]:
    found = {}
    for chunk in _chunks(hold_ids):
        asked = select(ledger).where(ledger.c.hold_id.in_(chunk))
        for row in connection.execute(asked).mappings():
            found[row["hold_id"]] = read_row(row)
    return found


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = list(ids)
    return (rest[at : at + _CHUNK] for at in range(0, len(rest), _CHUNK))


def _present_windows(connection: Connection, account_id: str, now_us: int) -> dict[Window, int]:
    """The present window of the account and of each of its keys that may still be used, at 0."""
    account = select(accounts.c.id, accounts.c.created_us).where(accounts.c.id == account_id)
    usable = select(keys.c.id, keys.c.created_us).where(
        keys.c.account_id == account_id, _may_be_used(now_us)
    )
    return {
        Window(scope, window_at(created_us, now_us)): 0
        for scope, created_us in connection.execute(account.union_all(usable))
    }


def _may_be_used(now_us: int) -> ColumnElement[bool]:
    return or_(keys.c.revoked_us.is_(None), keys.c.revoked_us > now_us - REVOKED_US)


def _spent_in(connection: Connection, windows: Sequence[Window]) -> dict[Window, int]:
    """What was spent in some windows."""
    found = dict.fromkeys(windows, 0)
    for scopes in _chunks({window.scope for window in windows}):
        for scope, number, nanousd in connection.execute(
            select(spent).where(spent.c.scope.in_(scopes))
        ):
            if (window := Window(scope, number)) in found:
                found[window] = nanousd
    return found


def _sums(
    connection: Connection, account_id: str, now_us: int, present: Iterable[Window]
) -> list[tuple[Window, int]]:
    """What was spent by window, of the account and of each of its keys, from the present on."""
    by_key = (
        select(spent)
        .select_from(keys)
        .join(
            spent,
            and_(
                spent.c.scope == keys.c.id,
                # both divide towards zero, so for a key made in the future this is below its 0
                spent.c.number >= (now_us - keys.c.created_us) // WINDOW_US,
            ),
        )
        .where(keys.c.account_id == account_id, _may_be_used(now_us))
    )
    first = min((window.number for window in present if window.scope == account_id), default=0)
    by_account = select(spent).where(spent.c.scope == account_id, spent.c.number >= first)
    return [
        (Window(scope, number), nanousd)
        for scope, number, nanousd in connection.execute(by_key.union_all(by_account))
    ]


def _windows(row: LedgerRow) -> Iterator[Window]:
    yield Window(row.key_id, row.key_window)
    if row.account_window is not None:
        yield Window(row.account_id, row.account_window)


def _key_window(hold: Hold) -> int:
    number = hold.window_of(hold.key_id)
    if number is None:
        raise ValueError("a hold without a window of its key")
    return number


_ADDED: Final = tuple(column for column in ledger.columns if column.name != "seq")
_NAMES: Final = ", ".join(f'"{column.name}"' for column in _ADDED)


def _add_sqlite(connection: Connection, rows: list[Values]) -> int:
    """Add those that are not there; how many that were."""
    new = 0
    for part in _parts(rows):
        values = tuple([value for row in part for value in row])
        new += connection.exec_driver_sql(_adding(len(part)), values).rowcount
    return new


def _leave_sqlite(connection: Connection, hold_ids: list[str]) -> None:
    for part in _parts(hold_ids):
        connection.exec_driver_sql(_leaving(len(part)), tuple(part))


def _add_postgresql(connection: Connection, rows: list[Values]) -> int:
    """As `_add_sqlite`. In one statement, so that all sums are locked in one order (see 0003)."""
    # By hold: two who book the same holds wait for each other's rows, and so in one order as well.
    # (Of two ends of one hold the first stays the first.)
    ordered = sorted(rows, key=itemgetter(0))
    columns = tuple([list(column) for column in zip(*ordered, strict=True)])
    return connection.exec_driver_sql(_ADD_ARRAYS, columns).rowcount


def _leave_postgresql(connection: Connection, hold_ids: list[str]) -> None:
    """Locked in one order first: a DELETE alone takes them as it comes by them."""
    connection.exec_driver_sql(
        "DELETE FROM holds WHERE hold_id IN (SELECT hold_id FROM holds WHERE hold_id = ANY(%s) "
        "ORDER BY hold_id FOR UPDATE)",
        (hold_ids,),
    )


_BOOKING: Final = {
    "sqlite": (_add_sqlite, _leave_sqlite),
    "postgresql": (_add_postgresql, _leave_postgresql),
}
_TYPES: Final = [
    "bigint" if isinstance(column.type, Integer) else "text"  # a BigInteger is an Integer
    for column in _ADDED
]
_ADD_ARRAYS: Final = (
    f"INSERT INTO ledger ({_NAMES}) SELECT * FROM "  # noqa: S608  names and types of ours only
    f"unnest({', '.join(f'%s::{kind}[]' for kind in _TYPES)}) ON CONFLICT DO NOTHING"
)
_SIZES: Final = (64, 8, 1)  # of the parts, the largest first: few statements, which SQLite knows


def _parts(rows: list[_Part]) -> Iterator[list[_Part]]:
    at = 0
    for size in _SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


@cache
def _adding(rows: int) -> str:
    row = f"({', '.join('?' * len(_ADDED))})"
    return (
        f"INSERT INTO ledger ({_NAMES}) VALUES {', '.join([row] * rows)} "  # noqa: S608  names of ours
        "ON CONFLICT DO NOTHING"
    )


@cache
def _leaving(rows: int) -> str:
    return f"DELETE FROM holds WHERE hold_id IN ({', '.join('?' * rows)})"  # noqa: S608  only marks


def _ledger_values(hold: Hold, charge: Charge) -> Values:
    """A row: the columns of `_ADDED`."""
    if charge.hold_id != hold.id:
        raise ValueError("a charge of another hold")
    return (
        hold.id,
        hold.request_id,
        hold.account_id,
        hold.key_id,
        hold.user,
        hold.team,
        hold.alias,
        hold.model,
        hold.endpoint,
        charge.status,
        charge.basis.value,
        charge.input_tokens,
        charge.cached_input_tokens,
        charge.cache_write_tokens,
        charge.output_tokens,
        charge.nanousd,
        hold.nanousd,
        _key_window(hold),
        hold.window_of(hold.account_id),
        hold.admitted_us,
        charge.settled_us,
        _price_text(hold.price),
        hold.tokens_per_byte,
        hold.input_bound,
        hold.output_bound,
        None if charge.seen is None else msgspec.json.encode(charge.seen).decode(),
    )


@lru_cache(1024)  # there are as many as the catalog has
def _price_text(price: Price) -> str:
    return msgspec.json.encode(price).decode()


def hold_columns(hold: Hold) -> Columns:
    """A hold as the copy has it."""
    return {
        "hold_id": hold.id,
        "request_id": hold.request_id,
        "account_id": hold.account_id,
        "key_id": hold.key_id,
        "key_window": _key_window(hold),
        "account_window": hold.window_of(hold.account_id),
        "nanousd": hold.nanousd,
        "admitted_us": hold.admitted_us,
        "record": pack_hold(hold).decode(),
    }
