"""The rows of living processes, the same for every database (see conftest.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from store import engines, schema
from store.records import SECOND_US
from store.replicas import FORGET_US, LIVE_US, Replica, Replicas

OpenEngine = Callable[[], Engine]
ONE = Replica("r1", "gate-a/0", "authz", "0.1.0", "abc", stale_us=5_000_000)


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    return another_engine()


@pytest.fixture
def replicas(engine: Engine) -> Replicas:
    return Replicas(engine)


def unseen_for(engine: Engine, replica_id: str, us: int) -> None:
    table = schema.replicas
    older = table.c.seen_us - us
    with engine.connect() as held:
        connection = held.execution_options(**engines.write_options(engine))
        with connection.begin():
            changed = update(table).where(table.c.id == replica_id).values(seen_us=older)
            connection.execute(changed)


def test_a_beat_makes_the_row_and_then_keeps_it_fresh(replicas: Replicas) -> None:
    before = replicas.now_us()
    first = replicas.beat(ONE)
    assert before <= first.started_us == first.seen_us <= replicas.now_us()
    time.sleep(0.01)
    later = replicas.beat(replace(ONE, applied_seq=7, catalog=None))
    assert later.started_us == first.started_us
    assert later.seen_us > first.seen_us
    assert replicas.live() == [later]


def test_what_was_flushed_is_said_apart(replicas: Replicas) -> None:
    replicas.beat(ONE)
    replicas.flushed("r1", 9)
    replicas.flushed("nobody", 9)
    replicas.beat(replace(ONE, applied_seq=7))
    [row] = replicas.live()
    assert (row.flushed_us, row.applied_seq) == (9, 7)


def test_the_clock_is_the_time_of_day(replicas: Replicas) -> None:
    assert abs(replicas.now_us() - time.time_ns() // 1000) < 2 * SECOND_US


def test_only_those_live_that_were_seen_lately(replicas: Replicas, engine: Engine) -> None:
    replicas.beat(ONE)
    replicas.beat(replace(ONE, id="r2", name="gate-a/1"))
    unseen_for(engine, "r1", LIVE_US - SECOND_US)
    assert [each.id for each in replicas.live()] == ["r1", "r2"]
    unseen_for(engine, "r1", SECOND_US + 1)
    assert [each.id for each in replicas.live()] == ["r2"]


def test_who_leaves_is_gone_at_once_and_who_is_long_dead_is_forgotten(
    replicas: Replicas, engine: Engine
) -> None:
    for name in ("r1", "r2", "r3"):
        replicas.beat(replace(ONE, id=name))
    replicas.leave("r1")
    assert [each.id for each in replicas.live()] == ["r2", "r3"]
    unseen_for(engine, "r2", FORGET_US + SECOND_US)
    unseen_for(engine, "r3", FORGET_US - SECOND_US)
    replicas.forget()
    with engine.connect() as connection:
        left = connection.execute(schema.replicas.select()).all()
    assert [row.id for row in left] == ["r3"]


def test_many_beat_at_once(another_engine: OpenEngine) -> None:
    """Each a process of its own: every row is there, and with its last number."""

    def beats(number: int) -> None:
        own = Replicas(another_engine())
        for seq in range(10):
            own.beat(replace(ONE, id=f"r{number}", applied_seq=seq))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(beats, range(4)))
    live = Replicas(another_engine()).live()
    assert [(each.id, each.applied_seq) for each in live] == [(f"r{n}", 9) for n in range(4)]
