"""The ledger against the server's book at full size: `make soak`. Each prints its figures.

A small form is in tests/e2e/test_money_soak.py.
"""

from __future__ import annotations

import signal
import statistics
from pathlib import Path

import pytest
from load.soak import Soak, all_endpoints, running
from peers.recorder import Recorder

pytestmark = pytest.mark.soak

CALLS = 50_000
SEED = 5


def test_the_ledger_is_the_book(recorder: Recorder, tmp_path: Path) -> None:
    """To the token and the nano-dollar for what says its usage; between seen and held for cuts."""
    with running(recorder, tmp_path) as (gate, leap):
        figures = Soak(gate, recorder, leap).run(CALLS, SEED)
    print(f"\n{figures}")
    assert all_endpoints(figures.endpoints), figures.endpoints
    assert figures.windows == 4
    assert figures.retried > 0
    assert statistics.median(figures.lags) < 1


def test_kills_lose_no_call_and_book_none_twice(recorder: Recorder, tmp_path: Path) -> None:
    """authz five times and Envoy twice, in the middle of it: never under the book."""
    blows = [(part, signal.SIGKILL) for part in ("authz", "envoy", "authz", "authz") * 2][:7]
    assert [part for part, _ in blows].count("authz") == 5
    with running(recorder, tmp_path) as (gate, leap):
        figures = Soak(gate, recorder, leap, blows).run(CALLS, SEED + 1)
    print(f"\n{figures}")
    assert all_endpoints(figures.endpoints), figures.endpoints
