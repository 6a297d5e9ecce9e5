"""Holds that SQL has open and the counters forgot: ended too, once they are silent for long."""

from __future__ import annotations

import pytest
from moneyhelp import draft, hold, limits, seeded
from support import ManualClock

from authz import strays
from authz.strays import EverySilentHold
from store.counters.memory import MemoryCounters
from store.records import MINUTE_US, Hold


class Copies:
    def __init__(self) -> None:
        self.holds: list[Hold] = []

    def admitted_before(self, before_us: int) -> list[Hold]:
        return [each for each in self.holds if each.admitted_us < before_us]


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.counters = seeded(MemoryCounters(self.clock))
        self.copies = Copies()
        self.silent = EverySilentHold(self.counters, self.copies, self.clock)
        monkeypatch.setattr(strays, "elapsed_seconds", lambda: self.clock() / 1e6)

    def overdue(self) -> list[str]:
        return [each.id for each in self.silent.overdue(MINUTE_US)]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_one_that_only_sql_has_ends_a_deadline_after_that_was_seen(rig: Rig) -> None:
    stray = hold(at=rig.clock())
    rig.copies.holds.append(stray)
    assert rig.overdue() == []
    rig.clock.advance(seconds=61)
    assert rig.overdue() == [], "it is old enough to be looked at, no more"
    rig.clock.advance(seconds=59)
    assert rig.overdue() == []
    rig.clock.advance(seconds=1)
    assert rig.overdue() == [stray.id]


def test_one_that_the_counters_know_again_is_theirs(rig: Rig) -> None:
    asked = draft()
    rig.counters.take(asked.request_id, asked, limits())
    [known] = rig.counters.open_holds()
    rig.copies.holds.append(known)
    for _ in range(9):
        rig.clock.advance(seconds=30)
        rig.counters.beat(known.account_id, known.id)
        assert rig.overdue() == []
    rig.clock.advance(seconds=60)
    assert rig.overdue() == [known.id], "once, and not as a stray as well"


def test_what_left_sql_meanwhile_is_forgotten(rig: Rig) -> None:
    stray = hold(at=rig.clock())
    rig.copies.holds.append(stray)
    rig.clock.advance(seconds=61)
    rig.overdue()
    rig.copies.holds.clear()
    rig.overdue()
    rig.clock.advance(seconds=61)
    rig.copies.holds.append(stray)
    assert rig.overdue() == []
