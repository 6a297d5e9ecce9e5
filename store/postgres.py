"""Connections to PostgreSQL that never keep anybody waiting for longer than they were told to.

A server that is stopped, or a network that drops packets, answers nothing at all: its own
`statement_timeout` does not help then, nor does TCP, which sees its data acknowledged. So each
wait has a bound of its own here, and a connection that missed it is closed: an answer that comes
later is nobody's.

A pooler (pgbouncer) may stand in between and lend the server's connections out by transaction. It
makes up the number of the server's process, which tells it. Nothing is prepared there then, as the
next transaction is on another connection, and of the times only our own bound is sure: what an
`options` says, poolers refuse or pass over.
"""

from __future__ import annotations

import os
import select
from math import ceil
from threading import BoundedSemaphore, Event, Thread
from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError

KEEPALIVE: Final = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
"""Seconds: an idle connection to a machine that is gone is known as such after 11 s."""
_MARGIN: Final = 1.2  # the server says first that a statement takes too long, if it says anything
_LEAST_CONNECT_SECONDS: Final = 2  # libpq's
_CONNECTING_AT_ONCE: Final = 16
_NO_OPTIONS: Final = "unsupported startup parameter"  # pgbouncer's words, of all its versions
_IDLE_IN_TRANSACTION_SECONDS: Final = 10.0  # a writer that stands still must not lock out the rest

_connecting = BoundedSemaphore(_CONNECTING_AT_ONCE)


class BoundedConnection(psycopg.Connection[Any]):
    """Each wait for the server takes `bound_seconds` at most; after one that did it is closed.

    `lent`: a pooler stands in between.
    """

    bound_seconds: float | None = None
    lent: bool = False

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's; a `timeout` that is given is the caller's business."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.bound_seconds)
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


def connect(
    conninfo: str = "",
    *,
    timeout_seconds: float,
    statement_seconds: float | None,
    **given: Any,
) -> BoundedConnection:
    """A connection, or psycopg.OperationalError after `timeout_seconds` at the latest.

    Made in a thread of its own: libpq waits for 2 s at least, and for a name's address as long
    as it takes. One that is made too late is closed. No more than 16 are being made at once.
    """
    parameters = _parameters(given, timeout_seconds, statement_seconds)
    made: list[BoundedConnection | BaseException] = []
    done, given_up = Event(), Event()

    def run() -> None:
        try:
            made.append(_opened(conninfo, given.get("options"), parameters, timeout_seconds))
        except BaseException as fault:  # noqa: BLE001  raised where it is waited for
            made.append(fault)
        finally:
            _connecting.release()
            done.set()
        if given_up.is_set():
            _discard(made)

    if not _connecting.acquire(timeout=timeout_seconds):
        raise psycopg.OperationalError("connection timeout expired")
    Thread(target=run, name="connect", daemon=True).start()
    if not done.wait(timeout_seconds):
        given_up.set()
        if done.is_set():
            _discard(made)
        raise psycopg.OperationalError("connection timeout expired")
    (result,) = made
    if isinstance(result, BaseException):
        raise result.with_traceback(None)
    result.bound_seconds = None if statement_seconds is None else statement_seconds * _MARGIN
    return result


def _opened(
    conninfo: str, own_options: str | None, parameters: dict[str, Any], timeout_seconds: float
) -> BoundedConnection:
    """A connection that knows whether it is lent. `own_options` are those that the URL has."""
    try:
        made = BoundedConnection.connect(conninfo, **parameters)
    except psycopg.OperationalError as fault:
        if _NO_OPTIONS not in str(fault):
            raise
        made = BoundedConnection.connect(conninfo, **parameters | {"options": own_options or ""})
    try:
        made.bound_seconds = timeout_seconds
        autocommit, made.autocommit = made.autocommit, True
        found = made.execute("SELECT pg_backend_pid()").fetchone()
        made.autocommit = autocommit
        if found != (made.info.backend_pid,):
            made.lent = True
            made.prepare_threshold = None
    except BaseException:
        made.close()
        raise
    return made


def _discard(made: list[BoundedConnection | BaseException]) -> None:
    """Close what came too late; whichever of the two threads takes it."""
    try:
        late = made.pop()
    except IndexError:
        return
    if isinstance(late, BoundedConnection):
        late.close()


def _parameters(
    given: dict[str, Any], timeout_seconds: float, statement_seconds: float | None
) -> dict[str, Any]:
    """Ours where the URL does not say otherwise; the times are always ours."""
    limit_ms = 0 if statement_seconds is None else ceil(statement_seconds * 1000)
    options = {
        "statement_timeout": limit_ms,
        "lock_timeout": ceil(timeout_seconds * 1000),
        "idle_in_transaction_session_timeout": ceil(
            max(_IDLE_IN_TRANSACTION_SECONDS, statement_seconds or 0) * 1000
        ),
    }
    own = " ".join(f"-c {name}={value}" for name, value in options.items())
    return (
        KEEPALIVE
        | {"application_name": "tensorgate", "client_encoding": "utf8"}
        | given
        | {
            "connect_timeout": max(_LEAST_CONNECT_SECONDS, ceil(timeout_seconds)),
            "tcp_user_timeout": str(max(1000, ceil(timeout_seconds * 1000))),
            "options": f"{given.get('options') or ''} {own}".strip(),
        }
    )


def connection_like(engine: Engine, *, seconds: float) -> BoundedConnection:
    """A connection to an engine's database, in autocommit, that is none of its pool's."""
    positional, named = engine.dialect.create_connect_args(engine.url)
    return connect(
        *positional, timeout_seconds=seconds, statement_seconds=seconds, autocommit=True, **named
    )


def prepare(engine: Engine, timeout_seconds: float, statement_seconds: float) -> None:
    """Have an engine make such connections, and never use one of the process it was forked from."""

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, cargs: Any, cparams: Any) -> BoundedConnection:
        return connect(
            *cargs,
            timeout_seconds=timeout_seconds,
            statement_seconds=statement_seconds,
            **cparams,
        )

    @event.listens_for(engine, "connect")
    def _note_process(_connection: Any, record: Any) -> None:
        record.info["pid"] = os.getpid()

    @event.listens_for(engine, "checkout")
    def _check(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["pid"] != os.getpid():
            record.dbapi_connection = proxy.dbapi_connection = None  # the parent's: not closed
            raise DisconnectionError("a connection of another process")
        if is_hung_up(connection):
            raise InvalidatePoolError("the server has ended it, and the others as well")


def is_hung_up(connection: Any) -> bool:
    """Whether the server has ended an idle connection, as far as this machine has heard.

    An idle connection has nothing to read but its end. That costs no round trip, so no connection
    is tried by a statement before it is used.
    """
    if connection.closed:
        return True
    looking = select.poll()
    looking.register(connection.fileno(), select.POLLIN)
    return bool(looking.poll(0))
