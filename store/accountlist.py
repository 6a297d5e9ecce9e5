"""Every account as an admin lists them: a page at a time, with keys, spend and last visit.

What was spent is read from the totals of days (store/daytotals.py), of the last `SPEND_DAYS` UTC
days and today; what days that are over add up to is remembered (store/daymemory.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, case, func, or_, select

from store.daymemory import CHANGING_DAYS, DayMemory
from store.daytotals import TEAM, lines
from store.engines import driver_errors, read_options
from store.keyrows import DISABLED, read_account
from store.ledgersums import amount, whole
from store.records import DAY_US, Account
from store.schema import accounts, keys

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
        self._over = DayMemory()

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
                select(accounts, DISABLED)
                .where(*wanted)
                .order_by(accounts.c.email)
                .limit(PAGE_ACCOUNTS)
                .offset((number - 1) * PAGE_ACCOUNTS)
            )
            rows = connection.execute(asked).mappings().all()
            seen = [(read_account(row), row["seen_us"]) for row in rows]
            return AccountPage(self._lines(connection, seen, now_us), found, number)

    def emails(self, limit: int) -> list[str]:
        """So many addresses, in order, for a list to choose from."""
        asked = select(accounts.c.email).order_by(accounts.c.email).limit(limit)
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return [str(email) for email in connection.execute(asked).scalars()]

    def called(self, ids: Collection[str]) -> dict[str, str]:
        """By id, the e-mail of those of the accounts that there are."""
        asked = select(accounts.c.id, accounts.c.email).where(accounts.c.id.in_(list(ids)))
        if not ids:
            return {}
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return {row[0]: row[1] for row in connection.execute(asked)}

    def line(self, account_id: str, now_us: int) -> AccountLine | None:
        """One account; None if there is none of this id."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            asked = select(accounts, DISABLED).where(accounts.c.id == account_id)
            row = connection.execute(asked).mappings().first()
            if row is None:
                return None
            return self._lines(connection, [(read_account(row), row["seen_us"])], now_us)[0]

    def _lines(
        self,
        connection: Connection,
        seen: Sequence[tuple[Account, int | None]],
        now_us: int,
    ) -> tuple[AccountLine, ...]:
        ids = [account.id for account, _ in seen]
        live = case((keys.c.revoked_us.is_(None) & (keys.c.expires_us > now_us), 1), else_=0)
        counted = (
            select(keys.c.account_id, func.sum(live), func.count())
            .where(keys.c.account_id.in_(ids))
            .group_by(keys.c.account_id)
        )
        counts = {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(counted)}
        today = now_us // DAY_US
        before = self._before(connection, ids, today)
        lately = _spent(connection, ids, today + 1 - CHANGING_DAYS, today + 1)
        return tuple(
            AccountLine(
                account,
                *counts.get(account.id, (0, 0)),
                spent_nanousd=before[account.id] + lately[account.id],
                seen_us=seen_us,
            )
            for account, seen_us in seen
        )

    def _before(self, connection: Connection, ids: Sequence[str], today: int) -> dict[str, int]:
        """What was spent on days that are over."""
        known: dict[str, int | None] = {each: self._over.get((each, today)) for each in ids}
        missing = [each for each, nanousd in known.items() if nanousd is None]
        found = _spent(connection, missing, today - SPEND_DAYS, today + 1 - CHANGING_DAYS)
        for each, nanousd in found.items():
            self._over.put((each, today), nanousd)
        return {
            each: found[each] if nanousd is None else nanousd for each, nanousd in known.items()
        }


def _like(search: str) -> list[ColumnElement[bool]]:
    if not search:
        return []
    columns = (accounts.c.email, accounts.c.team, accounts.c.plan)
    return [or_(*(column.icontains(search, autoescape=True) for column in columns))]


def _spent(connection: Connection, ids: Sequence[str], first: int, last: int) -> dict[str, int]:
    """Nano-USD of each account on the days from `first` to before `last`."""
    if not ids:
        return {}
    parts = lines(connection, TEAM, range(first, last), ids).c
    asked = select(parts.account_id, *amount(parts.charge_nanousd, "charge")).group_by(
        parts.account_id
    )
    rows = connection.execute(asked).mappings()
    return dict.fromkeys(ids, 0) | {row["account_id"]: whole(row, "charge") for row in rows}
