"""What Prometheus sees. No label per key; a model that the catalog does not name is `other`.

A process alone keeps its numbers in memory. Several processes of one gate share one `/metrics`
(authz/exposition.py): each keeps its own in files of one folder, and they are added up there. So
each gauge says by its mode what several of it are together; only those of processes that live
count.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    values,
)

from authz.model import Reason
from store.records import Basis

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # the variable is prometheus_client's own
FOLLOW_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)

_CHANGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 60.0)
_FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


def shared_folder() -> Path | None:
    """Where processes of one gate keep their numbers, if a supervisor said so."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


def share_as(name: str) -> None:
    """Instruments that are made from now on keep their numbers in the shared folder.

    `name` is this process's own among those that share, and that of the next one in its place: it
    goes on counting where this one ended, however that was, so counters never go back.
    """
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]


class Metrics:
    """The instruments of one process, on one registry.

    `shared`: they are in the shared folder (see `share_as`, which is called before).
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared
        self._followed: list[tuple[Gauge, Callable[[], float]]] = []
        self.registry = registry = CollectorRegistry()
        self.checks = Counter(
            "tensorgate_checks",
            "Checks answered, by outcome (allowed, denied, answered, error) and reason.",
            ("outcome", "reason"),
            registry=registry,
        )
        for reason in Reason:  # from the start: the first one of a kind is an increase too
            outcome = "error" if reason is Reason.AUTHORIZATION_UNAVAILABLE else "denied"
            self.checks.labels(outcome, reason.value)
        self.allowed = self.checks.labels("allowed", "")
        self.answered = self.checks.labels("answered", "")
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
        self._cache_results = {
            result: self.cache_requests.labels(result)
            for result in ("hit", "negative", "miss", "stale")
        }
        self.feed_healthy = Gauge(
            "tensorgate_feed_healthy",
            "1 while changes of keys are heard of; of several processes, the least.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.feed_healthy.set(1)  # a meter has no feed, and so misses nothing of one
        self.revocation_lag = Histogram(
            "tensorgate_revocation_lag_seconds",
            "Time from a change of a key or an account to its being obeyed here.",
            registry=registry,
            buckets=_CHANGES,
        )
        self.log_entries = Counter(
            "tensorgate_access_log_entries",
            "Access-log entries received, by result (end, running, unreadable).",
            ("result",),
            registry=registry,
        )
        self.catalog_reload_failures = Counter(
            "tensorgate_catalog_reload_failures",
            "Catalogs that were not taken: the one before stays in force.",
            registry=registry,
        )
        self.catalog_loaded = Gauge(
            "tensorgate_catalog_loaded_timestamp_seconds",
            "When the catalog in force was read, in seconds since 1970; of several, the oldest.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._money(registry)

    def cache_request(self, result: str) -> None:
        """Count one; looking a label up by its value, each time, costs as much again."""
        self._cache_results[result].inc()

    def follow(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """`gauge` has what `read` says: at each look, or where it is shared every second."""
        if self.shared:
            self._followed.append((gauge, read))
            self._look(gauge, read)
        else:
            gauge.set_function(read)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep shared gauges up to date, in a thread of its own."""
        ended = Event()

        def run() -> None:
            while not ended.wait(FOLLOW_SECONDS):
                for gauge, read in tuple(self._followed):
                    self._look(gauge, read)

        thread = Thread(target=run, name="metrics", daemon=True)
        if self.shared:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join()

    @staticmethod
    def _look(gauge: Gauge, read: Callable[[], float]) -> None:
        try:
            gauge.set(read())
        except Exception:  # noqa: BLE001  a defect in one must not freeze the others
            _log.exception("a metric cannot be read")

    def _money(self, registry: CollectorRegistry) -> None:
        self.settlements = Counter(
            "tensorgate_settlements", "Holds that ended, by basis.", ("basis",), registry=registry
        )
        for basis in Basis:
            self.settlements.labels(basis.value)
        self.late_settlements = Counter(
            "tensorgate_late_settlements",
            "Ends of holds that had ended before; they change nothing.",
            registry=registry,
        )
        self.settlements_dropped = Counter(
            "tensorgate_settlements_dropped",
            "Ends beyond what may wait while SQL is out; their holds are swept.",
            registry=registry,
        )
        self.holds_swept = Counter(
            "tensorgate_holds_swept",
            "Holds that gave no sign of life and were ended whole.",
            registry=registry,
        )
        self.hold_exceeded = Counter(
            "tensorgate_hold_exceeded",
            "Metered charges above their hold (a bound that was none), and usage that cannot be.",
            ("model",),
            registry=registry,
        )
        self.tokens = Counter(
            "tensorgate_tokens", "Tokens charged, by kind.", ("model", "kind"), registry=registry
        )
        self.spend_usd = Counter(
            "tensorgate_spend_usd",
            "USD charged; the ledger is exact.",
            ("model",),
            registry=registry,
        )
        self.holds_outstanding = Gauge(
            "tensorgate_holds_outstanding",
            "Holds that are open.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ledger_lag = Gauge(
            "tensorgate_ledger_lag_seconds",
            "Age of the oldest end that is not in the ledger yet.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.drift = Gauge(
            "tensorgate_drift_nanousd",
            "By how much counters and ledger differ, over accounts that are quiet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
