"""A hand in the database: every command on the books says one clear thing, and none gives up.

SQLite keeps any type in any column, so each column of each table is given what no program of ours
writes there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from ledgerdesk import Desk
from moneyhelp import charge, hold
from statehelp import NOW_US, new_state

from admin import explain, explaintext, ledgerprune
from admin.ledgercheck import check
from store.errors import TensorgateError
from store.journal import Journal
from store.ledgerreader import ALL
from store.records import DAY_US
from store.rollups import sums
from store.schema import metadata
from store.settings import StoreSettings, load

STRANGE: Final = ("'x'", "x'00ff'")
SUMS: Final = ("daily", "spent", "pruned", "pruned_spent")
Damage = Callable[[str, str, str], bool]


@contextmanager
def opened(books: Desk) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(books.state / "tensorgate.db")) as database:
        yield database


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: PostgreSQL takes no text for a number, and no hand may drop its triggers."""
    return new_state(tmp_path).sql_url


@pytest.fixture
def damage(books: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Damage]:
    """Undoes what it did before, and puts a value into all rows of a column; False: it cannot.

    The books have a row, an open hold, and a row that was pruned.
    """
    monkeypatch.setattr(ledgerprune, "wall_us", lambda: NOW_US + 100 * DAY_US)
    gone, row, copied = hold(), hold(), hold()
    books.book(gone)
    with Journal(books.state / "journal"):
        pass
    assert books("prune", "--before", "2026-11-19", "--confirm", "2026-11-19").status == 0
    books.book(row, charge(row, at=NOW_US + 50 * DAY_US))
    books.ledger.copy_holds([copied])
    assert books.verified()["ok"]
    with closing(sqlite3.connect(":memory:")) as saved:
        with opened(books) as live:
            live.backup(saved)

        def change(table: str, column: str, value: str) -> bool:
            with opened(books) as live:
                saved.backup(live)
                asked = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
                guards = live.execute(f"{asked} AND tbl_name = ?", (table,)).fetchall()
                for name, _ in guards:
                    live.execute(f"DROP TRIGGER {name}")
                try:
                    live.execute(f'UPDATE "{table}" SET "{column}" = {value}')
                except sqlite3.IntegrityError:
                    return False
                for _, made in guards:
                    live.execute(made)
                live.commit()
            return True

        yield change


def told(what: Callable[[], object]) -> bool:
    """Whether it was refused, in one line that says so; what else it raises is a fault of ours."""
    try:
        what()
    except TensorgateError as fault:
        said = str(fault)
    else:
        return False
    assert "\n" not in said
    return True


@pytest.mark.parametrize("table", ["ledger", *SUMS, "holds", "keys", "accounts"])
def test_whatever_a_column_has_every_command_says_what_is_wrong(
    books: Desk, damage: Damage, table: str
) -> None:
    ids = [row["hold_id"] for row in books.lines()]
    with opened(books) as live:
        ids += [row[0] for row in live.execute("SELECT hold_id FROM holds")]
    settings, done = load(StoreSettings), 0

    def explained(name: str) -> None:
        call = explain.find(settings, books.engine, name)
        if call is not None:
            explaintext.call_text(call)
            json.dumps(explaintext.call_json(call))

    for column in metadata.tables[table].columns:
        for value in STRANGE:
            if not damage(table, column.name, value):
                continue
            done += 1
            where = f"{table}.{column.name} = {value}"
            found = check(settings, books.engine, *[lambda _: None] * 3)  # it goes on to its end
            unsummed = told(lambda: sums(books.engine, ("key", "model", "team", "day"), ALL))
            for name in ids:
                told(partial(explained, name))
            number = column.type.python_type is int
            if table in {"ledger", *SUMS} and number:
                assert found.faults, where
            if table in {"daily", "pruned"} and (number or column.name in {"user", "model"}):
                assert unsummed, where
    assert done > len(STRANGE)


@pytest.mark.parametrize(
    ("table", "column", "value", "says"),
    [
        ("ledger", "seq", "4611686018427387904", "Rows are missing or were put in by hand"),
        ("ledger", "output_tokens", "'x'", "Row 2 has no such output_tokens as a row can have."),
        ("ledger", "price", "'{'", "Row 2 has no such price as a row can have."),
        (
            "ledger",
            "settled_us",
            "900000000000000000",
            "Row 2 has no such settled_us as a row can have.",
        ),
        ("holds", "record", "'x'", "in a form that this Tensorgate cannot read."),
        ("holds", "nanousd", "1", "is copied with another nanousd than its own."),
        ("keys", "created_us", "'x'", "was made at no time that there is"),
    ],
)
def test_verify_reads_on_behind_what_it_cannot_read(
    books: Desk, damage: Damage, table: str, column: str, value: str, says: str
) -> None:
    assert damage(table, column, value)
    with opened(books) as live:
        live.execute("UPDATE spent SET nanousd = nanousd + 1")
        live.execute("DROP TRIGGER ledger_refuses_delete")
        live.commit()
    faults: list[Any] = books.verified()["faults"]
    assert any(says in fault for fault in faults), faults
    assert any("The trigger ledger_refuses_delete is gone" in fault for fault in faults)
    if table != "ledger" or column == "seq":  # or there is no telling what the rows add up to
        assert any("which is kept as spent" in fault for fault in faults)


def test_an_unreadable_row_or_hold_is_explained_as_such(books: Desk, damage: Damage) -> None:
    [row] = books.lines()
    assert damage("ledger", "seen", "'{'")
    ran = books.run("explain", row["request_id"], "--json")
    said = "Row 2 of the ledger was not written by Tensorgate. `tensorgate ledger verify` says what"
    assert json.loads(ran.out)["error"]["message"].startswith(said)
    assert damage("holds", "record", "'x'")
    with opened(books) as live:
        [(name,)] = live.execute("SELECT hold_id FROM holds")
    assert "in a form that this Tensorgate cannot read" in books.run("explain", name).err
