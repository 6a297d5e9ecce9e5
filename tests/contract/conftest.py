"""What contract tests of stores share: each database, and books with the command line on them.

A backend is a line in BACKENDS: a function that yields the URL of one fresh, migrated database.
Each call of `another_engine` is what another process would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgerdesk import Desk
from peers.postgres import Postgres
from sqlalchemy import Engine
from statehelp import new_state

from store.engines import open_engine

OpenEngine = Callable[[], Engine]


def sqlite(_: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield new_state(tmp_path).sql_url


def postgresql(request: pytest.FixtureRequest, _: Path) -> Iterator[str]:
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        yield url


BACKENDS: dict[str, Callable[[pytest.FixtureRequest, Path], Iterator[str]]] = {
    "sqlite": sqlite,
    "postgresql": postgresql,
}


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from BACKENDS[request.param](request, tmp_path)


@pytest.fixture
def another_engine(database_url: str) -> Iterator[OpenEngine]:
    opened: list[Engine] = []

    def another() -> Engine:
        opened.append(open_engine(database_url))
        return opened[-1]

    yield another
    for engine in opened:
        engine.dispose()


@pytest.fixture
def books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    made = Desk(tmp_path, monkeypatch, capfd)
    yield made
    made.engine.dispose()
