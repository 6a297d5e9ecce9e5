"""What Prometheus sees of the dashboard. No label per account; a path is its route."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads

_PAGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The instruments of one process, on one registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tensorgate_admin_requests",
            "Requests to the dashboard, by route, method and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "tensorgate_admin_request_duration_seconds",
            "Time to a page, by route.",
            ("route",),
            registry=registry,
            buckets=_PAGES,
        )
        self.sign_ins = Counter(
            "tensorgate_admin_sign_ins",
            "Attempts to sign in, by means and outcome (done, refused, throttled, failed, busy).",
            ("means", "outcome"),
            registry=registry,
        )
        self.refused = Counter(
            "tensorgate_admin_refused_requests",
            "Requests that no page was asked about, by reason (origin, host, body).",
            ("reason",),
            registry=registry,
        )
