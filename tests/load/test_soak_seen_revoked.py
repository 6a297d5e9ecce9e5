"""Revoking while four workers serve the key, told by Valkey, and not told: `make soak`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from load.fleetgate import FleetGate, fleet_gate
from load.seen import revocations
from peers.feedwire import Way, Wire, feed_wire
from peers.postgres import Postgres
from peers.valkey import valkey_node

from authz.settings import AuthzSettings

pytestmark = pytest.mark.soak

WORKERS = 4
RATE = 500.0
KEY_STALE_SECONDS = float(AuthzSettings.model_fields["key_stale_seconds"].default)


@dataclass
class Wired:
    """A fleet whose Redis is behind a wire, and the wire."""

    fleet: FleetGate
    wire: Wire


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Wired]:
    folder: Path = tmp_path_factory.mktemp("revoked")
    with (
        postgres.database() as url,
        valkey_node(folder / "valkey") as node,
        feed_wire(folder, node.port) as wire,
        fleet_gate(folder, url, wire.url, workers=WORKERS, told_by=node.url) as fleet,
    ):
        yield Wired(fleet, wire)


@pytest.mark.parametrize(
    ("way", "number", "bound", "median"),
    [
        (None, 50, 1.0, 0.25),
        (Way.CUT, 10, KEY_STALE_SECONDS, KEY_STALE_SECONDS),
        (Way.HALF_OPEN, 10, KEY_STALE_SECONDS, KEY_STALE_SECONDS),
    ],
    ids=["told", "cut off", "half open"],
)
def test_a_revoked_key_is_refused(
    wired: Wired, way: Way | None, number: int, bound: float, median: float
) -> None:
    failing = nullcontext if way is None else partial(wired.wire.listeners, way)
    lasts = revocations(wired.fleet, number=number, rate=RATE, bound=bound, failing=failing)
    print(f"\n{lasts}")
    assert lasts.median < median
