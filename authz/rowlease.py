"""Counters in process on a database that several machines share: one of them may count, by a row.

The row is good for 6 s and renewed every 2 s. Its holder admits nothing in the last second of it,
by its own monotonic clock and from the moment at which it asked: whoever takes the row over then
finds every admission in SQL's copy of the open holds, which is at most a second late. Counters
whose process lost the row are worth nothing more, so the process ends.

Worst cases. A holder that SQL does not hear admits for 5 s after it last did, and what it admits
then is in its journal alone: the next one does not count it, and its rows come once a process has
the row on that state again. A database's clock that is set forward ends a lease early by as much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final

from authz.check import Counters
from authz.presence import name_of, new_id
from store.clock import elapsed_seconds
from store.counters.model import Ended, Limit, Refused, Standings, Taken
from store.engines import open_engine
from store.errors import StoreError, StoreUnavailableError
from store.leases import Leases
from store.records import Hold
from store.upgrades import check_current

LEASE_SECONDS: Final = 6.0
RENEW_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 0.25
LAST_SECONDS: Final = 1.0
SQL_SECONDS: Final = 1.0
COUNTING: Final = "counting"

_log = logging.getLogger(__name__)


class RowLease:
    """As authz.lease.Lease, by a row. `lost` is called once, if somebody else has taken it.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        leases: Leases,
        lost: Callable[[], object],
        clock: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._leases = leases
        self._lost = lost
        self._clock = clock
        self._holder = new_id()
        self._until = 0.0
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="lease", daemon=True)

    def acquire(self) -> bool:
        """Take it if nobody has it, and keep it. Does not wait; false without a database, too."""
        asked = self._clock()
        with suppress(StoreUnavailableError):
            label = name_of("authz")
            if self._leases.take(COUNTING, self._holder, label, LEASE_SECONDS):
                self._until = asked + LEASE_SECONDS
                self._thread.start()
                return True
        return False

    def holder(self) -> str:
        """Who has it, for people."""
        try:
            return self._leases.held_by(COUNTING) or "unknown"
        except StoreUnavailableError:
            return "unknown (the database does not answer)"

    def may_admit(self) -> bool:
        """Whether it is ours, and not in its last second."""
        return self._clock() < self._until - LAST_SECONDS

    def release(self) -> None:
        """Let the next one in."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._until = 0.0
        with suppress(StoreError):  # it ends by itself
            self._leases.release(COUNTING, self._holder)

    def _run(self) -> None:
        pause, failing = RENEW_SECONDS, False
        while not self._stopped.wait(pause):
            try:
                asked = self._clock()
                ours = self._leases.renew(COUNTING, self._holder, LEASE_SECONDS)
            except StoreError as fault:
                if not failing:
                    _log.warning("the lease cannot be renewed, and soon nothing counts: %s", fault)
                pause, failing = AGAIN_SECONDS, True
                continue
            if not ours:
                self._until = 0.0
                _log.error("another process has taken the lease: what is counted here is void")
                self._lost()
                return
            self._until = asked + LEASE_SECONDS
            pause, failing = RENEW_SECONDS, False


@contextmanager
def row_lease(sql_url: str, lost: Callable[[], object]) -> Iterator[RowLease | None]:
    """The lease on a database that others may share; None on SQLite, where the state's lock does.

    Raises StoreError where the database cannot be used.
    """
    engine = open_engine(
        sql_url, timeout_seconds=SQL_SECONDS, statement_seconds=SQL_SECONDS, connections=2
    )
    try:
        if engine.dialect.name == "sqlite":
            yield None
            return
        check_current(engine)
        lease = RowLease(Leases(engine), lost)
        try:
            yield lease
        finally:
            lease.release()
    finally:
        engine.dispose()


class LeasedCounters:
    """Counters that take nothing unless the lease is ours, both before and after. Thread-safe.

    A hold that was taken as it ran out is that of a request which is refused: its end in the log
    releases it.
    """

    def __init__(self, counters: Counters, may_admit: Callable[[], bool]) -> None:
        self._counters = counters
        self._may_admit = may_admit

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended:
        """As the counters'. Raises StoreUnavailableError also where the lease is not ours."""
        self._check()
        answer = self._counters.take(request_id, draft, limits, account_id)
        self._check()
        return answer

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings]:
        """As the counters': looking admits nobody."""
        return self._counters.peek(limits, account_id)

    def _check(self) -> None:
        if not self._may_admit():
            raise StoreUnavailableError(
                "This process may not count now, as another may be about to. Try again in a second."
            )
