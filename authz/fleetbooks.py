"""The money half of a process whose counters are in Redis: of a worker, of a meter, or of both.

    take     Redis → kept here (authz/holdwriter.py) → SQL's `holds`, 100 ms later
    end      log entry → hold, from Redis or else from SQL (authz/seek.py) → ledger row → Redis
    silence  the sweep index and SQL's open holds (authz/strays.py) → as an end
    loss     account without a seed → all workers have written (authz/barrier.py) → seed from SQL

Any number of workers and of meters may do this at once: a hold has one row, whoever makes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from authz.barrier import Barrier, FlushMark
from authz.bookkeeping import (
    FLUSH_SECONDS,
    SQL_TIMEOUT_SECONDS,
    Books,
    start_settler,
    start_upkeep,
    warn_of_lost_plans,
)
from authz.holdwriter import HoldWriter
from authz.keeping import KeptCounters
from authz.meter import Fleetwide, Meter
from authz.metrics import Metrics
from authz.outage import LocalCounters
from authz.pricing import released
from authz.seek import Seeker
from authz.settings import AuthzSettings
from authz.settle import Settler, Unjournaled
from authz.sockets import Role
from authz.strays import EverySilentHold
from authz.upkeep import Upkeep
from store.catalog import Catalog
from store.clock import FollowingClock, wall_us
from store.counters.address import parse
from store.counters.link import Link
from store.counters.redis import RedisCounters
from store.engines import open_engine
from store.ledger import Ledger
from store.openholds import OpenHolds
from store.records import Hold
from store.replicas import Replicas
from store.seeding import SeededCounters

START_SECONDS: Final = 30.0
"""For how long a start waits for Redis to come up as well."""

_log = logging.getLogger(__name__)


@contextmanager
def open_fleet_books(
    settings: AuthzSettings,
    catalog: Callable[[], Catalog],
    metrics: Metrics,
    role: Role,
    replica_id: str,
) -> Iterator[Books]:
    """As authz.books.open_books, which says what is raised."""
    clock = FollowingClock()
    with ExitStack() as stack:
        link = stack.enter_context(Link(parse(settings.redis_url or "")))
        link.verify(START_SECONDS)
        engine = open_engine(settings.sql_url, timeout_seconds=SQL_TIMEOUT_SECONDS)
        stack.callback(engine.dispose)
        warn_of_lost_plans(engine, catalog())
        counters = RedisCounters(link)
        ledger = Ledger(engine)
        settler = Settler(
            counters,
            Unjournaled(),
            ledger,
            metrics,
            lambda model: model in catalog().models,
            missed=lambda hold: counters.forget(hold.account_id),
        )
        settler.start()
        start_settler(settler, stack, "some ends are not settled yet; their holds will be swept")
        copies = OpenHolds(engine)
        silent = EverySilentHold(counters, copies, clock)
        seeker = Seeker(copies, settler.end_all, metrics)
        meter = Meter(counters, settler, metrics, clock, Fleetwide(seeker.seek, silent.heard))
        upkeep: Upkeep | None = None
        if role is not Role.CHECKS:
            seeker.start(meter.end)
            stack.callback(seeker.stop)
            upkeep = start_upkeep(
                stack,
                settings,
                engine,
                counters=counters,
                ledger=ledger,
                silent=silent,
                settler=settler,
                meter=meter,
                metrics=metrics,
                clock=clock,
                unpruned=tuple,
                count=copies.count,
            )
        writer = HoldWriter(ledger.copy_holds, metrics)
        taking = _Taking(writer, Replicas(engine), counters, replica_id)

        def release(hold: Hold) -> None:
            settler.end(hold, released(hold, 0, wall_us()))

        kept: KeptCounters | LocalCounters = KeptCounters(counters, writer, release)
        if settings.on_counter_outage == "local":
            kept = LocalCounters(
                kept,
                writer,
                replicas=taking.mark.takers,
                rows=ledger.rows,
                forget=counters.forget,
            )
        if role is not Role.METER:
            stack.enter_context(taking.running())
        yield Books(
            counters,
            SeededCounters(kept, ledger, taking.barrier, counters),
            kept.give_back,
            settler,
            meter,
            ledger,
            upkeep,
            lambda: taking.mark.flushed_us,
        )


class _Taking:
    """What a worker says about its takes, and waits for others to say about theirs."""

    def __init__(
        self, writer: HoldWriter, fleet: Replicas, hint: RedisCounters, replica_id: str
    ) -> None:
        self._writer = writer
        self.mark = FlushMark(writer, fleet, hint, replica_id)
        self.barrier = Barrier(writer, fleet, hint, replica_id)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write holds until the end, and then what is left."""
        self._writer.start()
        self.mark.start()
        try:
            yield
        finally:
            self.mark.stop()
            if not self._writer.stop(FLUSH_SECONDS):
                _log.warning("%d holds are in Redis only", self._writer.waiting)
