"""The lease as a row: one holder at a time, whatever becomes of the others (see conftest.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from moneyhelp import draft, limits
from peers.postgres import running
from sqlalchemy import Engine
from waiting import until

from authz import rowlease
from authz.rowlease import COUNTING, LeasedCounters, RowLease, row_lease
from store.counters.memory import MemoryCounters
from store.counters.model import NotSeeded
from store.engines import open_engine
from store.errors import SchemaMismatchError, StoreUnavailableError
from store.leases import Leases

OpenEngine = Callable[[], Engine]
SECONDS = 0.6


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the times, in their proportions."""
    monkeypatch.setattr(rowlease, "LEASE_SECONDS", SECONDS)
    monkeypatch.setattr(rowlease, "RENEW_SECONDS", SECONDS / 3)
    monkeypatch.setattr(rowlease, "LAST_SECONDS", SECONDS / 6)
    monkeypatch.setattr(rowlease, "AGAIN_SECONDS", SECONDS / 24)


# -- the row


def test_one_has_it_until_it_ends(another_engine: OpenEngine) -> None:
    one, two = Leases(another_engine()), Leases(another_engine())
    assert one.held_by("x") is None
    assert one.take("x", "h1", "first", 0.3)
    assert not two.take("x", "h2", "second", 9)
    assert not two.renew("x", "h2", 9)
    assert two.held_by("x") == "first"
    assert two.take("y", "h2", "second", 9)
    assert until(lambda: two.take("x", "h2", "second", 9)) > 0.2
    assert not one.renew("x", "h1", 9)
    assert one.held_by("x") == "second"


def test_who_is_late_but_alone_has_it_still(another_engine: OpenEngine) -> None:
    one = Leases(another_engine())
    assert one.take("x", "h1", "first", 0)
    assert one.held_by("x") is None
    assert one.renew("x", "h1", 9)
    assert one.held_by("x") == "first"


def test_who_releases_it_has_lost_it_and_releases_nobody_elses(another_engine: OpenEngine) -> None:
    one, two = Leases(another_engine()), Leases(another_engine())
    assert one.take("x", "h1", "first", 9)
    two.release("x", "h2")
    assert not two.take("x", "h2", "second", 9)
    one.release("x", "h1")
    assert not one.renew("x", "h1", 9)
    assert two.take("x", "h2", "second", 9)


def test_of_many_who_reach_for_it_one_has_it(another_engine: OpenEngine) -> None:
    engines = [another_engine() for _ in range(4)]
    barrier = threading.Barrier(4)

    def reach(number: int) -> bool:
        mine = Leases(engines[number])
        barrier.wait()
        return mine.take("x", f"h{number}", "", 9)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert sum(pool.map(reach, range(4))) == 1
            with engines[0].connect() as connection, connection.begin():
                connection.exec_driver_sql("DELETE FROM leases")


# -- who keeps it


@contextmanager
def lease_on(engine: Engine, lost: Callable[[], object] = lambda: None) -> Iterator[RowLease]:
    made = RowLease(Leases(engine), lost)
    try:
        yield made
    finally:
        made.release()


@pytest.mark.usefixtures("hasty")
def test_a_holder_keeps_it_and_its_end_lets_the_next_one_in(another_engine: OpenEngine) -> None:
    with lease_on(another_engine()) as one, lease_on(another_engine()) as two:
        assert not one.may_admit()
        assert one.acquire()
        deadline = time.monotonic() + 3 * SECONDS
        while time.monotonic() < deadline:
            assert one.may_admit()
            assert not two.acquire()
            assert two.holder().endswith(f":{rowlease.name_of('authz').rpartition(':')[2]}")
            time.sleep(0.02)
        one.release()
        assert not one.may_admit()
        assert two.acquire()
        assert two.may_admit()


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_stands_still_has_stopped_admitting_before_another_begins(
    another_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread does not come to renew: by its own clock it admits nothing in the last part."""
    monkeypatch.setattr(rowlease, "RENEW_SECONDS", 4 * SECONDS)
    lost = threading.Event()
    with lease_on(another_engine(), lost.set) as one, lease_on(another_engine()) as two:
        assert one.acquire()
        while not two.acquire():
            admitted, at = one.may_admit(), time.monotonic()
            if admitted:
                last = at
            time.sleep(0.002)
        assert not one.may_admit()
        assert time.monotonic() - last >= SECONDS / 6 - 0.02
        assert lost.wait(5), "it is told once it looks"


@pytest.mark.usefixtures("hasty")
def test_without_a_database_the_holder_soon_admits_nothing_and_goes_on_when_it_is_back() -> None:
    lost = threading.Event()
    with running() as server, server.database() as url:
        engine = open_engine(url, timeout_seconds=0.2, statement_seconds=0.2)
        with lease_on(engine, lost.set) as one:
            assert one.acquire()
            with server.paused():
                took = until(lambda: not one.may_admit())
                assert took <= SECONDS
                assert one.holder() == "unknown (the database does not answer)"
                assert not RowLease(Leases(engine), lost.set).acquire()
            until(one.may_admit)
            assert not lost.is_set()
        engine.dispose()


def test_counters_take_nothing_without_the_lease() -> None:
    ours = True
    counters = MemoryCounters(lambda: 0, lambda _: None)
    leased = LeasedCounters(counters, lambda: ours)  # type: ignore[arg-type]
    one = draft()
    assert isinstance(leased.take(one.request_id, one, limits()), NotSeeded)
    ours = False
    with pytest.raises(StoreUnavailableError, match="may not count now"):
        leased.take(one.request_id, one, limits())
    leased.peek(limits(), one.account_id)
    answers = iter([True, False])  # it ran out meanwhile
    with pytest.raises(StoreUnavailableError):
        LeasedCounters(counters, lambda: next(answers)).take(  # type: ignore[arg-type]
            one.request_id, one, limits()
        )


def test_sqlite_has_its_lock_and_postgresql_its_row(database_url: str) -> None:
    with row_lease(database_url, lambda: None) as made:
        if database_url.startswith("sqlite"):
            assert made is None
            return
        assert made is not None
        assert made.acquire()
        engine = open_engine(database_url)
        assert Leases(engine).held_by(COUNTING) == made.holder()
    assert Leases(engine).held_by(COUNTING) is None
    engine.dispose()


def test_a_database_without_tables_is_told_of_and_not_waited_for() -> None:
    with (
        running() as server,
        pytest.raises(SchemaMismatchError, match="db upgrade"),
        row_lease(server.url(), lambda: None),
    ):
        pass
