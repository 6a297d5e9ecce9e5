"""Reading the ledger for people: the export, row by row, and whether it is in order.

Rows are read in batches, in the order in which they were booked, each batch in a transaction of
its own: a long export neither fills the memory nor keeps SQLite's log from being folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import ColumnElement, Engine, RowMapping, exists, func, select

from store.engines import driver_errors, read_options
from store.ledger import read_row
from store.ledgershape import is_moment, misshapen, not_ours, open_copy
from store.ledgersums import added_calls, amount, calls, unequal, unguarded, whole
from store.records import SECOND_US, Basis, LedgerRow, window_at
from store.schema import accounts, holds, keys, ledger, pruned

BATCH: Final = 1000
MAX_FAULTS: Final = 100

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
    pruned: int
    pruned_nanousd: int
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
            if misshapen(found):
                raise not_ours(found["seq"])
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
        created, faults = self._created()
        rows = charged = unreadable = 0
        faults += self._duplicates()
        for found in self._found(ALL):
            rows += 1
            column = misshapen(found)
            if column:
                unreadable += 1
                faults.append(f"Row {found['seq']} has no such {column} as a row can have.")
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
            faults += unequal(self._engine, added_up)
        faults += unguarded(self._engine)
        opened, strange = open_copy(self._engine)
        faults += strange
        held = sum(hold.nanousd for hold in opened)  # not in SQL: SQLite's sum ends at 64 bits
        gone, gone_nanousd = self._pruned()
        return Verified(
            rows, charged, len(opened), held, gone, gone_nanousd, tuple(faults[:MAX_FAULTS])
        )

    def _created(self) -> tuple[dict[str, int], list[str]]:
        """When accounts and keys were made, and a sentence for each that does not say so."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            found = [
                (row[0], row[1])
                for table in (accounts, keys)
                for row in connection.execute(select(table.c.id, table.c.created_us))
            ]
        created = {scope: us for scope, us in found if is_moment(us)}
        return created, [
            f"{scope} was made at no time that there is, and its windows cannot be told."
            for scope, _ in found
            if scope not in created
        ]

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

    def _pruned(self) -> tuple[int, int]:
        """How many rows were pruned, and their nano-USD."""
        asked = select(*added_calls(pruned), *amount(pruned.c.charge_nanousd, "charge"))
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            found = connection.execute(asked).mappings().one()
        return calls(found), whole(found, "charge")


_BY_BASIS: Final[dict[Basis, tuple[Callable[[LedgerRow], bool], str]]] = {
    Basis.RELEASED: (lambda row: row.charge_nanousd == 0, "released, and yet charged"),
    Basis.HELD: (lambda row: row.charge_nanousd == row.hold_nanousd, "not charged the whole hold"),
    Basis.ESTIMATED: (
        lambda row: row.charge_nanousd <= row.hold_nanousd,
        "an estimate above the hold",
    ),
    Basis.METERED: (lambda _: True, ""),
}


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
