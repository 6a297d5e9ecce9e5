"""Holds on their way into SQL: in groups, soon, none forgotten while it is out, and said so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

import pytest
from moneyhelp import hold as made_hold
from waiting import until

from authz import holdwriter
from authz.holdwriter import HoldWriter
from authz.metrics import Metrics
from store.errors import StoreUnavailableError
from store.records import Hold

WAIT = 3.0


@dataclass
class Sql:
    """What was written, group by group."""

    groups: list[list[str]] = field(default_factory=list)
    out: Event = field(default_factory=Event)
    poison: set[str] = field(default_factory=set)
    tries: int = 0
    gate: Lock = field(default_factory=Lock)

    def write(self, holds: Sequence[Hold]) -> None:
        with self.gate:
            self.tries += 1
            if self.out.is_set():
                raise StoreUnavailableError("the database does not answer")
            if any(hold.id in self.poison for hold in holds):
                raise ValueError("a hold that nobody can write")
            self.groups.append([hold.id for hold in holds])

    @property
    def ids(self) -> list[str]:
        return [each for group in self.groups for each in group]


@pytest.fixture
def sql() -> Sql:
    return Sql()


@pytest.fixture
def writer(sql: Sql) -> Iterator[HoldWriter]:
    made = HoldWriter(sql.write, Metrics())
    made.start()
    yield made
    sql.out.clear()
    made.stop(WAIT)


def take(writer: HoldWriter, taken: Hold | None = None) -> Hold:
    hold = taken or made_hold()
    writer.begin(hold.id)
    writer.finish(hold.id, hold)
    return hold


def test_a_hold_is_in_sql_within_a_tenth_of_a_second(writer: HoldWriter, sql: Sql) -> None:
    started = time.monotonic()
    hold = take(writer)
    until(lambda: sql.ids == [hold.id])
    assert time.monotonic() - started < 0.5
    assert holdwriter.GROUP_SECONDS <= 0.1
    until(lambda: writer.waiting == 0)


def test_holds_are_written_in_groups_and_each_once(writer: HoldWriter, sql: Sql) -> None:
    taken = [take(writer) for _ in range(40)]
    take(writer, taken[0])  # a repeated Check is given the same one
    until(lambda: writer.waiting == 0)
    assert sorted(sql.ids) == sorted(hold.id for hold in taken)
    assert len(sql.groups) <= 3


def test_a_full_group_waits_for_nothing(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdwriter, "GROUP_SECONDS", 60)
    monkeypatch.setattr(holdwriter, "GROUP_HOLDS", 3)
    monkeypatch.setattr(holdwriter, "_WAKING", frozenset({1, 3}))
    writer = HoldWriter(sql.write, Metrics())
    writer.start()
    taken = [take(writer) for _ in range(3)]
    until(lambda: sql.groups == [[hold.id for hold in taken]])
    assert writer.stop(WAIT)


def test_while_sql_is_out_holds_stay_and_then_all_are_written(
    writer: HoldWriter, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    sql.out.set()
    taken = [take(writer) for _ in range(30)]
    until(lambda: sql.tries > 2)
    assert writer.waiting == 30
    assert not writer.flush(0.05)
    sql.out.clear()
    until(lambda: writer.waiting == 0)
    assert sorted(sql.ids) == sorted(hold.id for hold in taken)
    assert caplog.text.count("holds cannot be written down") == 1


def test_beyond_the_bound_nothing_more_is_taken(
    writer: HoldWriter, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdwriter, "MAX_WAITING", 2)
    sql.out.set()
    take(writer)
    take(writer)
    with pytest.raises(StoreUnavailableError, match="wait for the database"):
        writer.begin("another")
    sql.out.clear()
    until(lambda: writer.waiting == 0)
    take(writer)


def test_what_was_given_back_before_need_not_be_written(writer: HoldWriter, sql: Sql) -> None:
    with sql.gate:
        first = take(writer)
        time.sleep(2 * holdwriter.GROUP_SECONDS)  # its group is at the database
        second = take(writer)
        writer.drop(second.id)
    assert writer.flush(WAIT)
    assert sql.ids == [first.id]


def test_one_that_cannot_be_written_keeps_no_other_from_it(
    writer: HoldWriter, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    taken = [made_hold() for _ in range(3)]
    sql.poison.add(taken[1].id)
    for hold in taken:
        take(writer, hold)
    until(lambda: writer.waiting == 0)
    assert sorted(sql.ids) == sorted([taken[0].id, taken[2].id])
    assert taken[1].id in caplog.text


# -- a flush: all that was taken before


def test_a_flush_waits_for_what_was_taken_and_for_no_more(
    sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdwriter, "GROUP_SECONDS", 60)  # nothing but the flush hurries it
    writer = HoldWriter(sql.write, Metrics())
    writer.start()
    assert writer.flush(0.5), "nothing is waited for"
    hold = take(writer)
    assert writer.flush(WAIT)
    assert sql.ids == [hold.id]
    assert writer.stop(WAIT)


def test_a_flush_waits_for_takes_under_way(writer: HoldWriter, sql: Sql) -> None:
    hold = made_hold()
    writer.begin(hold.id)
    assert not writer.flush(0.1), "Redis may have done it already"
    done: list[bool] = []
    waiting = Thread(target=lambda: done.append(writer.flush(WAIT)))
    waiting.start()
    time.sleep(0.05)
    writer.begin("began later")
    assert not done
    writer.finish(hold.id, hold)
    waiting.join()
    assert done == [True], "and for none that began later"
    assert sql.ids == [hold.id]
    writer.finish("began later", None)


# -- the end of the process


def test_stopping_writes_what_waits(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdwriter, "GROUP_SECONDS", 60)
    writer = HoldWriter(sql.write, Metrics())
    writer.start()
    taken = [take(writer) for _ in range(5)]
    assert writer.stop(WAIT)
    assert sql.ids == [hold.id for hold in taken]


def test_stopping_does_not_wait_for_ever(sql: Sql) -> None:
    writer = HoldWriter(sql.write, Metrics())
    writer.start()
    sql.out.set()
    take(writer)
    until(lambda: sql.tries > 0)
    started = time.monotonic()
    assert not writer.stop(0.2)
    assert time.monotonic() - started < 2
