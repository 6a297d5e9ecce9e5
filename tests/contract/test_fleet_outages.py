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
from fleetsupport import FAST_SECONDS, HOLD, Fleet, Served, calling, fleet, until
from peers.valkey import Valkey, valkey_node

BUDGET = 6 * HOLD  # of eight callers, some always find no room


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with valkey_node(tmp_path / "valkey") as node:
        yield node


@pytest.fixture
def gate(tmp_path: Path, database_url: str, valkey: Valkey) -> Iterator[Fleet]:
    with fleet(tmp_path, database_url, valkey.url) as made:
        yield made


def recovers(served: Served) -> float:
    """Seconds until a call is let through again."""
    before = served.taken
    return until(lambda: served.taken > before, 5, "recovery")


def emptied(valkey: Valkey) -> None:
    valkey.ask("FLUSHALL")


def killed(valkey: Valkey) -> None:
    valkey.restart()


def taken_back(valkey: Valkey) -> None:
    """Restarted on what it saved a while ago."""
    valkey.ask("SAVE")
    time.sleep(0.5)
    valkey.restart()


def paused(valkey: Valkey) -> None:
    with valkey.paused():
        time.sleep(1.5)


@pytest.mark.parametrize("fault", [emptied, killed, taken_back, paused])
def test_nothing_is_lost_and_nothing_is_over_budget(
    gate: Fleet, valkey: Valkey, fault: Callable[[Valkey], None]
) -> None:
    served = Served()
    budget = BUDGET + 10**5
    limit = [budget]
    with calling(gate, served, limit[0]):
        until(lambda: served.taken > 20)
        for _ in range(2):
            fault(valkey)
            took = recovers(served)
            assert took < 2
            time.sleep(0.3)
    assert served.slowest() < FAST_SECONDS * 3
    gate.agrees_with(served)
