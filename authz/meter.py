"""The access-log service: where Envoy says how each request ended.

It has a server of its own, as every stream keeps a thread for as long as it lives. Entries are
decoded one by one, in here, so that one that cannot be read costs itself and not the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from authz.metrics import Metrics
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METADATA: Final = "envoy.filters.http.ext_authz"

_log = logging.getLogger(__name__)


class Meter:
    """Receives entries. Thread-safe."""

    def __init__(self, metrics: Metrics) -> None:
        self._ended = metrics.log_entries.labels("end")
        self._running = metrics.log_entries.labels("running")
        self._unreadable = metrics.log_entries.labels("unreadable")

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC method, taking raw messages: decoding is ours to survive."""
        method: grpc.RpcMethodHandler[Iterator[bytes], StreamAccessLogsResponse]
        method = grpc.stream_unary_rpc_method_handler(
            self._stream, response_serializer=StreamAccessLogsResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})

    def _stream(
        self, messages: Iterator[bytes], _context: grpc.ServicerContext
    ) -> StreamAccessLogsResponse:
        for raw in messages:
            try:
                message = StreamAccessLogsMessage.FromString(raw)
            except DecodeError:
                self._unreadable.inc()
                continue
            for entry in message.http_logs.log_entry:
                try:
                    self.record(HTTPAccessLogEntry.FromString(entry))
                except Exception:  # noqa: BLE001  see below
                    # Whatever it is, the entries behind it must not be lost with it.
                    self._unreadable.inc()
                    _log.exception("an access-log entry could not be read")
        return StreamAccessLogsResponse()

    def record(self, entry: HTTPAccessLogEntry) -> None:
        """One entry: of a request that ended, or of one that still runs."""
        (self._running if entry.common_properties.intermediate_log_entry else self._ended).inc()
