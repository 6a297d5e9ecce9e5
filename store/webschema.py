"""Tables of the dashboard: who is signed in, who tried, and what was sent.

Of a session's or an invite's token only its SHA-256 is kept: it has 256 random bits.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from store.schema import metadata

sessions = Table(  # a session that ended is gone
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),  # names it to its owner; the token is not in it
    Column("token_hash", LargeBinary(32), nullable=False),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("means", String(16), nullable=False),  # password, invite, oidc, registration
    Column("address", String(64), nullable=False),
    Column("agent", String(256), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    UniqueConstraint("token_hash"),
    Index("ix_sessions_account_id", "account_id"),
)

attempts = Table(  # a leaky bucket each: when it will be empty
    "attempts",
    metadata,
    Column("scope", String(96), primary_key=True),
    Column("empty_us", BigInteger, nullable=False),
    Index("ix_attempts_empty_us", "empty_us"),
)

identities = Table(  # whom a provider of OpenID Connect means
    "identities",
    metadata,
    Column("issuer", String(512), primary_key=True),
    Column("subject", String(255), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("ix_identities_account_id", "account_id"),
)

invites = Table(  # a link that lets its holder choose the account's password, once
    "invites",
    metadata,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Index("ix_invites_account_id", "account_id"),
)

forms = Table(  # forms that have done their work: sent again, they do nothing
    "forms",
    metadata,
    Column("account_id", String(32), ForeignKey("accounts.id"), primary_key=True),
    Column("form", String(64), primary_key=True),
    Column("subject", String(32), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index("ix_forms_at_us", "at_us"),
)
