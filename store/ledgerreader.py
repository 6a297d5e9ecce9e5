"""Reading the ledger for people: the export, row by row, and whether it is in order.

Rows are read in batches, in the order in which they were booked, each batch in a transaction of
its own: a long export neither fills the memory nor keeps SQLite's log from being folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    exists,
    func,
    literal_column,
    select,
)

from store.errors import StoreUnavailableError
from store.ledger import read_row
from store.records import INT64_MAX, SECOND_US, Basis, LedgerRow, window_at
from store.schema import (
    accounts,
    driver_errors,
    holds,
    keys,
    ledger,
    read_options,
    snapshot_options,
    spent,
)
from store.text import usd

BATCH: Final = 1000
ADDED_AT_ONCE: Final = 50_000
MAX_FAULTS: Final = 100
_HALF: Final = 32

EXPORTED: Final = (  # FROZEN FORMAT: append only
    "hold_id",
    "request_id",
    "key_id",
    "user",
    "team",
    "alias",
    "model",
    "endpoint",
    "status",
    "basis",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "charge_nanousd",
    "hold_nanousd",
    "admitted_at",
    "settled_at",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: None is any. Times are of the settlement, `until_us` is not included."""

    user: str | None = None
    team: str | None = None
    key_id: str | None = None
    from_us: int | None = None
    until_us: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        columns = ledger.c
        wanted = (
            None if self.user is None else columns.user == self.user,
            None if self.team is None else columns.team == self.team,
            None if self.key_id is None else columns.key_id == self.key_id,
            None if self.from_us is None else columns.settled_us >= self.from_us,
            None if self.until_us is None else columns.settled_us < self.until_us,
        )
        return [condition for condition in wanted if condition is not None]


ALL: Final = Wanted()


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at the whole ledger found. `faults` has one sentence each, MAX_FAULTS at most."""

    rows: int
    charged_nanousd: int
    open_holds: int
    held_nanousd: int
    faults: tuple[str, ...]


def exported(row: LedgerRow) -> dict[str, str | int | None]:
    """A row as it is exported: EXPORTED in their order; times as RFC 3339 with microseconds."""
    moments = {"admitted_at": _moment(row.admitted_us), "settled_at": _moment(row.settled_us)}
    return {name: moments.get(name) or getattr(row, name) for name in EXPORTED}


class LedgerReader:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def count(self, wanted: Wanted = ALL) -> int:
        """How many rows there are, for whoever shows progress."""
        asked = select(func.count()).select_from(ledger).where(*wanted.conditions())
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return int(connection.execute(asked).scalar_one())

    def rows(self, wanted: Wanted = ALL) -> Iterator[LedgerRow]:
        """Rows in the order of booking. Those that are booked while this runs may be among them.

        Raises StoreUnavailableError at a row that is none of ours (see `verify`, which names it).
        """
        for found in self._found(wanted):
            if _misshapen(found):
                raise StoreUnavailableError(
                    f"Row {found['seq']} of the ledger was not written by Tensorgate. "
                    "`tensorgate ledger verify` says what is wrong with it."
                )
            yield read_row(found)

    def _found(self, wanted: Wanted) -> Iterator[RowMapping]:
        last = 0
        while True:
            asked = (
                select(ledger)
                .where(ledger.c.seq > last, *wanted.conditions())
                .order_by(ledger.c.seq)
                .limit(BATCH)
            )
            with driver_errors(), self._engine.connect() as held:
                connection = held.execution_options(**read_options(self._engine))
                batch = connection.execute(asked).mappings().all()
            yield from batch
            if len(batch) < BATCH:
                return
            last = batch[-1]["seq"]

    def verify(
        self,
        progress: Callable[[int], None] = lambda _: None,
        added_up: Callable[[int], None] = lambda _: None,
    ) -> Verified:
        """Whether rows and sums add up, each request has one row, and no open hold has one.

        `progress` is told the number of rows read so far, then `added_up` that of rows that were
        added up. Whether the counters agree is asked of whoever counts.
        """
        created = self._created()
        rows = charged = unreadable = 0
        faults = self._duplicates()
        for found in self._found(ALL):
            rows += 1
            misshapen = _misshapen(found)
            if misshapen:
                unreadable += 1
                faults.append(f"Row {found['seq']} has no such {misshapen} as a row can have.")
            else:
                row = read_row(found)
                charged += row.charge_nanousd
                if len(faults) < MAX_FAULTS:
                    faults += [
                        f"Row of hold {row.hold_id}: {fault}." for fault in _faults(row, created)
                    ]
            if not rows % BATCH:
                progress(rows)
        progress(rows)
        if not unreadable:  # or there is no telling what they add up to
            faults += self._unequal_sums(added_up)
        opened, held_nanousd = self._open()
        return Verified(rows, charged, opened, held_nanousd, tuple(faults[:MAX_FAULTS]))

    def _created(self) -> dict[str, int]:
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return {
                row[0]: row[1]
                for table in (accounts, keys)
                for row in connection.execute(select(table.c.id, table.c.created_us))
            }

    def _duplicates(self) -> list[str]:
        """Requests that have two rows, and open holds that have one."""
        twice = (
            select(ledger.c.request_id, func.count())
            .group_by(ledger.c.request_id)
            .having(func.count() > 1)
            .limit(MAX_FAULTS)
        )
        both = (
            select(holds.c.hold_id)
            .where(exists().where(ledger.c.hold_id == holds.c.hold_id))
            .limit(MAX_FAULTS)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            found = [
                f"Request {request_id} has {rows} rows."
                for request_id, rows in connection.execute(twice)
            ]
            return found + [
                f"Hold {hold_id} is both open and booked."
                for hold_id in connection.execute(both).scalars()
            ]

    def _unequal_sums(self, added_up: Callable[[int], None]) -> list[str]:
        """Windows whose rows do not add up to the sum that the database keeps of them.

        In one snapshot, as rows are being added: about a second a million rows, for which
        SQLite's log is not folded in.
        """
        found: dict[tuple[str, int], int] = {}
        rows = 0
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**snapshot_options(self._engine))
            with connection.begin():
                kept = {(row[0], row[1]): row[2] for row in connection.execute(select(spent))}
                for number, nanousd, *windows in _added_up(connection):
                    for scope, window in windows:
                        if window is not None:
                            found[scope, window] = found.get((scope, window), 0) + nanousd
                    rows += number
                    added_up(rows)
        return [
            f"The rows of window {window} of {scope} add up to {usd(total)}, and not to "
            f"{usd(kept.get((scope, window), 0))}, which is kept as spent."
            for scope, window in sorted(found.keys() | kept.keys())
            if (total := min(found.get((scope, window), 0), INT64_MAX))
            != kept.get((scope, window), 0)
        ][:MAX_FAULTS]

    def _open(self) -> tuple[int, int]:
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            amounts = connection.execute(select(holds.c.nanousd)).scalars().all()
        return len(amounts), sum(amounts)  # not in SQL: SQLite's sum fails beyond 64 bits


def _added_up(
    connection: Connection,
) -> Iterator[tuple[int, int, tuple[str, int], tuple[str, int | None]]]:
    """(rows, nano-USD, window of the key, window of the account), a part of the ledger at a time.

    Added up in halves: SQLite cannot add what does not fit into 64 bits.
    """
    columns = ledger.c
    windows = (
        columns.key_id, columns.key_window, columns.account_id, columns.account_window,
    )  # fmt: skip
    high = literal_column(f"sum(charge_nanousd >> {_HALF})", BigInteger)
    low = literal_column(f"sum(charge_nanousd & {(1 << _HALF) - 1})", BigInteger)
    last = connection.execute(select(func.coalesce(func.max(columns.seq), 0))).scalar_one()
    for at in range(0, last, ADDED_AT_ONCE):
        asked = (
            select(func.count(), high, low, *windows)
            .where(columns.seq > at, columns.seq <= at + ADDED_AT_ONCE)
            .group_by(*windows)
        )
        for (
            rows,
            above,
            below,
            key_id,
            key_window,
            account_id,
            account_window,
        ) in connection.execute(asked):
            nanousd = (int(above) << _HALF) + int(below)
            yield rows, nanousd, (key_id, key_window), (account_id, account_window)


_BY_BASIS: Final[dict[Basis, tuple[Callable[[LedgerRow], bool], str]]] = {
    Basis.RELEASED: (lambda row: row.charge_nanousd == 0, "released, and yet charged"),
    Basis.HELD: (lambda row: row.charge_nanousd == row.hold_nanousd, "not charged the whole hold"),
    Basis.ESTIMATED: (
        lambda row: row.charge_nanousd <= row.hold_nanousd,
        "an estimate above the hold",
    ),
    Basis.METERED: (lambda _: True, ""),
}


_TEXTS: Final = frozenset(
    {"hold_id", "request_id", "account_id", "key_id", "user", "alias", "model", "endpoint"}
)
_OPTIONAL: Final[dict[str, type]] = {"team": str, "account_window": int}
_BASES: Final = frozenset(Basis)


def _misshapen(found: RowMapping) -> str:
    """The first column with what we never write (SQLite keeps any type in any), or nothing."""
    for name, value in found.items():
        if name == "basis":
            good = value in _BASES
        elif name in _TEXTS:
            good = isinstance(value, str)
        elif name in _OPTIONAL:
            good = value is None or isinstance(value, _OPTIONAL[name])
        else:
            good = isinstance(value, int) and value >= 0
        if not good:
            return str(name)
    return ""


def _faults(row: LedgerRow, created: dict[str, int]) -> Iterator[str]:
    in_order, what = _BY_BASIS[row.basis]
    if not in_order(row):
        yield what
    windows = {row.key_id: row.key_window}
    if row.account_window is not None:
        windows[row.account_id] = row.account_window
    for scope, number in windows.items():
        if scope not in created:
            yield f"there is no {scope}"
        elif number != window_at(created[scope], row.admitted_us):
            yield f"in window {number} of {scope}, to which its admission does not belong"


def _moment(us: int) -> str:
    seconds, rest = divmod(us, SECOND_US)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
