"""Redis seen from outside of it: how long it takes, and how often it fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from moneyhelp import ACCOUNT, draft, limits
from peers.valkey import valkey_node

from authz.metrics import Metrics
from authz.observedcounters import ObservedCounters
from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import NotSeeded, Seed, Taken
from store.errors import StoreError, StoreUnavailableError


def test_every_step_is_timed_and_failures_are_counted(tmp_path: Path) -> None:
    metrics = Metrics()

    def value(name: str, op: str) -> float:
        labels = {"store": "redis", "op": op}
        return metrics.registry.get_sample_value(f"tensorgate_{name}", labels) or 0

    with valkey_node(tmp_path / "valkey") as node, Link(parse(node.url)) as link:
        counters = ObservedCounters(link, metrics)
        asked = draft(5)
        assert isinstance(counters.take(asked.request_id, asked, limits()), NotSeeded)
        assert counters.seed(counters.generation(ACCOUNT.id), Seed({}, {}))
        took = counters.take(asked.request_id, asked, limits())
        assert isinstance(took, Taken)
        assert took.hold is not None
        assert counters.peek(limits(), ACCOUNT.id)
        assert counters.beat(ACCOUNT.id, asked.id)
        assert counters.hold(ACCOUNT.id, asked.id) == took.hold
        assert counters.overdue(10**9) == []
        assert all(abs(us / 1e6 - time.time()) < 5 for us in counters.clocks())
        assert counters.withdraw(draft()) is None
        assert counters.give_back(took.hold)
        assert counters.settle_all([(took.hold, 0), (draft(), 0)]) == [True, False]
        for op in ("peek", "beat", "hold", "overdue", "withdraw", "give_back", "settle", "seed"):
            assert value("store_operation_duration_seconds_count", op) == 1, op
        assert value("store_operation_duration_seconds_count", "take") == 2
        assert value("store_errors_total", "take") == 0
        counters.keeps()
        node.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        with pytest.raises(StoreError, match=f"{node.port} has .* volatile-lru: set it to noevict"):
            counters.keeps()
        assert value("store_operation_duration_seconds_count", "policy") == 2
        assert value("store_errors_total", "policy") == 1
        node.end()
        with pytest.raises(StoreUnavailableError):
            counters.take(asked.request_id, asked, limits())
        assert value("store_errors_total", "take") == 1
        assert isinstance(counters.settle_all([(took.hold, 0)])[0], StoreUnavailableError)
        assert value("store_errors_total", "settle") == 1
        assert value("store_operation_duration_seconds_count", "take") == 3
