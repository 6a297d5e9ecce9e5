"""LiteLLM's tables, read as they are: keys, and whom and what they belong to. Nothing is changed.

The tables are those of its schema.prisma of 2026. Columns come and go between its versions: one
that is not there reads as NULL, and only those in `_NEEDED` have to be there. Every value is read
as PostgreSQL writes it, as text: a float's shortest decimal is what a person wrote, times may be
infinite, and no text is longer than it can be of use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

from sqlalchemy import URL, Connection, Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from store.engines import open_engine
from store.errors import ConfigError, InputError, StoreUnavailableError
from store.records import SECOND_US

READ_SECONDS: Final = 120.0
CONNECT_SECONDS: Final = 10.0
TEXT_CHARS: Final = 512
LIST_BYTES: Final = 65_536
LATEST_US: Final = 253_402_214_400 * SECOND_US  # the last day that a date can be written of

# options of Prisma's that PostgreSQL's own library refuses
_PRISMA: Final = (
    "schema",
    "connection_limit",
    "pool_timeout",
    "pgbouncer",
    "socket_timeout",
    "statement_cache_size",
    "sslaccept",
    "sslidentity",
)
_ID, _TEXT, _LIST, _TIME = "id", "text", "list", "time"  # two ids never become one by being cut
_BUDGET: Final = {
    "max_budget": _TEXT,
    "budget_duration": _TEXT,
    "budget_reset_at": _TIME,
    "rpm_limit": _TEXT,
}
_LIMITS: Final = {"tpm_limit": _TEXT, "max_parallel_requests": _TEXT, "model_max_budget": _TEXT}
_TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "LiteLLM_VerificationToken": {
        "token": _ID,
        "key_name": _TEXT,
        "key_alias": _TEXT,
        "spend": _TEXT,
        "expires": _TIME,
        "models": _LIST,
        "aliases": _TEXT,
        "user_id": _ID,
        "team_id": _ID,
        "project_id": _ID,
        "organization_id": _ID,
        "blocked": _TEXT,
        "budget_id": _ID,
        "allowed_routes": _LIST,
        "access_group_ids": _LIST,
        "created_at": _TIME,
        **_BUDGET,
        **_LIMITS,
    },
    "LiteLLM_UserTable": {
        "user_id": _ID,
        "user_alias": _TEXT,
        "user_email": _TEXT,
        "models": _LIST,
        "max_budget": _TEXT,
        "rpm_limit": _TEXT,
        **_LIMITS,
    },
    "LiteLLM_TeamTable": {
        "team_id": _ID,
        "team_alias": _TEXT,
        "organization_id": _ID,
        "models": _LIST,
        "blocked": _TEXT,
        "max_budget": _TEXT,
        "rpm_limit": _TEXT,
        **_LIMITS,
    },
    "LiteLLM_BudgetTable": {
        "budget_id": _ID,
        "allowed_models": _LIST,
        **_BUDGET,
        **_LIMITS,
    },
    "LiteLLM_OrganizationTable": {
        "organization_id": _ID,
        "organization_alias": _TEXT,
        "budget_id": _ID,
        "models": _LIST,
    },
    "LiteLLM_ProjectTable": {
        "project_id": _ID,
        "project_alias": _TEXT,
        "budget_id": _ID,
        "models": _LIST,
        "blocked": _TEXT,
        "model_rpm_limit": _TEXT,
        "model_tpm_limit": _TEXT,
    },
    "LiteLLM_TeamMembership": {"user_id": _ID, "team_id": _ID, "budget_id": _ID},
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "LiteLLM_VerificationToken": ("token", "models", "user_id", "team_id"),
    "LiteLLM_UserTable": ("user_id", "user_email"),
    "LiteLLM_TeamTable": ("team_id", "models"),
    "LiteLLM_BudgetTable": ("budget_id",),
}

_NEWER: Final = frozenset(
    {"LiteLLM_OrganizationTable", "LiteLLM_ProjectTable", "LiteLLM_TeamMembership"}
)
"""Not there before some version: then nothing is in them."""

Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """What money and requests a key may spend, for how long a budget holds, and when it ends."""

    max_usd: str | None
    duration: str | None
    reset_us: int | None
    rpm: str | None
    others: Mapping[str, str]  # limits that there are no such of here, as written
    models: tuple[str, ...] = ()  # only of a budget of its own table


@dataclass(frozen=True, slots=True)
class User:
    id: str
    alias: str | None
    email: str | None
    models: tuple[str, ...]
    budget: Budget


@dataclass(frozen=True, slots=True)
class Team:
    id: str
    alias: str | None
    models: tuple[str, ...]
    blocked: bool
    organization_id: str | None
    budget: Budget


@dataclass(frozen=True, slots=True)
class Group:
    """An organization or a project. `others` are limits of it beside those of its budget."""

    id: str
    alias: str | None
    models: tuple[str, ...]
    blocked: bool
    budget_id: str | None
    others: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """A key. `digest` is None where what stands there is no SHA-256; that may be a plaintext.

    `hint` is `sk-…` and the key's last four characters, or None. `models` is empty where the key
    names none, which is every model of its team or user. Times are µs, None for none, and at most
    LATEST_US.
    """

    digest: bytes | None = field(repr=False)
    hint: str | None
    name: str | None
    spend: str | None
    expires_us: int | None
    models: tuple[str, ...]
    user_id: str | None
    team_id: str | None
    project_id: str | None
    organization_id: str | None
    blocked: bool
    budget_id: str | None
    routes: tuple[str, ...]
    has_groups: bool
    has_aliases: bool
    created_us: int
    budget: Budget


@dataclass(frozen=True, slots=True)
class Tables:
    """All of it, at one moment. `members`: (user, team) → the budget of that user in that team."""

    tokens: tuple[Token, ...]
    users: Mapping[str, User]
    teams: Mapping[str, Team]
    budgets: Mapping[str, Budget]
    organizations: Mapping[str, Group]
    projects: Mapping[str, Group]
    members: Mapping[tuple[str, str], str]


def read(url: str) -> Tables:
    """Read LiteLLM's tables. Raises InputError, ConfigError or StoreError; none repeats the URL."""
    engine, schema = _open(url)
    try:
        with engine.connect() as held:
            connection = held.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                found = {name: _rows(connection, schema, name) for name in _TABLES}
    except SQLAlchemyError as fault:
        raise StoreUnavailableError(_unreadable(fault)) from None
    finally:
        engine.dispose()
    tokens = [_token(row) for row in found["LiteLLM_VerificationToken"]]
    tokens.sort(key=lambda token: (token.created_us, token.digest or b""))
    return Tables(
        tuple(tokens),
        {user.id: user for user in map(_user, found["LiteLLM_UserTable"])},
        {team.id: team for team in map(_team, found["LiteLLM_TeamTable"])},
        {str(row["budget_id"]): _budget(row) for row in found["LiteLLM_BudgetTable"]},
        _groups(found["LiteLLM_OrganizationTable"], "organization"),
        _groups(found["LiteLLM_ProjectTable"], "project"),
        {
            (str(row["user_id"]), str(row["team_id"])): str(row["budget_id"])
            for row in found["LiteLLM_TeamMembership"]
            if row["budget_id"]
        },
    )


def _unreadable(fault: SQLAlchemyError) -> str:
    """What the driver says may name the address and the user: only the kind of fault is told."""
    state = getattr(getattr(fault, "orig", None), "sqlstate", None)
    why = f"error {state}" if state else "no answer, or no entry"
    return (
        f"LiteLLM's database cannot be read ({why}). "
        "Look at the address, the user and the password in --from."
    )


def _open(url: str) -> tuple[Engine, str]:
    try:
        made = _postgresql(url)
        schema = made.query.get("schema", "public")
        engine = open_engine(
            made.difference_update_query(_PRISMA),
            timeout_seconds=CONNECT_SECONDS,
            statement_seconds=READ_SECONDS,
            connections=1,
        )
    except (SQLAlchemyError, ValueError, TypeError, ConfigError):
        raise InputError(
            "--from does not name LiteLLM's database. Write it as "
            "postgresql://user:password@host:5432/litellm, as its DATABASE_URL has it.",
            code="invalid_url",
        ) from None
    return engine, schema if isinstance(schema, str) else "public"


def _postgresql(url: str) -> URL:
    made = make_url(url)
    if made.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError("another database")
    return made.set(drivername="postgresql")


def _rows(connection: Connection, schema: str, table: str) -> list[Row]:
    """Every row, with None for the columns that this version has not."""
    asked = text(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = :schema AND table_name = :table"
    )
    there = set(connection.execute(asked, {"schema": schema, "table": table}).scalars())
    if table in _NEWER and not there:
        return []
    if missing := [name for name in _NEEDED.get(table, ()) if name not in there]:
        raise InputError(
            f"That database has no {table} with {', '.join(missing)} that can be read: it is not "
            "LiteLLM's. Look at --from; its `?schema=` names another schema than public.",
            code="not_litellm",
        )
    wanted = _TABLES[table]
    columns = [name for name in wanted if name in there]
    listed = ", ".join(f"{_AS_TEXT[wanted[name]].format(name)} AS {name}" for name in columns)
    quoted = schema.replace('"', '""')
    statement = f'SELECT {listed} FROM "{quoted}"."{table}"'  # noqa: S608  names of ours, and a quoted one
    absent = dict.fromkeys(wanted, None)
    rows = connection.exec_driver_sql(statement.replace("%", "%%")).mappings()
    return [absent | dict(row) for row in rows]


_AS_TEXT: Final = {
    _ID: '"{}"::text',
    _TEXT: f'left("{{}}"::text, {TEXT_CHARS})',
    _LIST: f'left(to_json("{{}}")::text, {LIST_BYTES})',
    _TIME: 'extract(epoch from "{}")::text',
}


def _token(row: Row) -> Token:
    token = row["token"] or ""
    digest = None
    with suppress(ValueError):
        digest = bytes.fromhex(token) if token == token.lower() and len(token) == 64 else None  # noqa: PLR2004  a SHA-256 in hex
    return Token(
        digest=digest,
        hint=_hint(row["key_name"]),
        name=_unless_plaintext(row["key_alias"], digest),
        spend=row["spend"],
        expires_us=_moment(row["expires"]),
        models=_names(row["models"]),
        user_id=row["user_id"] or None,
        team_id=row["team_id"] or None,
        project_id=row["project_id"] or None,
        organization_id=row["organization_id"] or None,
        blocked=row["blocked"] == "true",
        budget_id=row["budget_id"] or None,
        routes=_names(row["allowed_routes"]),
        has_groups=bool(_names(row["access_group_ids"])),
        has_aliases=_is_full(row["aliases"]),
        created_us=_moment(row["created_at"]) or 0,
        budget=_budget(row),
    )


def _hint(name: str | None) -> str | None:
    """`sk-...x4Qz` → `sk-…x4Qz`; anything else may be the key itself, and is not looked at."""
    before, dots, last = (name or "").rpartition("...")
    is_hint = dots and before == "sk-" and len(last) == 4 and last.isascii() and last.isprintable()  # noqa: PLR2004  as LiteLLM makes it
    return f"sk-…{last}" if is_hint else None


def _unless_plaintext(name: str | None, digest: bytes | None) -> str | None:
    """A key's name, unless somebody named the key by the key."""
    if name is None or hashlib.sha256(name.encode()).digest() == digest:
        return None
    return name


def _user(row: Row) -> User:
    return User(
        str(row["user_id"]),
        row["user_alias"],
        row["user_email"],
        _names(row["models"]),
        _budget(row),
    )


def _team(row: Row) -> Team:
    return Team(
        str(row["team_id"]),
        row["team_alias"],
        _names(row["models"]),
        row["blocked"] == "true",
        row["organization_id"] or None,
        _budget(row),
    )


def _groups(rows: Sequence[Row], kind: str) -> dict[str, Group]:
    made = [
        Group(
            id=str(row[f"{kind}_id"]),
            alias=row[f"{kind}_alias"],
            models=_names(row["models"]),
            blocked=row.get("blocked") == "true",
            budget_id=row["budget_id"] or None,
            others=_others(row),
        )
        for row in rows
    ]
    return {group.id: group for group in made}


def _budget(row: Row) -> Budget:
    """The limits in a row; users and teams have no period that counts for their keys."""
    return Budget(
        max_usd=row["max_budget"],
        duration=row.get("budget_duration") or None,
        reset_us=_moment(row.get("budget_reset_at")),
        rpm=row["rpm_limit"],
        others=_others(row),
        models=_names(row.get("allowed_models")),
    )


def _others(row: Row) -> dict[str, str]:
    wanted = (*_LIMITS, "model_rpm_limit", "model_tpm_limit")
    return {name: str(row[name]) for name in wanted if name in row and _is_full(row[name])}


def _is_full(value: str | None) -> bool:
    return value not in {None, "", "{}", "null", "[]"}


def _names(raw: str | None) -> tuple[str, ...]:
    """A column of names. One that is too long to be read is one name that nothing is called."""
    if not raw:
        return ()
    try:
        found = json.loads(raw)
    except ValueError:
        return ("\0",)
    if not isinstance(found, list):
        return ()
    return tuple(dict.fromkeys(str(name) for name in found if name is not None))


def _moment(epoch: str | None) -> int | None:
    """Seconds since 1970 as text → µs, within what can be written as a date."""
    if epoch is None:
        return None
    try:
        us = int(Decimal(epoch) * SECOND_US)
    except (InvalidOperation, OverflowError, ValueError):
        us = 0 if epoch.startswith("-") else LATEST_US  # endless
    return min(max(us, 0), LATEST_US)
