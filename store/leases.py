"""A lease in SQL: a row that says who has something that only one may have, and until when.

All times are the database's, so whoever looks judges by the same clock. It ends by itself; a holder
keeps it by saying so again in time. Who lost it once has lost it: somebody else may have had it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, case, select, update
from sqlalchemy.dialects import postgresql, sqlite

from store.engines import driver_errors, read_options, writing
from store.records import SECOND_US
from store.replicas import database_clock
from store.schema import leases

LABEL_CHARS: Final = 255
_INSERTS: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Leases:
    """The leases of one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clock = database_clock(engine)
        self._insert = _INSERTS[engine.dialect.name]

    def take(self, name: str, holder: str, label: str, seconds: float) -> bool:
        """Have it for so long, if nobody has it now. `label` tells people who that is."""
        made = {
            "holder": holder,
            "label": label[:LABEL_CHARS],
            "until_us": self._clock + int(seconds * SECOND_US),
        }
        taking = (
            self._insert(leases)
            .values(name=name, **made)
            .on_conflict_do_update(
                index_elements=["name"], set_=made, where=leases.c.until_us <= self._clock
            )
            .returning(leases.c.holder)
        )
        with writing(self._engine) as connection:
            return connection.execute(taking).first() is not None

    def renew(self, name: str, holder: str, seconds: float) -> bool:
        """Have it for so long from now. False: somebody else has had it meanwhile.

        One that ran out without anybody taking it can be renewed.
        """
        renewing = (
            update(leases)
            .where(leases.c.name == name, leases.c.holder == holder)
            .values(until_us=self._clock + int(seconds * SECOND_US))
        )
        with writing(self._engine) as connection:
            return bool(connection.execute(renewing).rowcount)

    def release(self, name: str, holder: str) -> None:
        """Let the next one have it at once."""
        ending = (
            update(leases)
            .where(leases.c.name == name, leases.c.holder == holder)
            .values(until_us=0, holder="")
        )
        with writing(self._engine) as connection:
            connection.execute(ending)

    def held_by(self, name: str) -> str | None:
        """The label of who has it now."""
        asked = select(case((leases.c.until_us > self._clock, leases.c.label))).where(
            leases.c.name == name
        )
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**read_options(self._engine))
            return connection.execute(asked).scalar_one_or_none()
