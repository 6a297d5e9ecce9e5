"""What the pages of usage read: a key's last calls by an index, and refused calls by day."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_ledger_key_admitted", "ledger", ["key_id", "admitted_us"])
    op.create_table(
        "refused",
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("last_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "day", "key_id", "reason", name="pk_refused"),
        sqlite_with_rowid=False,
    )
