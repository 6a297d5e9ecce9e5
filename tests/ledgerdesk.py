"""A state with rows made as authz makes them, and the command line on it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moneyhelp import KEY, OTHER_KEY, charge, mint
from sqlalchemy import Engine, text

from store.ledger import Ledger
from store.records import Charge, Hold
from tensorgate import cli


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


class Desk:
    """A state with two keys, its ledger, and the command on it."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """On a migrated database; its state is a folder beside it, or has it."""
        self.engine = engine
        self.folder, self.state = folder, folder / "state"
        self.ledger = Ledger(self.engine)
        self._capfd = capfd
        mint(self.engine, KEY, OTHER_KEY)
        self.env = {
            "TENSORGATE_STATE": str(self.state),
            "TENSORGATE_CATALOG": str(folder / "catalog.yaml"),
            "TENSORGATE_RUNTIME": str(folder / "run"),
            "TENSORGATE_DATABASE_URL": engine.url.render_as_string(hide_password=False),
        }
        if engine.dialect.name == "sqlite":
            del self.env["TENSORGATE_DATABASE_URL"]
        for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str) -> Ran:
        return self.run("ledger", *arguments)

    def run(self, *arguments: str) -> Ran:
        """`tensorgate …`."""
        status = cli.run(arguments)
        return Ran(status, *self._capfd.readouterr())

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        ran = self("export", *arguments)
        assert ran.status == 0
        assert not ran.err or ran.err.endswith(
            " were pruned and are not here; --by has their sums.\n"
        )
        return [json.loads(line) for line in ran.out.splitlines()]

    def verified(self) -> dict[str, Any]:
        ran = self("verify", "--json")
        assert ran.err == ""
        found: dict[str, Any] = json.loads(ran.out)
        assert ran.status == (0 if found["ok"] else 1)
        assert found["ok"] == (not found["faults"])
        return found

    def book(self, of: Hold, end: Charge | None = None) -> Hold:
        self.ledger.book([(of, end or charge(of))])
        return of

    def execute(self, *statements: str) -> None:
        """Somebody's hand in the database."""
        with self.engine.connect() as connection, connection.begin():
            if self.engine.dialect.name == "postgresql":
                guards = ("ledger_refuses_change", "ledger_notes_pruned")
                off, on = (
                    [f"ALTER TABLE ledger {turn} TRIGGER {name}" for name in guards]
                    for turn in ("DISABLE", "ENABLE")
                )
                for statement in (*off, *statements, *on):
                    connection.exec_driver_sql(statement)
                return
            guards = ("ledger_refuses_update", "ledger_refuses_delete")
            asked = text("SELECT sql FROM sqlite_master WHERE name = :name")
            made = [connection.execute(asked, {"name": name}).scalar_one() for name in guards]
            for statement in (*(f"DROP TRIGGER {name}" for name in guards), *statements, *made):
                connection.exec_driver_sql(statement)
