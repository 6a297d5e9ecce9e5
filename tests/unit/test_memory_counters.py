"""What counters in process promise beyond the contract: their memory is bounded by a minute."""

from __future__ import annotations

from moneyhelp import ACCOUNT
from support import ManualClock

from store.counters.memory import MemoryCounters
from store.counters.model import MinuteLimit
from store.records import MINUTE_US


def test_a_minute_later_nothing_of_idle_scopes_and_old_requests_is_left() -> None:
    clock = ManualClock()
    counters = MemoryCounters(clock)
    for number in range(5000):
        counters.take(f"req-{number}", None, (MinuteLimit(f"scope-{number}", 1),), ACCOUNT.id)
    assert len(counters._minutes._scopes) == len(counters._requests) == 5000
    clock.advance(us=MINUTE_US)
    for number in range(6000):  # the number of scopes has to double before a prune is due
        counters.take(f"late-{number}", None, (MinuteLimit(f"late-{number}", 1),), ACCOUNT.id)
    assert len(counters._minutes._scopes) == len(counters._requests) == 6000
    assert len(counters._leaving) == 6000


def test_refused_and_peeked_scopes_cost_nothing() -> None:
    counters = MemoryCounters(ManualClock())
    full = MinuteLimit("full", 1)
    counters.take("first", None, (full,), ACCOUNT.id)
    for number in range(100):
        other = MinuteLimit(f"scope-{number}", 1)
        counters.take(f"req-{number}", None, (full, other), ACCOUNT.id)
        counters.peek((other,), ACCOUNT.id)
    assert list(counters._minutes._scopes) == ["full"]
    assert list(counters._requests) == ["first"]
    assert len(counters._leaving) == 1
