"""How often each key's calls were refused, by day and reason: what its owner sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from store.engines import driver_errors, write_options
from store.records import DAY_US
from store.schema import refused


@dataclass(frozen=True, slots=True, order=True)
class RefusedOf:
    """Whose calls, of which UTC day (days since 1970), and why; in the order of the table's key."""

    account_id: str
    day: int
    key_id: str
    reason: str

    @classmethod
    def at(cls, account_id: str, key_id: str, reason: str, now_us: int) -> RefusedOf:
        return cls(account_id, now_us // DAY_US, key_id, reason)


@dataclass(slots=True)
class Times:
    """How often, and when last."""

    calls: int
    last_us: int


class RefusedCalls:
    """Writes one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, counted: Mapping[RefusedOf, Times]) -> None:
        """Add to what is there, all or nothing."""
        if not counted:
            return
        rows = [  # in one order everywhere: two processes that add cannot wait for each other
            {
                "account_id": of.account_id,
                "day": of.day,
                "key_id": of.key_id,
                "reason": of.reason,
                "calls": times.calls,
                "last_us": times.last_us,
            }
            for of, times in sorted(counted.items(), key=lambda pair: pair[0])
        ]
        with driver_errors(), self._engine.connect() as held:
            connection = held.execution_options(**write_options(self._engine))
            with connection.begin():
                connection.execute(self._upsert(), rows)

    def _upsert(self) -> Any:
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        new: Any = insert(refused)
        return new.on_conflict_do_update(
            index_elements=list(refused.primary_key.columns),
            set_={
                "calls": refused.c.calls + new.excluded.calls,
                "last_us": new.excluded.last_us,
            },
        )
