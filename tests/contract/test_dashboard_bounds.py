"""Every GET page of the router costs what it shows, however much there is, on every database.

The full form, which times them, is tests/load/test_soak_pages.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from load.pagebooks import CATALOG, Books, Size, fill
from load.pagewalk import Asked, asked_of, known_questions, read_through
from sqlalchemy import Engine
from statehelp import settings_on

from admin.settings import AdminSettings
from store.clock import wall_us
from store.daytotals import DayTotals
from store.engines import open_engine
from store.ledgerreader import LedgerReader
from store.records import DAY_US
from store.usagereads import MAX_SPANS

SMALL = Size(keys=300, rows=4_000, accounts=30, teams=5)
MOST_STATEMENTS = 30


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def books(engine: Engine) -> Books:
    found = fill(engine, SMALL, wall_us())
    DayTotals(engine, wall_us).round(every_day=True)
    return found


def walked(engine: Engine, url: str, folder: Path, books: Books) -> list[Asked]:
    settings = AdminSettings.model_validate(settings_on(folder, url).model_dump())
    settings.catalog.write_text(CATALOG)
    return asked_of(engine, settings, books)


def test_pages_ask_little_and_find_it_by_an_index(
    engine: Engine, books: Books, database_url: str, tmp_path: Path
) -> None:
    asked = walked(engine, database_url, tmp_path, books)
    assert len(asked) > 60
    for each in asked:
        charts = "/usage" in each.address and "calls" not in each.address
        most = MOST_STATEMENTS + (MAX_SPANS if charts else 0)  # how long calls took, a day each
        assert len(each.statements) <= most, (each.address, len(each.statements))
    assert read_through(engine, asked, small=True) == []


def test_a_statement_that_reads_all_is_found(engine: Engine, books: Books) -> None:
    """What the test above stands on."""
    bad = "SELECT sum(charge_nanousd) FROM ledger WHERE output_tokens > 3"
    good = "SELECT sum(charge_nanousd) FROM ledger WHERE hold_id = 'hold-1'"
    found = read_through(engine, [Asked("/bad", ((bad, ()),)), Asked("/good", ((good, ()),))],
                         small=True)  # fmt: skip
    assert len(found) == 1
    assert found[0].startswith("/bad")
    assert books.key.id


def test_the_books_are_in_order(engine: Engine, books: Books) -> None:
    """They were put in otherwise than a gate does it, and are as if a gate had."""
    faults = LedgerReader(engine).verify().faults
    assert not [fault for fault in faults if "hold" not in fault.lower()], faults[:3]
    assert books.heavy.created_us < wall_us() - SMALL.days * DAY_US


def test_every_question_is_of_a_page_that_is_there() -> None:
    assert known_questions()
