"""The duties beside the path: copying, sweeping, comparing; none of them ends the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from moneyhelp import hold as made_hold

from authz import upkeep
from authz.metrics import Metrics
from authz.upkeep import Upkeep
from store.errors import StoreError, StoreUnavailableError
from store.records import Hold


@dataclass
class World:
    """Counters and SQL, as upkeep sees them."""

    holds: list[Hold] = field(default_factory=list)
    copied: list[list[Hold]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    drifts: dict[str, int | None] = field(default_factory=dict)
    compared: list[str] = field(default_factory=list)
    unreadable: dict[str, Exception] = field(default_factory=dict)
    followed: int = 0
    swept: int = 0
    guarded: int = 0
    evicting: bool = False
    out: bool = False
    bug: str = ""

    def open_holds(self) -> list[Hold]:
        return list(self.holds)

    def accounts(self) -> list[str]:
        return list(self.names)

    def copy_holds(self, holds: Sequence[Hold]) -> None:
        self._fail("copy")
        self.copied.append(list(holds))

    def follow(self) -> None:
        self._fail("follow", sql=False)
        self.followed += 1

    def sweep(self) -> int:
        self._fail("sweep", sql=False)
        assert self.followed or self.bug == "follow", "the clock is looked at first"
        self.swept += 1
        return 0

    def guard(self) -> None:
        self.guarded += 1
        self._fail("guard", sql=False)
        if self.evicting:
            raise StoreError("it drops what it holds")

    def drift(self, account_id: str) -> int | None:
        self._fail("compare")
        if account_id in self.unreadable:
            raise self.unreadable[account_id]
        self.compared.append(account_id)
        return self.drifts.get(account_id, 0)

    def _fail(self, duty: str, *, sql: bool = True) -> None:
        if self.out and sql:
            raise StoreUnavailableError("the database does not answer")
        if self.bug == duty:
            raise KeyError(duty)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def duties(world: World, metrics: Metrics) -> Iterator[Upkeep]:
    made = Upkeep(
        world,
        world.copy_holds,
        world.sweep,
        world.drift,
        metrics,
        follow=world.follow,
        deadline_seconds=0.08,
        guard=world.guard,
    )
    yield made
    made.stop()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "COMPARE_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "GUARD_SECONDS", 0.02)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.001)


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"tensorgate_{name}")


# -- copying


def test_each_hold_is_copied_once(world: World, duties: Upkeep, metrics: Metrics) -> None:
    first, second, third = (made_hold() for _ in range(3))
    world.holds = [first]
    for _ in range(3):
        duties.copy()
    world.holds = [first, second, third]
    duties.copy()
    world.holds = [second, third]
    for _ in range(3):
        duties.copy()
    assert world.copied == [[first], [second, third]]
    assert value(metrics, "holds_outstanding") == 2


def test_a_call_that_is_soon_over_is_not_copied(world: World, duties: Upkeep) -> None:
    for _ in range(3):
        world.holds = [made_hold()]
        duties.copy()
    assert world.copied == []


def test_a_copy_is_at_most_a_second_late(
    world: World, duties: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "_sweep_seconds", 60)
    duties.start()
    time.sleep(1.1 * upkeep.TICK_SECONDS)  # it has just looked
    world.holds = [made_hold()]
    taken = time.monotonic()
    until(lambda: bool(world.copied))
    assert time.monotonic() - taken < 1
    assert upkeep.TICK_SECONDS <= 0.4  # two of them, and SQL's time


def test_what_could_not_be_copied_is_copied_later(world: World, duties: Upkeep) -> None:
    world.holds = [made_hold()]
    duties.copy()
    world.out = True
    with pytest.raises(StoreUnavailableError):
        duties.copy()
    world.out = False
    duties.copy()
    assert world.copied == [world.holds]


def test_what_has_ended_is_forgotten(world: World, duties: Upkeep) -> None:
    world.holds = [made_hold()]
    duties.copy()
    duties.copy()
    assert len(duties._copied) == len(duties._seen) == 1
    world.holds = []
    duties.copy()
    assert duties._copied == duties._seen == set()


# -- comparing


def test_every_account_has_its_turn(
    world: World, duties: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "COMPARED", 2)
    world.names = ["a", "b", "c"]
    for _ in range(3):
        duties.compare()
    assert world.compared == ["a", "b", "c", "a", "b"]


def test_a_difference_is_said_and_shown_until_it_is_gone(
    world: World, duties: Upkeep, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    world.names = ["a", "b"]
    world.drifts = {"a": 5, "b": -7}
    duties.compare()
    assert value(metrics, "drift_nanousd") == duties.drift_nanousd == 12
    assert "account a" in caplog.text
    world.drifts = {"a": None, "b": 0}  # None: it moved meanwhile
    duties.compare()
    assert value(metrics, "drift_nanousd") == 5
    world.drifts = {}
    duties.compare()
    assert value(metrics, "drift_nanousd") == 0


@pytest.mark.parametrize("fault", [StoreUnavailableError("integer overflow"), KeyError("a bug")])
def test_an_account_that_cannot_be_compared_hides_none_behind_it(
    world: World, duties: Upkeep, metrics: Metrics, fault: Exception
) -> None:
    world.names = ["a", "bad", "c", "d"]
    world.drifts = {"a": 1, "d": 2}
    world.unreadable = {"bad": fault}
    for _ in range(2):
        with suppress(KeyError):
            duties.compare()
    assert world.compared == ["a", "c", "d"]
    assert value(metrics, "drift_nanousd") == 3


def test_that_it_cannot_be_is_said_once_until_it_can(
    world: World, duties: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    world.names = ["a", "bad"]
    for rounds, said in ((5, 1), (2, 1)):
        world.unreadable = {"bad": StoreUnavailableError("integer overflow")}
        caplog.clear()
        for _ in range(rounds):
            duties.compare()
        assert len(caplog.records) == said
        assert "integer overflow" in caplog.text
        world.unreadable = {}
        for _ in range(2):
            duties.compare()


def test_an_account_that_is_counted_no_more_differs_from_nothing(
    world: World, duties: Upkeep, metrics: Metrics
) -> None:
    world.names = ["a"]
    world.drifts = {"a": 5}
    duties.compare()
    world.names = []
    duties.compare()
    assert value(metrics, "drift_nanousd") == 0


# -- the thread


@pytest.mark.usefixtures("fast")
def test_all_duties_are_done_again_and_again(world: World, duties: Upkeep) -> None:
    world.holds, world.names = [made_hold()], ["a"]
    duties.start()
    until(lambda: world.swept > 2 and len(world.compared) > 2)
    assert world.copied == [world.holds]
    duties.stop()
    swept = world.swept
    time.sleep(0.05)
    assert world.swept == swept


@pytest.mark.usefixtures("fast")
def test_a_store_that_is_out_ends_nothing(
    world: World, duties: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    world.holds, world.names, world.out = [made_hold()], ["a"], True
    duties.start()
    until(lambda: world.swept > 2)  # it needs no SQL
    assert world.copied == []
    world.out = False
    until(lambda: bool(world.copied) and bool(world.compared))
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert sorted(said) == [
        "not all accounts can be compared with the ledger: the database does not answer",
        "upkeep cannot copy open holds: the database does not answer",
    ]


@pytest.mark.parametrize("duty", ["follow", "copy", "sweep", "compare"])
@pytest.mark.usefixtures("fast")
def test_nor_does_a_defect_in_one_of_them(
    world: World, duties: Upkeep, duty: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.holds, world.names, world.bug = [made_hold()], ["a"], duty
    duties.start()
    done: dict[str, Callable[[], bool]] = {
        "follow": lambda: world.followed > 0,
        "copy": lambda: bool(world.copied),
        "sweep": lambda: world.swept > 0,
        "compare": lambda: bool(world.compared),
    }
    until(lambda: all(was_done() for name, was_done in done.items() if name != duty))
    until(lambda: "upkeep failed to" in caplog.text)
    world.bug = ""
    until(done[duty])


def test_stopping_what_never_started(duties: Upkeep) -> None:
    duties.stop()


@pytest.mark.usefixtures("fast")
def test_counters_that_would_drop_what_they_hold_are_told_of_once_until_they_do_not(
    world: World, duties: Upkeep, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody may change what was looked at as it began."""
    duties.start()
    until(lambda: world.guarded > 2)
    assert caplog.records == []
    world.evicting = True
    seen = world.guarded
    until(lambda: world.guarded > seen + 3)
    assert [record.getMessage() for record in caplog.records] == [
        "upkeep cannot be sure of the counters: it drops what it holds"
    ]
    world.evicting = False
    seen = world.guarded
    until(lambda: world.guarded > seen + 2)
    world.evicting = True
    until(lambda: len(caplog.records) == 2)
