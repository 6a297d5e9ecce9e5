"""What contract tests of stores share: each database, each kind of counters, and books with a CLI.

A backend is a line in BACKENDS: a function that yields the URL of one fresh, migrated database.
Each call of `another_engine` is what another process would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from counterhelp import PATIENT, Kind, emptied
from ledgerdesk import Desk
from moneyhelp import fast_engine, hasty
from peers.postgres import Postgres
from peers.valkey import Cluster, Valkey, valkey_cluster, valkey_node
from sqlalchemy import Engine
from statehelp import new_state, settings_on

from store.clock import Clock
from store.counters.address import parse
from store.counters.link import Link
from store.counters.memory import MemoryCounters
from store.counters.model import Counters
from store.counters.redis import RedisCounters
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
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Desk]:
    settings_on(tmp_path, database_url)
    engine = hasty(open_engine(database_url))
    yield Desk(tmp_path, engine, monkeypatch, capfd)
    engine.dispose()


@pytest.fixture
def books_on_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    engine = fast_engine(tmp_path)
    yield Desk(tmp_path, engine, monkeypatch, capfd)
    engine.dispose()


# ── Counters ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A real server. Whoever uses it empties it first."""
    with valkey_node(tmp_path_factory.mktemp("valkey")) as node:
        yield node


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three real masters. Whoever uses it empties it first."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as masters:
        yield masters


@pytest.fixture(scope="session", params=("memory", "valkey", "cluster"))
def new_counters(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Makes fresh counters of one backend, on a clock; those made before are empty then."""
    if request.param == "memory":
        yield Kind("memory", MemoryCounters)
        return
    servers: Valkey | Cluster = request.getfixturevalue(request.param)
    with Link(parse(servers.url), PATIENT) as link, emptied(servers) as empty:

        def fresh(clock: Clock) -> Counters:
            empty()
            return RedisCounters(link, clock)

        yield Kind(request.param, fresh)
