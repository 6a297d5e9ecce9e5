"""Books: sums by day, what is pruned, and what the arithmetic of a charge needs.

`daily` is kept by the database itself in the transaction that adds the row, and made here of the
rows that are there. Rows may be deleted while the row of `pruning` names a time that they are
older than; what they were is then added up in `pruned` and `pruned_spent`, in that transaction.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MAX = 9223372036854775807  # where a sum stops; see 0003
_DAY_US = 86_400_000_000
_GROUP = ("day", "account_id", "key_id", '"user"', "team", "alias", "model")
_CALLS = ("metered", "estimated", "held", "released")
_SUMS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "charge_nanousd",
)
_COLUMNS = (*_GROUP, *(f"calls_{basis}" for basis in _CALLS), *_SUMS)


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for column in (
        sa.Column("price", sa.Text),
        sa.Column("tokens_per_byte", sa.Text),
        sa.Column("input_bound", sa.BigInteger),
        sa.Column("output_bound", sa.BigInteger),
        sa.Column("seen", sa.Text),
    ):
        op.add_column("ledger", column)
    op.create_index("ix_ledger_request_id", "ledger", ["request_id"])
    _sums_by_day("daily")
    _sums_by_day("pruned")
    op.create_table(
        "pruned_spent",
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("nanousd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", "number", name="pk_pruned_spent"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pruning",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("before_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pruning"),
        sa.CheckConstraint("id = 1", name="ck_pruning_one"),
    )
    if dialect == "postgresql":  # a row that was being added now would be in no sum
        op.execute("LOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE")
    op.execute(_fill(dialect))
    for statement in _SQLITE if dialect == "sqlite" else _POSTGRESQL:
        op.execute(statement)


def _sums_by_day(name: str) -> None:
    op.create_table(
        name,
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("user", sa.String(254), nullable=False),
        sa.Column("team", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        *(sa.Column(f"calls_{basis}", sa.BigInteger, nullable=False) for basis in _CALLS),
        *(sa.Column(column, sa.BigInteger, nullable=False) for column in _SUMS),
        sa.PrimaryKeyConstraint(
            "day", "account_id", "key_id", "user", "team", "alias", "model", name=f"pk_{name}"
        ),
        sqlite_with_rowid=False,
    )


def _of_row(row: str) -> list[str]:
    """The group that a row of the ledger belongs to."""
    names = [f"{row}.settled_us / {_DAY_US}", f"{row}.account_id", f"{row}.key_id"]
    return [*names, f'{row}."user"', f"coalesce({row}.team, '')", f"{row}.alias", f"{row}.model"]


def _fill(dialect: str) -> str:
    """Sums of the rows that are there. SQLite's in halves: its sum() fails beyond 64 bits."""
    if dialect == "sqlite":
        calls = [f"sum(l.basis = '{basis}')" for basis in _CALLS]
        sums = [
            f"min({_MAX}, (sum(l.{name} >> 32) * 4294967296) + sum(l.{name} & 4294967295))"
            for name in _SUMS
        ]
    else:
        calls = [f"count(*) FILTER (WHERE l.basis = '{basis}')" for basis in _CALLS]
        sums = [f"least({_MAX}, sum(l.{name}))::bigint" for name in _SUMS]
    group = _of_row("l")
    return (
        f"INSERT INTO daily ({', '.join(_COLUMNS)}) "  # noqa: S608  names of ours only
        f"SELECT {', '.join([*group, *calls, *sums])} FROM ledger AS l GROUP BY {', '.join(group)}"
    )


def _adds_sqlite(table: str, row: str) -> str:
    """Adds NEW or OLD to its group."""
    values = [
        *_of_row(row),
        *(f"{row}.basis = '{basis}'" for basis in _CALLS),
        *(f"{row}.{name}" for name in _SUMS),
    ]
    updates = [
        *(f"calls_{basis} = calls_{basis} + excluded.calls_{basis}" for basis in _CALLS),
        *(f"{name} = min({_MAX}, {name} + excluded.{name})" for name in _SUMS),
    ]
    return (
        f"INSERT INTO {table} ({', '.join(_COLUMNS)}) VALUES ({', '.join(values)}) "  # noqa: S608  names of ours only
        f"ON CONFLICT ({', '.join(_GROUP)}) DO UPDATE SET {', '.join(updates)};"
    )


def _adds_postgresql(table: str, rows: str) -> str:
    """Adds all rows of a statement to their groups, which are locked in one order (see 0003)."""
    group = _of_row("l")
    values = [
        *group,
        *(f"count(*) FILTER (WHERE l.basis = '{basis}')" for basis in _CALLS),
        *(f"least({_MAX}, sum(l.{name}))::bigint" for name in _SUMS),
    ]
    order = [group[0], *(f'{name} COLLATE "C"' for name in group[1:])]
    updates = [
        *(f"calls_{basis} = known.calls_{basis} + excluded.calls_{basis}" for basis in _CALLS),
        *(
            f"{name} = least({_MAX}, known.{name}::numeric + excluded.{name})::bigint"
            for name in _SUMS
        ),
    ]
    return (
        f"INSERT INTO {table} AS known ({', '.join(_COLUMNS)}) "  # noqa: S608  names of ours only
        f"SELECT {', '.join(values)} FROM {rows} AS l "
        f"GROUP BY {', '.join(group)} ORDER BY {', '.join(order)} "
        f"ON CONFLICT ({', '.join(_GROUP)}) DO UPDATE SET {', '.join(updates)};"
    )


_SQLITE = (
    f"""CREATE TRIGGER ledger_adds_up_days AFTER INSERT ON ledger
    BEGIN {_adds_sqlite("daily", "NEW")} END""",
    "DROP TRIGGER ledger_refuses_delete",
    """CREATE TRIGGER ledger_refuses_delete BEFORE DELETE ON ledger
    WHEN NOT EXISTS (SELECT 1 FROM pruning WHERE OLD.settled_us < before_us)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    f"""CREATE TRIGGER ledger_notes_pruned AFTER DELETE ON ledger
    WHEN EXISTS (SELECT 1 FROM pruning)
    BEGIN
        {_adds_sqlite("pruned", "OLD")}
        INSERT INTO pruned_spent (scope, number, nanousd)
        SELECT OLD.account_id, OLD.account_window, OLD.charge_nanousd
        WHERE OLD.account_window IS NOT NULL AND OLD.charge_nanousd <> 0
        ON CONFLICT (scope, number) DO UPDATE
        SET nanousd = min({_MAX}, nanousd + excluded.nanousd);
        INSERT INTO pruned_spent (scope, number, nanousd)
        SELECT OLD.key_id, OLD.key_window, OLD.charge_nanousd
        WHERE OLD.charge_nanousd <> 0
        ON CONFLICT (scope, number) DO UPDATE
        SET nanousd = min({_MAX}, nanousd + excluded.nanousd);
    END""",  # noqa: S608  names and a number of ours only
)

# Triggers of one event run in the order of their names: "adds_to_spent" before "adds_up_days", so
# the sums of windows are locked before those of days, by everybody.
_POSTGRESQL = (
    f"""CREATE FUNCTION ledger_adds_up_days() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN {_adds_postgresql("daily", "added")} RETURN NULL; END $$""",
    """CREATE TRIGGER ledger_adds_up_days AFTER INSERT ON ledger
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_adds_up_days()""",
    """CREATE OR REPLACE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' AND EXISTS (SELECT 1 FROM pruning) THEN RETURN NULL; END IF;
        RAISE EXCEPTION 'the ledger is append-only';
    END $$""",
    f"""CREATE FUNCTION ledger_notes_pruned() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT 1 FROM gone
            WHERE NOT EXISTS (SELECT 1 FROM pruning WHERE gone.settled_us < before_us)
        ) THEN
            RAISE EXCEPTION 'the ledger is append-only';
        END IF;
        {_adds_postgresql("pruned", "gone")}
        INSERT INTO pruned_spent AS known (scope, number, nanousd)
        SELECT scope, number, least({_MAX}, sum(nanousd))::bigint
        FROM (
            SELECT account_id AS scope, account_window AS number, charge_nanousd AS nanousd
            FROM gone WHERE account_window IS NOT NULL
            UNION ALL SELECT key_id, key_window, charge_nanousd FROM gone
        ) AS charged
        WHERE nanousd <> 0
        GROUP BY scope, number
        ORDER BY scope COLLATE "C", number
        ON CONFLICT (scope, number) DO UPDATE
        SET nanousd = least({_MAX}, known.nanousd::numeric + excluded.nanousd)::bigint;
        RETURN NULL;
    END $$""",  # noqa: S608  names and a number of ours only
    """CREATE TRIGGER ledger_notes_pruned AFTER DELETE ON ledger
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_notes_pruned()""",
)
