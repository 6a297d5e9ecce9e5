"""An account's keys as its dashboard lists them: a page at a time, with what each has spent.

Bounded: a page, its windows' sums, one seek in the ledger a key, and the account's open holds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    case,
    func,
    or_,
    select,
    tuple_,
)

from store.engines import driver_errors, read_options
from store.keyrows import read_key, select_keys
from store.records import KeyRecord, window_at, window_ends_us
from store.schema import holds, keys, ledger, spent

PAGE_KEYS: Final = 25


class Show(StrEnum):
    """Which keys: each is in one of these."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key, and how it stands in its present window.

    `held_nanousd` is as the database knows it, at most a second late. `last_us` is when its last
    call began that is in the ledger or still runs; None for none.
    """

    record: KeyRecord
    spent_nanousd: int
    held_nanousd: int
    resets_us: int
    last_us: int | None

    @property
    def left_nanousd(self) -> int | None:
        """What a call may still cost; None without a budget."""
        budget = self.record.budget_nanousd
        return None if budget is None else max(0, budget - self.spent_nanousd - self.held_nanousd)


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some of the keys that were asked for, how many those are, and how many there are of each."""

    lines: tuple[KeyLine, ...]
    found: int
    number: int
    counts: dict[Show, int]

    @property
    def pages(self) -> int:
        return max(1, -(-self.found // PAGE_KEYS))


class KeyList:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self, account_id: str, show: Show, now_us: int, *, search: str = "", number: int = 1
    ) -> KeyPage:
        """The account's keys of a kind, the newest first; `number` is clipped to what there is.

        `search` is looked for in alias, hint and models.
        """
        wanted = and_(_is(show, now_us), keys.c.account_id == account_id, *_like(search))
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            counts = _counts(connection, account_id, now_us)
            found = counts[show]
            if search:
                asked = select(func.count()).select_from(keys).where(wanted)
                found = int(connection.execute(asked).scalar_one())
            number = max(1, min(number, -(-found // PAGE_KEYS)))
            newest = keys.c.revoked_us if show is Show.REVOKED else keys.c.created_us
            lines = _lines(
                connection,
                _with_last_call()
                .where(wanted)
                .order_by(newest.desc(), keys.c.id)
                .limit(PAGE_KEYS)
                .offset((number - 1) * PAGE_KEYS),
                account_id,
                now_us,
            )
        return KeyPage(lines, found, number, counts)

    def line(self, account_id: str, key_id: str, now_us: int) -> KeyLine | None:
        """One key of the account, whatever became of it; None if it has no such key."""
        asked = _with_last_call().where(keys.c.account_id == account_id, keys.c.id == key_id)
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            lines = _lines(connection, asked, account_id, now_us)
        return lines[0] if lines else None

    def called(
        self, account_id: str | None, key_ids: Collection[str]
    ) -> dict[str, tuple[str, str]]:
        """By id, the (alias, hint) of those of the keys that are the account's; None: anybody's."""
        asked = select(keys.c.id, keys.c.alias, keys.c.hint).where(keys.c.id.in_(list(key_ids)))
        if account_id is not None:
            asked = asked.where(keys.c.account_id == account_id)
        if not key_ids:
            return {}
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return {row[0]: (row[1], row[2]) for row in connection.execute(asked)}

    def names(self, account_id: str, limit: int = 500) -> list[tuple[str, str, str]]:
        """(id, alias, hint) of the account's keys, the newest first, for a list to choose from."""
        asked = (
            select(keys.c.id, keys.c.alias, keys.c.hint)
            .where(keys.c.account_id == account_id)
            .order_by(keys.c.created_us.desc(), keys.c.id)
            .limit(limit)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return [(row[0], row[1], row[2]) for row in connection.execute(asked)]


def _is(show: Show, now_us: int) -> ColumnElement[bool]:
    if show is Show.REVOKED:
        return keys.c.revoked_us.is_not(None)
    alive = keys.c.expires_us > now_us
    return and_(keys.c.revoked_us.is_(None), alive if show is Show.LIVE else ~alive)


def _like(search: str) -> list[ColumnElement[bool]]:
    if not search:
        return []
    columns = (keys.c.alias, keys.c.hint, keys.c.models)
    return [or_(*(column.icontains(search, autoescape=True) for column in columns))]


def _counts(connection: Connection, account_id: str, now_us: int) -> dict[Show, int]:
    kinds = [
        func.coalesce(func.sum(case((_is(show, now_us), 1), else_=0)), 0).label(show.value)
        for show in Show
    ]
    row = connection.execute(select(*kinds).where(keys.c.account_id == account_id)).mappings().one()
    return {show: int(row[show.value]) for show in Show}


def _with_last_call() -> Select[Any]:
    last = (
        select(ledger.c.admitted_us)
        .where(ledger.c.key_id == keys.c.id)
        .order_by(ledger.c.admitted_us.desc())
        .limit(1)
        .correlate(keys)
        .scalar_subquery()
    )
    return select_keys().add_columns(last)


def _lines(
    connection: Connection, asked: Select[Any], account_id: str, now_us: int
) -> tuple[KeyLine, ...]:
    rows = [(read_key(row[:-1])[1], row[-1]) for row in connection.execute(asked)]
    windows = {record.id: window_at(record.created_us, now_us) for record, _ in rows}
    if not windows:
        return ()
    of_windows = tuple_(spent.c.scope, spent.c.number).in_(list(windows.items()))
    sums = {
        row[0]: int(row[1])
        for row in connection.execute(select(spent.c.scope, spent.c.nanousd).where(of_windows))
    }
    open_holds = connection.execute(
        select(holds.c.key_id, holds.c.key_window, holds.c.nanousd, holds.c.admitted_us).where(
            holds.c.account_id == account_id
        )
    ).all()
    return tuple(
        KeyLine(
            record,
            sums.get(record.id, 0),
            sum(
                row[2] for row in open_holds if (row[0], row[1]) == (record.id, windows[record.id])
            ),
            window_ends_us(record.created_us, windows[record.id]),
            max(
                [row[3] for row in open_holds if row[0] == record.id]
                + ([] if last is None else [last]),
                default=None,
            ),
        )
        for record, last in rows
    )
