"""The process: gRPC servers on unix sockets, the control socket, /metrics, start and stop.

Checks, access-log streams and health each have a server and threads of their own: a stream
keeps its thread for life, and one slow moment of the checks must not look like death.

One process does all of it, or only the checks (a worker), or only the metering: see
authz/sockets.py. With several workers a supervisor starts those (authz/fleet.py).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Event
from typing import Final

import grpc

from authz.bookkeeping import Books
from authz.books import open_books
from authz.cache import KeyCache
from authz.check import Checker, Site
from authz.control import Method, Responder, methods, serving
from authz.denial import Answer
from authz.exposition import exposing
from authz.fleet import supervise
from authz.health import STOP_SECONDS, Health, listen, make_server, telling
from authz.keysource import Known, open_keys, present
from authz.lease import Lease, sockets_of
from authz.listings import Listings
from authz.meter import LOG_STREAMS, Meter
from authz.metrics import Metrics, share_as, shared_folder
from authz.onecore import core_of, keep_to_one_core
from authz.pb.auth_pb2 import CheckRequest
from authz.presence import new_id
from authz.refusals import Refusals
from authz.reload import InForce, Loaded, note_hangups, reloading
from authz.rowlease import LeasedCounters, RowLease, row_lease
from authz.settings import AuthzSettings
from authz.sockets import LOG, Place, Role
from authz.tally import Tally
from authz.tracing import open_tracing
from authz.watch import Watch, watching
from authz.wire import Reader
from authz.witness import Witness
from authz.words import Occasion
from store.catalog import DEFAULT_UPSTREAM
from store.clock import wall_us
from store.engines import open_engine
from store.errors import ConfigError, TensorgateError
from store.logform import log_as
from store.refusedcalls import RefusedCalls
from store.settings import PREFIX, load

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"

CHECK_THREADS: Final = 8
SPARE_STREAMS: Final = 64  # beyond those that are read: threads to refuse more with
DRAIN_SECONDS: Final = 1.2
TALLY_SECONDS: Final = 1.0  # nobody waits for it
LEASE_RETRY_SECONDS: Final = 0.5
_ENVELOPE_BYTES: Final = 1 << 20  # headers and attributes around a body
_WHOLE: Final = Place()

_log = logging.getLogger("authz")


def _authorization(in_force: InForce, witness: Witness | None) -> grpc.GenericRpcHandler:
    """envoy.service.auth.v3.Authorization. Answers leave the checker as bytes."""

    def check(request: CheckRequest, context: grpc.ServicerContext) -> bytes:
        return in_force.checker.check(request, context.is_active)

    def watched(request: CheckRequest, context: grpc.ServicerContext) -> bytes:
        assert witness is not None  # noqa: S101  for the checker of types
        sent = context.invocation_metadata
        return witness.check(in_force.checker, request, context.is_active, sent)

    method: grpc.RpcMethodHandler[CheckRequest, bytes]
    method = grpc.unary_unary_rpc_method_handler(
        check if witness is None else watched, request_deserializer=CheckRequest.FromString
    )
    return grpc.method_handlers_generic_handler(AUTHORIZATION, {"Check": method})


def main() -> int:
    """`tensorgate authz`: run until SIGTERM. Returns the exit code; an error of ours is one line.

    With several workers this process is their supervisor, unless it is one of them.
    """

    def run() -> bool:
        settings = load(AuthzSettings)
        if settings.worker is not None:
            return serve(settings, Place(Role.CHECKS, settings.worker))
        if settings.workers > 1:
            log_as("supervisor", settings.log_format)
            return supervise(settings)
        return serve(settings)

    return _told(run)


def main_meter() -> int:
    """`tensorgate meter`: as `main`, for the process that meters what several workers admit."""

    def run() -> bool:
        settings = load(AuthzSettings)
        if settings.redis_url is None:
            fault = (
                f"{PREFIX}REDIS_URL: a meter alone settles what workers count in Redis or Valkey; "
                "name it, as in redis://127.0.0.1:6379"
            )
            raise ConfigError("The settings cannot be used:", (fault,))
        return serve(settings, Place(Role.METER))

    return _told(run)


def _told(run: Callable[[], bool]) -> int:
    """Run, and say on stderr why that cannot be."""
    log_as("")
    try:
        return 0 if run() else 1
    except TensorgateError as fault:
        print(f"error: {fault}", file=sys.stderr)  # noqa: T201  for the person who started it
        return 1
    except OSError as fault:
        print(f"error: cannot start: {fault}", file=sys.stderr)  # noqa: T201  likewise
        return 1


def serve(settings: AuthzSettings, place: Place = _WHOLE) -> bool:
    """The whole life of a process: lease, stores, servers, drain.

    False if it ended because it could not go on (authz/watch.py), and not because it was asked.
    """
    log_as("" if place.role is Role.ALL else place.name, settings.log_format)
    _keep_to_core(settings, place)  # before there is any other thread
    stopping = Event()
    note_hangups()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stopping.set())
    loaded = Loaded.read(settings.catalog)  # what cannot be used ends us before the lease
    loaded.check_mark(settings.envoy_mark)
    with ExitStack() as stack:
        watch = stack.enter_context(watching(stopping.set))
        alone = _alone(settings, place, watch, stopping, stack)
        if alone is None:
            return True
        settings.runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
        health = Health()
        # a supervisor's processes are probed by way of it
        probed = settings.health_listen if shared_folder() is None else None
        stack.enter_context(telling(settings.runtime / place.health, health, probed))
        metrics = _metrics(place)
        in_force = InForce(settings.catalog, loaded, metrics)
        replica_id = new_id()
        books = stack.enter_context(
            open_books(settings, in_force.catalog, metrics, place.role, replica_id)
        )
        books = alone(books)
        known = Known(place.name, in_force.mark, replica_id)
        witness = None if place.role is Role.METER else _witness(settings, stack)
        asked = _questions(
            settings,
            place,
            in_force,
            metrics=metrics,
            books=books,
            known=known,
            witness=witness,
            stack=stack,
        )
        stack.enter_context(metrics.following())
        stack.enter_context(reloading(in_force.reload))
        responder = Responder(settings.state, asked)
        stack.enter_context(serving(settings.runtime / place.control, responder))
        with _servers(settings, place, in_force, books.meter, witness):
            if not metrics.shared:
                stack.enter_context(exposing(settings.metrics_address, metrics.registry))
                _log.info("metrics on %s", settings.metrics_listen)
            health.serving = True
            _log.info("serving on %s", settings.runtime)
            stopping.wait()
            health.drain()
            _log.info("draining")
            Event().wait(DRAIN_SECONDS)
            books.meter.drain()
    _log.info("stopped")
    return not watch.failed


def _keep_to_core(settings: AuthzSettings, place: Place) -> None:
    """To one core where that was asked for, and a worker where there are enough."""
    if place.role is Role.CHECKS and hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
        core = core_of(place.worker, settings.workers, cores)
        if core is not None or settings.one_core:
            keep_to_one_core(place.worker)
    elif settings.one_core:
        keep_to_one_core()


def _alone(
    settings: AuthzSettings, place: Place, watch: Watch, stopping: Event, stack: ExitStack
) -> Callable[[Books], Books] | None:
    """Have what nobody else may have, until the end. None: asked to stop while waiting for it.

    Who counts in process has the state, and the row of a database that other machines may share;
    who counts with others, the sockets of its runtime folder (of workers, their supervisor has
    them). What is returned makes books that count only while that is so.
    """
    if settings.redis_url is not None:
        if place.role is Role.ALL:
            stack.enter_context(sockets_of(settings.runtime))
        return lambda books: books
    lease = Lease(settings.state)
    if not _acquire(lease, stopping):
        return None
    stack.callback(lease.release)
    row = stack.enter_context(row_lease(settings.sql_url, watch.fail))
    if row is None:
        return lambda books: books
    if not _acquire(row, stopping):
        return None
    return lambda books: replace(books, seeded=LeasedCounters(books.seeded, row.may_admit))


def _metrics(place: Place) -> Metrics:
    """This process's instruments: with a supervisor, where that adds up those of several."""
    shared = place.role is not Role.ALL and shared_folder() is not None
    if shared:
        share_as(place.name)
    return Metrics(shared=shared)


def _questions(
    settings: AuthzSettings,
    place: Place,
    in_force: InForce,
    *,
    metrics: Metrics,
    books: Books,
    known: Known,
    witness: Witness | None,
    stack: ExitStack,
) -> dict[str, Method]:
    """What the control socket answers. Before that, whoever answers checks is made able to."""
    if place.role is Role.METER:
        stack.enter_context(present(settings, known))
        metrics.feed_healthy.set(1)  # it has no keys; of all processes the least is told
        return methods(
            books, reload=in_force.reload, try_out=in_force.try_out, catalog=in_force.written
        )
    keys = stack.enter_context(open_keys(settings, metrics, known, books.counters.forget))
    refusals = Refusals(wall_us, settings.key_form())
    tally = _tally(settings, stack)

    def refused(occasion: Occasion, answer: Answer) -> None:
        refusals.note(occasion, answer)
        tally.note(occasion, answer)

    checker = _checker(
        settings,
        in_force,
        metrics,
        books,
        cache=keys.cache,
        refused=refused,
        witness=witness,
        stack=stack,
    )
    in_force.begin(checker, keys.plans)
    return methods(
        books,
        reload=in_force.reload,
        try_out=in_force.try_out,
        catalog=in_force.written,
        feed=keys.feed,
        refusals=refusals,
        listed=checker.listed,
    )


def _acquire(lease: Lease | RowLease, stopping: Event) -> bool:
    """Wait, unready, until nobody else counts for it. False: asked to stop meanwhile."""
    said = False
    while not lease.acquire():
        if not said:
            _log.warning(
                "not ready: process %s counts for it, and counters in process mean one "
                "worker; waiting until it ends",
                lease.holder(),
            )
            said = True
        if stopping.wait(LEASE_RETRY_SECONDS):
            return False
    return True


def _tally(settings: AuthzSettings, stack: ExitStack) -> Tally:
    """What counts refused calls for the keys' owners."""
    engine = open_engine(settings.sql_url, timeout_seconds=TALLY_SECONDS, connections=1)
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
    witness: Witness | None,
    stack: ExitStack,
) -> Checker:
    listings = Listings(
        settings.runtime / "upstreams.sock",
        (DEFAULT_UPSTREAM, *in_force.catalog().upstreams),
        lambda model: in_force.catalog().upstream_of(model),
    )
    stack.callback(listings.stop, 0)
    listings.start()
    return Checker(
        reader=Reader(settings.key_form(), settings.digester(), in_force.table()),
        keys=cache,
        catalog=in_force.catalog(),
        counters=books.seeded,
        give_back=books.give_back,
        settler=books.settler,
        listed=listings,
        metrics=metrics,
        clock=wall_us,
        site=Site(settings.dashboard_url, settings.key_prefixes[0], settings.stream_seconds),
        refused=refused,
        noted=None if witness is None else witness.note,
    )


def _witness(settings: AuthzSettings, stack: ExitStack) -> Witness | None:
    """Who watches decisions, where somebody asked for that."""
    tracing = open_tracing()
    if tracing is not None:
        stack.callback(tracing.stop)
    if tracing is None and settings.log_decisions is None:
        return None
    return Witness(settings.key_form(), settings.log_decisions, tracing)


@contextmanager
def _servers(
    settings: AuthzSettings,
    place: Place,
    in_force: InForce,
    meter: Meter,
    witness: Witness | None,
) -> Iterator[None]:
    """Answer checks, or read the log, or both; at the end checks stop first."""
    servers = []
    if place.role is not Role.METER:
        body = (settings.body_limit_mib << 20) + _ENVELOPE_BYTES
        checks = make_server(CHECK_THREADS, "check", max_message_bytes=body)
        checks.add_generic_rpc_handlers((_authorization(in_force, witness),))
        servers.append((checks, settings.runtime / place.check))
    if place.role is not Role.CHECKS:
        log = make_server(LOG_STREAMS + SPARE_STREAMS, "log")
        log.add_generic_rpc_handlers((meter.handler(),))
        servers.append((log, settings.runtime / LOG))
    for server, path in servers:
        listen(server, path)
        server.start()
    try:
        yield
    finally:
        for server, _ in servers:
            server.stop(STOP_SECONDS).wait()
