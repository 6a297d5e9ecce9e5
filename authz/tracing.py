"""Spans of checks, by OTLP over gRPC: the extra `tracing`. Nothing of it is imported without.

The settings are OpenTelemetry's own variables. It is on where one of them says where to
(OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), and neither
OTEL_TRACES_EXPORTER=none nor OTEL_SDK_DISABLED=true says otherwise.

Spans wait in a bounded queue and leave in a thread of their own: a collector that is out, or slow,
costs spans and never a check.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE: Final = "tensorgate-authz"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDED: Final = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")

_log = logging.getLogger(__name__)


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables say that there is to be tracing."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp")
    return exporter == "otlp" and any(environ.get(name) for name in _ENDPOINTS)


def open_tracing(environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """What the variables ask for; None if nothing, or if the extra is not installed."""
    if not is_asked_for(environ):
        return None
    if not _is_installed():
        _log.warning(
            "OTEL_… asks for tracing, and it is not installed: no spans are sent. "
            "Install tensorgate[tracing], or unset these variables"
        )
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415  an extra
        OTLPSpanExporter,
    )

    return Tracing(OTLPSpanExporter())


def _is_installed() -> bool:
    try:
        return all(find_spec(name) for name in _NEEDED)
    except ModuleNotFoundError:
        return False


class Tracing:
    """Sends spans through an exporter. Thread-safe. Sampling is as OTEL_TRACES_SAMPLER says."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  an extra
        from opentelemetry.trace import SpanKind  # noqa: PLC0415  likewise
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  likewise
            TraceContextTextMapPropagator,
        )

        self._provider = _provider()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tensorgate")
        self._extract = TraceContextTextMapPropagator().extract
        self._kind = SpanKind.SERVER

    def span(
        self, parent: Mapping[str, str], start_ns: int, fields: Mapping[str, str | int | float]
    ) -> None:
        """A check that has just ended, in the trace that `parent` (its headers) names."""
        span = self._tracer.start_span(
            "check",
            self._extract(dict(parent)),
            self._kind,
            {f"tensorgate.{name}": value for name, value in fields.items()},
            start_time=start_ns,
        )
        if fields.get("outcome") == "error":
            from opentelemetry.trace import StatusCode  # noqa: PLC0415  an extra

            span.set_status(StatusCode.ERROR)
        span.end()

    def stop(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._provider.shutdown()


def _provider() -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415  an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  likewise

    named = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
    return TracerProvider(resource=Resource.create({SERVICE_NAME: named}), shutdown_on_exit=False)
