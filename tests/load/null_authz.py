"""A null ext_authz service: the same grpcio server and sockets as ours, and nothing in it.

What it costs is what ext_authz over grpcio costs anybody; the benchmark compares us with it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import grpc

from authz import server
from authz.meter import LOG_STREAMS, SERVICE
from authz.pb import health_pb2_grpc
from authz.pb.auth_pb2 import CheckRequest, CheckResponse


def _drain() -> grpc.GenericRpcHandler:
    """An access-log service that reads and forgets."""

    def forget(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        for _ in messages:
            pass
        return b""

    method = grpc.stream_unary_rpc_method_handler(forget)
    return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})


def main(runtime: Path) -> None:
    stopping = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    response = CheckResponse()
    response.status.code = 0
    # without these two Envoy finds no route behind the check
    response.ok_response.headers.add().header.key = "x-tensorgate-model"
    response.ok_response.headers[0].header.value = "bench"
    response.dynamic_metadata.fields["outcome"].string_value = "allowed"
    check = grpc.unary_unary_rpc_method_handler(
        lambda _request, _context: response,
        request_deserializer=CheckRequest.FromString,
        response_serializer=CheckResponse.SerializeToString,
    )
    sockets = server.Sockets.of(runtime)
    health = server.Health()
    health.serving = True
    service = "envoy.service.auth.v3.Authorization"
    handler = grpc.method_handlers_generic_handler(service, {"Check": check})
    servers = []
    for path, threads in (
        (sockets.check, server.CHECK_THREADS),
        (sockets.log, LOG_STREAMS),
        (sockets.health, 2),
    ):
        made = server._server(threads, path.stem)
        server._listen(made, path)
        servers.append(made)
    servers[0].add_generic_rpc_handlers((handler,))
    servers[1].add_generic_rpc_handlers((_drain(),))
    health_pb2_grpc.add_HealthServicer_to_server(health, servers[2])
    for made in servers:
        made.start()
    stopping.wait()
    for made in servers:
        made.stop(0.5).wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
