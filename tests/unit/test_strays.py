"""Holds that SQL has open and the counters forgot: ended too, once they are silent for long."""

from __future__ import annotations

import pytest
from moneyhelp import draft, hold, limits, seeded
from support import ManualClock

from authz import strays
from authz.strays import EverySilentHold
from store.counters.memory import MemoryCounters
from store.errors import StoreUnavailableError
from store.records import MINUTE_US, SECOND_US, Hold


class Copies:
    def __init__(self) -> None:
        self.holds: list[Hold] = []
        self.out = False

    def admitted_before(self, before_us: int) -> list[Hold]:
        if self.out:
            raise StoreUnavailableError("out")
        return [each for each in self.holds if each.admitted_us < before_us]


class Redis(MemoryCounters):
    """Two nodes with clocks of their own."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.ahead = [0, 5 * SECOND_US]
        self.claimed: list[int] = []

    def overdue(self, deadline_us: int, claim_us: int = 0) -> list[Hold]:
        self.claimed.append(claim_us)
        return super().overdue(deadline_us)

    def clocks(self) -> list[int]:
        return [self._clock() + each for each in self.ahead]


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.counters = Redis(self.clock)
        seeded(self.counters)
        self.copies = Copies()
        self.gaps = 0
        self.ended = set[str]()
        self.may_end = True
        self.silent = EverySilentHold(
            self.counters,
            self.copies,
            self.clock,
            self.gap,
            has_ended=lambda hold: hold.id in self.ended,
            may_end=lambda: self.may_end,
        )
        monkeypatch.setattr(strays, "elapsed_seconds", lambda: self.clock() / 1e6)

    def gap(self) -> None:
        self.gaps += 1

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


def test_a_clock_that_goes_forward_is_a_gap_and_one_that_is_just_ahead_is_none(rig: Rig) -> None:
    for _ in range(3):
        rig.overdue()
        rig.clock.advance(seconds=30)
    assert rig.gaps == 0
    rig.counters.ahead[1] += 90 * SECOND_US
    rig.overdue()
    assert rig.gaps == 1
    rig.counters.ahead[1] = 0  # and put right: nothing looks older than it is
    rig.overdue()
    rig.overdue()
    assert rig.gaps == 1


def test_one_that_ended_and_is_only_not_found_yet_is_not_silent(rig: Rig) -> None:
    asked = draft()
    rig.counters.take(asked.request_id, asked, limits())
    [counted] = rig.counters.open_holds()
    stray = hold(at=rig.clock())
    rig.copies.holds.append(stray)
    rig.ended = {counted.id, stray.id}
    rig.overdue()
    for _ in range(3):
        rig.clock.advance(seconds=61)
        assert rig.overdue() == []
    rig.ended.clear()
    assert set(rig.overdue()) == {counted.id, stray.id}


def test_who_could_not_end_what_it_finds_leaves_it_to_others(rig: Rig) -> None:
    rig.overdue()
    assert rig.counters.claimed == [MINUTE_US // 5], "until others may look, and less than a sweep"
    rig.may_end = False
    rig.overdue()
    assert rig.counters.claimed[1:] == [0]
    rig.may_end, rig.copies.out = True, True
    with pytest.raises(StoreUnavailableError):
        rig.overdue()
    assert len(rig.counters.claimed) == 2, "nothing was claimed in vain"
