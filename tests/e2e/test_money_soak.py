"""The ledger against the server's book, in every dialect and over turning windows: a small form.

At full size it is in tests/load/test_soak_books.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

from load.soak import Soak, all_endpoints, running
from peers.recorder import Recorder

CALLS = 1000
KILLED_CALLS = 600
SEED = 20_260_711


def test_the_ledger_is_the_book_in_every_dialect(recorder: Recorder, tmp_path: Path) -> None:
    with running(recorder, tmp_path) as (gate, leap):
        figures = Soak(gate, recorder, leap).run(CALLS, SEED)
    print(f"\n{figures}")
    assert all_endpoints(figures.endpoints), figures.endpoints
    assert figures.windows == 4
    assert figures.retried > 0, "no call met a server that does not listen"
    counted = figures.counted
    assert counted["metered"] > 0.4 * CALLS, counted
    for basis in ("estimated", "held", "released"):
        assert counted[basis] > 0.02 * CALLS, counted
    for reason in ("rate_limit_exceeded", "budget_held", "budget_exceeded"):
        assert counted[f"refused: {reason}"] > 0, counted


def test_kills_of_authz_and_envoy_lose_no_call_and_book_none_twice(
    recorder: Recorder, tmp_path: Path
) -> None:
    blows = [("authz", signal.SIGKILL), ("envoy", signal.SIGKILL)]
    with running(recorder, tmp_path) as (gate, leap):
        figures = Soak(gate, recorder, leap, blows).run(KILLED_CALLS, SEED + 1)
        for part, _ in blows:
            assert f"{part} was killed by SIGKILL; starting it again" in gate.output
    print(f"\n{figures}")
    assert figures.windows == 4
    counted = figures.counted
    for what in ("metered", "held", "refused: authorization_unavailable"):
        assert counted[what] > 0, counted
    assert counted["metered"] > 0.1 * KILLED_CALLS, counted
