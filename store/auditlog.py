"""Reading the audit log: who changed what, from what to what, when, and whence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, func, or_, select

from store.engines import driver_errors, read_options
from store.schema import accounts, audit, keys

PAGE_ENTRIES: Final = 50

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `subject` is an id, `name` what it is called now: an e-mail, or e-mail and alias.

    `address` None is this machine.
    """

    id: int
    at_us: int
    actor: str
    action: str
    subject: str
    name: str
    before: Facts
    after: Facts
    address: str | None

    @property
    def changed(self) -> list[str]:
        """The names of what is told of, in the order in which it was written."""
        return list(dict.fromkeys([*self.before, *self.after]))


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, the newest first; `older` is where the next page begins, None at the end."""

    entries: tuple[Entry, ...]
    older: int | None


class AuditLog:
    """Reads one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, *, before: int | None = None, search: str = "", action: str = "") -> AuditPage:
        """Entries with a smaller id than `before`.

        `search` is looked for in who did it, in whose account and key it was, and in ids.
        """
        owner = accounts.alias("owner")
        name = func.coalesce(
            accounts.c.email, owner.c.email.concat(" / ").concat(keys.c.alias), ""
        ).label("name")
        asked = (
            select(audit, name)
            .outerjoin(accounts, accounts.c.id == audit.c.subject)
            .outerjoin(keys, keys.c.id == audit.c.subject)
            .outerjoin(owner, owner.c.id == keys.c.account_id)
            .where(*_wanted(before, search, action, name))
            .order_by(audit.c.id.desc())
            .limit(PAGE_ENTRIES + 1)
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            rows = connection.execute(asked).mappings().all()
        entries = tuple(_entry(row) for row in rows[:PAGE_ENTRIES])
        return AuditPage(entries, entries[-1].id if len(rows) > PAGE_ENTRIES else None)

    def actions(self) -> list[str]:
        """Every action that there is an entry of."""
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return list(connection.execute(select(audit.c.action).distinct()).scalars())


def _wanted(
    before: int | None, search: str, action: str, name: ColumnElement[str]
) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if before is not None:
        wanted.append(audit.c.id < before)
    if action:
        wanted.append(audit.c.action == action)
    if search:
        columns = (audit.c.actor, name, audit.c.subject, audit.c.address)
        wanted.append(or_(*(each.icontains(search, autoescape=True) for each in columns)))
    return wanted


def _entry(row: Any) -> Entry:
    return Entry(
        id=row["id"],
        at_us=row["at_us"],
        actor=row["actor"],
        action=row["action"],
        subject=row["subject"],
        name=row["name"],
        before=_facts(row["before"]),
        after=_facts(row["after"]),
        address=row["address"],
    )


def _facts(text: str | None) -> Facts:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
