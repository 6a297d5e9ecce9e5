"""What days that are over add up to by account and model, and by account and team.

Only new tables, empty at first: nothing waits for it, an older version goes on as if they were not
there, and the dashboard's process fills them (store/daytotals.py).
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "totalled",
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_totalled"),
    )
    op.create_table(
        "day_totals",
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("charge_nanousd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("kind", "day", "account_id", "name", name="pk_day_totals"),
        sqlite_with_rowid=False,
    )
