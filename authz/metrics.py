"""What Prometheus sees. No label per key; a model that the catalog does not name is `other`."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """The instruments of one process, on one registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.checks = Counter(
            "tensorgate_checks",
            "Checks answered, by outcome (allowed, denied, answered, error) and reason.",
            ("outcome", "reason"),
            registry=registry,
        )
        self.check_seconds = Histogram(
            "tensorgate_check_duration_seconds",
            "Time from a Check's arrival in the handler to its answer.",
            registry=registry,
            buckets=_FAST,
        )
        self.store_seconds = Histogram(
            "tensorgate_store_operation_duration_seconds",
            "Time of an operation on a store.",
            ("store", "op"),
            registry=registry,
            buckets=_FAST,
        )
        self.store_errors = Counter(
            "tensorgate_store_errors",
            "Operations on a store that failed.",
            ("store", "op"),
            registry=registry,
        )
        self.cache_requests = Counter(
            "tensorgate_key_cache_requests",
            "Requests to the key cache, by result (hit, negative, miss, stale).",
            ("result",),
            registry=registry,
        )
        self.log_entries = Counter(
            "tensorgate_access_log_entries",
            "Access-log entries received, by result (end, running, unreadable).",
            ("result",),
            registry=registry,
        )
