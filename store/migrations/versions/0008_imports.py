"""Which keys were imported, from where, what they were called there, and what was carried over.

Only a new table: nothing waits for it, and an older version goes on as if it were not there. (A
foreign key would have to wait for who writes to `keys`, and no key is ever deleted.)
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_folded", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("period_us", sa.BigInteger),
        sa.Column("spent_nanousd", sa.BigInteger, nullable=False),
        sa.Column("imported_us", sa.BigInteger, nullable=False),
        sa.Column("changed_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_imports"),
    )
