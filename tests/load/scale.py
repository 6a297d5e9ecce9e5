"""How a fleet of some size would fare, by a simulation that what was measured here drives.

`python tests/load/scale.py [--calls 200000]`; a minute at most, nothing is started. A call comes
to a worker (one server, first come first served), its take to the master that has its account,
and its answer to the worker again; when the call has ended, its end comes to that master too.
Calls come at random (Poisson), some accounts call far more often than others. What is added to a
call is the time from its coming to its answer. Envoy's own is not in it.
"""

from __future__ import annotations

import argparse
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from random import Random

ARRIVES, TAKES, ANSWERS, ENDS = range(4)


@dataclass(frozen=True)
class Costs:
    """µs of one core, of `bench.py`, `redis_cost.py` and `capacity.py` beside this file."""

    worker_before: float = 200.0  # gRPC, reading, key, decision
    worker_after: float = 130.0  # Redis' answer, hold, headers, gRPC
    master_take: float = 78.0
    master_end: float = 98.0  # found and closed, each by itself, and settled with others
    beat: float = 27.0
    network: float = 200.0  # µs to Redis and back; nobody's core
    meter: float = 145.0  # an end read, priced, found, closed, booked and settled
    sql_row: float = 45.0  # of PostgreSQL: a hold written, and its row booked


@dataclass(frozen=True)
class Fleet:
    """`largest` is the share of all calls that the account with most of them makes.

    `seconds` is for how long a call runs, on the average: short, as a simulation does not last for
    long; `beats` is how many heartbeats it gives all the same (5 s, one each 15 s).
    """

    rate: float
    workers: int
    masters: int
    costs: Costs = Costs()
    meters: int = 1
    accounts: int = 20_000
    skew: float = 0.7
    seconds: float = 0.1
    beats: float = 1 / 3
    exponential: bool = False  # costs vary like that, for the closed form

    @property
    def end(self) -> float:
        """µs of a master's for what comes after the answer."""
        return self.costs.master_end + self.beats * self.costs.beat


@dataclass(frozen=True)
class Outcome:
    """Times in ms, utilisation from 0 to 1 of all workers and of the busiest master."""

    mean: float
    p50: float
    p99: float
    workers: float
    master: float


class Servers:
    """Each serves one at a time, in the order of coming."""

    def __init__(self, number: int, cost: Callable[[float], float]) -> None:
        self.free = [0.0] * number
        self.busy = [0.0] * number
        self._cost = cost

    def serve(self, at: int, now: float, mean: float) -> float:
        """When it is done."""
        cost = self._cost(mean)
        self.busy[at] += cost
        self.free[at] = done = max(now, self.free[at]) + cost
        return done


def simulate(fleet: Fleet, calls: int, seed: int = 1) -> Outcome:
    """So many calls, of which the first tenth, while queues fill, is not looked at."""
    random = Random(seed)
    costs = fleet.costs

    def drawn(mean: float) -> float:
        return random.expovariate(1 / mean) if fleet.exponential and mean else mean

    workers, masters = Servers(fleet.workers, drawn), Servers(fleet.masters, drawn)
    heaviness = list(accumulate((at + 1) ** -fleet.skew for at in range(fleet.accounts)))
    home = [random.randrange(fleet.masters) for _ in range(fleet.accounts)]
    came: dict[int, float] = {}
    where: dict[int, tuple[int, int]] = {}
    took: list[float] = []
    now = 0.0
    events: list[tuple[float, int, int]] = [(0.0, 0, ARRIVES)]
    while events:
        now, call, what = heappop(events)
        if what == ARRIVES:
            account = bisect(heaviness, random.random() * heaviness[-1])
            worker = random.randrange(fleet.workers)
            came[call], where[call] = now, (worker, home[min(account, fleet.accounts - 1)])
            if call + 1 < calls:
                heappush(events, (now + random.expovariate(fleet.rate) * 1e6, call + 1, ARRIVES))
            heappush(events, (workers.serve(worker, now, costs.worker_before), call, TAKES))
        elif what == TAKES:
            master = where[call][1]
            there = masters.serve(master, now + costs.network / 2, costs.master_take)
            heappush(events, (there + costs.network / 2, call, ANSWERS))
        elif what == ANSWERS:
            done = workers.serve(where[call][0], now, costs.worker_after)
            if call * 10 >= calls:
                took.append(done - came[call])
            heappush(events, (done + random.expovariate(1 / fleet.seconds) * 1e6, call, ENDS))
        elif len(came) < calls:  # else nobody waits for it any more
            masters.serve(where[call][1], now + costs.network / 2, fleet.end)
    took.sort()
    last = max(came.values())
    return Outcome(
        sum(took) / len(took) / 1000,
        took[len(took) // 2] / 1000,
        took[len(took) * 99 // 100] / 1000,
        sum(workers.busy) / last / fleet.workers,
        max(masters.busy) / last,
    )


FLEETS = (
    Fleet(1_000, 2, 1),
    Fleet(2_000, 2, 1),
    Fleet(3_500, 3, 1),
    Fleet(5_000, 4, 1, meters=2),
    Fleet(10_000, 8, 4, meters=3),
    Fleet(30_000, 24, 12, meters=8),
    Fleet(100_000, 72, 32, meters=24),
    Fleet(100_000, 72, 48, meters=24),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=60_000)
    calls = parser.parse_args().calls
    heads = ("calls/s", "workers", "meters", "masters", "p50 ms", "p99 ms", "SQL cores")
    busy = ("workers busy", "meters busy", "busiest master")
    print("".join(f"{head:>10}" for head in heads) + "".join(f"{head:>16}" for head in busy))
    for fleet in FLEETS:
        outcome, costs = simulate(fleet, calls), fleet.costs
        numbers = (fleet.rate, fleet.workers, fleet.meters, fleet.masters)
        meters = fleet.rate * costs.meter / fleet.meters / 1e6
        print(
            "".join(f"{number:10.0f}" for number in numbers)
            + f"{outcome.p50:10.2f}{outcome.p99:10.2f}{fleet.rate * costs.sql_row / 1e6:10.1f}"
            + "".join(f"{part:16.0%}" for part in (outcome.workers, meters, outcome.master))
        )


if __name__ == "__main__":
    main()
