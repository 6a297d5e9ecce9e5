"""Takes in Redis as a worker does them: each hold kept until SQL has it, no answer forgotten.

A take of which no answer came may have been done, or may be done yet: the command can lie in the
socket of a server that does not run. Such a draft is withdrawn, by its hold's id, before anything
else is taken once Redis answers again: the hold ends as released, and a take that comes only then
is refused.

Worst case. At most `MAX_LOST` of these are kept; a hold beyond that, or of a worker that died
meanwhile, stands until it is swept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from secrets import token_hex
from threading import Lock
from typing import Final, Protocol

from authz.holdwriter import HoldWriter
from store.counters.model import (
    Ended,
    Generation,
    Limit,
    NotSeeded,
    Refused,
    Seed,
    Standings,
    Taken,
)
from store.errors import StoreUnavailableError, UnansweredError
from store.records import Hold
from store.seeding import Seedable

MAX_LOST: Final = 1000
RECOVER_WAIT_SECONDS: Final = 0.02
"""How long a take waits for another that withdraws them."""


class Takes(Seedable, Protocol):
    """Counters outside of the process, as a worker needs them."""

    def give_back(self, hold: Hold, mark: str = "") -> bool: ...

    def withdraw(self, draft: Hold) -> Hold | None: ...


class KeptCounters:
    """Thread-safe. `release` is told of each hold that nobody has any more, to end it."""

    def __init__(
        self, counters: Takes, writer: HoldWriter, release: Callable[[Hold], None]
    ) -> None:
        self._counters = counters
        self._writer = writer
        self._release = release
        self._lost: deque[tuple[Hold, str]] = deque(maxlen=MAX_LOST)  # a mark: to be given back
        self._withdrawing = Lock()

    @property
    def lost(self) -> int:
        """Of how many takes and returns it is not known whether they were done."""
        return len(self._lost)

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """As Counters.take. Raises StoreUnavailableError also where too many holds wait for SQL."""
        if self._lost:
            self.recover(RECOVER_WAIT_SECONDS)
        if draft is None:
            return self._counters.take(request_id, None, limits, account_id)
        hold: Hold | None = None
        self._writer.begin(draft.id)
        try:
            answer = self._counters.take(request_id, draft, limits, account_id)
            if isinstance(answer, Taken):
                hold = answer.hold
        except UnansweredError:
            self._lost.append((draft, ""))
            raise
        finally:
            self._writer.finish(draft.id, hold)
        return answer

    def recover(self, seconds: float = -1) -> None:
        """Undo what no answer came of. Raises StoreUnavailableError: Redis is out still.

        Also where another does so, and is not ready after so many seconds.
        """
        if not self._withdrawing.acquire(timeout=seconds):
            raise StoreUnavailableError(
                "What Redis did not answer to is being withdrawn. Try again in a second."
            )
        try:
            while self._lost:
                hold, mark = self._lost[0]
                if mark:
                    left = hold if self._counters.give_back(hold, mark) else None
                else:
                    left = self._counters.withdraw(hold)
                self._lost.popleft()
                if left is not None:
                    self._release(left)
        finally:
            self._withdrawing.release()

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        """As Counters.peek."""
        return self._counters.peek(limits, account_id)

    def give_back(self, hold: Hold) -> bool:
        """As Counters.give_back. Where that is not known, it is asked again later: False."""
        mark = token_hex(8)
        try:
            last = self._counters.give_back(hold, mark)
        except StoreUnavailableError:
            self._lost.append((hold, mark))
            return False
        if last:
            self._writer.drop(hold.id)
        return last

    def generation(self, account_id: str) -> Generation:
        """As Counters.generation."""
        return self._counters.generation(account_id)

    def seed(self, generation: Generation, seed: Seed) -> bool:
        """As Counters.seed."""
        return self._counters.seed(generation, seed)
