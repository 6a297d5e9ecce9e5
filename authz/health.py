"""grpc.health.v1: whether a process wants calls, and whether it lives.

The unnamed service is readiness: SERVING while calls are welcome, which Envoy asks before it sends
any. The service `liveness` is SERVING for as long as somebody answers, from before the first store
was opened: a store that is out is no reason to restart what only waits for it.

Its server has a thread of its own: one slow moment of the checks must not look like death.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from authz.pb import health_pb2, health_pb2_grpc

LIVENESS: Final = "liveness"
READINESS: Final = ""
LOOK_SECONDS: Final = 1.0
STOP_SECONDS: Final = 2.0
_THREADS: Final = 2

_Status = health_pb2.HealthCheckResponse.ServingStatus


class Health(health_pb2_grpc.HealthServicer):
    """For Envoy and for probes. `serving` is the readiness, and begins as False."""

    def __init__(self) -> None:
        self.serving = False
        self._draining = False

    def drain(self) -> None:
        """Never ready again."""
        self._draining = True

    def Check(  # noqa: N802  gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in {READINESS, LIVENESS}:
            context.abort(grpc.StatusCode.NOT_FOUND, f"known are '{READINESS}' and '{LIVENESS}'")
        ready = self.serving and not self._draining
        well = ready or request.service == LIVENESS
        return health_pb2.HealthCheckResponse(
            status=_Status.SERVING if well else _Status.NOT_SERVING
        )


@contextmanager
def telling(path: Path, health: Health, address: str | None = None) -> Iterator[None]:
    """Answer for `health` on a socket, and at host:port too. Raises OSError where that cannot be.

    It says nothing but whether calls are welcome, so the address may be one that others reach.
    """
    server = make_server(_THREADS, "health")
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    listen(server, path)
    if address is not None:
        try:
            server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(f"{address} cannot be listened on; is another process there?") from None
    server.start()
    try:
        yield
    finally:
        server.stop(STOP_SECONDS).wait()


def serving(path: Path, service: str = READINESS, seconds: float = LOOK_SECONDS) -> bool | None:
    """What is said at a health socket; None if nobody answers there."""
    if not path.exists():
        return None
    # no proxy, no shared channel: a look must not remember an earlier failure's back-off
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"unix:{path}", options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
        except grpc.RpcError:
            return None
    return bool(reply.status == _Status.SERVING)


def make_server(threads: int, name: str, max_message_bytes: int = 64 << 20) -> grpc.Server:
    """A server on so many threads. What is more than they can begin at once waits its turn."""
    return grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix=name),
        options=(("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)),
    )


def listen(server: grpc.Server, path: Path) -> None:
    """Bind a unix socket that only this user and group can reach. Raises OSError."""
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise OSError(f"{path} cannot be listened on; is its folder there and ours?") from None
    finally:
        os.umask(before)
