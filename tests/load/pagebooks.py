"""Large books for the dashboard: accounts, keys and months of calls, put in as a gate puts them.

Rows are booked in the order of their ends, many at once, into the real tables. PostgreSQL's
triggers run once a COPY and make every sum as always; SQLite's would run once a row, for minutes,
so the sums are made there as a migration makes them of the rows that it finds. One account has a
tenth of the keys and a fifth of the calls: nobody's own pages have more to read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from random import Random
from typing import Any, Final

from sqlalchemy import Engine, Table, insert

from admin.passwords import hash_password
from store.engines import sqlite_path
from store.records import DAY_US, NANOUSD, Account, Role, window_at
from store.schema import accounts, audit, holds, keys, ledger, refused
from store.sessions import token_hash
from store.webschema import invites

PASSWORD: Final = "correct horse battery staple"
INVITE: Final = "b" * 43
CATALOG: Final = """
models:
  llama-3.1-8b:
    {price: {input: 0.05, output: 0.08}, context_tokens: 131072, max_output_tokens: 8192}
  "qwen3*": {price: {input: 0.2, output: 0.6}, context_tokens: 32768}
  mistral: {price: {input: 0.2, output: 0.6}, context_tokens: 32768}
  glm: {price: {input: 0.2, output: 0.6}, context_tokens: 32768}
plans:
  open: {}
default_plan: open
"""
MODELS: Final = ("llama-3.1-8b", "mistral", "qwen3-coder", "qwen3-30b", "qwen3-4b", "glm", "bge")
REASONS: Final = ("rate_limit_exceeded", "budget_exceeded", "model_not_allowed")
AT_ONCE: Final = 100_000

_VERSIONS: Final = "store.migrations.versions."
_SUMS: Final = (
    import_module(f"{_VERSIONS}0003_spent")._FILL["sqlite"],
    import_module(f"{_VERSIONS}0004_books")._fill("sqlite"),
)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Size:
    """How much there is."""

    keys: int
    rows: int
    accounts: int = 300
    teams: int = 40
    days: int = 90


@dataclass(frozen=True)
class Key:
    """A key, as rows of the ledger name it."""

    id: str
    owner: Account
    alias: str
    created_us: int
    expires_us: int
    revoked_us: int | None


@dataclass(frozen=True)
class Books:
    """What pages can be asked for; and how long it took to put it all in."""

    heavy: Account
    admin: Account
    auditor: Account
    key: Key
    request_id: str
    seconds: float


def fill(engine: Engine, size: Size, now_us: int) -> Books:
    """Put all of it into a migrated, empty database, which then is as one that runs for long."""
    begun = time.monotonic()
    random = Random(7)
    people = _people(size, now_us)
    owned = _keys(size, people, now_us, random)
    heavy, admin, auditor = people[:3]
    postgresql = engine.dialect.name == "postgresql"
    put = _copied if postgresql else _executed
    put(engine, accounts, _ACCOUNT, _account_rows(people))
    put(engine, keys, _KEY, _key_rows(owned))
    with nullcontext() if postgresql else _summed_afterwards(engine):
        put(engine, ledger, _CALL, _calls(size, owned, now_us, random))
    put(engine, refused, _REFUSED, _refusals(size, people, owned, now_us))
    put(engine, audit, _CHANGE, _changes(people, owned, now_us))
    put(engine, holds, _HOLD, _open_holds(owned[:50], now_us))
    with engine.begin() as connection:
        hashed, until_us = token_hash(INVITE), now_us + DAY_US
        row = {"token_hash": hashed, "account_id": people[-1].id, "expires_us": until_us}
        connection.execute(insert(invites).values(row))
    _settled(engine)
    return Books(heavy, admin, auditor, owned[0], "req-1", time.monotonic() - begun)


# -- what there is

_ACCOUNT: Final = "id email team plan role service password_hash created_us"
_KEY: Final = (
    "id account_id alias digest pepper_version hint models budget_nanousd rpm created_us "
    "expires_us revoked_us"
)
_CALL: Final = (
    "hold_id request_id account_id key_id user team alias model endpoint status basis "
    "input_tokens cached_input_tokens cache_write_tokens output_tokens charge_nanousd "
    "hold_nanousd key_window account_window admitted_us settled_us price tokens_per_byte "
    "input_bound output_bound seen"
)
_REFUSED: Final = "account_id day key_id reason calls last_us"
_CHANGE: Final = "at_us actor action subject before after address"
_HOLD: Final = (
    "hold_id request_id account_id key_id key_window account_window nanousd admitted_us record"
)


def _people(size: Size, now_us: int) -> list[Account]:
    names = ["heavy", "admin", "auditor", *(f"user-{number}" for number in range(size.accounts))]
    roles = {"admin": Role.ADMIN, "auditor": Role.AUDITOR}
    return [
        Account(
            id=f"acc_{number:016}",
            email=f"{name}@example.org",
            team=None if number % 11 == 10 else f"team-{number % size.teams}",
            plan="open",
            role=roles.get(name, Role.USER),
            service=False,
            created_us=now_us - (size.days + 5) * DAY_US - number,
        )
        for number, name in enumerate(names[: size.accounts])
    ]


def _account_rows(people: Sequence[Account]) -> Iterator[Row]:
    hashed = hash_password(PASSWORD)
    for each in people:
        yield (
            each.id,
            each.email,
            each.team,
            each.plan,
            each.role.value,
            False,
            hashed,
            (each.created_us),
        )


def _keys(size: Size, people: Sequence[Account], now_us: int, random: Random) -> list[Key]:
    """The largest account's first; one in ten has expired, and one in ten is revoked."""
    return [
        Key(
            f"key_{number:016}",
            people[0 if number < size.keys // 10 else 1 + number % (len(people) - 1)],
            f"alias-{number}",
            now_us - random.randrange(size.days, size.days + 5) * DAY_US,
            now_us + (-1 if number % 10 == 8 else 100) * DAY_US,
            now_us - DAY_US if number % 10 == 9 else None,
        )
        for number in range(size.keys)
    ]


def _key_rows(owned: Sequence[Key]) -> Iterator[Row]:
    for number, key in enumerate(owned):
        models = None if number % 3 else json.dumps(sorted(MODELS[: 1 + number % 5]))
        yield (
            *(key.id, key.owner.id, key.alias, number.to_bytes(32), 0, f"sk-tg_…{number:04}"),
            *(models, 5 * NANOUSD, 60, key.created_us, key.expires_us, key.revoked_us),
        )


def _calls(size: Size, owned: Sequence[Key], now_us: int, random: Random) -> Iterator[Row]:
    """In the order of their ends, evenly over the days."""
    first_us, every_us = now_us - size.days * DAY_US, size.days * DAY_US // size.rows
    favoured = size.keys // 10
    for number in range(size.rows):
        key = owned[int(random.random() * (favoured if number % 9 == 0 else size.keys))]
        took_us = 50_000 + int(random.random() ** 3 * 20_000_000)
        settled_us = first_us + (number + 1) * every_us
        seen = (
            '{"reached":true,"answered":true,"complete":true,"events":40,"content_bytes":900,'
            f'"duration_us":{took_us},"first_us":{took_us // 9}}}'
        )
        owner = key.owner
        yield (
            *(f"hold-{number}", f"req-{number}", owner.id, key.id, owner.email, owner.team),
            *(key.alias, MODELS[number * 31 % len(MODELS)], "chat.completions", 200, "metered"),
            *(700, 100, 0, 250, 55_000 + number % 9_000, 500_000),
            *(window_at(key.created_us, settled_us - took_us), None),
            *(settled_us - took_us, settled_us, "[50,10,0,80,0,0]", "1", 4_000, 8_192, seen),
        )


def _refusals(
    size: Size, people: Sequence[Account], owned: Sequence[Key], now_us: int
) -> Iterator[Row]:
    """Of each account a key each day, of the largest one a hundred of its keys."""
    first_of = {key.owner.id: key for key in reversed(owned)}
    refusing = [first_of[each.id] for each in people if each.id in first_of] + list(
        owned[1 : min(100, size.keys // 10)]
    )
    today = now_us // DAY_US
    for day in range(today - size.days, today + 1):
        for key in refusing:
            for reason in REASONS:
                yield key.owner.id, day, key.id, reason, 3, day * DAY_US


def _changes(people: Sequence[Account], owned: Sequence[Key], now_us: int) -> Iterator[Row]:
    """Every key was minted, and everybody came in a hundred times."""
    for key in owned:
        facts = {"user": key.owner.email, "alias": key.alias, "budget_nanousd": 5 * NANOUSD}
        minted = ("key.mint", key.id, None, json.dumps(facts), "192.0.2.1")
        yield key.created_us, f"web:{key.owner.email}", *minted
    for number in range(100):
        for person in people:
            facts = {"session": f"ses_{number}", "means": "password", "agent": "a browser"}
            began = ("session.begin", person.id, None, json.dumps(facts), "192.0.2.1")
            yield now_us - number * DAY_US, f"web:{person.email}", *began


def _open_holds(owned: Sequence[Key], now_us: int) -> Iterator[Row]:
    for number, key in enumerate(owned):
        names = (f"open-{number}", f"open-req-{number}", key.owner.id, key.id)
        yield *names, window_at(key.created_us, now_us), None, 900_000, now_us, "[]"


# -- how it gets in


def _executed(engine: Engine, table: Table, names: str, rows: Iterable[Row]) -> None:
    """SQLite: many at once, without waiting for its disk."""
    columns = ", ".join(f'"{name}"' for name in names.split())
    slots = ", ".join("?" * len(names.split()))
    statement = f"INSERT INTO {table.name} ({columns}) VALUES ({slots})"
    left = iter(rows)
    with engine.connect() as held:
        driver = held.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA synchronous=OFF")
        driver.execute("PRAGMA cache_size=-400000")
        while some := list(islice(left, AT_ONCE)):
            driver.execute("BEGIN IMMEDIATE")
            driver.executemany(statement, some)
            driver.execute("COMMIT")
        held.invalidate()  # nobody else gets a connection that does not wait for the disk


@contextmanager
def _summed_afterwards(engine: Engine) -> Iterator[None]:
    """SQLite: without triggers on the ledger in here, and with what they would have made then."""
    with engine.begin() as connection:
        asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger'"
        triggers = connection.exec_driver_sql(asked).all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    with engine.begin() as connection:
        for statement in _SUMS:
            connection.exec_driver_sql(statement)
        for _, made in triggers:
            connection.exec_driver_sql(made)


def _copied(engine: Engine, table: Table, names: str, rows: Iterable[Row]) -> None:
    """PostgreSQL: COPY, a part at a time, for each of which its triggers run once."""
    columns = ", ".join(f'"{name}"' for name in names.split())
    left = iter(rows)
    with engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("SET LOCAL statement_timeout = 0")
        while some := list(islice(left, AT_ONCE)):
            with (
                driver.cursor() as cursor,
                cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy,
            ):
                for row in some:
                    copy.write_row(row)


def _settled(engine: Engine) -> None:
    """What a database does by itself as time goes by: PostgreSQL vacuums, SQLite folds its log."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("VACUUM ANALYZE")
        return
    assert sqlite_path(engine).exists()
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
