"""The ledger of charges and the copy of open holds."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER ledger_refuses_update BEFORE UPDATE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        """CREATE TRIGGER ledger_refuses_delete BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        # REPLACE deletes without asking a DELETE trigger. What is there stays, without an error:
        # ON CONFLICT DO NOTHING comes through here too, and must go on meaning that.
        """CREATE TRIGGER ledger_ignores_replace BEFORE INSERT ON ledger
        WHEN EXISTS (SELECT 1 FROM ledger WHERE hold_id = NEW.hold_id OR seq = NEW.seq)
        BEGIN SELECT RAISE(IGNORE); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$""",
        """CREATE TRIGGER ledger_refuses_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuses()""",
    ),
}


def upgrade() -> None:
    _ledger()
    _holds()
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("seq", _Serial, nullable=False),
        sa.Column("hold_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(254), nullable=False),
        sa.Column("team", sa.String(64)),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("basis", sa.String(16), nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("charge_nanousd", sa.BigInteger, nullable=False),
        sa.Column("hold_nanousd", sa.BigInteger, nullable=False),
        sa.Column("key_window", sa.Integer, nullable=False),
        sa.Column("account_window", sa.Integer),
        sa.Column("admitted_us", sa.BigInteger, nullable=False),
        sa.Column("settled_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_ledger"),
        sa.UniqueConstraint("hold_id", name="uq_ledger_hold_id"),
        sqlite_autoincrement=True,
    )
    for name, columns in (
        ("ix_ledger_key_window", ["key_id", "key_window", "charge_nanousd"]),
        ("ix_ledger_account_window", ["account_id", "account_window", "charge_nanousd"]),
        ("ix_ledger_account_admitted", ["account_id", "admitted_us"]),
        ("ix_ledger_settled_us", ["settled_us"]),
    ):
        op.create_index(name, "ledger", columns)


def _holds() -> None:
    op.create_table(
        "holds",
        sa.Column("hold_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("key_window", sa.Integer, nullable=False),
        sa.Column("account_window", sa.Integer),
        sa.Column("nanousd", sa.BigInteger, nullable=False),
        sa.Column("admitted_us", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("hold_id", name="pk_holds"),
    )
    op.create_index("ix_holds_request_id", "holds", ["request_id"])
    op.create_index("ix_holds_account_id", "holds", ["account_id"])
