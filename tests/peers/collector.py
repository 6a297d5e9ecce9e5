"""Who takes spans: OpenTelemetry's own OTLP service over gRPC, on a port of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Told:
    """A span, and the service that made it."""

    service: str
    span: Span

    @property
    def attributes(self) -> dict[str, str | int]:
        return {
            each.key: each.value.string_value or each.value.int_value
            for each in self.span.attributes
        }


@dataclass
class Collector(TraceServiceServicer):  # type: ignore[misc]  # generated, without types
    """All spans that came, and the very bytes of them."""

    told: list[Told] = field(default_factory=list)
    raw: bytes = b""
    address: str = ""
    _lock: Lock = field(default_factory=Lock)

    def Export(  # noqa: N802  # as the protocol has it
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        with self._lock:
            self.raw += request.SerializeToString()
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                self.told += [
                    Told(names["service.name"], span)
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return ExportTraceServiceResponse()

    def until(self, enough: Callable[[list[Told]], bool], seconds: float = 20) -> list[Told]:
        """All of them, once there are enough."""
        deadline = time.monotonic() + seconds
        while not enough(self.told):
            assert time.monotonic() < deadline, f"only {[t.span.name for t in self.told]} came"
            time.sleep(0.05)
        return list(self.told)


@contextmanager
def collecting() -> Iterator[Collector]:
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        server.stop(1).wait()
