"""What is done beside the path, again and again: copying open holds, sweeping, comparing.

every 0.4 s         the counters' clock follows the system's where that stays ahead
                    holds that were open last time, too, are copied to SQL for others to read: at
                    most 1 s late, and most calls are over before it costs them three statements
4 times a deadline  holds without a sign of life are swept
every 0.4 s, once   rows that are older than the ledger keeps them leave it, a few at a time, where
a day               `TENSORGATE_LEDGER_RETENTION_DAYS` says so
every minute        Redis is asked whether it would drop what it holds: it may have been told to
every 5 s           some accounts' counters are compared with the ledger: `tensorgate_drift`

A duty that fails is tried again at its next turn, and the others have theirs: what the store says
is logged once until it is done again, a defect of ours each time, with its stack.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, Protocol

from authz.metrics import Metrics
from store.background import Background
from store.errors import StoreError
from store.records import Hold

TICK_SECONDS: Final = 0.4
COMPARE_SECONDS: Final = 5.0
GUARD_SECONDS: Final = 60.0
COMPARED: Final = 20  # accounts at a time

_log = logging.getLogger(__name__)


class KeptHolds(Protocol):
    """The counters, as upkeep needs them."""

    def open_holds(self) -> list[Hold]: ...

    def accounts(self) -> list[str]: ...


class Upkeep(Background):
    """The duties, in one thread. `drift` compares an account, None where that cannot be told.

    `copy_holds` puts holds into SQL; where SQL has them anyway, `count` is how many there are.
    `guard` raises StoreError where counters are not safe where they are.
    """

    def __init__(
        self,
        counters: KeptHolds,
        copy_holds: Callable[[Sequence[Hold]], None] | None,
        sweep: Callable[[], int],
        drift: Callable[[str], int | None],
        metrics: Metrics,
        *,
        follow: Callable[[], None],
        deadline_seconds: float,
        retain: Callable[[], object] = lambda: None,
        count: Callable[[], int] = lambda: 0,
        guard: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__("upkeep")
        self._counters = counters
        self._copy_holds = copy_holds
        self._count = count
        self._drift = drift
        self._metrics = metrics
        self._sweep_seconds = deadline_seconds / 4
        self._seen: set[str] = set()
        self._copied: set[str] = set()
        self._drifts: dict[str, int] = {}
        self._queue: deque[str] = deque()
        self._blind = False  # an account of this round could not be compared
        self._said_blind = False
        self._follow_duty = _Duty("follow the system's clock", follow)
        self._copy_duty = _Duty("copy open holds", self.copy)
        self._retain_duty = _Duty("prune the ledger", retain)
        self._sweep_duty = _Duty("sweep", lambda: metrics.holds_swept.inc(sweep()))
        self._guard_duty = _Duty("be sure of the counters", guard)
        self._compare_duty = _Duty("compare counters and ledger", self.compare)

    @property
    def drift_nanousd(self) -> int:
        """By how much counters and ledger differed when they were last compared."""
        return sum(self._drifts.copy().values())

    def _run(self) -> None:
        swept = compared = guarded = monotonic()
        while not self._rest(min(TICK_SECONDS, self._sweep_seconds)):
            now = monotonic()
            self._follow_duty()
            self._copy_duty()
            self._retain_duty()
            if now - swept >= self._sweep_seconds:
                swept = now
                self._sweep_duty()
            if now - compared >= COMPARE_SECONDS:
                compared = now
                self._compare_duty()
            if now - guarded >= GUARD_SECONDS:
                guarded = now
                self._guard_duty()

    def copy(self) -> None:
        """Copy the open holds that were new the last time. Raises StoreError."""
        if self._copy_holds is None:
            self._metrics.holds_outstanding.set(self._count())
            return
        holds = self._counters.open_holds()
        self._metrics.holds_outstanding.set(len(holds))
        lasting = [hold for hold in holds if hold.id in self._seen]
        self._seen = {hold.id for hold in holds}
        new = [hold for hold in lasting if hold.id not in self._copied]
        if new:
            self._copy_holds(new)
        self._copied = {hold.id for hold in lasting}

    def compare(self) -> None:
        """Compare the next few accounts with the ledger.

        After one that cannot be read those behind it wait for the next turn: where it is the
        database that is out, asking for each of them would keep the other duties waiting.
        """
        if not self._queue:
            self._queue.extend(self._counters.accounts())
            known = set(self._queue)
            self._drifts = {name: off for name, off in self._drifts.items() if name in known}
            self._said_blind, self._blind = self._blind, False
        try:
            for _ in range(min(COMPARED, len(self._queue))):
                self._compare(self._queue.popleft())
        except StoreError as fault:
            if not (self._blind or self._said_blind):
                _log.warning("not all accounts can be compared with the ledger: %s", fault)
            self._blind = True
        finally:
            self._metrics.drift.set(self.drift_nanousd)

    def _compare(self, account_id: str) -> None:
        drift = self._drift(account_id)
        if drift:
            _log.error("account %s: counters and ledger differ by %d", account_id, drift)
            self._drifts[account_id] = abs(drift)
        elif drift == 0:
            self._drifts.pop(account_id, None)


class _Duty:
    """Something to be done again and again, whatever became of it the last time."""

    def __init__(self, name: str, do: Callable[[], object]) -> None:
        self._name = name
        self._do = do
        self._failing = False

    def __call__(self) -> None:
        try:
            self._do()
        except StoreError as fault:
            if not self._failing:
                _log.warning("upkeep cannot %s: %s", self._name, fault)
            self._failing = True
        except Exception:  # noqa: BLE001  a defect in one duty must not end the others
            _log.exception("upkeep failed to %s", self._name)
        else:
            self._failing = False
