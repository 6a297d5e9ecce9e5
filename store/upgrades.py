"""The revision that a database is at, and how it is brought to ours.

`upgrade` runs the migrations in this package, so that an installed wheel needs no files beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine, inspect, text

from store.engines import (
    DEFAULT_TIMEOUT_SECONDS,
    driver_errors,
    open_engine,
    sqlite_path,
    write_options,
)
from store.errors import SchemaMismatchError, StoreUnavailableError

if TYPE_CHECKING:
    from store.settings import StoreSettings  # its pydantic is not needed to open an engine

HEAD: Final = "0010"
"""The revision this code was made for. Revisions are four digits and ascend."""

UPGRADE_TIMEOUT_SECONDS: Final = 30.0
UPGRADE_STATEMENT_SECONDS: Final = 3600.0  # making sums of all rows takes as long as it takes
TABLE_LOCK_SECONDS: Final = 5
_MIGRATION_LOCK: Final = 0x746F6C6C  # any fixed number; PostgreSQL's advisory lock takes one


def current_revision(engine: Engine) -> str | None:
    """The revision the database is at; None without a database or without our tables."""
    if engine.dialect.name == "sqlite" and not _exists(sqlite_path(engine)):
        return None
    with driver_errors(), engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


def check_current(engine: Engine) -> None:
    """Raises SchemaMismatchError unless the database is at the revision of this code."""
    revision = current_revision(engine)
    if revision == HEAD:
        return
    if revision is None:
        raise SchemaMismatchError(
            "The database holds no tables of Tensorgate yet. Run `tensorgate db upgrade`."
        )
    if revision > HEAD:
        raise SchemaMismatchError(
            f"The database is at revision {revision}, made by a newer Tensorgate than this one "
            f"({HEAD}). Update Tensorgate."
        )
    raise SchemaMismatchError(
        f"The database is at revision {revision}, this Tensorgate needs {HEAD}. "
        "Run `tensorgate db upgrade`."
    )


def upgrade(engine: Engine) -> str | None:
    """Bring the database to this code's revision; the one it was at before, None for a new one.

    All in one transaction under a lock, so processes that start together do it once. An SQLite
    file is made with mode 0600, and folders that are missing above it with 0700.
    """
    from alembic import command  # noqa: PLC0415  a tenth of a second that only a migration costs
    from alembic.config import Config  # noqa: PLC0415  likewise

    if engine.dialect.name == "sqlite":
        _create_private(sqlite_path(engine))
    before = current_revision(engine)
    if before is not None and before >= HEAD:
        check_current(engine)
        return before
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    patient = open_engine(
        engine.url,
        timeout_seconds=UPGRADE_TIMEOUT_SECONDS,
        statement_seconds=UPGRADE_STATEMENT_SECONDS,
    )
    try:
        with driver_errors(), patient.connect() as held:
            connection = held.execution_options(**write_options(patient))
            with connection.begin():
                if patient.dialect.name == "postgresql":
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                    # who waits for a table's lock holds up everybody who comes after
                    connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    finally:
        patient.dispose()
    return before


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as fault:
        raise _unusable(path, fault) from None


def _unusable(path: Path, fault: OSError) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"The database {path} cannot be made or opened ({fault.strerror}). "
        "Set TENSORGATE_STATE to a folder that this user may write."
    )


def _create_private(path: Path) -> None:
    """An empty file, 0600 from its first moment: SQLite gives its -wal and -shm the same mode."""
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as fault:
        raise _unusable(path, fault) from None


def open_state(
    settings: StoreSettings, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> Engine:
    """An engine on the settings' database, at this code's revision.

    The default database in the state folder is made when there is none. Any other raises
    SchemaMismatchError until `tensorgate db upgrade` was run: a mistyped URL must not become
    a second, empty gate.
    """
    engine = open_engine(settings.sql_url, timeout_seconds=timeout_seconds)
    try:
        if settings.database_url is None and current_revision(engine) is None:
            upgrade(engine)
        else:
            check_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine
