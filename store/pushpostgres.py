"""The feed's channel through PostgreSQL: LISTEN and NOTIFY.

A change is notified in its own transaction (store/keywriter.py), so it is told of exactly when it
is committed, in the order of commits. While a connection stands nothing is lost on it, so there
are no numbers; what was said while it did not stand is found by looking at SQL.

Behind a pooler (pgbouncer) nobody listens: who is lent the connection next would be told, and
would keep what it is told for ever. The feed goes on by polling there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import Engine

from store.engines import unavailable
from store.errors import StoreUnavailableError
from store.postgres import BoundedConnection, connection_like
from store.push import CHANNEL, Message, change_in


class PostgresChannel:
    """See store.push.Channel. On a connection of its own, of the engine's kind but not its pool."""

    def __init__(self, engine: Engine, *, seconds: float) -> None:
        """Connecting, and each answer, take `seconds` at most."""
        self._engine = engine
        self._seconds = seconds
        self._connection: BoundedConnection | None = None

    def open(self) -> None:
        """Connect and LISTEN."""
        self.close()
        with _errors():
            self._connection = connection_like(self._engine, seconds=self._seconds)
            if self._connection.lent:
                raise StoreUnavailableError("The database is behind a pooler.")
            self._connection.execute(f"LISTEN {CHANNEL}".encode())

    def receive(self, seconds: float) -> Sequence[Message]:
        """What came within so long."""
        with _errors():
            came = self._open_one().notifies(timeout=seconds, stop_after=1)
            return [_read(said.payload) for said in came]

    def send(self, text: str) -> None:
        """Notify by itself; changes are notified by who makes them."""
        with _errors():
            self._open_one().execute("SELECT pg_notify(%s, %s)", (CHANNEL, text))

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _open_one(self) -> BoundedConnection:
        if self._connection is None:
            raise psycopg.OperationalError("the connection is closed")
        return self._connection


def _read(line: str) -> Message:
    try:
        return Message(None, change_in(line))
    except ValueError:
        return Message(0, None)


@contextmanager
def _errors() -> Iterator[None]:
    """As store.engines.driver_errors, for what does not go through SQLAlchemy."""
    try:
        yield
    except psycopg.Error as fault:
        raise unavailable(fault) from fault
