"""Rows go once a day, a few at a turn, and only where somebody said for how long they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from moneyhelp import hold
from pydantic import ValidationError
from support import ManualClock

from authz import upkeep
from authz.metrics import Metrics
from authz.retention import ROWS, Retention
from authz.settings import AuthzSettings
from authz.upkeep import Upkeep
from store.errors import StoreUnavailableError
from store.records import DAY_US, Hold

HOUR_US = DAY_US // 24


@dataclass
class Rows:
    """So many old rows, and what was asked about them."""

    left: int
    rows: int = 0
    out: bool = False
    begun: list[tuple[int, int]] = field(default_factory=list)
    asked: int = 0

    def begin(self, before_us: int, now_us: int) -> Rows:
        self.begun.append((before_us, now_us))
        return self

    def group(self, rows: int) -> int | None:
        self.asked += 1
        if self.out:
            raise StoreUnavailableError("the database does not answer")
        going = min(rows, self.left)
        self.left -= going
        self.rows += going
        return going or None


def test_nothing_goes_unless_somebody_said_so() -> None:
    world = Rows(5)
    Retention(None, world.begin, ManualClock())()
    assert world.begun == []


def test_once_a_day_a_few_at_a_turn() -> None:
    clock, world = ManualClock(), Rows(2 * ROWS + 1)
    clock.now_us = 1000 * DAY_US + 5 * HOUR_US
    duty = Retention(62, world.begin, clock)
    duty()
    assert world.left == ROWS + 1
    for _ in range(10):
        duty()
    assert (world.left, world.asked) == (0, 4)
    assert world.begun == [(938 * DAY_US, clock.now_us)], "whole days"
    clock.now_us += 18 * HOUR_US
    duty()
    assert len(world.begun) == 1
    clock.now_us += HOUR_US
    duty()
    assert world.begun[1:] == [(939 * DAY_US, clock.now_us)]


def test_it_goes_on_where_the_database_was_out() -> None:
    clock, world = ManualClock(), Rows(ROWS + 1)
    duty = Retention(62, world.begin, clock)
    duty()
    world.out = True
    with pytest.raises(StoreUnavailableError):
        duty()
    world.out = False
    duty()
    assert (world.left, len(world.begun)) == (0, 1)


def test_upkeep_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counters:
        def open_holds(self) -> list[Hold]:
            return [hold()]

        def accounts(self) -> list[str]:
            return []

    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.01)
    done: list[int] = []
    made = Upkeep(
        Counters(),
        lambda _: None,
        lambda: 0,
        lambda _: 0,
        Metrics(),
        follow=lambda: None,
        deadline_seconds=60,
        retain=lambda: done.append(1),
    )
    made.start()
    for _ in range(300):
        if len(done) > 2:
            break
        made._rest(0.01)
    made.stop()
    assert len(done) > 2


@pytest.mark.parametrize("days", ["61", "0", "-1", "ever"])
def test_less_than_two_windows_is_no_setting(days: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_LEDGER_RETENTION_DAYS", days)
    with pytest.raises(ValidationError):
        AuthzSettings()
    monkeypatch.setenv("TENSORGATE_LEDGER_RETENTION_DAYS", "62")
    assert AuthzSettings().ledger_retention_days == 62
    monkeypatch.delenv("TENSORGATE_LEDGER_RETENTION_DAYS")
    assert AuthzSettings().ledger_retention_days is None
