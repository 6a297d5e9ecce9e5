"""Who would not have heard of an end may not conclude from silence."""

from __future__ import annotations

import logging
import time

import pytest
from moneyhelp import draft, limits, seeded
from moneysupport import Settled
from support import ManualClock

from authz import sweep
from authz.sweep import Pulse, Sweeper
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
        assert rig.counters.beat(hold.account_id, hold.id)
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
    rig.counters.close(hold)
    rig.clock.advance(seconds=DEADLINE)
    assert rig.sweeper.sweep() == 1


def test_nothing_to_sweep(rig: Rig) -> None:
    assert rig.sweeper.sweep() == 0


def test_a_gap_that_is_seen_while_looking_counts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is stopped on its way from the one question to the other."""
    rig.take()
    rig.clock.advance(seconds=2 * DEADLINE)
    looked = rig.counters.overdue

    def overdue(deadline_us: int) -> list[Hold]:
        rig.unbroken = 0
        return looked(deadline_us)

    monkeypatch.setattr(rig.counters, "overdue", overdue)
    assert rig.sweeper.sweep() == 0


# -- whether this process runs


class Beats:
    """A pulse whose time is moved by hand, and the gaps that it told of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadline_seconds: float) -> None:
        self.now = 1_000.0
        self.gaps = 0
        monkeypatch.setattr(sweep, "elapsed_seconds", lambda: self.now)
        self.pulse = Pulse(self._gap, deadline_seconds=deadline_seconds)

    def _gap(self) -> None:
        self.gaps += 1

    def after(self, seconds: float) -> int:
        self.now += seconds
        self.pulse.check()
        return self.gaps


@pytest.mark.parametrize(("deadline", "allowed"), [(60.0, 1.75), (4.0, 1.25)])
def test_a_beat_that_is_much_too_late_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    deadline: float,
    allowed: float,
) -> None:
    beats = Beats(monkeypatch, deadline)
    for _ in range(5):
        assert beats.after(allowed - 0.01) == 0
    assert beats.after(allowed + 0.01) == 1
    assert beats.after(0.25) == 1  # told of once
    assert beats.after(3600) == 2
    assert "did not run for 3600.0 s" in caplog.text


def test_the_pulse_beats_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PULSE_SECONDS", 0.01)
    gaps = list[float]()
    pulse = Pulse(lambda: gaps.append(time.monotonic()), deadline_seconds=0.8)
    time.sleep(0.3)
    pulse.start()  # what was before does not count
    try:
        time.sleep(0.3)
        pulse.check()
    finally:
        pulse.stop()
    assert gaps == []
    pulse.stop()
