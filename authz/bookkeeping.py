"""What the money half of a process is made of, wherever it counts (authz/books.py)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final, TypeVar

from sqlalchemy import Engine

from authz.check import Counters as TakenFrom
from authz.meter import Meter
from authz.metrics import Metrics
from authz.retention import Retention
from authz.settings import AuthzSettings
from authz.settle import Settler
from authz.sweep import Pulse, SilentHolds, Sweeper
from authz.upkeep import Upkeep
from store.catalog import Catalog, lost_plan
from store.clock import FollowingClock, wall_us
from store.counters.model import Counters
from store.errors import StoreUnavailableError
from store.keys import KeyRepository
from store.ledger import Ledger
from store.pruning import Pruner
from store.records import Hold
from store.seeding import drift

SQL_TIMEOUT_SECONDS: Final = 2.0
FLUSH_SECONDS: Final = 5.0
RECOVERY_SECONDS: Final = 30.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Books:
    """What the walks need of money.

    `seeded` is what a Check takes from, and `give_back` where it gives back. In a process of
    checks alone nobody is to give `meter` entries, and there is no `upkeep`. `journaled` says
    whether open holds are in a journal; else they are in SQL a moment after they were taken.
    """

    counters: Counters
    seeded: TakenFrom
    give_back: Callable[[Hold], bool]
    settler: Settler
    meter: Meter
    ledger: Ledger
    upkeep: Upkeep | None
    journaled: bool

    @property
    def drift_nanousd(self) -> int:
        """By how much counters and ledger differed when this process last compared them."""
        return 0 if self.upkeep is None else self.upkeep.drift_nanousd

    def drift(self, account_id: str) -> int | None:
        """By how much an account's counters are off from the ledger; see store.seeding.drift."""
        return drift(self.counters, self.ledger, account_id)


def patiently(work: Callable[[], T]) -> T:
    """Try for a while: at a start the database may still be coming up."""
    deadline = monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return work()
        except StoreUnavailableError as fault:
            if monotonic() > deadline:
                raise
            _log.warning("not ready: what was open cannot be recovered yet: %s", fault)
            sleep(0.5)


def start_settler(settler: Settler, stack: ExitStack, left: str) -> None:
    """At the end of `stack` all that waits is booked; `left` is said where that is not so."""

    def flush() -> None:
        if not settler.stop(FLUSH_SECONDS):
            _log.warning("%s", left)

    stack.callback(flush)


def start_upkeep(
    stack: ExitStack,
    settings: AuthzSettings,
    engine: Engine,
    *,
    counters: Counters,
    ledger: Ledger,
    silent: SilentHolds,
    settler: Settler,
    meter: Meter,
    metrics: Metrics,
    clock: FollowingClock,
    unpruned: Callable[[], Collection[str]],
    count: Callable[[], int] | None,
    guard: Callable[[], object] = lambda: None,
) -> Upkeep:
    """Sweep, compare, prune and, where `count` does not say that SQL has them anyway, copy holds.

    `unpruned` names holds whose rows are still needed, `guard` is as Upkeep's.
    """
    deadline = settings.hold_deadline_seconds
    pulse = Pulse(meter.gap, deadline_seconds=deadline)

    def unbroken_seconds() -> float:
        pulse.check()
        return meter.unbroken_seconds()

    def follow() -> None:
        if clock.follow():  # every hold looks overdue now
            meter.gap()

    def begin(before_us: int, now_us: int) -> Pruner:
        return Pruner(engine, before_us, now_us, unpruned())

    sweeper = Sweeper(silent, settler, unbroken_seconds, clock, deadline_seconds=deadline)
    upkeep = Upkeep(
        counters,
        ledger.copy_holds if count is None else None,
        sweeper.sweep,
        lambda account_id: drift(counters, ledger, account_id),
        metrics,
        follow=follow,
        retain=Retention(settings.ledger_retention_days, begin, wall_us),  # the day is people's
        count=count or (lambda: 0),
        guard=guard,
        deadline_seconds=deadline,
    )
    pulse.start()
    stack.callback(pulse.stop)
    upkeep.start()
    stack.callback(upkeep.stop)
    return upkeep


def warn_of_lost_plans(engine: Engine, catalog: Catalog) -> None:
    """Say which plans accounts are on that the catalog does not name."""
    try:
        with KeyRepository(engine) as repository:
            lost = catalog.lost(repository.plans())
    except StoreUnavailableError:
        return  # what comes next tries for longer, and says so
    for plan, number in sorted(lost.items()):
        _log.warning("%s", lost_plan(plan, number))
