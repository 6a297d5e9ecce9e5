"""What has to be seen of a fleet, in small: two workers on PostgreSQL and Valkey, both broken.

At full size it is in tests/load/test_soak_seen.py and test_soak_seen_revoked.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from load.fleetgate import Parts, durable, fleet_gate
from load.seen import Outages, budget, minute, never_back, revocations
from peers.feedwire import Way, Wire, feed_wire
from peers.postgres import running as postgres_server
from peers.prometheus import scraping
from peers.valkey import valkey_node

WORKERS = 2
RATE = 60.0
KEY_STALE_SECONDS = 3.0


@dataclass
class Wired(Parts):
    """With a wire between the gate and its Redis."""

    wire: Wire


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    folder: Path = tmp_path_factory.mktemp("seen")
    # a machine that runs other tests as well may keep Valkey waiting for longer than the default
    env = {
        "TENSORGATE_REDIS_TIMEOUT_MS": "500",
        "TENSORGATE_KEY_STALE_SECONDS": str(KEY_STALE_SECONDS),
    }
    with (
        postgres_server() as server,
        durable(server) as url,
        valkey_node(folder / "valkey") as node,
        feed_wire(folder, node.port) as wire,
        fleet_gate(folder, url, wire.url, workers=WORKERS, told_by=node.url, **env) as fleet,
    ):
        yield Wired(fleet, node, server, wire)


def test_no_more_than_the_minute_allows(parts: Parts) -> None:
    print("\n" + minute(parts.fleet, rpm=20, seconds=3, burst=20))


def test_no_more_at_once_than_a_budget_fits(parts: Parts) -> None:
    print("\n" + budget(parts.fleet, fits=5, at_once=64, waves=2))


def test_a_key_that_is_revoked_while_the_feed_is_half_open(parts: Wired) -> None:
    failing = partial(parts.wire.listeners, Way.HALF_OPEN)
    print(
        "\n",
        revocations(parts.fleet, number=1, rate=RATE, bound=KEY_STALE_SECONDS, failing=failing),
    )


def test_stores_that_are_out_cost_no_money_and_let_nobody_in(parts: Parts) -> None:
    outages = Outages(parts.fleet, RATE, parts.fleet.hold())
    print()
    outages.suffer("Valkey emptied", parts.emptied, lead=0.4, seconds=0.4)
    outages.suffer("PostgreSQL killed", parts.postgres_killed, lead=0.4, seconds=0.4)
    outages.suffer("both paused", partial(parts.both_paused, 1.0), lead=0.4, seconds=0.4)
    print(outages.conclude())


def test_counters_of_a_killed_worker_do_not_go_back(parts: Parts, tmp_path: Path) -> None:
    fleet = parts.fleet
    jobs = {"tensorgate": ("/metrics", [f"127.0.0.1:{fleet.gate.metrics_port}"])}
    with scraping(tmp_path / "prometheus", jobs) as prometheus:
        outages = Outages(fleet, RATE, fleet.hold())
        print()
        outages.suffer("a worker killed", partial(fleet.kill_worker, 0), lead=0.4, seconds=0.4)
        print(outages.conclude())
        print(never_back(prometheus, fleet, seconds=60))
