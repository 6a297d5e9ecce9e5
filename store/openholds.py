"""SQL's open holds, asked about: by id, by request, by account, by age.

With Redis they are the truth for what is open; with a journal, a copy. A hold that has a row in
the ledger has ended, whether its copy is gone yet or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, delete, exists, func, select

from store.engines import driver_errors, read_options, writing
from store.errors import StoreUnavailableError
from store.holdformat import unpack_hold
from store.records import Hold
from store.schema import holds, ledger

_CHUNK: Final = 500  # ids in one statement; SQLite's limit is in the ten thousands
_ENDED: Final = exists().where(ledger.c.hold_id == holds.c.hold_id)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Of what was asked for: the holds that are open, and the ids of those that have a row."""

    opened: tuple[Hold, ...]
    booked: frozenset[str]


class OpenHolds:
    """The open holds of one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, hold_ids: Collection[str], request_ids: Collection[str]) -> Whereabouts:
        """What is known of holds by their ids, and which are open of some requests."""
        opened: dict[str, Hold] = {}
        booked: set[str] = set()
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            # the copy first: a hold that is booked in between is found in both, not in neither
            for column, ids in ((holds.c.hold_id, hold_ids), (holds.c.request_id, request_ids)):
                for chunk in _chunks(ids):
                    opened |= {hold.id: hold for hold in _read(connection, column.in_(chunk))}
            for chunk in _chunks(hold_ids):
                asked = select(ledger.c.hold_id).where(ledger.c.hold_id.in_(chunk))
                booked.update(connection.execute(asked).scalars())
        left = [hold for hold_id, hold in opened.items() if hold_id not in booked]
        return Whereabouts(tuple(left), frozenset(booked))

    def admitted_before(self, before_us: int) -> list[Hold]:
        """Those that were admitted before a moment, the oldest first."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return list(_read(connection, holds.c.admitted_us < before_us))

    def count(self) -> int:
        """How many there are. Copies that came after their row was there are taken away.

        With PostgreSQL that happens: a worker writes a hold just as a meter books it, and neither
        sees the other.
        """
        asked = select(func.count(), func.count(ledger.c.hold_id)).select_from(
            holds.outerjoin(ledger, ledger.c.hold_id == holds.c.hold_id)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            copies, ended = connection.execute(asked).one()
        if ended:
            self._tidy()
        return int(copies) - int(ended)

    def _tidy(self) -> None:
        """Locked in one order first, as those who book do it (store/ledger.py)."""
        ended = select(holds.c.hold_id).where(_ENDED).order_by(holds.c.hold_id)
        with writing(self._engine) as connection:
            locked = ended.with_for_update(of=holds)
            connection.execute(delete(holds).where(holds.c.hold_id.in_(locked)))


def holds_of(connection: Connection, account_id: str) -> tuple[Hold, ...]:
    """The open holds of an account, the oldest first, for whoever has a snapshot already."""
    return tuple(_read(connection, holds.c.account_id == account_id))


def _chunks(ids: Collection[str]) -> Iterator[list[str]]:
    rest = list(ids)
    return (rest[at : at + _CHUNK] for at in range(0, len(rest), _CHUNK))


def _read(connection: Connection, condition: ColumnElement[bool]) -> Iterator[Hold]:
    asked = (
        select(holds.c.hold_id, holds.c.record)
        .where(condition, ~_ENDED)
        .order_by(holds.c.admitted_us, holds.c.hold_id)
    )
    return read_holds(connection.execute(asked).all())


def read_holds(rows: Iterable[Any]) -> Iterator[Hold]:
    """Holds of (id, record). Raises StoreUnavailableError for one that cannot be read."""
    return (read_hold(*row) for row in rows)


def read_hold(hold_id: str, record: str) -> Hold:
    """A hold of the copy. Raises StoreUnavailableError for what cannot be read."""
    try:
        return unpack_hold(record)
    except (ValueError, TypeError) as fault:
        raise StoreUnavailableError(
            f"The database keeps hold {hold_id} in a form that this Tensorgate cannot read. "
            "Start the newest version that has been used on it."
        ) from fault
