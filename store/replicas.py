"""Which processes of the data path live, and how far each of them is: a row each in SQL.

A process writes its row every second, and at once when it has applied a change. All times in it
are the database's own clock, so machines whose clocks differ are seen alike. Whoever asks (`keys
revoke`, doctor, the dashboard, a seed) reads the rows of those that were seen lately.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from store.engines import driver_errors, read_options, writing
from store.records import MINUTE_US, SECOND_US
from store.schema import replicas

BEAT_SECONDS: Final = 1.0
LIVE_US: Final = 3 * SECOND_US
"""A process whose row is older does not live, or does not reach the database."""
UNHEARD_US: Final = 3 * SECOND_US // 2
"""For how long a beat of the feed counts (authz/cache.py)."""
FORGET_US: Final = 60 * MINUTE_US

_INSERTS: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# SQLite's clock has milliseconds. `clock_timestamp` is of the statement, not of its transaction.
_CLOCKS: Final = {
    "sqlite": "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000",
    "postgresql": "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One process. `kind` is authz or meter; only authz has a cache of keys.

    `applied_seq` is the change that its cache is up to date with, `stale_us` for how long that
    goes on with a record while SQL is out. `flushed_us` is the database's time before which every
    hold that it took is in SQL. `started_us` and `seen_us` are the database's to set.
    """

    id: str
    name: str
    kind: str
    version: str
    catalog: str | None = None
    stale_us: int = 0
    applied_seq: int = 0
    flushed_us: int = 0
    started_us: int = 0
    seen_us: int = 0

    def obeys_by_us(self, change_us: int) -> int:
        """When it obeys a change at the latest, though it is cut off from all of us.

        Its last answer from SQL was before the change; a push may have told it for 1.5 s more that
        all is well, which then counts for as long again, or for as long as a record may be stale.
        """
        return change_us + UNHEARD_US + max(UNHEARD_US, self.stale_us)


_KEPT: Final = frozenset({"id", "started_us", "flushed_us"})
_COLUMNS: Final = tuple(replicas.c[name] for name in Replica.__slots__)


def database_clock(engine: Engine) -> Any:
    """The database's time in µs, as an expression."""
    return literal_column(_CLOCKS[engine.dialect.name])


class Replicas:
    """The rows of one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clock = database_clock(engine)
        self._insert = _INSERTS[engine.dialect.name]

    def now_us(self) -> int:
        """The database's clock."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return self._now(connection)

    def beat(self, replica: Replica) -> Replica:
        """Write its row: seen now. The answer has its times.

        What `flushed` wrote stays as it is.
        """
        with writing(self._engine) as connection:
            now_us = self._now(connection)
            values = {name: getattr(replica, name) for name in Replica.__slots__}
            made = values | {"started_us": now_us, "seen_us": now_us}
            seen = {name: made[name] for name in made if name not in _KEPT}
            row = connection.execute(
                self._insert(replicas)
                .values(made)
                .on_conflict_do_update(index_elements=["id"], set_=seen)
                .returning(replicas.c.started_us)
            )
            started_us = int(row.scalar_one())
        return replace(replica, started_us=started_us, seen_us=now_us)

    def flushed(self, replica_id: str, flushed_us: int) -> None:
        """Every hold that it took before this time of the database is in SQL."""
        with writing(self._engine) as connection:
            connection.execute(
                update(replicas).where(replicas.c.id == replica_id).values(flushed_us=flushed_us)
            )

    def live(self, within_us: int = LIVE_US) -> list[Replica]:
        """Those that were seen within a time, by name."""
        asked = (
            select(*_COLUMNS)
            .where(replicas.c.seen_us > self._clock - within_us)
            .order_by(replicas.c.name, replicas.c.id)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return [Replica(*row) for row in connection.execute(asked)]

    def leave(self, replica_id: str) -> None:
        """Take its row away: it ends now, and nobody need wait for it."""
        self._delete(replicas.c.id == replica_id)

    def died(self, name: str) -> None:
        """Take away the row of a process of this name, which somebody saw end."""
        self._delete(replicas.c.name == name)

    def forget(self) -> None:
        """Take away the rows of those that ended without a word, FORGET_US ago."""
        self._delete(replicas.c.seen_us < self._clock - FORGET_US)

    def _delete(self, condition: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(delete(replicas).where(condition))

    def _now(self, connection: Connection) -> int:
        return int(connection.execute(select(self._clock)).scalar_one())
