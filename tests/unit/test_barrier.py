"""Nobody seeds before every live worker has written down what it took until then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event, Thread

import pytest

from authz import barrier
from authz.barrier import TAKER, Barrier, FlushMark
from store.errors import StoreUnavailableError
from store.replicas import Replica


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.002)


SHORT_SECONDS = 0.1


@dataclass
class World:
    """SQL's clock and rows, Redis's number, and our own holds."""

    time_us: int = 1000
    rows: list[Replica] = field(default_factory=list)
    asked: int = 0
    readings: int = 0
    flushes: int = 0
    writes: bool = True
    redis_out: bool = False
    answered: int = 0
    answers_fail: bool = False
    sql_out: bool = False
    said: list[tuple[str, int]] = field(default_factory=list)

    def now_us(self) -> int:
        if self.sql_out:
            raise StoreUnavailableError("the database does not answer")
        self.readings += 1
        self.time_us += 1
        return self.time_us

    def live(self) -> list[Replica]:
        return list(self.rows)

    def flushed(self, replica_id: str, flushed_us: int) -> None:
        self.said.append((replica_id, flushed_us))

    def ask_flush(self) -> int:
        self.asked += 1
        if self.redis_out:
            raise StoreUnavailableError("the node of that number is out")
        return self.asked

    def flush_asked(self) -> int:
        if self.redis_out:
            raise StoreUnavailableError("the counters do not answer")
        return self.asked

    def flush(self, seconds: float) -> bool:
        assert seconds > 0
        self.flushes += 1
        return self.writes

    def mark(self) -> FlushMark:
        return FlushMark(self, self, self, "me")  # type: ignore[arg-type]

    def answers(self) -> None:
        self.answered += 1
        if self.answers_fail:
            raise StoreUnavailableError("one of them is of a node that is out")


def row(number: int, flushed_us: int = 0, kind: str = TAKER) -> Replica:
    return Replica(f"r{number}", f"host/{number}", kind, "1", flushed_us=flushed_us)


def started(waits: Barrier, seconds: float = SHORT_SECONDS) -> tuple[Event, Thread]:
    """A wait in a thread of its own, and what is set once it has passed."""
    over = Event()

    def run() -> None:
        waits(time.monotonic(), seconds)
        over.set()

    thread = Thread(target=run)
    thread.start()
    return over, thread


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(barrier, "ROUND_SECONDS", 0.3)
    monkeypatch.setattr(barrier, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(barrier, "ASKED_SECONDS", 0.01)
    return World()


@pytest.fixture
def waits(world: World) -> Iterator[Barrier]:
    made = Barrier(world, world, world, "me")  # type: ignore[arg-type]
    made.start()
    yield made
    made.stop()


def test_alone_it_waits_for_its_own_holds_only(world: World, waits: Barrier) -> None:
    world.rows = [replace(row(1), id="me"), row(2, kind="meter")]
    waits(time.monotonic(), SHORT_SECONDS)
    assert world.flushes == 1
    assert world.asked == 0


def test_own_holds_that_cannot_be_written_let_nobody_through(world: World, waits: Barrier) -> None:
    world.writes = False
    with pytest.raises(StoreUnavailableError):
        waits(time.monotonic(), SHORT_SECONDS)


def test_it_asks_the_others_and_waits_until_each_has_written_since(
    world: World, waits: Barrier
) -> None:
    world.rows = [row(1, flushed_us=1000), row(2, flushed_us=5000)]
    over, thread = started(waits)
    until(lambda: world.asked == 1)
    time.sleep(0.05)
    assert not over.is_set(), "the first wrote before it was asked"
    world.rows[0] = row(1, flushed_us=1001)
    thread.join()
    assert over.is_set()


def test_it_needs_no_asking_as_all_say_it_every_second(world: World, waits: Barrier) -> None:
    """A cluster's number lies on one node: where that is out, accounts of the others are seeded."""
    world.redis_out = True
    world.rows = [row(1)]
    over, thread = started(waits, 3.0)
    until(lambda: world.asked == 1)
    world.rows = [row(1, flushed_us=10**9)]
    thread.join()
    assert over.is_set()


def test_a_round_lasts_until_all_that_nobody_asks_have_spoken() -> None:
    assert barrier.ROUND_SECONDS > barrier.FLUSH_SECONDS + 2 * barrier.ASKED_SECONDS


def test_nobody_waits_long_and_who_asks_again_has_waited_since_before(
    world: World, waits: Barrier, caplog: pytest.LogCaptureFixture
) -> None:
    world.rows = [row(1)]
    came = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        waits(came, SHORT_SECONDS)
    assert 0.05 < time.monotonic() - came < 2.0  # far from for ever
    until(lambda: "host/1 did not say in time" in caplog.text)
    world.rows = []  # its row was taken away
    with suppress(StoreUnavailableError):
        waits(came, SHORT_SECONDS)
    until(lambda: world.flushes > 1)
    time.sleep(0.05)
    readings = world.readings
    waits(came, SHORT_SECONDS)
    assert world.readings == readings, "the round was made meanwhile"
    waits(time.monotonic(), SHORT_SECONDS)
    assert world.readings == readings + 1


def test_who_comes_together_waits_together(world: World, waits: Barrier) -> None:
    world.rows = [row(1)]
    waiting = [started(waits, 3.0) for _ in range(20)]
    until(lambda: world.asked == 1)
    time.sleep(0.05)
    assert world.readings == 1
    world.rows = [row(1, flushed_us=10**9)]
    for _, thread in waiting:
        thread.join()
    assert all(over.is_set() for over, _ in waiting)
    assert world.readings <= 2, "those who came while the first waited share one more"


def test_a_round_that_failed_is_nobodys(
    world: World, waits: Barrier, caplog: pytest.LogCaptureFixture
) -> None:
    world.sql_out = True
    with pytest.raises(StoreUnavailableError):
        waits(time.monotonic(), SHORT_SECONDS)
    assert "accounts cannot be seeded" in caplog.text
    world.sql_out = False
    waits(time.monotonic(), SHORT_SECONDS)
    assert world.flushes == 1


# -- the word of a worker


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "FLUSH_SECONDS", 60.0)


@pytest.mark.usefixtures("calm")
def test_it_says_so_when_asked_though_something_cannot_be_undone_yet(
    world: World, mark: FlushMark
) -> None:
    world.answers_fail = True
    until(lambda: world.answered > 2)
    said = len(world.said)
    world.asked = 9
    until(lambda: len(world.said) == said + 1)


@pytest.fixture
def mark(world: World) -> Iterator[FlushMark]:
    made = world.mark()
    made.start(world.answers)
    yield made
    made.stop()


def test_it_says_so_at_once_when_asked_also_after_redis_forgot_the_number(
    world: World, mark: FlushMark
) -> None:
    until(lambda: len(world.said) == 1)
    world.asked = 7
    until(lambda: len(world.said) == 2)
    world.asked = 1  # everything was lost, and then somebody asked
    until(lambda: len(world.said) == 3)
    time.sleep(0.05)
    assert len(world.said) == 3
    assert world.said[-1] == ("me", world.time_us)
    assert mark.takers() == 1


def test_what_is_not_written_is_not_said(world: World) -> None:
    world.writes = False
    made = world.mark()
    made.flush()
    assert world.said == []


def test_it_says_so_every_second_also_while_redis_is_out(
    world: World, mark: FlushMark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier, "FLUSH_SECONDS", 0.05)
    until(lambda: world.answered > 1)
    world.redis_out = True
    time.sleep(0.03)
    answered, said = world.answered, len(world.said)
    until(lambda: len(world.said) >= said + 3)
    assert world.answered == answered
    assert mark.takers() == 1
    world.rows = [row(1), row(2), row(3), row(4, kind="meter")]
    until(lambda: mark.takers() == 3)


def test_a_database_that_is_out_is_told_of_once_and_ends_nothing(
    world: World, mark: FlushMark, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(barrier, "FLUSH_SECONDS", 0.01)
    until(lambda: len(world.said) == 1)
    world.sql_out = True
    until(lambda: "cannot be said" in caplog.text)
    time.sleep(0.05)
    world.sql_out = False
    said = len(world.said)
    until(lambda: len(world.said) > said)
    assert caplog.text.count("cannot be said") == 1
    assert mark.takers() == 1
