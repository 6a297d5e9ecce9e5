"""Ends of holds that the counters do not know (any more, or yet): looked for in SQL's copy.

Redis was lost and its account not asked for since; the worker's hold is on its way into SQL; or
nothing is known but the request's id. Each is looked for at its `looks`, off the log stream's
thread, many in one question. An end whose hold is not open at its last look, by a database that
answered, is of one that ended before, or never was.

What is sought has ended, and is not swept meanwhile: after an outage of both stores whoever sweeps
may come before its next look.

Worst cases. At most `MAX_SOUGHT` are sought at once, about 1 KB each; of those beyond the holds
are swept. While SQL is out they stay.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from threading import Condition, Thread
from time import monotonic
from typing import Final, Protocol

from authz.metrics import Metrics
from authz.observe import SQL, observed
from authz.settle import End
from authz.usage import Ending
from store.errors import StoreError
from store.openholds import Whereabouts
from store.records import Hold

MAX_SOUGHT: Final = 100_000
TOGETHER: Final = 500
LOOKS: Final = (0.0, 0.25, 0.75, 2.0)
"""Seconds after the entry came: a hold is in SQL 0.1 s after its take, if SQL is well."""

ONE_LOOK: Final = (0.75,)
RETRY_SECONDS: Final = 0.25

_log = logging.getLogger(__name__)


class Copies(Protocol):
    """SQL's open holds, as seeking needs them."""

    def find(self, hold_ids: Sequence[str], request_ids: Sequence[str]) -> Whereabouts: ...


_Sought = tuple[float, int, Ending, tuple[float, ...]]
"""When to look next, a number, what ended, and in how many seconds to look again after that."""


class Seeker:
    """Thread-safe. `ended` is given the ends of all holds that are found."""

    def __init__(
        self,
        copies: Copies,
        ended: Callable[[Sequence[End]], None],
        metrics: Metrics,
    ) -> None:
        self._copies = copies
        self._ended = ended
        self._metrics = metrics
        self._changed = Condition()
        self._sought: list[_Sought] = []  # a heap
        self._names = Counter[str]()  # of holds and requests, of all that is sought
        self._numbers = count()
        self._stopping = False
        self._out = False
        self._thread: Thread | None = None

    def start(self, end: Callable[[Hold, Ending], End]) -> None:
        """Begin to look. `end` makes the end of a hold that was found."""
        self._thread = Thread(target=self._run, args=(end,), name="seek", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after one look for all that is sought."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def seek(self, ending: Ending, looks: tuple[float, ...] = LOOKS) -> None:
        """Look for the hold that this is the end of."""
        first, *later = looks
        apart = [after - before for before, after in zip(looks, later, strict=False)]
        with self._changed:
            if len(self._sought) >= MAX_SOUGHT:
                self._metrics.settlements_dropped.inc()
                return
            sought = (monotonic() + first, next(self._numbers), ending, tuple(apart))
            heappush(self._sought, sought)
            self._names[_name(ending)] += 1
            if self._sought[0] is sought:
                self._changed.notify()

    def is_sought(self, hold: Hold) -> bool:
        """Whether it is known to have ended, and was not found yet."""
        return hold.id in self._names or hold.request_id in self._names

    def _run(self, end: Callable[[Hold, Ending], End]) -> None:
        """Nothing ends this thread but `stop`."""
        over = False
        while not over:
            group, over = self._due()
            try:
                again = self._look(group, end)
            except Exception:  # noqa: BLE001  a defect of ours: the others are sought all the same
                _log.exception("the ends of %d holds cannot be looked for", len(group))
                again = []
            with self._changed:
                for sought in again:
                    heappush(self._sought, sought)
                self._forget(group, {number for _, number, _, _ in again})

    def _forget(self, group: Sequence[_Sought], but: set[int]) -> None:
        """These are not sought any more, but those of some numbers."""
        for _, number, ending, _ in group:
            if number not in but:
                name = _name(ending)
                self._names[name] -= 1
                if not self._names[name]:
                    del self._names[name]

    def _due(self) -> tuple[list[_Sought], bool]:
        """Wait for some that are to be looked for now; and whether they are the last."""
        with self._changed:
            while not self._stopping:
                now = monotonic()
                if self._sought and self._sought[0][0] <= now:
                    break
                self._changed.wait(self._sought[0][0] - now if self._sought else None)
            if self._stopping:
                last, self._sought = self._sought, []
                return last, True
            group: list[_Sought] = []
            while self._sought and self._sought[0][0] <= now and len(group) < TOGETHER:
                group.append(heappop(self._sought))
            return group, False

    def _look(self, group: list[_Sought], end: Callable[[Hold, Ending], End]) -> list[_Sought]:
        """End those that are found. The answer is what is to be looked for again."""
        if not group:
            return []
        by_hold = {each[2].hold_id for each in group if each[2].hold_id is not None}
        by_request = {each[2].request_id for each in group if each[2].hold_id is None}
        try:
            with observed(self._metrics, SQL, "find_holds"):
                known = self._copies.find(list(by_hold), list(by_request))
        except StoreError as fault:
            if not self._out:
                _log.warning("the holds of %d ends cannot be looked for yet: %s", len(group), fault)
            self._out = True
            later = monotonic() + RETRY_SECONDS
            return [(later, number, ending, apart) for _, number, ending, apart in group]
        self._out = False
        again, late, ends = _told(group, known, end)
        if ends:
            self._ended(ends)
        if late:
            self._metrics.late_settlements.inc(late)
        return again


def _name(ending: Ending) -> str:
    """What its hold is looked for by."""
    return ending.hold_id or ending.request_id


def _told(
    group: Sequence[_Sought], known: Whereabouts, end: Callable[[Hold, Ending], End]
) -> tuple[list[_Sought], int, list[End]]:
    """What is to be looked for again, how many ended before, and the ends of what was found."""
    named: dict[str, dict[str, Hold]] = {}
    for hold in known.opened:
        named.setdefault(hold.id, {})[hold.id] = hold
        named.setdefault(hold.request_id, {})[hold.id] = hold
    again: list[_Sought] = []
    ends: list[End] = []
    late = 0
    for when, number, ending, apart in group:
        found = named.get(_name(ending), {})
        ends += [end(hold, ending) for hold in found.values()]
        if not found and apart and ending.hold_id not in known.booked:
            again.append((when + apart[0], number, ending, apart[1:]))
        elif not found and ending.hold_id is not None:
            late += 1
    return again, late, ends
