"""The money half of a process whose counters are in Redis: of a worker, of a meter, or of both.

    take     Redis → kept here (authz/holdwriter.py) → SQL's `holds`, 100 ms later
    end      log entry → hold, from Redis or else from SQL (authz/seek.py) → ledger row → Redis
    beat     Redis; where that has lost the account, it is seeded (authz/revive.py)
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
    patiently,
    start_settler,
    start_upkeep,
    warn_of_lost_plans,
)
from authz.holdwriter import HoldWriter
from authz.keeping import KeptCounters
from authz.meter import Fleetwide, Meter
from authz.metrics import Metrics
from authz.observedcounters import ObservedCounters
from authz.outage import LocalCounters
from authz.pricing import released
from authz.revive import Reviver
from authz.seek import Seeker
from authz.settings import AuthzSettings
from authz.settle import Settler
from authz.sockets import Role
from authz.strays import EverySilentHold
from authz.takeover import take_over
from authz.upkeep import Upkeep
from store.catalog import Catalog
from store.clock import FollowingClock, wall_us
from store.counters.address import parse
from store.counters.link import Link
from store.counters.node import Timeouts
from store.engines import open_engine
from store.ledger import Ledger
from store.openholds import OpenHolds
from store.records import Charge, Hold
from store.replicas import Replicas
from store.seeding import SeededCounters

START_SECONDS: Final = 30.0
"""For how long a start waits for Redis to come up as well."""

LATE_SECONDS: Final = 1.0
"""An end that waits for the ledger for so long shows that it cannot be written."""

_log = logging.getLogger(__name__)


class Unjournaled:
    """In the journal's place where SQL has the open holds: an end that is forgotten is swept."""

    def end(self, *charges: Charge) -> None:
        """Nothing."""

    def done(self, *hold_ids: str) -> None:
        """Nothing."""


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
        link = stack.enter_context(Link(parse(settings.redis_url or ""), _timeouts(settings)))
        link.verify(START_SECONDS)
        engine = open_engine(
            settings.sql_url,
            timeout_seconds=SQL_TIMEOUT_SECONDS,
            statement_seconds=SQL_TIMEOUT_SECONDS,
        )
        stack.callback(engine.dispose)
        warn_of_lost_plans(engine, catalog())
        counters = ObservedCounters(link, metrics)
        ledger = Ledger(engine)
        if role is not Role.CHECKS:
            patiently(lambda: take_over(settings.state, ledger, counters.forget))

        def missed(hold: Hold) -> None:
            """SQL has a row of a hold that Redis did not know: it has to read SQL anew."""
            if counters.generation(hold.account_id).seeded:
                counters.forget(hold.account_id)

        settler = Settler(
            counters,
            Unjournaled(),
            ledger,
            metrics,
            lambda model: model in catalog().models,
            settle_all=counters.settle_all,
            missed=missed,
        )
        settler.start()
        start_settler(settler, stack, "some ends are not settled yet; their holds will be swept")
        copies = OpenHolds(engine)
        fleet = Replicas(engine)
        writer = HoldWriter(ledger.copy_holds, metrics)
        barrier = Barrier(writer, fleet, counters, replica_id)
        barrier.start()
        stack.callback(barrier.stop)
        seeker = Seeker(copies, settler.end_all, metrics)
        revived = SeededCounters(counters, ledger, barrier)
        stack.callback(revived.close)
        reviver = Reviver(revived.seed)
        meter = Meter(counters, settler, metrics, clock, Fleetwide(seeker.seek, reviver.heard))
        upkeep: Upkeep | None = None
        if role is not Role.CHECKS:
            seeker.start(meter.end)
            stack.callback(seeker.stop)
            reviver.start()
            stack.callback(reviver.stop)
            upkeep = start_upkeep(
                stack,
                settings,
                engine,
                counters=counters,
                ledger=ledger,
                silent=EverySilentHold(
                    counters,
                    copies,
                    clock,
                    meter.gap,
                    has_ended=seeker.is_sought,
                    may_end=lambda: _may_end(settings, meter, settler),
                ),
                settler=settler,
                meter=meter,
                metrics=metrics,
                clock=clock,
                unpruned=tuple,
                count=copies.count,
                guard=counters.keeps,
            )

        def release(hold: Hold) -> None:
            settler.end(hold, released(hold, 0, wall_us()))

        kept: KeptCounters | LocalCounters = KeptCounters(counters, writer, release)
        mark = FlushMark(writer, fleet, counters, replica_id)
        if settings.on_counter_outage == "local":
            kept = LocalCounters(
                kept, writer, replicas=mark.takers, rows=ledger.rows, forget=counters.forget
            )
        seeded = SeededCounters(kept, ledger, barrier, counters)
        stack.callback(seeded.close)
        if role is not Role.METER:
            stack.enter_context(_taking(writer, mark, kept.recover))
        yield Books(
            counters,
            seeded,
            kept.give_back,
            settler,
            meter,
            ledger,
            upkeep,
            journaled=False,
        )


@contextmanager
def _taking(writer: HoldWriter, mark: FlushMark, recover: Callable[[], None]) -> Iterator[None]:
    """What a worker does beside its takes, until the end; and then it writes what is left."""
    writer.start()
    mark.start(recover)
    try:
        yield
    finally:
        mark.stop()
        if not writer.stop(FLUSH_SECONDS):
            _log.warning("%d holds are in Redis only", writer.waiting)


def _may_end(settings: AuthzSettings, meter: Meter, settler: Settler) -> bool:
    """Whether this meter would end what is silent, and soon: it keeps others from doing so."""
    heard = meter.unbroken_seconds() >= settings.hold_deadline_seconds
    return heard and settler.lag_seconds() < LATE_SECONDS


def _timeouts(settings: AuthzSettings) -> Timeouts:
    if settings.redis_timeout_ms is None:
        return Timeouts()
    seconds = settings.redis_timeout_ms / 1000
    return Timeouts(seconds, seconds)
