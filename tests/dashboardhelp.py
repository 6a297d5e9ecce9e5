"""What tests of the dashboard put into its state, and how they see that nothing was changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, insert, select

from store.clock import wall_us
from store.records import KeyRecord, window_at
from store.schema import accounts, audit, keys, ledger
from store.webschema import identities, invites, sessions

_count = 0


def book_call(engine: Engine, key: KeyRecord, **changes: Any) -> None:
    """A row of the ledger, as one call of the key leaves it, a moment ago."""
    global _count  # noqa: PLW0603  a number for each row
    _count += 1
    now_us = wall_us()
    row = {
        "hold_id": f"hold-{_count}",
        "request_id": f"req-{_count}",
        "account_id": key.account_id,
        "key_id": key.id,
        "user": key.user,
        "team": key.team,
        "alias": key.alias,
        "model": "llama-3.1-8b",
        "endpoint": "chat.completions",
        "status": 200,
        "basis": "metered",
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 50,
        "charge_nanousd": 1_250_000,
        "hold_nanousd": 2_000_000,
        "key_window": window_at(key.created_us, now_us),
        "account_window": None,
        "admitted_us": now_us - 2_000_000,
        "settled_us": now_us - 1_000_000,
    }
    with engine.begin() as connection:
        connection.execute(insert(ledger).values(row | changes))


def everything(engine: Engine) -> list[list[Any]]:
    """All that a page could change; when somebody was last seen is left out."""
    told = [column for column in accounts.c if column.name != "seen_us"]
    lists = [
        select(*told).order_by(accounts.c.id),
        select(keys).order_by(keys.c.id),
        select(audit).where(audit.c.action != "session.begin").order_by(audit.c.id),
        select(invites),
        select(identities),
        select(sessions.c.account_id).order_by(sessions.c.id),
    ]
    with engine.connect() as connection:
        return [[tuple(row) for row in connection.execute(each)] for each in lists]
