"""The process: three gRPC servers on unix sockets, the control socket, /metrics, start and stop.

Checks, access-log streams and health each have a server and threads of their own: a stream
keeps its thread for life, and one slow moment of the checks must not look like death.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

import grpc
from prometheus_client import start_http_server

from authz.books import Books, open_books
from authz.cache import KeyCache
from authz.check import Checker, Site
from authz.control import Responder, methods, serving
from authz.denial import Answer
from authz.feed import Feed
from authz.lease import Lease
from authz.listings import Listings
from authz.meter import LOG_STREAMS, Meter
from authz.metrics import Metrics
from authz.observe import ObservedKeys
from authz.onecore import keep_to_one_core
from authz.pb import health_pb2, health_pb2_grpc
from authz.pb.auth_pb2 import CheckRequest
from authz.refusals import Refusals
from authz.reload import InForce, Loaded, note_hangups, reloading
from authz.settings import AuthzSettings
from authz.tally import Tally
from authz.watch import watching
from authz.wire import Reader
from authz.words import Occasion
from store.catalog import DEFAULT_UPSTREAM
from store.clock import steady_clock, wall_us
from store.control import SOCKET_NAME
from store.errors import TensorgateError
from store.keys import KeyRepository
from store.records import SECOND_US
from store.refusedcalls import RefusedCalls
from store.schema import check_current, open_engine
from store.settings import load

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"

CHECK_THREADS: Final = 8
SPARE_STREAMS: Final = 64  # beyond those that are read: threads to refuse more with
DRAIN_SECONDS: Final = 1.2
STOP_SECONDS: Final = 2.0
LEASE_RETRY_SECONDS: Final = 0.5
SQL_TIMEOUT_SECONDS: Final = 0.25
_ENVELOPE_BYTES: Final = 1 << 20  # headers and attributes around a body

_log = logging.getLogger("authz")


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1, for Envoy and for probes."""

    def __init__(self) -> None:
        self.serving = False

    def Check(  # noqa: N802  gRPC's name
        self, _request: health_pb2.HealthCheckRequest, _context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse.ServingStatus
        return health_pb2.HealthCheckResponse(
            status=status.SERVING if self.serving else status.NOT_SERVING
        )


def _authorization(in_force: InForce) -> grpc.GenericRpcHandler:
    """envoy.service.auth.v3.Authorization. Answers leave the checker as bytes."""

    def check(request: CheckRequest, context: grpc.ServicerContext) -> bytes:
        return in_force.checker.check(request, context.is_active)

    method: grpc.RpcMethodHandler[CheckRequest, bytes]
    method = grpc.unary_unary_rpc_method_handler(
        check, request_deserializer=CheckRequest.FromString
    )
    return grpc.method_handlers_generic_handler(AUTHORIZATION, {"Check": method})


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets of one worker."""

    check: Path
    log: Path
    health: Path

    @classmethod
    def of(cls, runtime: Path, worker: int = 0) -> Sockets:
        return cls(runtime / f"authz-{worker}.sock", runtime / "log.sock", runtime / "health.sock")


def main() -> int:
    """Run until SIGTERM. Returns the exit code; errors of ours are one line each."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        return 0 if serve(load(AuthzSettings)) else 1
    except TensorgateError as fault:
        print(f"error: {fault}", file=sys.stderr)  # noqa: T201  for the person who started it
        return 1
    except OSError as fault:
        print(f"error: cannot start: {fault}", file=sys.stderr)  # noqa: T201  likewise
        return 1


def serve(settings: AuthzSettings) -> bool:
    """The whole life of the process: lease, stores, servers, drain.

    False if it ended because it could not go on (authz/watch.py), and not because it was asked.
    """
    if settings.one_core:
        keep_to_one_core()  # before there is any other thread
    stopping = Event()
    note_hangups()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stopping.set())
    loaded = Loaded.read(settings.catalog)  # what cannot be used ends us before the lease
    loaded.check_mark(settings.envoy_mark)
    lease = Lease(settings.state)
    if not _acquire(lease, stopping):
        return True
    with ExitStack() as stack:
        watch = stack.enter_context(watching(stopping.set))
        stack.callback(lease.release)
        metrics = Metrics()
        in_force = InForce(settings.catalog, loaded, metrics)
        books = stack.enter_context(open_books(settings, in_force.catalog, metrics))
        cache, feed, plans = _keys(settings, metrics, stack)
        refusals = Refusals(wall_us, settings.key_form())
        tally = _tally(settings, stack)

        def refused(occasion: Occasion, answer: Answer) -> None:
            refusals.note(occasion, answer)
            tally.note(occasion, answer)

        checker = _checker(
            settings, in_force, metrics, books, cache=cache, refused=refused, stack=stack
        )
        in_force.begin(checker, plans)
        stack.enter_context(reloading(in_force.reload))
        settings.runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
        known = methods(
            books, feed, in_force.reload, refusals, in_force.written, listed=checker.listed
        )
        responder = Responder(settings.state, known)
        stack.enter_context(serving(settings.runtime / SOCKET_NAME, responder))
        health = Health()
        with _servers(settings, in_force, books.meter, health):
            host, port = settings.metrics_address
            http, thread = start_http_server(port, host, metrics.registry)
            stack.callback(thread.join)
            stack.callback(http.server_close)
            stack.callback(http.shutdown)
            health.serving = True
            _log.info("serving on %s, metrics on %s:%d", settings.runtime, host, port)
            stopping.wait()
            health.serving = False
            _log.info("draining")
            Event().wait(DRAIN_SECONDS)
            books.meter.drain()
    _log.info("stopped")
    return not watch.failed


def _acquire(lease: Lease, stopping: Event) -> bool:
    """Wait, unready, until nobody else counts for this state. False: asked to stop meanwhile."""
    said = False
    while not lease.acquire():
        if not said:
            _log.warning(
                "not ready: process %s counts for this state, and counters in process mean one "
                "worker; waiting until it ends",
                lease.holder(),
            )
            said = True
        if stopping.wait(LEASE_RETRY_SECONDS):
            return False
    return True


def _keys(
    settings: AuthzSettings, metrics: Metrics, stack: ExitStack
) -> tuple[KeyCache, Feed, Callable[[], Mapping[str, int]]]:
    """The cache of keys, the feed that keeps it fresh, and which plans accounts are on."""
    engine = open_engine(settings.sql_url, timeout_seconds=SQL_TIMEOUT_SECONDS)
    stack.callback(engine.dispose)
    check_current(engine)
    keys = stack.enter_context(KeyRepository(engine))
    repository = ObservedKeys(keys, metrics)
    cache = KeyCache(
        repository,
        steady_clock(),
        stale_us=int(settings.key_stale_seconds * SECOND_US),
        capacity=settings.key_cache_size,
        observe=metrics.cache_request,
    )
    feed = Feed(repository, cache)
    stack.callback(feed.stop)
    feed.start()
    return cache, feed, keys.plans


def _tally(settings: AuthzSettings, stack: ExitStack) -> Tally:
    """What counts refused calls for the keys' owners."""
    engine = open_engine(settings.sql_url, timeout_seconds=SQL_TIMEOUT_SECONDS)
    stack.callback(engine.dispose)
    tally = Tally(RefusedCalls(engine).add, wall_us)
    stack.callback(tally.stop)
    tally.start()
    return tally


def _checker(
    settings: AuthzSettings,
    in_force: InForce,
    metrics: Metrics,
    books: Books,
    *,
    cache: KeyCache,
    refused: Callable[[Occasion, Answer], None],
    stack: ExitStack,
) -> Checker:
    listings = Listings(
        settings.runtime / "upstreams.sock",
        (DEFAULT_UPSTREAM, *in_force.catalog().upstreams),
        lambda model: in_force.catalog().upstream_of(model),
    )
    stack.callback(listings.stop)
    listings.start()
    return Checker(
        reader=Reader(settings.key_form(), settings.digester(), in_force.table()),
        keys=cache,
        catalog=in_force.catalog(),
        counters=books.seeded,
        give_back=books.counters.give_back,
        settler=books.settler,
        listed=listings,
        metrics=metrics,
        clock=wall_us,
        site=Site(settings.dashboard_url, settings.key_prefixes[0], settings.stream_seconds),
        refused=refused,
    )


@contextmanager
def _servers(
    settings: AuthzSettings, in_force: InForce, meter: Meter, health: Health
) -> Iterator[None]:
    """Start the three servers; stop checks first, then the log, health last."""
    sockets = Sockets.of(settings.runtime)
    body = (settings.body_limit_mib << 20) + _ENVELOPE_BYTES
    check_server = _server(CHECK_THREADS, "check", max_message_bytes=body)
    check_server.add_generic_rpc_handlers((_authorization(in_force),))
    log_server = _server(LOG_STREAMS + SPARE_STREAMS, "log")
    log_server.add_generic_rpc_handlers((meter.handler(),))
    health_server = _server(2, "health")
    health_pb2_grpc.add_HealthServicer_to_server(health, health_server)
    servers = (
        (check_server, sockets.check),
        (log_server, sockets.log),
        (health_server, sockets.health),
    )
    for server, path in servers:
        _listen(server, path)
        server.start()
    try:
        yield
    finally:
        for server, _ in servers:
            server.stop(STOP_SECONDS).wait()


def _server(threads: int, name: str, max_message_bytes: int = 64 << 20) -> grpc.Server:
    """A server on so many threads. What is more than they can begin at once waits its turn."""
    return grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix=name),
        options=(("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)),
    )


def _listen(server: grpc.Server, path: Path) -> None:
    """Bind a unix socket that only this user and group can reach."""
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise OSError(f"{path} cannot be listened on; is its folder there and ours?") from None
    finally:
        os.umask(before)
