"""Keys that came from another gate: which they are, and what that gate called them.

Writing is Writer's (store/keywriter.py), as an import changes keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, or_, select

from store.engines import driver_errors, read_options
from store.keyrows import read_key, select_keys
from store.keywriter import Noted
from store.records import KeyRecord
from store.schema import accounts, imports, keys

FOUND_AT_MOST: Final = 1000
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key is from, and its name there."""

    source: str
    name: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A key that was imported, and what is remembered of that."""

    record: KeyRecord
    source: str
    noted: Noted


@dataclass(frozen=True, slots=True)
class Taken:
    """A digest that is a key's already: one that was imported, or one that was minted here."""

    record: KeyRecord
    imported: Imported | None


class Imports:
    """Thread-safe. StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def by_digest(self, digests: Iterable[bytes]) -> dict[bytes, Taken]:
        """Those of the digests that are keys here."""
        found: dict[bytes, Taken] = {}
        rest = list(digests)
        with self._reading() as connection:
            for at in range(0, len(rest), _CHUNK):
                asked = select_keys().where(keys.c.digest.in_(rest[at : at + _CHUNK]))
                records = dict(map(read_key, connection.execute(asked)))
                noted = _noted(connection, [record.id for record in records.values()])
                for digest, record in records.items():
                    imported = None
                    if record.id in noted:
                        imported = Imported(record, *noted[record.id])
                    found[digest] = Taken(record, imported)
        return found

    def origins(self, key_ids: Iterable[str]) -> dict[str, Origin]:
        """Of those keys that were imported."""
        rest, found = list(key_ids), dict[str, Origin]()
        with self._reading() as connection:
            for at in range(0, len(rest), _CHUNK):
                asked = select(imports.c.key_id, imports.c.source, imports.c.name)
                chunk = asked.where(imports.c.key_id.in_(rest[at : at + _CHUNK]))
                found |= {row[0]: Origin(row[1], row[2]) for row in connection.execute(chunk)}
        return found

    def search(self, text: str, account_id: str | None = None) -> list[KeyRecord]:
        """Keys in whose alias, e-mail, team, hint or former name the text stands, in any case.

        At most FOUND_AT_MOST, by e-mail and alias.
        """
        wanted = text.casefold()
        columns = (keys.c.alias, accounts.c.email, func.lower(accounts.c.team))
        asked = (
            select_keys()
            .outerjoin(imports, imports.c.key_id == keys.c.id)
            .where(
                or_(
                    *(column.contains(wanted, autoescape=True) for column in columns),
                    keys.c.hint.contains(text, autoescape=True),
                    imports.c.name_folded.contains(wanted, autoescape=True),
                )
            )
            .order_by(accounts.c.email, keys.c.alias, keys.c.created_us, keys.c.id)
            .limit(FOUND_AT_MOST)
        )
        if account_id is not None:
            asked = asked.where(keys.c.account_id == account_id)
        with self._reading() as connection:
            return [read_key(row)[1] for row in connection.execute(asked)]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with driver_errors(), self._engine.connect() as held:
            yield held.execution_options(**read_options(self._engine))


def _noted(connection: Connection, key_ids: list[str]) -> dict[str, tuple[str, Noted]]:
    asked = select(
        imports.c.key_id,
        imports.c.source,
        imports.c.name,
        imports.c.facts,
        imports.c.period_us,
        imports.c.spent_nanousd,
    ).where(imports.c.key_id.in_(key_ids))
    return {row[0]: (row[1], Noted(*row[2:])) for row in connection.execute(asked)}
