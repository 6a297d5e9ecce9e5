"""What contract tests of stores share: each database, and books with the command line on them.

A backend is a line in BACKENDS: a function that yields an engine factory on one fresh, migrated
database. Each call of the factory is what another process would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgerdesk import Desk
from sqlalchemy import Engine
from statehelp import new_state

from store.schema import open_engine

OpenEngine = Callable[[], Engine]


def sqlite(tmp_path: Path) -> Iterator[OpenEngine]:
    url = new_state(tmp_path).sql_url
    opened: list[Engine] = []

    def another() -> Engine:
        opened.append(open_engine(url))
        return opened[-1]

    yield another
    for engine in opened:
        engine.dispose()


BACKENDS = {"sqlite": sqlite}


@pytest.fixture(params=BACKENDS)
def another_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenEngine]:
    yield from BACKENDS[request.param](tmp_path)


@pytest.fixture
def books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    made = Desk(tmp_path, monkeypatch, capfd)
    yield made
    made.engine.dispose()
