"""The database: made privately, migrated once, refused when it is not what this code needs."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from moneyhelp import KEY, charge, hold, mint
from peers.postgres import Postgres
from sqlalchemy import Engine, select, text
from statehelp import NOW_US, new_state, repository_on

import store
from store import engines, schema, upgrades
from store.errors import ConfigError, SchemaMismatchError, StoreUnavailableError
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.records import INT64_MAX
from store.settings import StoreSettings
from store.webschema import sessions

PACKAGE = Path(store.__file__).parent


def fresh(tmp_path: Path) -> StoreSettings:
    return StoreSettings(state=tmp_path / "new" / "state", catalog=tmp_path / "catalog.yaml")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database that nobody has migrated."""
    if request.param == "sqlite":
        engine = engines.open_engine(fresh(tmp_path).sql_url)
        yield engine
        engine.dispose()
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database(migrated=False) as url:
        engine = engines.open_engine(url)
        yield engine
        engine.dispose()


def test_migrations_lead_to_the_tables_that_the_code_speaks_of(
    another_engine: Callable[[], Engine],
) -> None:
    assert sessions.metadata is schema.metadata
    with another_engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_head_is_the_last_revision_and_they_ascend() -> None:
    config = Config()
    config.set_main_option("script_location", str(PACKAGE / "migrations"))
    revisions = [r.revision for r in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions[0] == upgrades.HEAD
    assert revisions == sorted(revisions, reverse=True)
    assert all(len(revision) == 4 and revision.isdigit() for revision in revisions)


def test_a_wheel_carries_the_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PACKAGE.parent,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {
        str(path.relative_to(PACKAGE.parent))
        for path in (PACKAGE / "migrations").rglob("*")
        if path.suffix in {".py", ".mako"}
    }
    assert here
    assert here <= packed


def test_a_new_database_is_private_and_durable(tmp_path: Path) -> None:
    settings = fresh(tmp_path)
    engine = upgrades.open_state(settings)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        names = sorted(path.name for path in settings.state.iterdir())
        assert names == ["tensorgate.db", "tensorgate.db-shm", "tensorgate.db-wal"]
        assert {mode(path) for path in settings.state.iterdir()} == {0o600}
    engine.dispose()
    assert mode(settings.state) == 0o700
    assert mode(settings.state.parent) == 0o700


def test_a_database_that_others_could_read_is_closed(tmp_path: Path) -> None:
    settings = fresh(tmp_path)
    settings.state.mkdir(parents=True, mode=0o755)
    (settings.state / "tensorgate.db").touch(0o644)
    (settings.state / "tensorgate.db").chmod(0o644)
    upgrades.open_state(settings).dispose()
    assert mode(settings.state / "tensorgate.db") == 0o600


def test_upgrade_says_where_it_came_from_and_does_nothing_twice(
    empty: Engine, tmp_path: Path
) -> None:
    engine = empty
    with pytest.raises(SchemaMismatchError, match="tensorgate db upgrade"):
        upgrades.check_current(engine)
    assert upgrades.current_revision(engine) is None
    assert not (tmp_path / "new").exists(), "looking makes nothing"
    assert upgrades.upgrade(engine) is None
    assert upgrades.upgrade(engine) == upgrades.HEAD
    upgrades.check_current(engine)


def test_the_sums_of_rows_that_were_there_are_made(
    empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the revision before there were any: the rows of two windows, and some that say more."""
    engine = empty
    upgrade = command.upgrade
    with monkeypatch.context() as older:
        older.setattr(command, "upgrade", lambda config, _: upgrade(config, "0002"))
        upgrades.upgrade(engine)
    rows = [
        ("k", 0, "a", 1, 5),
        ("k", 0, "a", 1, 6),
        ("k", 1, "a", 1, 7),
        ("other", 0, "a", None, 8),
        ("other", 1, "a", None, 0),
        ("huge", 0, "a", 2, INT64_MAX),
        ("huge", 0, "a", 2, INT64_MAX),
    ]
    with engine.begin() as connection:
        for number, (key, key_window, account, account_window, nanousd) in enumerate(rows):
            connection.execute(
                text(
                    "INSERT INTO ledger VALUES (:seq, :hold, '', :account, :key, '', NULL, '', '', "
                    "'', 200, 'metered', 0, 0, 0, 0, :nanousd, 0, :key_window, :account_window, 0, "
                    "0)"
                ),
                {
                    "seq": number + 1,
                    "hold": f"h{number}",
                    "account": account,
                    "key": key,
                    "nanousd": nanousd,
                    "key_window": key_window,
                    "account_window": account_window,
                },
            )
    assert upgrades.upgrade(engine) == "0002"
    with engine.connect() as connection:
        sums = connection.execute(select(schema.spent)).all()
    assert {(scope, number): nanousd for scope, number, nanousd in sums} == {
        ("a", 1): 18,
        ("a", 2): INT64_MAX,
        ("huge", 0): INT64_MAX,
        ("k", 0): 11,
        ("k", 1): 7,
        ("other", 0): 8,
    }
    with engine.connect() as connection:
        days = connection.execute(select(schema.daily)).mappings().all()
    assert {(row["key_id"], row["team"]): row["charge_nanousd"] for row in days} == {
        ("k", ""): 18,
        ("other", ""): 8,
        ("huge", ""): INT64_MAX,
    }
    assert [sum(row["calls_metered"] for row in days), len(days)] == [len(rows), 3]
    faults = LedgerReader(engine).verify().faults
    assert not any("kept" in fault or "missing" in fault for fault in faults), faults


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    settings = fresh(tmp_path)
    barrier = threading.Barrier(4)

    def start(_: int) -> str | None:
        barrier.wait()
        engine = upgrades.open_state(settings)
        try:
            return upgrades.current_revision(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [upgrades.HEAD] * 4


def test_processes_of_a_fleet_that_migrate_together_do_it_once(postgres: Postgres) -> None:
    with postgres.database(migrated=False) as url:
        barrier = threading.Barrier(4)

        def upgrade(_: int) -> str | None:
            engine = engines.open_engine(url)
            barrier.wait()
            try:
                return upgrades.upgrade(engine)
            finally:
                engine.dispose()

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(upgrade, range(4))) <= {None, upgrades.HEAD}
        engine = engines.open_engine(url)
        upgrades.check_current(engine)
        engine.dispose()


def test_the_newest_migrations_hold_nobody_up(postgres: Postgres) -> None:
    """An older version goes on: a long transaction of it neither waits nor is waited for."""
    with postgres.database(migrated=False) as url:
        engine = engines.open_engine(url)
        upgrade = command.upgrade
        with pytest.MonkeyPatch.context() as older:
            older.setattr(command, "upgrade", lambda config, _: upgrade(config, "0006"))
            upgrades.upgrade(engine)
        mint(engine, KEY)
        with engine.connect() as connection, connection.begin():
            for table in ("keys", "accounts", "changes", "ledger", "holds"):
                connection.exec_driver_sql(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
            began = time.monotonic()
            assert upgrades.upgrade(engine) == "0006"
            assert time.monotonic() - began < upgrades.TABLE_LOCK_SECONDS
            one = hold()
            connection.exec_driver_sql("SELECT count(*) FROM keys")
        Ledger(engine).book([(one, charge(one))])
        engine.dispose()


def test_a_failing_migration_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fresh(tmp_path)

    def upgrade_and_fail(config: Config, _: str) -> None:
        config.attributes["connection"].execute(text("CREATE TABLE half (id INTEGER)"))
        raise RuntimeError("broken")

    monkeypatch.setattr("alembic.command.upgrade", upgrade_and_fail)
    with pytest.raises(RuntimeError, match="broken"):
        upgrades.open_state(settings)
    database = sqlite3.connect(settings.state / "tensorgate.db")
    assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(("revision", "says"), [("0000", "db upgrade"), ("9999", "Update")])
def test_another_revision_is_refused(revision: str, says: str, tmp_path: Path) -> None:
    settings = new_state(tmp_path)
    database = sqlite3.connect(settings.state / "tensorgate.db")
    database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    database.commit()
    database.close()
    with pytest.raises(SchemaMismatchError, match=says) as caught:
        upgrades.open_state(settings)
    assert revision in str(caught.value)
    if revision > upgrades.HEAD:
        engine = engines.open_engine(settings.sql_url)
        with pytest.raises(SchemaMismatchError, match=says):
            upgrades.upgrade(engine)
        engine.dispose()


def test_a_database_that_was_named_is_not_made_by_looking(tmp_path: Path) -> None:
    settings = StoreSettings(database_url=f"sqlite:///{tmp_path}/typo.db", state=tmp_path)
    with pytest.raises(SchemaMismatchError, match="tensorgate db upgrade"):
        upgrades.open_state(settings)
    assert not (tmp_path / "typo.db").exists()
    engine = engines.open_engine(settings.sql_url)
    upgrades.upgrade(engine)
    engine.dispose()
    upgrades.open_state(settings).dispose()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "nosuch://gate:hunter22@db/gate",
        "mysql+nosuch://gate:hunter22@db/gate",
        "postgresql+nosuch://gate:hunter22@db:x/gate",
        "postgresql://gate:hunter22@db:port/gate",
        "mysql://gate:hunter22@db/gate",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="TENSORGATE_DATABASE_URL") as caught:
        engines.open_engine(url)
    assert "hunter22" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    settings = fresh(tmp_path)
    settings.state.mkdir(parents=True)
    (settings.state / "tensorgate.db").write_text("hello, this is no database\n" * 100)
    with pytest.raises(StoreUnavailableError, match="not a database"):
        upgrades.open_state(settings)


def test_a_state_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file where the folder should be")
    with pytest.raises(StoreUnavailableError, match="TENSORGATE_STATE"):
        upgrades.open_state(fresh(tmp_path))


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    """In a URI `?`, `#` and `%` would mean something."""
    settings = StoreSettings(state=tmp_path / "a?b#c%20d é")
    upgrades.open_state(settings).dispose()
    assert (settings.state / "tensorgate.db").exists()


def test_a_reader_is_not_held_up_by_a_writer_and_a_writer_not_for_ever(tmp_path: Path) -> None:
    settings = new_state(tmp_path)
    with repository_on(settings) as repository:
        repository.by_digests([b"x" * 32])
        blocker = sqlite3.connect(settings.state / "tensorgate.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        assert repository.by_digests([b"x" * 32]) is None
        assert repository.changes_since(0) == []
        hasty = engines.open_engine(settings.sql_url, timeout_seconds=0.05)
        begun = time.monotonic()
        with (
            pytest.raises(StoreUnavailableError, match="locked"),
            type(repository)(hasty).changing("cli:tester", NOW_US),
        ):
            pass
        assert time.monotonic() - begun < 1
        hasty.dispose()
        blocker.close()


def test_lookups_go_by_index(tmp_path: Path) -> None:
    with repository_on(new_state(tmp_path)) as repository:
        asked = str(repository._lookup(2).compile(repository._engine))
        with repository._engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", ("a", "b")).all()
        assert plan
        assert not any("SCAN" in row[-1] for row in plan)
