"""What was spent by window, kept by the database itself in the transaction that adds the row.

The two indexes go that the sums were taken from.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The sum stops at the largest number that a column holds: beyond it SQLite would go on in floats,
# and PostgreSQL would refuse the row. Rows that cost nothing leave no trace.
_ADDING = {
    "sqlite": (
        """CREATE TRIGGER ledger_adds_to_spent AFTER INSERT ON ledger WHEN NEW.charge_nanousd <> 0
        BEGIN
            INSERT INTO spent (scope, number, nanousd)
            SELECT NEW.account_id, NEW.account_window, NEW.charge_nanousd
            WHERE NEW.account_window IS NOT NULL
            ON CONFLICT (scope, number) DO UPDATE
            SET nanousd = min(9223372036854775807, nanousd + excluded.nanousd);
            INSERT INTO spent (scope, number, nanousd)
            VALUES (NEW.key_id, NEW.key_window, NEW.charge_nanousd)
            ON CONFLICT (scope, number) DO UPDATE
            SET nanousd = min(9223372036854775807, nanousd + excluded.nanousd);
        END""",
    ),
    # Once for a statement, however many rows it adds, and in the order of the windows: two who
    # book the same accounts lock them in the same order, and never wait for each other in a ring.
    # (An account's id is before those of keys: "acc_" and "key_".)
    "postgresql": (
        """CREATE FUNCTION ledger_adds_to_spent() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO spent AS known (scope, number, nanousd)
            SELECT scope, number, least(9223372036854775807, sum(nanousd))::bigint
            FROM (
                SELECT account_id AS scope, account_window AS number, charge_nanousd AS nanousd
                FROM added WHERE account_window IS NOT NULL
                UNION ALL SELECT key_id, key_window, charge_nanousd FROM added
            ) AS charged
            WHERE nanousd <> 0
            GROUP BY scope, number
            ORDER BY scope COLLATE "C", number
            ON CONFLICT (scope, number) DO UPDATE
            SET nanousd = least(
                9223372036854775807, known.nanousd::numeric + excluded.nanousd
            )::bigint;
            RETURN NULL;
        END $$""",
        """CREATE TRIGGER ledger_adds_to_spent AFTER INSERT ON ledger
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_adds_to_spent()""",
    ),
}

# Integer halves, as SQLite's sum() of integers is an error where it does not fit into 64 bits.
_FILL = {
    "sqlite": """INSERT INTO spent (scope, number, nanousd)
        SELECT scope, number,
            min(9223372036854775807, (sum(nanousd >> 32) * 4294967296) + sum(nanousd & 4294967295))
        FROM (
            SELECT account_id AS scope, account_window AS number, charge_nanousd AS nanousd
            FROM ledger WHERE account_window IS NOT NULL
            UNION ALL SELECT key_id, key_window, charge_nanousd FROM ledger
        )
        WHERE nanousd <> 0
        GROUP BY scope, number""",
    "postgresql": """INSERT INTO spent (scope, number, nanousd)
        SELECT scope, number, least(9223372036854775807, sum(nanousd))::bigint
        FROM (
            SELECT account_id AS scope, account_window AS number, charge_nanousd AS nanousd
            FROM ledger WHERE account_window IS NOT NULL
            UNION ALL SELECT key_id, key_window, charge_nanousd FROM ledger
        ) AS charged
        WHERE nanousd <> 0
        GROUP BY scope, number""",
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.create_table(
        "spent",
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("nanousd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", "number", name="pk_spent"),
        sqlite_with_rowid=False,
    )
    if dialect == "postgresql":  # a row that was being added now would be in no sum
        op.execute("LOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE")
    op.execute(_FILL[dialect])
    for statement in _ADDING[dialect]:
        op.execute(statement)
    op.drop_index("ix_ledger_key_window", "ledger")
    op.drop_index("ix_ledger_account_window", "ledger")
