"""Money through outages of both stores at full size: `make soak`. Each prints its figures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleetsupport import HOLD, Fleet, Served, calling, fleet
from peers.postgres import Postgres
from peers.postgres import running as postgres_server
from peers.process import freeze
from peers.valkey import Trio, Valkey, valkey_node, valkey_trio
from statehelp import new_state
from waiting import until

pytestmark = pytest.mark.soak

BUDGET = 16 * HOLD
THREADS = 24
PAUSE_SECONDS = 5.0


def after(gate: Fleet, served: Served, name: str, fault: Callable[[], None]) -> float:
    """Seconds until calls are let through again."""
    refused = len(served.unavailable)
    fault()
    before = served.taken
    took = until(lambda: served.taken > before + 10, 20, f"recovery from {name}")
    print(f"{name}: back {took:.2f} s later, {len(served.unavailable) - refused} refused")
    time.sleep(0.5)
    return took


def tell(gate: Fleet, served: Served) -> None:
    """Everything adds up, and how it went."""
    assert served.most <= BUDGET
    gate.agrees_with(served)
    print(
        f"{served.taken} calls, {served.refused} without room, {len(served.unavailable)} refused "
        f"for an outage: half of them within {served.refusal_seconds(50) * 1000:.1f} ms, 99 % "
        f"within {served.refusal_seconds(99) * 1000:.0f} ms; {served.most} of {BUDGET} committed "
        "at most"
    )


def pauses(node: Valkey) -> None:
    with node.paused():
        time.sleep(PAUSE_SECONDS)


def goes_back(node: Valkey) -> None:
    node.ask("SAVE")
    time.sleep(1)
    node.restart()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_redis_again_and_again(
    tmp_path: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    with valkey_node(tmp_path / "valkey") as node:

        def run(url: str) -> None:
            with fleet(tmp_path, url, node.url, workers=4) as gate:
                served = Served()
                with calling(gate, served, BUDGET, threads=THREADS):
                    until(lambda: served.taken > 50)
                    for _ in range(4):
                        faults: dict[str, Callable[[], None]] = {
                            "emptied": lambda: node.ask("FLUSHALL"),
                            "killed": node.restart,
                            "taken back": lambda: goes_back(node),
                            "paused": lambda: pauses(node),
                        }
                        for name, fault in faults.items():
                            assert after(gate, served, name, fault) < 2
                tell(gate, served)

        if backend == "sqlite":
            run(new_state(tmp_path).sql_url)
        else:
            server: Postgres = request.getfixturevalue("postgres")
            with server.database() as url:
                run(url)


def test_a_replica_that_was_behind_is_promoted(tmp_path: Path) -> None:
    def fails_over(trio: Trio) -> None:
        master = trio.master()
        replica = next(node for node in trio.nodes if node is not master)
        freeze(replica.pid)  # what comes in this second it never sees
        time.sleep(1)
        master.end()
        os.kill(replica.pid, signal.SIGCONT)
        until(lambda: trio.master() is replica, 20, "a promotion")

    with (
        valkey_trio(tmp_path / "trio") as trio,
        fleet(tmp_path, new_state(tmp_path).sql_url, trio.url, workers=3) as gate,
    ):
        served = Served()
        with calling(gate, served, BUDGET, threads=THREADS):
            until(lambda: served.taken > 50)
            assert after(gate, served, "failover", lambda: fails_over(trio)) < 2
        tell(gate, served)


@contextmanager
def durable(server: Postgres) -> Iterator[str]:
    """A database that a killed server does not lose the last moment of."""
    with server.database() as url:
        (named,) = server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_%'")
        server.execute(f"ALTER DATABASE {named[0]} SET synchronous_commit = on")
        yield url


def test_postgresql_killed_and_paused(tmp_path: Path) -> None:
    def restarts(server: Postgres) -> None:
        server.end(signal.SIGKILL)
        server.start()

    def stops(server: Postgres) -> None:
        with server.paused():
            time.sleep(PAUSE_SECONDS)

    with (
        postgres_server() as server,
        durable(server) as url,
        valkey_node(tmp_path / "valkey") as node,
        fleet(tmp_path, url, node.url, workers=3) as gate,
    ):
        served = Served()
        with calling(gate, served, BUDGET, threads=THREADS):
            until(lambda: served.taken > 50)
            assert after(gate, served, "PostgreSQL killed", lambda: restarts(server)) < 2
            assert after(gate, served, "PostgreSQL paused", lambda: stops(server)) < 2
        tell(gate, served)
