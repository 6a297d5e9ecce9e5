"""Fixtures for all tests: the peers that a test can stand on either side of the gate."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from order import slowest_first
from peers.demo import demo_server
from peers.llama import Llama, llama_server
from peers.postgres import Postgres
from peers.postgres import running as postgres_server
from peers.recorder import Recorder

# Hundreds of processes of ours are started: each module is compiled for the first alone.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long one example takes says more of the machine's other work than of the code.
settings.register_profile("tensorgate", deadline=None, print_blob=True)
settings.load_profile("tensorgate")


@pytest.hookimpl(trylast=True)  # behind pytest's own, by fixtures
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slowest_first(items)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A real llama.cpp server on a free port."""
    with llama_server(tmp_path_factory.mktemp("llama") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The project's demo server, alone, as host:port."""
    with demo_server(tmp_path_factory.mktemp("demo") / "log") as (address, _):
        yield address


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL, for whoever takes a database of it; a test that breaks it has its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recording model server of this test's own."""
    server = Recorder()
    yield server
    server.close()
