"""Accounts, keys and drafts for tests of money, and a clock that is moved by hand."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine, event
from statehelp import NOW_US, new_state

from store.counters.memory import MemoryCounters
from store.counters.model import Counters, Limit, MinuteLimit, MoneyLimit, Seed
from store.engines import open_engine
from store.keys import KeyRepository
from store.records import (
    DAY_US,
    Account,
    Basis,
    Charge,
    Hold,
    KeyRecord,
    Price,
    Role,
    Window,
    window_at,
)

ACCOUNT = Account(
    id="acc_anna",
    email="anna@example.org",
    team="red",
    plan="pro",
    role=Role.USER,
    service=False,
    created_us=NOW_US - 47 * DAY_US,
)
KEY = KeyRecord(
    id="key_laptop",
    account_id=ACCOUNT.id,
    user=ACCOUNT.email,
    team=ACCOUNT.team,
    plan=ACCOUNT.plan,
    account_created_us=ACCOUNT.created_us,
    alias="laptop",
    hint="sk-tg_…x4Qz",
    models=None,
    budget_nanousd=1000,
    rpm=None,
    created_us=NOW_US - 12 * DAY_US,
    expires_us=NOW_US + 90 * DAY_US,
    revoked_us=None,
)
OTHER_KEY = replace(KEY, id="key_build", alias="build", created_us=NOW_US - 3 * DAY_US)
STRANGER = replace(ACCOUNT, id="acc_bob", email="bob@example.org", team=None)
STRANGERS = replace(KEY, id="key_bob", account_id=STRANGER.id, user=STRANGER.email, team=None)
PRICE = Price(input=3_000, cached_input=300, cache_write=3_750, output=15_000)

_numbers = count(1)

C = TypeVar("C", bound=Counters)


def fast_engine(folder: Path) -> Engine:
    """An engine on a fresh, migrated database, for tests that crash nothing but themselves."""
    return hasty(open_engine(new_state(folder).sql_url))


def hasty(engine: Engine) -> Engine:
    """Has SQLite not wait for its disk."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _hasty(connection: object, _: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")  # type: ignore[attr-defined]

    return engine


def mint(
    engine: Engine, *records: KeyRecord, account: Account = ACCOUNT, add_account: bool = True
) -> None:
    """Put an account and keys of it into the database."""
    with KeyRepository(engine) as repository, repository.changing("cli:tester", NOW_US) as writer:
        if add_account:
            writer.add_account(account, None)
        for record in records:
            writer.add_key(record, secrets.token_bytes(32), 0)


def with_a_stranger(engine: Engine) -> Engine:
    """A database with the account's two keys, and one of somebody else's."""
    mint(engine, KEY, OTHER_KEY)
    mint(engine, STRANGERS, account=STRANGER)
    return engine


def draft(nanousd: int = 100, *, key: KeyRecord = KEY, **given: object) -> Hold:
    """What a Check would ask for, with ids of its own."""
    number = next(_numbers)
    fields: dict[str, object] = {
        "id": f"{number:032x}",
        "request_id": f"00000000-0000-4000-8000-{number:012x}",
        "account_id": key.account_id,
        "key_id": key.id,
        "user": key.user,
        "team": key.team,
        "alias": key.alias,
        "model": "llama-3.1-8b",
        "endpoint": "chat/completions",
        "nanousd": nanousd,
        "price": PRICE,
        "tokens_per_byte": "1",
        "input_bound": 1200,
        "output_bound": 4096,
        "minute": None if key.rpm is None else key.id,
    }
    return Hold(**(fields | given))  # type: ignore[arg-type]


def hold(
    nanousd: int = 100,
    *,
    key: KeyRecord = KEY,
    at: int = NOW_US,
    account: bool = True,
    **given: object,
) -> Hold:
    """A draft as if it had been admitted."""
    windows = [Window(key.id, window_at(key.created_us, at))]
    if account:
        windows.append(Window(key.account_id, window_at(key.account_created_us, at)))
    return draft(nanousd, key=key, **given).admitted(at, tuple(windows))


def charge(
    of: Hold, nanousd: int = 40, *, basis: Basis = Basis.METERED, at: int | None = None
) -> Charge:
    return Charge(
        hold_id=of.id,
        basis=basis,
        status=200,
        input_tokens=11,
        cached_input_tokens=3,
        cache_write_tokens=0,
        output_tokens=7,
        nanousd=nanousd,
        settled_us=of.admitted_us if at is None else at,
    )


def money(key: KeyRecord = KEY, budget: int | None = 1000, ceiling: str = "hold") -> MoneyLimit:
    return MoneyLimit(key.id, key.created_us, budget, ceiling)  # type: ignore[arg-type]


def account_money(budget: int | None = 1000) -> MoneyLimit:
    return MoneyLimit(ACCOUNT.id, ACCOUNT.created_us, budget)


def limits(
    key: KeyRecord = KEY, *, account_budget: int | None = None, account: bool = False
) -> tuple[Limit, ...]:
    """The limits that a Check of the key would take from."""
    found: list[Limit] = []
    if key.rpm is not None:
        found.append(MinuteLimit(key.id, key.rpm))
    found.append(money(key, key.budget_nanousd))
    if account or account_budget is not None:
        found.append(account_money(account_budget))
    return tuple(found)


def seeded(counters: C, spent: dict[Window, int] | None = None) -> C:
    """Say that SQL knows nothing of the account but `spent`."""
    assert counters.seed(counters.generation(ACCOUNT.id), Seed(spent or {}, {}))
    return counters


def reopened(
    counters: Counters,
    holds: Sequence[Hold],
    spent: dict[Window, int] | None = None,
    *,
    minutes: dict[str, list[int]] | None = None,
    ended: Sequence[tuple[str, int]] = (),
) -> None:
    """Serve the account as after a start: with holds that are open, requests that have ended.

    In process they come from the journal, in Redis with the seed, from SQL.
    """
    if isinstance(counters, MemoryCounters):
        counters.restore(holds, ended=ended)
    known = Seed(spent or {}, minutes or {}, tuple(holds), tuple(ended))
    assert counters.seed(counters.generation(ACCOUNT.id), known)
