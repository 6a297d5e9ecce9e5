"""What has to be seen of a fleet of four workers, at full size: `make soak`. With figures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from load.audit import until
from load.fleetgate import FleetGate, durable, fleet_gate
from load.seen import Outages, budget, minute, never_back
from peers.postgres import Postgres
from peers.postgres import running as postgres_server
from peers.prometheus import scraping
from peers.valkey import Trio, Valkey, valkey_node, valkey_trio

from authz.health import serving

pytestmark = pytest.mark.soak

WORKERS = 4
RATE = 300.0
PAUSE_SECONDS = 5.0
RECOVERY_SECONDS = 2.0


@dataclass
class Parts:
    """A fleet, and what it stands on."""

    fleet: FleetGate
    node: Valkey
    server: Postgres


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


def kill_worker(fleet: FleetGate, number: int) -> None:
    """End a worker without warning; returns when another serves in its place."""
    name = f"authz-{number}"
    (pid,) = fleet.gate.children()[name]
    os.kill(pid, signal.SIGKILL)
    until(lambda: fleet.gate.children().get(name, [pid]) != [pid], 20, "another worker")
    until(lambda: serving(fleet.gate.runtime / f"health-{number}.sock") is True, 20, "its health")


def test_a_killed_worker_costs_no_client_anything(parts: Parts) -> None:
    fleet = parts.fleet
    outages = Outages(fleet, RATE, fleet.hold())
    print()
    for number in range(WORKERS):
        outages.suffer(
            f"worker {number} killed", partial(kill_worker, fleet, number), unavailable=False
        )
    print(outages.conclude())


def both_paused(parts: Parts, seconds: float) -> None:
    with parts.node.paused(), parts.server.paused():
        time.sleep(seconds)


def postgres_paused(parts: Parts, seconds: float) -> None:
    with parts.server.paused():
        time.sleep(seconds)


def valkey_paused(parts: Parts, seconds: float) -> None:
    with parts.node.paused():
        time.sleep(seconds)


def taken_back(parts: Parts) -> None:
    """Valkey is killed and starts on what it had two seconds ago."""
    parts.node.ask("SAVE")
    time.sleep(2)
    parts.node.restart()


def postgres_restarted(parts: Parts) -> None:
    parts.server.end(signal.SIGKILL)
    parts.server.start()


def test_outages_of_both_stores(parts: Parts) -> None:
    outages = Outages(parts.fleet, RATE, parts.fleet.hold())
    print()
    faults: dict[str, Callable[[], object]] = {
        "Valkey emptied": lambda: parts.node.ask("FLUSHALL"),
        "Valkey killed": parts.node.restart,
        "Valkey taken back": lambda: taken_back(parts),
        "Valkey paused for 5 s": lambda: valkey_paused(parts, PAUSE_SECONDS),
        "PostgreSQL killed": lambda: postgres_restarted(parts),
        "PostgreSQL paused for 5 s": lambda: postgres_paused(parts, PAUSE_SECONDS),
        "both paused for 5 s": lambda: both_paused(parts, PAUSE_SECONDS),
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
                f"worker {number} killed", partial(kill_worker, fleet, number), unavailable=False
            )
        print(outages.conclude())
        print(never_back(prometheus, fleet, seconds=600))
