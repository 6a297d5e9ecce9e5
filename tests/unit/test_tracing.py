"""Spans as OpenTelemetry's own SDK makes them, into memory."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from authz import tracing
from authz.tracing import Tracing, is_asked_for, open_tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        (HERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        (HERE | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (HERE | {"OTEL_TRACES_EXPORTER": "console"}, False),
        (HERE | {"OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_opentelemetrys_own_variables_say_whether(environ: dict[str, str], asked: bool) -> None:
    assert is_asked_for(environ) is asked


def test_where_it_is_not_installed_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_NEEDED", ("opentelemetry.nowhere.at_all",))
    with caplog.at_level(logging.WARNING):
        assert open_tracing(HERE) is None
    assert "tensorgate[tracing]" in caplog.text


def test_a_span_joins_the_trace_that_it_is_told_of() -> None:
    exporter = InMemorySpanExporter()
    made = Tracing(exporter)
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=b"}
    made.span(parent, 1_000, {"outcome": "allowed", "request_id": "req-1", "hold_nanousd": 7})
    made.span({}, 2_000, {"outcome": "error", "reason": "authorization_unavailable"})
    made.span({"traceparent": f"00-{TRACE}-{SPAN}-00"}, 3_000, {"outcome": "allowed"})
    made.span({"traceparent": "nonsense\x00"}, 4_000, {"outcome": "denied"})
    made.stop()
    first, second, third = exporter.get_finished_spans()
    assert first.name == "check"
    assert first.kind is SpanKind.SERVER
    assert first.context is not None
    assert first.parent is not None
    assert f"{first.context.trace_id:032x}" == TRACE
    assert f"{first.parent.span_id:016x}" == SPAN
    assert first.start_time == 1_000
    assert first.attributes == {
        "tensorgate.outcome": "allowed",
        "tensorgate.request_id": "req-1",
        "tensorgate.hold_nanousd": 7,
    }
    assert first.resource.attributes["service.name"] == "tensorgate-authz"
    assert first.status.status_code is StatusCode.UNSET
    # one without a parent begins a trace, one that Envoy does not sample is not sent
    assert second.parent is None
    assert second.status.status_code is StatusCode.ERROR
    assert (third.start_time, third.parent) == (4_000, None)
