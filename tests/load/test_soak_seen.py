"""What has to be seen of a fleet of four workers, at full size: `make soak`. With figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from load.fleetgate import Parts, durable, fleet_gate
from load.seen import Outages, budget, minute, never_back
from peers.postgres import running as postgres_server
from peers.prometheus import scraping
from peers.valkey import Trio, valkey_node, valkey_trio
from waiting import until

pytestmark = pytest.mark.soak

WORKERS = 4
RATE = 300.0
PAUSE_SECONDS = 5.0
RECOVERY_SECONDS = 2.0


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder: Path = tmp_path_factory.mktemp("seen")
    with (
        postgres_server() as server,
        durable(server) as url,
        valkey_node(folder / "valkey") as node,
        fleet_gate(folder, url, node.url, workers=WORKERS) as fleet,
    ):
        yield Parts(fleet, node, server)


def test_a_budget_that_fits_twenty(parts: Parts) -> None:
    print("\n" + budget(parts.fleet, fits=20, at_once=256, waves=10))


def test_the_minute_is_exact(parts: Parts) -> None:
    print("\n" + minute(parts.fleet, rpm=100, seconds=150, burst=40))


def test_a_killed_worker_costs_no_client_anything(parts: Parts) -> None:
    fleet = parts.fleet
    outages = Outages(fleet, RATE, fleet.hold())
    print()
    for number in range(WORKERS):
        outages.suffer(
            f"worker {number} killed", partial(fleet.kill_worker, number), unavailable=False
        )
    print(outages.conclude())


def test_outages_of_both_stores(parts: Parts) -> None:
    outages = Outages(parts.fleet, RATE, parts.fleet.hold())
    print()
    faults: dict[str, Callable[[], None]] = {
        "Valkey emptied": parts.emptied,
        "Valkey killed": parts.node.restart,
        "Valkey taken back": parts.taken_back,
        "Valkey paused for 5 s": partial(parts.valkey_paused, PAUSE_SECONDS),
        "PostgreSQL killed": parts.postgres_killed,
        "PostgreSQL paused for 5 s": partial(parts.postgres_paused, PAUSE_SECONDS),
        "both paused for 5 s": partial(parts.both_paused, PAUSE_SECONDS),
    }
    for name, fault in faults.items():
        assert outages.suffer(name, fault).recovery < RECOVERY_SECONDS
    print(outages.conclude())


def promote(trio: Trio) -> None:
    """The master dies, and its replica, which has not seen its last second, takes over."""
    master = trio.master()
    replica = next(node for node in trio.nodes if node is not master)
    with replica.paused():
        time.sleep(1)
        master.end()
    until(lambda: trio.master() is replica, 20, "a promotion")


def test_a_replica_that_was_behind_is_promoted(tmp_path: Path) -> None:
    with (
        postgres_server() as server,
        durable(server) as url,
        valkey_trio(tmp_path / "trio") as trio,
        fleet_gate(tmp_path, url, trio.url, workers=WORKERS) as fleet,
    ):
        outages = Outages(fleet, RATE, fleet.hold())
        print()
        found = outages.suffer("a replica promoted", lambda: promote(trio))
        assert found.recovery < RECOVERY_SECONDS
        print(outages.conclude())


def test_metrics_never_go_back_as_prometheus_sees_them(parts: Parts, tmp_path: Path) -> None:
    fleet = parts.fleet
    jobs = {"tensorgate": ("/metrics", [f"127.0.0.1:{fleet.gate.metrics_port}"])}
    with scraping(tmp_path / "prometheus", jobs) as prometheus:
        outages = Outages(fleet, RATE / 3, fleet.hold())
        print()
        for number in range(WORKERS):
            outages.suffer(
                f"worker {number} killed", partial(fleet.kill_worker, number), unavailable=False
            )
        print(outages.conclude())
        print(never_back(prometheus, fleet, seconds=600))
