"""Tables. SQLAlchemy Core, the same for SQLite and PostgreSQL.

They are made by the migrations in this package (store/upgrades.py). Times are integer
microseconds, money integer nano-USD (see store/records.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite hands out rowids only for a column that is exactly INTEGER; it holds 64 bits all the same.
_Serial = BigInteger().with_variant(Integer, "sqlite")

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("email", String(254), nullable=False),
    Column("team", String(64)),
    Column("plan", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("service", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger),  # when somebody last used the dashboard as this account
    UniqueConstraint("email"),
    CheckConstraint("email = lower(email)", name="email_lower"),
    CheckConstraint("role IN ('user', 'auditor', 'admin')", name="role"),
)

disabled = Table(  # accounts that nobody may use; see 0010: a table, as adding it waits for nobody
    "disabled",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id"), nullable=False),
    Column("alias", String(63), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("pepper_version", Integer, nullable=False),
    Column("hint", String(64), nullable=False),
    Column("models", Text),  # JSON list of names, sorted; NULL is every model
    Column("budget_nanousd", BigInteger),
    Column("rpm", BigInteger),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger),
    UniqueConstraint("digest"),
    CheckConstraint("budget_nanousd >= 0", name="budget"),
    CheckConstraint("rpm >= 1", name="rpm"),
    Index(
        "uq_keys_alias_of_account",
        "account_id",
        "alias",
        unique=True,
        sqlite_where=text("revoked_us IS NULL"),
        postgresql_where=text("revoked_us IS NULL"),
    ),
    Index("ix_keys_account_id", "account_id"),
)

# A key that came from another gate: its plaintext was never here. `name` is what it was called
# there, made printable, and `name_folded` what is searched of it; `facts` (JSON) is what that gate
# said of the key when it was last imported, so that only what changed there is changed here.
# `spent_nanousd` is what was carried over of the budget period that ends at `period_us` (NULL:
# of one that never ends).
imports = Table(
    "imports",
    metadata,
    Column("key_id", String(32), primary_key=True),  # see 0007: a key is never deleted
    Column("source", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("name_folded", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("period_us", BigInteger),
    Column("spent_nanousd", BigInteger, nullable=False),
    Column("imported_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=False),  # see Writer: without holes
    Column("digest", LargeBinary(32)),
    Column("account_id", String(32)),
    Column("at_us", BigInteger, nullable=False),
)

audit = Table(  # append only: triggers of the migration refuse UPDATE and DELETE
    "audit",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", String(320), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(32), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("address", String(64)),  # whence it was asked for; NULL where that is this machine
    Index("ix_audit_subject", "subject"),
    sqlite_autoincrement=True,
)


# FROZEN FORMAT, append only: triggers of the migration refuse UPDATE and, but for what `pruning`
# lets go, DELETE. A new column has a default that is right for the rows that are there. `seq` is
# the order of booking; with SQLite it has no holes but those that pruning makes.
ledger = Table(
    "ledger",
    metadata,
    Column("seq", _Serial, primary_key=True),
    Column("hold_id", String(64), nullable=False),
    Column("request_id", Text, nullable=False),
    Column("account_id", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("user", String(254), nullable=False),
    Column("team", String(64)),
    Column("alias", String(63), nullable=False),
    Column("model", Text, nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("basis", String(16), nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("charge_nanousd", BigInteger, nullable=False),
    Column("hold_nanousd", BigInteger, nullable=False),
    Column("key_window", Integer, nullable=False),
    Column("account_window", Integer),  # NULL where the account had no money limit
    Column("admitted_us", BigInteger, nullable=False),
    Column("settled_us", BigInteger, nullable=False),
    # What the arithmetic of hold and charge was made with; NULL in rows of before revision 0004.
    Column("price", Text),  # store.records.Price, as JSON
    Column("tokens_per_byte", Text),
    Column("input_bound", BigInteger),
    Column("output_bound", BigInteger),
    Column("seen", Text),  # store.records.Seen, as JSON; NULL also where no end was seen
    UniqueConstraint("hold_id"),
    Index("ix_ledger_request_id", "request_id"),
    Index("ix_ledger_account_admitted", "account_id", "admitted_us"),
    Index("ix_ledger_key_admitted", "key_id", "admitted_us"),
    Index("ix_ledger_settled_us", "settled_us"),
    sqlite_autoincrement=True,
)

# What the rows of a window add up to, by scope: the id of a key or of an account. Nobody writes
# here but a trigger on `ledger`, in the transaction that adds the row; INT64_MAX is "or more". A
# window whose rows cost nothing has no sum. `pruned_spent` is what of it was in pruned rows.


def _sums_by_window(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("scope", String(32), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("nanousd", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


spent = _sums_by_window("spent")
pruned_spent = _sums_by_window("pruned_spent")

# What the rows of a day add up to, kept as `spent` is. The day is that of `settled_us` in UTC, in
# days since 1970: booked then, so a day that is over stays as it is while calls that began in it
# still run. User, team ("" is none), alias and model are what they were called in the row.
# `pruned` is what of it was in pruned rows. Worst case: as many rows as calls, where
# clients may name any model; INT64_MAX tokens or nano-USD are "or more".

AMOUNTS: Final = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    "charge_nanousd",
)
"""What of rows is added up, beside how many they are."""


def _amounts() -> Iterator[Column[int]]:
    """What calls used and cost, added up: each INT64_MAX at most."""
    for name in AMOUNTS:
        yield Column(name, BigInteger, nullable=False)


def _sums_by_day(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("account_id", String(32), primary_key=True),
        Column("key_id", String(32), primary_key=True),
        Column("user", String(254), primary_key=True),
        Column("team", String(64), primary_key=True),
        Column("alias", String(63), primary_key=True),
        Column("model", Text, primary_key=True),
        Column("calls_metered", BigInteger, nullable=False),
        Column("calls_estimated", BigInteger, nullable=False),
        Column("calls_held", BigInteger, nullable=False),
        Column("calls_released", BigInteger, nullable=False),
        *_amounts(),
        sqlite_with_rowid=False,
    )


daily = _sums_by_day("daily")
Index("ix_daily_account_day", daily.c.account_id, daily.c.day)
pruned = _sums_by_day("pruned")

# What the sums of a day that is over add up to by account: kind `model` or `team`, and the name of
# one ("" is no team); and of all accounts together: kind `models` or `teams`, and no account. The
# dashboard makes them, for pages that show months, and `totalled` says of
# which days, and of how many calls (store/daytotals.py). Made of `daily`, so no part of the books:
# both can be emptied at any time.
day_totals = Table(
    "day_totals",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("account_id", String(32), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    *_amounts(),
    sqlite_with_rowid=False,
)
totalled = Table(
    "totalled",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("calls", BigInteger, nullable=False),
)

# How often a key's calls were refused, for its owner to see; nothing is decided by it. Whoever
# refuses adds to it in groups (store/refusedcalls.py): at most a second late, and what a killed
# process had not added yet is lost. `last_us` is when it last happened.
refused = Table(
    "refused",
    metadata,
    Column("account_id", String(32), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("key_id", String(32), primary_key=True),
    Column("reason", String(64), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

pruning = Table(  # has its one row only inside of a transaction that prunes (store/pruning.py)
    "pruning",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("before_us", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one"),
)

holds = Table(  # a copy of what is open, for others to read; a hold leaves it as its row is booked
    "holds",
    metadata,
    Column("hold_id", String(64), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("account_id", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("key_window", Integer, nullable=False),
    Column("account_window", Integer),
    Column("nanousd", BigInteger, nullable=False),
    Column("admitted_us", BigInteger, nullable=False),
    Column("record", Text, nullable=False),  # all of it: store.holdformat
    Index("ix_holds_request_id", "request_id"),
    Index("ix_holds_account_id", "account_id"),
)

# FROZEN FORMAT, append only: versions that run beside each other share the rows.
replicas = Table(  # the processes that live: store/replicas.py
    "replicas",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("version", String(64), nullable=False),
    Column("catalog", Text),
    Column("stale_us", BigInteger, nullable=False),
    Column("applied_seq", BigInteger, nullable=False),
    Column("flushed_us", BigInteger, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
)

leases = Table(  # who may count in process, where several could: store/leases.py
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("label", String(255), nullable=False),
    Column("until_us", BigInteger, nullable=False),
)
