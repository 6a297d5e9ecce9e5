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

from authz.health import Health, listen, make_server, telling
from authz.meter import LOG_STREAMS, SERVICE
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.server import AUTHORIZATION, CHECK_THREADS
from authz.sockets import LOG, Place


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
    health = Health()
    health.serving = True
    handler = grpc.method_handlers_generic_handler(AUTHORIZATION, {"Check": check})
    with telling(runtime / Place().health, health):
        checks, log = make_server(CHECK_THREADS, "check"), make_server(LOG_STREAMS, "log")
        checks.add_generic_rpc_handlers((handler,))
        log.add_generic_rpc_handlers((_drain(),))
        for made, name in ((checks, Place().check), (log, LOG)):
            listen(made, runtime / name)
            made.start()
        stopping.wait()
        for made in (checks, log):
            made.stop(0.5).wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
