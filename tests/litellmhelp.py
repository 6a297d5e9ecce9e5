"""LiteLLM's tables in a real PostgreSQL, as its migrations make them, and keys to put into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from peers.postgres import Postgres

_LIMITS: Final = """
    max_parallel_requests integer, tpm_limit bigint, rpm_limit bigint,
    max_budget double precision, budget_duration text, budget_reset_at timestamp(3)
"""
SCHEMA: Final = f"""
CREATE TABLE "LiteLLM_BudgetTable" (
    budget_id text PRIMARY KEY, soft_budget double precision, model_max_budget jsonb, {_LIMITS},
    allowed_models text[] DEFAULT '{{}}', created_at timestamp(3) NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT 'admin', updated_at timestamp(3) NOT NULL DEFAULT now(),
    updated_by text NOT NULL DEFAULT 'admin'
);
CREATE TABLE "LiteLLM_OrganizationTable" (
    organization_id text PRIMARY KEY, organization_alias text NOT NULL, budget_id text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{{}}', models text[],
    spend double precision NOT NULL DEFAULT 0, created_by text NOT NULL DEFAULT 'admin'
);
CREATE TABLE "LiteLLM_ProjectTable" (
    project_id text PRIMARY KEY, project_alias text, team_id text, budget_id text,
    metadata jsonb NOT NULL DEFAULT '{{}}', models text[],
    spend double precision NOT NULL DEFAULT 0, model_rpm_limit jsonb NOT NULL DEFAULT '{{}}',
    model_tpm_limit jsonb NOT NULL DEFAULT '{{}}', blocked boolean NOT NULL DEFAULT false
);
CREATE TABLE "LiteLLM_TeamMembership" (
    user_id text NOT NULL, team_id text NOT NULL, spend double precision NOT NULL DEFAULT 0,
    budget_id text, PRIMARY KEY (user_id, team_id)
);
CREATE TABLE "LiteLLM_TeamTable" (
    team_id text PRIMARY KEY, team_alias text, organization_id text, admins text[],
    members text[], members_with_roles jsonb NOT NULL DEFAULT '{{}}',
    metadata jsonb NOT NULL DEFAULT '{{}}', soft_budget double precision,
    spend double precision NOT NULL DEFAULT 0, models text[], {_LIMITS},
    blocked boolean NOT NULL DEFAULT false, created_at timestamp(3) NOT NULL DEFAULT now(),
    model_spend jsonb NOT NULL DEFAULT '{{}}', model_max_budget jsonb NOT NULL DEFAULT '{{}}'
);
CREATE TABLE "LiteLLM_UserTable" (
    user_id text PRIMARY KEY, user_alias text, team_id text, sso_user_id text UNIQUE,
    password text, teams text[] DEFAULT '{{}}', user_role text,
    spend double precision NOT NULL DEFAULT 0, user_email text, models text[],
    metadata jsonb NOT NULL DEFAULT '{{}}', {_LIMITS}, created_at timestamp(3) DEFAULT now()
);
CREATE TABLE "LiteLLM_VerificationToken" (
    token text PRIMARY KEY, key_name text, key_alias text,
    soft_budget_cooldown boolean NOT NULL DEFAULT false,
    spend double precision NOT NULL DEFAULT 0, expires timestamp(3), models text[],
    aliases jsonb NOT NULL DEFAULT '{{}}', config jsonb NOT NULL DEFAULT '{{}}', user_id text,
    team_id text, agent_id text, project_id text, permissions jsonb NOT NULL DEFAULT '{{}}',
    metadata jsonb NOT NULL DEFAULT '{{}}', blocked boolean, {_LIMITS},
    allowed_cache_controls text[] DEFAULT '{{}}', allowed_routes text[] DEFAULT '{{}}',
    access_group_ids text[] DEFAULT '{{}}', model_spend jsonb NOT NULL DEFAULT '{{}}',
    model_max_budget jsonb NOT NULL DEFAULT '{{}}', budget_id text, organization_id text,
    created_at timestamp(3) DEFAULT now(), created_by text, rotation_count integer DEFAULT 0
);
"""


def plaintext(number: int) -> str:
    """A key as LiteLLM makes one: `sk-` and 22 characters of URL-safe base64."""
    made = hashlib.sha256(f"litellm {number}".encode()).hexdigest()
    return f"sk-{made[:20]}_A"


def digest(key: str) -> str:
    """What LiteLLM keeps of it."""
    return hashlib.sha256(key.encode()).hexdigest()


class LiteLLM:
    """A database of LiteLLM's. `key` and the others add a row; what is not given is NULL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(SCHEMA.encode())

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, *values: object) -> None:
        self._connection.execute(statement.encode(), values)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All that is added in here in one transaction."""
        with self._connection.transaction():
            yield

    def key(self, plain: str, **columns: Any) -> str:
        """Add a key; its plaintext."""
        given = {"token": digest(plain), "key_name": f"sk-...{plain[-4:]}", "models": []}
        self._add("LiteLLM_VerificationToken", given | columns)
        return plain

    def change(self, plain: str, **columns: Any) -> None:
        for name, value in columns.items():
            self.execute(
                f'UPDATE "LiteLLM_VerificationToken" SET "{name}" = %s WHERE token = %s',
                value,
                digest(plain),
            )

    def user(self, user_id: str, email: str | None, **columns: Any) -> None:
        given = {"user_id": user_id, "user_email": email, "models": []}
        self._add("LiteLLM_UserTable", given | columns)

    def team(self, team_id: str, alias: str | None, **columns: Any) -> None:
        given = {"team_id": team_id, "team_alias": alias, "models": []}
        self._add("LiteLLM_TeamTable", given | columns)

    def budget(self, budget_id: str, **columns: Any) -> None:
        self._add("LiteLLM_BudgetTable", {"budget_id": budget_id} | columns)

    def organization(self, identity: str, alias: str, budget_id: str, **columns: Any) -> None:
        given = {"organization_id": identity, "organization_alias": alias, "budget_id": budget_id}
        self._add("LiteLLM_OrganizationTable", given | {"models": []} | columns)

    def project(self, identity: str, alias: str | None, **columns: Any) -> None:
        given = {"project_id": identity, "project_alias": alias, "models": []}
        self._add("LiteLLM_ProjectTable", given | columns)

    def member(self, user_id: str, team_id: str, budget_id: str) -> None:
        given = {"user_id": user_id, "team_id": team_id, "budget_id": budget_id}
        self._add("LiteLLM_TeamMembership", given)

    def _add(self, table: str, columns: Mapping[str, Any]) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join(["%s"] * len(columns))
        values = [json.dumps(v) if isinstance(v, dict) else v for v in columns.values()]
        self.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', *values)


@contextmanager
def litellm_on(server: Postgres) -> Iterator[LiteLLM]:
    """LiteLLM's tables in a database of their own."""
    with server.database(migrated=False) as url:
        made = LiteLLM(url)
        try:
            yield made
        finally:
            made.close()
