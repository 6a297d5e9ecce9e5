"""Every account as an admin lists them: a page at a time, with keys, spend and last visit.

What was spent is read from the sums by day, of the last `SPEND_DAYS` UTC days and today.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, case, func, or_, select

from store.keywriter import read_account
from store.ledgersums import amount, whole
from store.records import DAY_US, Account
from store.schema import accounts, daily, driver_errors, keys, read_options

PAGE_ACCOUNTS: Final = 50
SPEND_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class AccountLine:
    """An account; `seen_us` is when its owner last used the dashboard, None for never."""

    account: Account
    live_keys: int
    all_keys: int
    spent_nanousd: int
    seen_us: int | None


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Some of the accounts that were asked for, and how many those are."""

    lines: tuple[AccountLine, ...]
    found: int
    number: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.found // PAGE_ACCOUNTS))


class AccountList:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, now_us: int, *, search: str = "", number: int = 1) -> AccountPage:
        """Accounts by e-mail; `number` is clipped to what there is.

        `search` is looked for in e-mail, team and plan.
        """
        wanted = _like(search)
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            counted = select(func.count()).select_from(accounts).where(*wanted)
            found = int(connection.execute(counted).scalar_one())
            number = max(1, min(number, -(-found // PAGE_ACCOUNTS)))
            asked = (
                select(accounts)
                .where(*wanted)
                .order_by(accounts.c.email)
                .limit(PAGE_ACCOUNTS)
                .offset((number - 1) * PAGE_ACCOUNTS)
            )
            rows = connection.execute(asked).mappings().all()
            seen = [(read_account(row), row["seen_us"]) for row in rows]
            return AccountPage(_lines(connection, seen, now_us), found, number)

    def line(self, account_id: str, now_us: int) -> AccountLine | None:
        """One account; None if there is none of this id."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            asked = select(accounts).where(accounts.c.id == account_id)
            row = connection.execute(asked).mappings().first()
            if row is None:
                return None
            return _lines(connection, [(read_account(row), row["seen_us"])], now_us)[0]


def _like(search: str) -> list[ColumnElement[bool]]:
    if not search:
        return []
    columns = (accounts.c.email, accounts.c.team, accounts.c.plan)
    return [or_(*(column.icontains(search, autoescape=True) for column in columns))]


def _lines(
    connection: Connection, seen: Sequence[tuple[Account, int | None]], now_us: int
) -> tuple[AccountLine, ...]:
    ids = [account.id for account, _ in seen]
    live = case((keys.c.revoked_us.is_(None) & (keys.c.expires_us > now_us), 1), else_=0)
    counted = (
        select(keys.c.account_id, func.sum(live), func.count())
        .where(keys.c.account_id.in_(ids))
        .group_by(keys.c.account_id)
    )
    counts = {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(counted)}
    summed = (
        select(daily.c.account_id, *amount(daily.c.charge_nanousd, "charge"))
        .where(daily.c.account_id.in_(ids), daily.c.day >= now_us // DAY_US - SPEND_DAYS)
        .group_by(daily.c.account_id)
    )
    spent = {
        row["account_id"]: whole(row, "charge") for row in connection.execute(summed).mappings()
    }
    return tuple(
        AccountLine(
            account,
            *counts.get(account.id, (0, 0)),
            spent_nanousd=spent.get(account.id, 0),
            seen_us=seen_us,
        )
        for account, seen_us in seen
    )
