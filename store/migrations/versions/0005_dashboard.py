"""The dashboard: sessions, attempts to sign in, identities, invites, forms; whence a change came.

`accounts.seen_us` is when somebody last used the dashboard as that account.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _account() -> sa.Column:
    return sa.Column("account_id", sa.String(32), nullable=False)


def _of_account(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_account_id"
    return sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=name)


def upgrade() -> None:
    op.add_column("accounts", sa.Column("seen_us", sa.BigInteger))
    op.add_column("audit", sa.Column("address", sa.String(64)))
    op.create_index("ix_daily_account_day", "daily", ["account_id", "day"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
        _account(),
        sa.Column("means", sa.String(16), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(256), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("token_hash", name="uq_sessions_token_hash"),
        _of_account("sessions"),
    )
    op.create_index("ix_sessions_account_id", "sessions", ["account_id"])
    op.create_table(
        "attempts",
        sa.Column("scope", sa.String(96), nullable=False),
        sa.Column("empty_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_attempts"),
    )
    op.create_index("ix_attempts_empty_us", "attempts", ["empty_us"])
    op.create_table(
        "identities",
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        _account(),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_identities"),
        _of_account("identities"),
    )
    op.create_index("ix_identities_account_id", "identities", ["account_id"])
    op.create_table(
        "invites",
        sa.Column("token_hash", sa.LargeBinary(32), nullable=False),
        _account(),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_invites"),
        _of_account("invites"),
    )
    op.create_index("ix_invites_account_id", "invites", ["account_id"])
    op.create_table(
        "forms",
        _account(),
        sa.Column("form", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(32), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "form", name="pk_forms"),
        _of_account("forms"),
    )
    op.create_index("ix_forms_at_us", "forms", ["at_us"])
