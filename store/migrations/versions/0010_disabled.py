"""Which accounts are disabled.

Only a new table: nothing waits for it. An older version goes on as if it were not there, so an
account is disabled for the keys that a process of this version or a newer one decides on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "disabled",
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_disabled"),
    )
