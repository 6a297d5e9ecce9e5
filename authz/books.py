"""The money half of the process, put together: counters, ledger, and who ends holds.

Without `TENSORGATE_REDIS_URL` counters are in process, and a journal has the open holds; with it
they are in Redis, and SQL has them (authz/fleetbooks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from authz.bookkeeping import (
    SQL_TIMEOUT_SECONDS,
    Books,
    patiently,
    start_settler,
    start_upkeep,
    warn_of_lost_plans,
)
from authz.meter import Meter, Nowhere
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from authz.settle import Settler
from authz.sockets import Role
from store.catalog import Catalog
from store.clock import FollowingClock
from store.counters.memory import MemoryCounters
from store.engines import open_engine
from store.journal import JOURNAL_NAME, Journal
from store.ledger import Ledger
from store.pruning import journaled
from store.seeding import SeededCounters, recover

_log = logging.getLogger(__name__)


@contextmanager
def open_books(
    settings: AuthzSettings,
    catalog: Callable[[], Catalog],
    metrics: Metrics,
    role: Role = Role.ALL,
    replica_id: str = "",
) -> Iterator[Books]:
    """Recover what was open, and keep it until the end: all that waits is booked then.

    `catalog` gives the one in force. `replica_id` is this process's in store/replicas.py, if it
    has a row there: others wait for what it says it has written.

    Raises StoreError where counters, journal or database cannot be used, and ConfigError for a
    Redis that must not be.
    """
    with ExitStack() as stack:
        if settings.redis_url is not None:
            from authz.fleetbooks import open_fleet_books  # noqa: PLC0415  its Redis costs memory

            yield stack.enter_context(
                open_fleet_books(settings, catalog, metrics, role, replica_id)
            )
            return
        if role is not Role.ALL:
            raise AssertionError("counters in process are of one process")
        yield _in_process(settings, catalog, metrics, stack)


def _in_process(
    settings: AuthzSettings, catalog: Callable[[], Catalog], metrics: Metrics, stack: ExitStack
) -> Books:
    clock = FollowingClock()
    engine = open_engine(
        settings.sql_url,
        timeout_seconds=SQL_TIMEOUT_SECONDS,
        statement_seconds=SQL_TIMEOUT_SECONDS,
    )
    stack.callback(engine.dispose)
    journal = stack.enter_context(Journal(settings.state / JOURNAL_NAME))
    counters = MemoryCounters(clock, journal.take)
    ledger = Ledger(engine)
    settler = Settler(counters, journal, ledger, metrics, lambda model: model in catalog().models)
    warn_of_lost_plans(engine, catalog())
    settler.start(patiently(lambda: recover(counters, journal, ledger, clock())))
    start_settler(settler, stack, "some ends are not in the ledger yet; the journal has them")
    meter = Meter(counters, settler, metrics, clock, Nowhere(counters, metrics))
    upkeep = start_upkeep(
        stack,
        settings,
        engine,
        counters=counters,
        ledger=ledger,
        silent=counters,
        settler=settler,
        meter=meter,
        metrics=metrics,
        clock=clock,
        unpruned=lambda: journaled(settings.state / JOURNAL_NAME),
        count=None,
    )
    return Books(
        counters,
        SeededCounters(counters, ledger),
        counters.give_back,
        settler,
        meter,
        ledger,
        upkeep,
        journaled=True,
    )
