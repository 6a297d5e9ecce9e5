"""The dashboard with 10,000 keys and a million calls, on both databases: `make soak`. With figures.

A small form, which counts instead of timing, is in tests/contract/test_dashboard_bounds.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from load.pagebooks import CATALOG, Size, fill
from load.pagewalk import asked_of, read_through, table, timed
from peers.dashboard import dashboard
from peers.postgres import running as postgres_server
from statehelp import new_state
from waiting import until

from admin.settings import AdminSettings
from store.clock import wall_us
from store.engines import open_engine
from store.settings import StoreSettings

pytestmark = pytest.mark.soak

FULL = Size(keys=10_000, rows=1_000_000)
MOST_MS = 200.0
TOTALS_SECONDS = 300.0  # of a first start, in the background; pages read sums by day meanwhile


@contextmanager
def emptied(backend: str, folder: Path) -> Iterator[StoreSettings]:
    """Settings on a new database."""
    settings = new_state(folder, CATALOG)
    if backend == "sqlite":
        yield settings
        return
    with postgres_server() as server, server.database() as url:
        yield settings.model_copy(update={"database_url": url})


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_every_page_answers_soon(backend: str, tmp_path: Path) -> None:
    with emptied(backend, tmp_path) as settings:
        engine = open_engine(settings.sql_url)
        books = fill(engine, FULL, wall_us())
        more = {} if settings.database_url is None else {"database_url": settings.database_url}
        with dashboard(tmp_path, settings=settings, **more) as board:
            until(lambda: "made the totals" in board.log, TOTALS_SECONDS, "totals of days")
            found = timed(board.url, books)
        print(f"\n{backend}: {FULL}, put in within {books.seconds:.0f} s\n{table(found)}")
        web = AdminSettings.model_validate(settings.model_dump())
        through = read_through(engine, asked_of(engine, web, books), small=False)
        engine.dispose()
    slow = [(row.who, row.address, row.median) for row in found if row.median >= MOST_MS]
    assert slow == []
    assert through == []
