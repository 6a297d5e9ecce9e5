"""What happens to money when Redis is lost, restarted, taken back in time, or does not answer.

Real servers, and callers that never rest, who keep a book of their own. Never is more committed
than the budget, afterwards the ledger has the book's charges and the counters the ledger's, who is
refused meanwhile is told so at once, and nothing has to be restarted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleetsupport import HOLD, Fleet, Served, calling, fleet, until
from peers.valkey import Valkey, valkey_node

BUDGET = 8 * HOLD  # of twelve callers, some always find no room
FAST_SECONDS = 0.1
RECOVERY_SECONDS = 2.0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with valkey_node(tmp_path / "valkey") as node:
        yield node


@pytest.fixture
def gate(tmp_path: Path, database_url: str, valkey: Valkey) -> Iterator[Fleet]:
    with fleet(tmp_path, database_url, valkey.url) as made:
        yield made


def emptied(valkey: Valkey) -> None:
    valkey.ask("FLUSHALL")


def killed(valkey: Valkey) -> None:
    valkey.restart()


def taken_back(valkey: Valkey) -> None:
    """Restarted on what it saved a while ago."""
    valkey.ask("SAVE")
    time.sleep(0.4)
    valkey.restart()


def paused(valkey: Valkey) -> None:
    with valkey.paused():
        time.sleep(1.5)


FAULTS: tuple[Callable[[Valkey], None], ...] = (emptied, killed, taken_back, paused)


def test_whatever_happens_to_redis_nothing_is_lost_and_nothing_is_over_budget(
    gate: Fleet, valkey: Valkey
) -> None:
    served = Served()
    with calling(gate, served, BUDGET):
        until(lambda: served.taken > 20)
        for fault in FAULTS:
            fault(valkey)
            before = served.taken
            took = until(lambda: served.taken > before + 5, 5, f"recovery from {fault.__name__}")  # noqa: B023  done with before the next
            assert took < RECOVERY_SECONDS, fault.__name__
            time.sleep(0.2)
    assert served.most <= BUDGET
    assert served.refused > 100, "there was no room at times"
    assert len(served.unavailable) > 20
    assert served.refusal_seconds(50) < FAST_SECONDS
    assert served.refusal_seconds(100) < 1
    gate.agrees_with(served)
