"""Rows that are old enough leave the ledger; what they add up to stays.

The sums by day and by window are untouched, and the database notes in `pruned` and `pruned_spent`
what the rows were, as they go: rows + pruned = sums, whenever it is asked (store/ledgersums.py).

A row stays, whatever its age, while something may still need it:

- one of its windows runs, or was over less than a day ago;
- it is younger than MIN_AGE: entries of a call come while it runs, for at most a day and a
  deadline, and the memory of request ids and the minute are shorter than that. Later than that no
  entry finds a hold to end, so a call whose row was pruned cannot be booked again;
- its hold is still in the journal, or in the copy of open ones: after a crash these are the holds
  that the next start would book, were there no row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
)

from store.engines import driver_errors, read_options, write_options
from store.errors import StoreUnavailableError
from store.journal import read
from store.ledgersums import amount, whole
from store.records import DAY_US, WINDOW_US
from store.schema import accounts, holds, keys, ledger, pruning

MIN_AGE_US: Final = 2 * DAY_US
GROUP_ROWS: Final = 500
_SLACK_US: Final = DAY_US  # who counts windows may be behind whoever asks here
_NAMES: Final = ("seq", "hold_id", "charge_nanousd", "settled_us")


def journaled(path: Path) -> frozenset[str]:
    """The holds that a journal has as open; there may be none at all.

    Raises StoreError for one that is damaged, or cannot be read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return frozenset()
    except OSError as fault:
        raise StoreUnavailableError(
            f"The journal {path} cannot be read ({fault.strerror}), and the rows of its holds have "
            "to stay. Prune as its owner."
        ) from None
    return frozenset(hold.id for hold in read(raw, path).holds)


class Pruner:
    """Takes rows out that were settled before a moment, a group at a time. For one thread.

    `keep` are holds whose rows stay (see `journaled`). Raises StoreUnavailableError.
    """

    def __init__(self, engine: Engine, before_us: int, now_us: int, keep: Collection[str]) -> None:
        self._engine = engine
        self._before_us = min(before_us, now_us - MIN_AGE_US)
        self._over_us = now_us - _SLACK_US
        self._keep = frozenset(keep)
        self._at = (-1, -1)
        self.rows = 0
        self.charged_nanousd = 0

    def count(self) -> tuple[int, int]:
        """How many rows would go, and their nano-USD; those to `keep` are counted with them."""
        column = ledger.c.charge_nanousd
        asked = self._old([func.count().label("rows"), *amount(column, "charge")])
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            found = connection.execute(asked).mappings().one()
        return int(found["rows"]), whole(found, "charge")

    def group(self, rows: int = GROUP_ROWS) -> int | None:
        """Take out the next few; how many that were, None once there are no more."""
        found = self._next(rows)
        if not found:
            return None
        going = {row["seq"]: row for row in found if row["hold_id"] not in self._keep}
        gone = self._delete(list(going)) if going else []
        self._at = (found[-1]["settled_us"], found[-1]["seq"])
        self.rows += len(gone)
        self.charged_nanousd += sum(going[seq]["charge_nanousd"] for seq in gone)
        return len(gone)

    def _next(self, rows: int) -> Sequence[Any]:
        """Read apart from the deleting: rows do not change, and nobody's writing has to wait."""
        columns = ledger.c
        settled_us, seq = self._at
        asked = (
            self._old([columns[name] for name in _NAMES])
            .where(
                columns.settled_us >= settled_us,
                or_(columns.settled_us > settled_us, columns.seq > seq),
            )
            .order_by(columns.settled_us, columns.seq)
            .limit(rows)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return connection.execute(asked).mappings().all()

    def _old(self, wanted: Sequence[ColumnElement[Any]]) -> Select[Any]:
        columns = ledger.c
        over: ColumnElement[bool] = and_(
            _ends_us(keys.c.created_us, columns.key_window) <= self._over_us,
            or_(
                columns.account_window.is_(None),
                _ends_us(accounts.c.created_us, columns.account_window) <= self._over_us,
            ),
        )
        return (
            select(*wanted)
            .select_from(ledger)
            .join(keys, keys.c.id == columns.key_id)
            .join(accounts, accounts.c.id == columns.account_id)
            .where(
                columns.settled_us < self._before_us,
                over,
                ~exists().where(holds.c.hold_id == columns.hold_id),
            )
        )

    def _delete(self, numbers: list[int]) -> list[int]:
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**write_options(self._engine))
            with connection.begin():
                connection.execute(insert(pruning).values(id=1, before_us=self._before_us))
                gone = _take_out(connection, numbers)
                connection.execute(delete(pruning))
        return gone


def _take_out(connection: Connection, numbers: list[int]) -> list[int]:
    """Those that were still there: somebody else may prune as well."""
    among = ledger.c.seq.in_(numbers)
    there = list(connection.execute(select(ledger.c.seq).where(among)).scalars())
    connection.execute(delete(ledger).where(among))
    return there


def _ends_us(created_us: ColumnElement[int], window: ColumnElement[int]) -> ColumnElement[int]:
    """As store.records.window_ends_us."""
    return created_us + (cast(window, BigInteger) + 1) * WINDOW_US  # an integer has 32 bits there
