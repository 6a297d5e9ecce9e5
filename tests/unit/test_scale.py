"""The simulation of a fleet against what queueing theory says of one queue."""

from __future__ import annotations

from math import log

import pytest
from load.scale import Costs, Fleet, simulate

CALLS = 20_000
ONE_QUEUE = Costs(0, 0, master_take=400, master_end=0, beat=0, network=0)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_one_master_whose_costs_vary_is_an_m_m_1_queue(load: float) -> None:
    fleet = Fleet(load * 1e6 / 400, 1, 1, ONE_QUEUE, exponential=True)
    outcome = simulate(fleet, CALLS)
    mean = 0.4 / (1 - load)  # ms
    assert outcome.mean == pytest.approx(mean, rel=0.08)
    assert outcome.p50 == pytest.approx(mean * log(2), rel=0.08)
    assert outcome.p99 == pytest.approx(mean * log(100), rel=0.12)
    assert outcome.master == pytest.approx(load, rel=0.05)
    assert outcome.workers == 0


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_whose_costs_are_fixed_is_an_m_d_1_queue(load: float) -> None:
    outcome = simulate(Fleet(load * 1e6 / 400, 1, 1, ONE_QUEUE), CALLS)
    assert outcome.mean == pytest.approx(0.4 + 0.4 * load / (2 * (1 - load)), rel=0.08)


def test_what_comes_after_the_answer_is_work_as_well() -> None:
    """Ends and heartbeats: a fifth of a master each here, beside two fifths of takes."""
    costs = Costs(0, 0, master_take=400, master_end=200, beat=600, network=0)
    outcome = simulate(Fleet(1000, 1, 1, costs, beats=1 / 3), CALLS)
    assert outcome.master == pytest.approx(0.8, rel=0.05)
    alone = simulate(Fleet(1000, 1, 1, ONE_QUEUE), CALLS)
    assert outcome.mean > alone.mean * 1.5


def test_accounts_lie_on_masters_and_the_busiest_has_more_than_its_part() -> None:
    even = simulate(Fleet(8000, 64, 8, ONE_QUEUE, skew=0.0), CALLS)
    uneven = simulate(Fleet(8000, 64, 8, ONE_QUEUE, skew=1.0), CALLS)
    assert even.master == pytest.approx(0.4, rel=0.12)
    assert uneven.master > 1.2 * even.master
