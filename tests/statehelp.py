"""A migrated state folder for a test, and the use cases on it with a clock that stands still."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from admin.service import AdminService
from store.engines import open_engine
from store.keys import KeyRepository
from store.records import SECOND_US
from store.settings import StoreSettings
from store.upgrades import upgrade

NOW_US = 1_795_000_000 * SECOND_US

CATALOG = """
models:
  llama-3.1-8b:
    price: {input: 0.05, cached_input: 0.01, output: 0.08}
    context_tokens: 131072
    max_output_tokens: 8192
    aliases: ["claude-*", llama]
  free-model: {price: {input: 0, output: 0}, context_tokens: 4096}
  "qwen*": {price: {input: 0.2, output: 0.6}, context_tokens: 32768}
plans:
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  pro: {max_keys: 10, max_budget_usd: 500, max_rpm: 600}
  open: {}
default_plan: free
"""


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensorgate.db"
        engine = open_engine(f"sqlite:///{path}")
        upgrade(engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        return path.read_bytes()


def new_state(folder: Path, catalog: str = CATALOG) -> StoreSettings:
    """Settings on a state that is migrated and empty; migrating anew each time takes 100 ms."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    (state / "tensorgate.db").write_bytes(_template())
    (state / "tensorgate.db").chmod(0o600)
    written = folder / "catalog.yaml"
    written.write_text(catalog)
    return StoreSettings(state=state, catalog=written, database_url=None)


def settings_on(folder: Path, url: str) -> StoreSettings:
    """Settings on a database that is migrated, with a state folder, which may hold it, and a
    catalog beside it."""
    if url.startswith("sqlite"):
        return StoreSettings(
            state=folder / "state", catalog=folder / "catalog.yaml", database_url=None
        )
    (folder / "state").mkdir(mode=0o700)
    (folder / "catalog.yaml").write_text(CATALOG)
    return StoreSettings(state=folder / "state", catalog=folder / "catalog.yaml", database_url=url)


@contextmanager
def repository_on(settings: StoreSettings) -> Iterator[KeyRepository]:
    """A repository with an engine of its own, as another process would have."""
    engine = open_engine(settings.sql_url)
    try:
        with KeyRepository(engine) as repository:
            yield repository
    finally:
        engine.dispose()


@contextmanager
def service_on(
    settings: StoreSettings, clock: FakeClock | None = None, actor: str = "cli:tester"
) -> Iterator[AdminService]:
    """The use cases on a state, with an engine of their own."""
    with repository_on(settings) as repository:
        yield AdminService(repository, settings, actor=actor, clock=clock or FakeClock())


def remove(settings: StoreSettings) -> None:
    """Take a state away, as an operator would who starts over."""
    shutil.rmtree(settings.state)
