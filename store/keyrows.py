"""What rows of accounts and keys are as records, and what of them stands in the audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import RowMapping, Select, select

from store.records import Account, KeyRecord, Role
from store.schema import accounts, disabled, keys

Facts = Mapping[str, object]

DISABLED: Final = (
    select(disabled.c.at_us)
    .where(disabled.c.account_id == accounts.c.id)
    .correlate(accounts)
    .scalar_subquery()
    .label("disabled_us")
)
"""A column beside those of `accounts`: since when the account is disabled; NULL where it is not."""


def read_account(row: RowMapping) -> Account:
    """A row of `accounts` with DISABLED, without its password hash."""
    return Account(
        id=row["id"],
        email=row["email"],
        team=row["team"],
        plan=row["plan"],
        role=Role(row["role"]),
        service=row["service"],
        created_us=row["created_us"],
        disabled_us=row["disabled_us"],
    )


def select_keys() -> Select[Any]:
    """Keys with what their record needs of the account; `read_key` reads its rows."""
    return select(
        keys.c.digest,
        keys.c.id,
        keys.c.account_id,
        accounts.c.email,
        accounts.c.team,
        accounts.c.plan,
        accounts.c.created_us.label("account_created_us"),
        keys.c.alias,
        keys.c.hint,
        keys.c.models,
        keys.c.budget_nanousd,
        keys.c.rpm,
        keys.c.created_us,
        keys.c.expires_us,
        keys.c.revoked_us,
        DISABLED,
    ).join(accounts, accounts.c.id == keys.c.account_id)


def read_key(row: Any) -> tuple[bytes, KeyRecord]:
    """(digest, record) of a row of `select_keys`, in the order of its columns."""
    digest, key_id, account_id, user, team, plan, account_created_us, alias, hint, models, *rest = (
        row
    )
    return bytes(digest), KeyRecord(
        key_id,
        account_id,
        user,
        team,
        plan,
        account_created_us,
        alias,
        hint,
        None if models is None else frozenset(json.loads(models)),
        *rest,
    )


def models_text(models: frozenset[str] | None) -> str | None:
    return None if models is None else json.dumps(sorted(models), ensure_ascii=False)


def account_facts(account: Account) -> Facts:
    return {
        "email": account.email,
        "team": account.team,
        "plan": account.plan,
        "role": account.role.value,
        "service": account.service,
    }


def key_facts(record: KeyRecord) -> Facts:
    return {
        "user": record.user,
        "alias": record.alias,
        "hint": record.hint,
        "models": None if record.models is None else sorted(record.models),
        "budget_nanousd": record.budget_nanousd,
        "rpm": record.rpm,
        "expires_us": record.expires_us,
        "revoked_us": record.revoked_us,
    }
