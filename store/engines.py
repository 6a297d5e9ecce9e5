"""Opening a database: SQLite in a file, or PostgreSQL. Engines, options of transactions, errors.

Driver errors are wrapped here, once: nothing above this package sees SQLAlchemy's or a driver's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from store.errors import ConfigError, StoreUnavailableError

DEFAULT_TIMEOUT_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 60.0
CONNECTIONS: Final = 10

_SQLITE: Final = "sqlite:///"
_PSYCOPG: Final = "postgresql+psycopg"
_POSTGRESQL: Final = frozenset({"postgres", "postgresql", _PSYCOPG})
# What a person can do something about; by what PostgreSQL calls it (errors of the connection have
# no code, only a text).
_STATES: Final = {
    "28": "it refuses the user or the password",
    "3D000": "there is no such database",
    "53300": "it has no connection left",
    "53100": "its disk is full",
    "57014": "it took too long",
    "55P03": "another has it locked",
    "40P01": "two waited for each other",
    "42501": "the user may not do that",
    "42P01": "a table is missing",
    "25006": "it only reads, as a standby does",
}
_TEXTS: Final = {
    "password authentication failed": _STATES["28"],
    "no password supplied": _STATES["28"],
    "pg_hba.conf": _STATES["28"],
    'role "': _STATES["28"],
    'database "': _STATES["3D000"],
    "too many clients": _STATES["53300"],
    "remaining connection slots": _STATES["53300"],
    "no more connections allowed": _STATES["53300"],  # a pooler's
    "starting up": "it is starting up",
    "shutting down": "it is shutting down",
    "recovery": "it is recovering",
    "timeout": "it took too long",
    "refused": "nobody listens there",
    "No such file": "nobody listens there",
    "resolve": "its host has no address",
    "closed": "the connection broke",
    "certificate verify failed": "its certificate is not trusted",
    "does not match host name": "its certificate is of another host",
    "root certificate file": "the file of sslrootcert is not there",
    "does not support SSL": "it speaks no TLS",
}


@contextmanager
def driver_errors() -> Iterator[None]:
    """Wrap whatever a driver raises into StoreUnavailableError: the edge of this package."""
    try:
        yield
    except SQLAlchemyError as fault:
        raise unavailable(fault) from fault


def unavailable(fault: Exception) -> StoreUnavailableError:
    """The one sentence for an error of SQLAlchemy or of a driver.

    Statement, values, address and user are not in it.
    """
    return StoreUnavailableError(
        f"The database does not answer ({_why(fault)}). "
        "Try again; `tensorgate doctor` looks at each part."
    )


def _why(fault: Exception) -> str:
    if isinstance(fault, PoolTimeoutError):
        return "all connections to it are in use"
    cause = fault.orig if isinstance(fault, DBAPIError) else fault
    if isinstance(cause, sqlite3.Error):
        return str(cause)  # SQLite's messages name files' states and columns, never values
    state = getattr(cause, "sqlstate", None)
    if state:
        return _STATES.get(state) or _STATES.get(state[:2]) or f"error {state}"
    said = str(cause)
    return next((why for part, why in _TEXTS.items() if part in said), type(fault).__name__)


def open_engine(
    url: str | URL,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    statement_seconds: float = STATEMENT_SECONDS,
    connections: int = CONNECTIONS,
) -> Engine:
    """An engine that waits at most `timeout_seconds` for another's lock. Connects to nothing yet.

    SQLite: WAL, foreign keys, synchronous=FULL; the file must be there (`upgrade` makes it).
    What follows `sqlite:///` is the path as it is; such a URL has no options.
    A connection is in autocommit until the execution options of `write_options` say otherwise.

    PostgreSQL: `timeout_seconds` is also the most that connecting takes, and a connection of the
    pool is waited for; a statement has `statement_seconds`, whether the server says so or says
    nothing at all (see store/postgres.py). At most `connections` are open; one on which the server
    has hung up is not used again.

    Raises ConfigError for a URL that cannot be used; the URL itself is not repeated.
    """
    try:
        made = _made_url(url)
        if made.drivername == _PSYCOPG:
            return _open_postgresql(made, timeout_seconds, statement_seconds, connections)
        engine = create_engine(made, hide_parameters=True, poolclass=QueuePool, max_overflow=-1)
    except (SQLAlchemyError, ImportError, ValueError, TypeError) as fault:
        raise ConfigError(
            "The settings cannot be used:",
            (
                (
                    "TENSORGATE_DATABASE_URL: not a database that can be used here "
                    f"({type(fault).__name__}); write postgresql://user:password@host/name or "
                    "sqlite:////path/to/tensorgate.db, or unset it for the one in the state folder."
                ),
            ),
        ) from None
    _prepare_sqlite(engine, timeout_seconds)
    return engine


def _made_url(url: str | URL) -> URL:
    """What SQLAlchemy understands by it. Raises ValueError for what is neither of the two."""
    if isinstance(url, str) and url.startswith(_SQLITE):
        return URL.create("sqlite", database=url.removeprefix(_SQLITE))
    made = make_url(url)
    if made.drivername in _POSTGRESQL:
        return made.set(drivername=_PSYCOPG)
    if made.get_backend_name() != "sqlite":
        raise ValueError("another database")
    return made


def _open_postgresql(
    url: URL, timeout_seconds: float, statement_seconds: float, connections: int
) -> Engine:
    from store import postgres  # noqa: PLC0415  its driver is not needed for SQLite

    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",  # whatever the server's default is
        use_native_hstore=False,
    )
    postgres.prepare(engine, timeout_seconds, statement_seconds)
    return engine


def _prepare_sqlite(engine: Engine, timeout_seconds: float) -> None:
    path = sqlite_path(engine)
    address = f"file:{quote(str(path))}?mode=rw"  # rw: never creates one by looking

    @event.listens_for(engine, "do_connect")
    def _connect(*_: object) -> sqlite3.Connection:
        connection = sqlite3.connect(
            address,
            uri=True,
            timeout=timeout_seconds,
            isolation_level=None,  # BEGIN is ours to say, see _begin
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )
        try:
            _set_pragmas(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("tensorgate_writes"):
            # IMMEDIATE takes the writer's lock before the first read: two mints cannot both
            # count the keys that there are, and no transaction fails half-way for the lock.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif options.get("tensorgate_snapshot"):
            connection.exec_driver_sql("BEGIN")


def _set_pragmas(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        # Busy means that another process is switching it, or that the next connection will.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def sqlite_path(engine: Engine) -> Path:
    """Where an SQLite engine's file is. Raises ConfigError for one that is only in memory."""
    name = engine.url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigError(
            "The settings cannot be used:",
            ("TENSORGATE_DATABASE_URL: SQLite needs a file, as in sqlite:////path/to/file.db",),
        )
    return Path(name).absolute()


def read_options(engine: Engine) -> Mapping[str, Any]:
    """Execution options for a connection that is held for reading: no snapshot may linger."""
    return {} if engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}


def is_hung_up(connection: Connection) -> bool:
    """Whether the database has ended a connection that is held without a transaction."""
    if connection.engine.dialect.name == "sqlite":
        return False
    from store import postgres  # noqa: PLC0415  see _open_postgresql

    return postgres.is_hung_up(connection.connection.driver_connection)


def snapshot_options(engine: Engine) -> Mapping[str, Any]:
    """Execution options for several reads that must all see the same moment."""
    if engine.dialect.name == "sqlite":
        return {"tensorgate_snapshot": True}
    return {"isolation_level": "REPEATABLE READ"}


def write_options(engine: Engine) -> Mapping[str, Any]:
    """Execution options for a transaction that changes something."""
    return {"tensorgate_writes": True} if engine.dialect.name == "sqlite" else {}


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that changes something.

    Raises StoreUnavailableError, and ValueError for a value that the database cannot keep: whoever
    tries again until it is back would do so for ever.
    """
    try:
        with driver_errors(), engine.connect() as held:
            connection = held.execution_options(**write_options(engine))
            with connection.begin():
                yield connection
    except StoreUnavailableError as fault:
        if not isinstance(fault.__cause__, DataError):
            raise
        raise ValueError("a value that the database cannot keep") from fault
