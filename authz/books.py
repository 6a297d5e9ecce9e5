"""The money half of the process, put together: journal, counters, ledger, and who ends holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from sqlalchemy import Engine

from authz.meter import Meter, Nowhere
from authz.metrics import Metrics
from authz.retention import Retention
from authz.settings import AuthzSettings
from authz.settle import Settler
from authz.sweep import Pulse, Sweeper
from authz.upkeep import Upkeep
from store.catalog import Catalog, lost_plan
from store.clock import FollowingClock, wall_us
from store.counters.memory import MemoryCounters
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.journal import JOURNAL_NAME, Journal
from store.keys import KeyRepository
from store.ledger import Ledger
from store.pruning import Pruner, journaled
from store.records import Charge, Hold
from store.seeding import SeededCounters, drift, recover

SQL_TIMEOUT_SECONDS: Final = 2.0
FLUSH_SECONDS: Final = 5.0
RECOVERY_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Books:
    """What the walks need of money."""

    counters: MemoryCounters
    seeded: SeededCounters
    settler: Settler
    meter: Meter
    ledger: Ledger
    upkeep: Upkeep

    def drift(self, account_id: str) -> int | None:
        """By how much an account's counters are off from the ledger; see store.seeding.drift."""
        return drift(self.counters, self.ledger, account_id)


@contextmanager
def open_books(
    settings: AuthzSettings, catalog: Callable[[], Catalog], metrics: Metrics
) -> Iterator[Books]:
    """Recover what was open, and keep it until the end: all that waits is booked then.

    `catalog` gives the one in force.

    Raises StoreError where journal or database cannot be used.
    """
    clock = FollowingClock()
    with ExitStack() as stack:
        engine = open_engine(settings.sql_url, timeout_seconds=SQL_TIMEOUT_SECONDS)
        stack.callback(engine.dispose)
        journal = stack.enter_context(Journal(settings.state / JOURNAL_NAME))
        counters = MemoryCounters(clock, journal.take)
        ledger = Ledger(engine)
        settler = Settler(
            counters, journal, ledger, metrics, lambda model: model in catalog().models
        )
        _warn_of_lost_plans(engine, catalog())
        settler.start(_recover(counters, journal, ledger, clock()))
        stack.callback(_flush, settler)
        meter = Meter(counters, settler, metrics, clock, Nowhere(counters, metrics))
        deadline = settings.hold_deadline_seconds
        pulse = Pulse(meter.gap, deadline_seconds=deadline)

        def unbroken_seconds() -> float:
            pulse.check()
            return meter.unbroken_seconds()

        def follow() -> None:
            if clock.follow():  # every hold looks overdue now
                meter.gap()

        sweeper = Sweeper(counters, settler, unbroken_seconds, clock, deadline_seconds=deadline)
        upkeep = Upkeep(
            counters,
            ledger.copy_holds,
            sweeper.sweep,
            lambda account_id: drift(counters, ledger, account_id),
            metrics,
            follow=follow,
            retain=_retention(settings, engine),
            deadline_seconds=deadline,
        )
        pulse.start()
        stack.callback(pulse.stop)
        upkeep.start()
        stack.callback(upkeep.stop)
        yield Books(counters, SeededCounters(counters, ledger), settler, meter, ledger, upkeep)


def _retention(settings: AuthzSettings, engine: Engine) -> Retention:
    """By the system's clock: the day is people's."""

    def begin(before_us: int, now_us: int) -> Pruner:
        return Pruner(engine, before_us, now_us, journaled(settings.state / JOURNAL_NAME))

    return Retention(settings.ledger_retention_days, begin, wall_us)


def _recover(
    counters: MemoryCounters, journal: Journal, ledger: Ledger, now_us: int
) -> list[tuple[Hold, Charge]]:
    """Try for a while: at a start the database may still be coming up."""
    deadline = monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return recover(counters, journal, ledger, now_us)
        except StoreUnavailableError as fault:
            if monotonic() > deadline:
                raise
            _log.warning("not ready: what was open cannot be recovered yet: %s", fault)
            sleep(0.5)


def _warn_of_lost_plans(engine: Engine, catalog: Catalog) -> None:
    try:
        with KeyRepository(engine) as repository:
            lost = catalog.lost(repository.plans())
    except StoreUnavailableError:
        return  # what comes next tries for longer, and says so
    for plan, number in sorted(lost.items()):
        _log.warning("%s", lost_plan(plan, number))


def _flush(settler: Settler) -> None:
    if not settler.stop(FLUSH_SECONDS):
        _log.warning("some ends are not in the ledger yet; the journal has them")
