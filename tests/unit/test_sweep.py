"""Who would not have heard of an end may not conclude from silence."""

from __future__ import annotations

import logging

import pytest
from moneyhelp import draft, limits, seeded
from moneysupport import Settled
from support import ManualClock

from authz.sweep import Sweeper
from store.counters.memory import MemoryCounters
from store.counters.model import Taken
from store.records import Basis, Hold

DEADLINE = 60.0


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counters = seeded(MemoryCounters(self.clock))
        self.settled = Settled()
        self.unbroken = 10 * DEADLINE
        self.sweeper = Sweeper(
            self.counters,
            self.settled,  # type: ignore[arg-type]
            lambda: self.unbroken,
            self.clock,
            deadline_seconds=DEADLINE,
        )

    def take(self) -> Hold:
        asked = draft()
        taken = self.counters.take(asked.request_id, asked, limits())
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        return taken.hold


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_gave_no_sign_of_life_is_swept_as_held(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    old = rig.take()
    rig.clock.advance(seconds=30)
    rig.take()
    rig.clock.advance(seconds=31)
    with caplog.at_level(logging.WARNING):
        assert rig.sweeper.sweep() == 1
    [(hold, charge)] = rig.settled.ends
    assert (hold, charge.basis, charge.nanousd) == (old, Basis.HELD, old.nanousd)
    assert (charge.status, charge.settled_us) == (0, rig.clock.now_us)
    assert "1 holds" in caplog.text


def test_nothing_is_swept_before_its_deadline(rig: Rig) -> None:
    rig.take()
    rig.clock.advance(seconds=DEADLINE - 0.1)
    assert rig.sweeper.sweep() == 0
    rig.clock.advance(seconds=0.1)
    assert rig.sweeper.sweep() == 1


def test_a_heartbeat_starts_the_deadline_anew(rig: Rig) -> None:
    hold = rig.take()
    for _ in range(5):
        rig.clock.advance(seconds=45)
        assert rig.sweeper.sweep() == 0
        assert rig.counters.beat(hold.id)
    rig.clock.advance(seconds=DEADLINE)
    assert rig.sweeper.sweep() == 1


@pytest.mark.parametrize("unbroken", [0.0, 1.0, DEADLINE - 0.01])
def test_after_a_start_or_a_gap_a_whole_deadline_passes_first(rig: Rig, unbroken: float) -> None:
    rig.take()
    rig.clock.advance(seconds=5 * DEADLINE)
    rig.unbroken = unbroken
    assert rig.sweeper.sweep() == 0
    assert rig.settled.ends == []
    rig.unbroken = DEADLINE
    assert rig.sweeper.sweep() == 1


def test_what_a_restart_brought_back_has_a_deadline_of_its_own(rig: Rig) -> None:
    hold = rig.take()
    rig.clock.advance(seconds=10 * DEADLINE)
    later = Rig()
    later.clock.now_us = rig.clock.now_us
    later.counters.restore([hold])
    assert later.sweeper.sweep() == 0
    later.clock.advance(seconds=DEADLINE)
    assert later.sweeper.sweep() == 1


def test_an_end_that_waits_for_the_ledger_is_no_silence(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    hold = rig.take()
    rig.settled.waiting.add(hold.id)
    rig.clock.advance(seconds=2 * DEADLINE)
    assert rig.sweeper.sweep() == 0
    assert rig.settled.ends == []
    assert caplog.records == []


def test_a_hold_that_somebody_closed_and_nobody_ended_is_swept_too(rig: Rig) -> None:
    hold = rig.take()
    rig.counters.close(hold.id)
    rig.clock.advance(seconds=DEADLINE)
    assert rig.sweeper.sweep() == 1


def test_nothing_to_sweep(rig: Rig) -> None:
    assert rig.sweeper.sweep() == 0
